#include "backend/device/simulator/dram/bank_lanes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <utility>

namespace thresher {
namespace {

TEST(BankLanesTest, ChoosesAsALoopOverTheBanksDoes) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    BankLanes a, b, order;
    std::array<int16_t, kHbm2Banks> orders;
    for (int i = 0; i < kHbm2Banks; ++i) orders[i] = static_cast<int16_t>(1 + i * 2000);
    std::ranges::shuffle(orders, random);
    const int range = round % 2 == 0 ? 3 : 60'000;  // Many are the same, or few.
    for (int i = 0; i < kHbm2Banks; ++i) {
      a.Set(i, static_cast<int>(random() % range) - range / 2);
      b.Set(i, static_cast<int>(random() % range) - range / 2);
      order.Set(i, orders[i]);
    }
    const BankLanes greater = Max(a, b), less = Min(a, b);
    int first = 0;
    for (int i = 0; i < kHbm2Banks; ++i) {
      EXPECT_EQ(greater[i], std::max(a[i], b[i]));
      EXPECT_EQ(less[i], std::min(a[i], b[i]));
      if (std::pair(a[i], orders[i]) < std::pair(a[first], orders[first])) first = i;
    }
    EXPECT_EQ(a.FirstBy(order).least, a[first]);
    EXPECT_EQ(a.FirstBy(order).order, orders[first]);
    EXPECT_EQ(order.Find(orders[first]), first);
  }
}

TEST(BankLanesTest, GroupsAreFourBanksSideBySide) {
  BankLanes lanes(5);
  lanes.SetGroup(1, -7);
  lanes.RaiseGroup(2, 4);
  lanes.RaiseGroup(3, 6);
  lanes.Raise(0, 9);
  lanes.Raise(1, 4);
  constexpr int kExpected[] = {9, 5, 5, 5, -7, -7, -7, -7, 5, 5, 5, 5, 6, 6, 6, 6};
  for (int i = 0; i < kHbm2Banks; ++i) EXPECT_EQ(lanes[i], kExpected[i]) << i;
}

}  // namespace
}  // namespace thresher
