#include "backend/engine/kv_cache.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "backend/engine/prefix_key.h"

namespace thresher {
namespace {

constexpr size_t kPage = 640;

TEST(KvPool, ReservesUpToItsLimitAndTakesBackWhatIsNotUsed) {
  const auto pool = std::make_shared<KvPool>(10 * kPage);
  KvPool::Reservation one, two;
  EXPECT_TRUE(pool->Reserve(6 * kPage, &one));
  EXPECT_FALSE(pool->Reserve(5 * kPage, &two));
  EXPECT_TRUE(pool->Reserve(4 * kPage, &two));
  std::vector<KvPage> pages = {one.Allocate(kPage), one.Allocate(kPage)};
  EXPECT_EQ(pool->snapshot().used, 2 * kPage);
  EXPECT_EQ(pool->snapshot().reserved, 8 * kPage);
  one = {};
  EXPECT_EQ(pool->snapshot().reserved, 4 * kPage);
  EXPECT_EQ(pool->snapshot().used, 2 * kPage);
  pages.clear();
  EXPECT_EQ(pool->snapshot().used, 0);
  two.Shrink(kPage);
  EXPECT_EQ(pool->snapshot().reserved, kPage);
  EXPECT_TRUE(pool->Fits(10 * kPage));
  EXPECT_FALSE(pool->Fits(10 * kPage + 1));
}

TEST(KvPool, AReservationGivesNoMoreThanItHas) {
  const auto pool = std::make_shared<KvPool>(10 * kPage);
  KvPool::Reservation reservation;
  EXPECT_EQ(reservation.Allocate(kPage), nullptr);
  ASSERT_TRUE(pool->Reserve(kPage, &reservation));
  const KvPage page = reservation.Allocate(kPage);
  EXPECT_NE(page, nullptr);
  EXPECT_EQ(reservation.Allocate(kPage), nullptr);
}

TEST(KvPool, IdlePagesGiveWayOldestUseFirst) {
  const auto pool = std::make_shared<KvPool>(3 * kPage);
  {
    KvPool::Reservation reservation;
    ASSERT_TRUE(pool->Reserve(3 * kPage, &reservation));
    for (const char* key : {"a", "b", "c"}) pool->Remember(key, reservation.Allocate(kPage));
  }
  EXPECT_EQ(pool->snapshot().idle, 3 * kPage);
  const std::string used[] = {"a"};
  pool->Touch(used);  // Now b was used longest ago.
  const KvPage held = pool->Find("c");
  KvPool::Reservation reservation;
  ASSERT_TRUE(pool->Reserve(kPage, &reservation));
  EXPECT_EQ(pool->Find("b"), nullptr);
  EXPECT_NE(pool->Find("a"), nullptr);
  KvPool::Reservation more;
  ASSERT_TRUE(pool->Reserve(kPage, &more));
  KvPool::Reservation too_much;
  EXPECT_FALSE(pool->Reserve(kPage, &too_much));  // A page that is held does not give way.
  EXPECT_NE(pool->Find("c"), nullptr);
}

TEST(KvPool, NothingIdleIsGivenUpInVain) {
  const auto pool = std::make_shared<KvPool>(3 * kPage);
  KvPool::Reservation holder;
  ASSERT_TRUE(pool->Reserve(2 * kPage, &holder));
  const KvPage held = holder.Allocate(kPage);
  pool->Remember("idle", holder.Allocate(kPage));
  KvPool::Reservation too_much;
  EXPECT_FALSE(pool->Reserve(3 * kPage, &too_much));
  EXPECT_NE(pool->Find("idle"), nullptr);
}

TEST(KvPool, OfAPromptTheEndGivesWayFirst) {
  const auto pool = std::make_shared<KvPool>(3 * kPage);
  const std::string prompt[] = {"1", "12", "123"};
  {
    KvPool::Reservation reservation;
    ASSERT_TRUE(pool->Reserve(3 * kPage, &reservation));
    for (const std::string& key : prompt) pool->Remember(key, reservation.Allocate(kPage));
  }
  pool->Touch(prompt);
  KvPool::Reservation room;
  ASSERT_TRUE(pool->Reserve(kPage, &room));
  EXPECT_EQ(pool->Find("123"), nullptr);
  EXPECT_NE(pool->Find("1"), nullptr);
}

TEST(KvPool, TellsOfPagesThatBecomeIdle) {
  const auto pool = std::make_shared<KvPool>(kPage);
  int told = 0;
  const int64_t id = pool->AddListener([&] { ++told; });
  {
    KvPool::Reservation reservation;
    ASSERT_TRUE(pool->Reserve(kPage, &reservation));
    pool->Remember("page", reservation.Allocate(kPage));  // All of it is used.
  }
  EXPECT_EQ(told, 1);
  pool->RemoveListener(id);
}

TEST(KvPool, ForgetsAllKeysThatBeginSo) {
  const auto pool = std::make_shared<KvPool>(3 * kPage);
  KvPool::Reservation reservation;
  ASSERT_TRUE(pool->Reserve(3 * kPage, &reservation));
  for (const char* key : {"1/a", "1/b", "10/a"}) pool->Remember(key, reservation.Allocate(kPage));
  pool->Forget("1/");
  EXPECT_EQ(pool->Find("1/a"), nullptr);
  EXPECT_EQ(pool->Find("1/b"), nullptr);
  EXPECT_NE(pool->Find("10/a"), nullptr);
}

TEST(KvPool, TellsWhenRoomComesBack) {
  const auto pool = std::make_shared<KvPool>(3 * kPage);
  int told = 0;
  const int64_t id = pool->AddListener([&] { ++told; });
  {
    KvPool::Reservation reservation;
    ASSERT_TRUE(pool->Reserve(kPage, &reservation));
    EXPECT_EQ(told, 0);
  }
  EXPECT_EQ(told, 1);
  pool->RemoveListener(id);
  {
    KvPool::Reservation reservation;
    ASSERT_TRUE(pool->Reserve(kPage, &reservation));
  }
  EXPECT_EQ(told, 1);
}

TEST(KvPool, NeverGoesOverItsLimitFromSeveralThreads) {
  const auto pool = std::make_shared<KvPool>(8 * kPage);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&pool, t] {
      for (int i = 0; i < 300; ++i) {
        KvPool::Reservation reservation;
        if (!pool->Reserve(3 * kPage, &reservation)) continue;
        const KvPage page = reservation.Allocate(kPage);
        pool->Remember(std::to_string((i * 4 + t) % 20), page);
        (void)pool->Find(std::to_string(i % 20));
        const KvPool::Snapshot snapshot = pool->snapshot();
        EXPECT_LE(snapshot.used + snapshot.reserved + snapshot.idle, snapshot.limit);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->snapshot().reserved, 0);
  EXPECT_EQ(pool->snapshot().used, 0);
}

TEST(PrefixKey, DependsOnTheScopeAndOnEveryTokenBefore) {
  const std::vector<int32_t> a = {1, 2}, b = {1, 3};
  PrefixKey one("x/"), two("x/"), other("y/");
  const std::string first = one.Next(a);
  EXPECT_TRUE(first.starts_with("x/"));
  EXPECT_EQ(two.Next(a), first);
  EXPECT_NE(other.Next(a).substr(2), "");
  EXPECT_NE(one.Next(a), first);
  PrefixKey three("x/");
  EXPECT_NE(three.Next(b), first);
  EXPECT_NE(three.Next(a), two.Next(a));
}

}  // namespace
}  // namespace thresher
