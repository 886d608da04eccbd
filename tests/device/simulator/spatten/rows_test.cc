#include "backend/device/simulator/spatten/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "backend/device/simulator/spatten/planes.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;

LayerRecord Record(int32_t heads, int32_t kv_heads, bool causal = false) {
  LayerRecord record;
  record.shape = {
      .layers = 1, .heads = heads, .kv_heads = kv_heads, .head_dim = 64, .causal = causal};
  return record;
}

std::vector<SpAttenLoad> Loads(const LayerRecord& record, int32_t fused, int32_t segment) {
  SpAttenLoads source(&record, std::vector<int32_t>(record.sequences.size(), fused), segment);
  std::vector<SpAttenLoad> loads;
  while (auto load = source.Next()) loads.push_back(*std::move(load));
  return loads;
}

TEST(SpAttenRows, PartsOfAHeadAddUpToItsSums) {
  for (const bool causal : {false, true}) {
    for (const HeadRecord& head :
         {HeadRecord{.queries = 7, .keys = 7, .scores = 28, .values = 9, .refetched = 3},
          HeadRecord{.queries = 100, .keys = 60, .scores = 5999, .values = 601, .refetched = 99},
          HeadRecord{.queries = 3, .keys = 1000, .scores = 2999, .values = 2999},
          HeadRecord{.queries = 5, .keys = 4, .scores = 4, .values = 0},
          HeadRecord{.queries = 4096, .keys = 4096, .scores = 4096 * 4097 / 2, .values = 4096}}) {
      int64_t scores = 0, values = 0, refetched = 0;
      for (int64_t i = 0; i < head.queries; ++i) {
        const SpAttenRow row = RowOf(head, i, causal);
        EXPECT_LE(row.values, row.keys);
        EXPECT_LE(row.keys, head.keys);
        scores += row.keys;
        values += row.values;
        refetched += row.refetch;
      }
      EXPECT_EQ(scores, head.scores);
      EXPECT_EQ(values, head.values);
      EXPECT_EQ(refetched, head.refetched);
    }
  }
}

TEST(SpAttenRows, QueriesOfACausalPromptSeeEverMoreKeys) {
  const HeadRecord head{.queries = 8, .keys = 8, .scores = 36, .values = 36};
  std::vector<int32_t> keys;
  for (int64_t i = 0; i < 8; ++i) keys.push_back(RowOf(head, i, true).keys);
  EXPECT_THAT(keys, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_EQ(RowOf(head, 3, false).keys, 5) << "not causal: as many each (36 / 8)";
}

TEST(SpAttenRows, HeadsOfOneWordAreLoadedTogether) {
  LayerRecord record = Record(6, 6);
  SequenceRecord& sequence = record.sequences.emplace_back();
  sequence.decode = true;
  // Head 1 is pruned, head 3 reads nothing.
  for (const int32_t head : {0, 2, 3, 4, 5}) {
    const int32_t keys = head == 3 ? 0 : 10 + head;
    sequence.heads.push_back(
        {.head = head, .queries = 1, .keys = keys, .scores = keys, .values = keys / 2});
  }
  const auto loads = Loads(record, 2, 100);
  ASSERT_EQ(loads.size(), 3);
  EXPECT_EQ(loads[0].sets.size(), 1);
  EXPECT_EQ(loads[1].sets.size(), 2);
  EXPECT_EQ(loads[2].sets[0].keys, 14);
  EXPECT_EQ(loads[2].sets[1].keys, 15);
  EXPECT_EQ(loads[2].sets[1].values, 7);
  EXPECT_FALSE(loads[2].loads_values);
  SpAttenRows rows(record, &loads[1]);
  EXPECT_EQ(rows.Next()->keys, 12);
  EXPECT_FALSE(rows.Next().has_value()) << "a head that reads nothing has no row";
  EXPECT_EQ(Loads(record, 1, 100).size(), 4);
}

TEST(SpAttenRows, LongContextsAreCutIntoSegments) {
  LayerRecord record = Record(1, 1);
  SequenceRecord& sequence = record.sequences.emplace_back();
  sequence.decode = true;
  sequence.heads = {{.head = 0, .queries = 1, .keys = 250, .scores = 250, .values = 25}};
  const auto loads = Loads(record, 1, 100);
  ASSERT_EQ(loads.size(), 3);
  int32_t keys = 0, values = 0;
  for (size_t i = 0; i < loads.size(); ++i) {
    EXPECT_EQ(loads[i].segment, i);
    EXPECT_EQ(loads[i].first_key, 100 * i);
    EXPECT_EQ(loads[i].last, i == 2);
    SpAttenRows rows(record, &loads[i]);
    const auto row = rows.Next();
    ASSERT_TRUE(row.has_value());
    EXPECT_EQ(row->keys, loads[i].sets[0].keys);
    keys += row->keys;
    values += row->values;
    EXPECT_EQ(row->values, loads[i].sets[0].values);
    EXPECT_FALSE(rows.Next().has_value());
  }
  EXPECT_EQ(keys, 250);
  EXPECT_EQ(values, 25);
}

TEST(SpAttenRows, HeadsOfAGroupReadTheSameKeys) {
  LayerRecord record = Record(8, 2);
  SequenceRecord& sequence = record.sequences.emplace_back();
  sequence.rows = 3;
  for (int32_t head = 0; head < 8; ++head) {
    sequence.heads.push_back({.head = head, .queries = 3, .keys = 3, .scores = 9, .values = 9});
  }
  const auto loads = Loads(record, 1, 100);
  ASSERT_EQ(loads.size(), 2);
  EXPECT_TRUE(loads[0].loads_values);
  EXPECT_EQ(loads[0].sets[0].keys, 3);
  EXPECT_EQ(loads[0].sets[0].values, 3);
  SpAttenRows rows(record, &loads[1]);
  std::vector<int32_t> heads, ordinals;
  while (const auto row = rows.Next()) {
    heads.push_back(row->head);
    ordinals.push_back(row->ordinal);
  }
  EXPECT_THAT(heads, ElementsAre(4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7));
  EXPECT_THAT(ordinals, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
}

v1::SpAttenFetch Profiles() {
  v1::SpAttenFetch fetch;
  for (const auto& [bits, fused] : {std::pair(8, 1), std::pair(4, 1), std::pair(6, 2)}) {
    auto* plane = fetch.add_planes();
    plane->set_bits(bits);
    plane->set_fused_heads(fused);
  }
  return fetch;
}

/// The planes' bits, and the transactions of the rows of two heads.
std::pair<std::vector<int32_t>, int32_t> PlanesFor(int32_t bits, int32_t head_dim) {
  std::vector<int32_t> planes;
  int32_t bursts = 0;
  for (const BitPlane& plane : PlanesOf(bits, head_dim, 32, Profiles())) {
    planes.push_back(plane.bits);
    bursts += plane.word_bursts * 2 / plane.fused_heads;
  }
  return {planes, bursts};
}

TEST(BitPlanes, AWidthIsFetchedInTheFewestTransactions) {
  using Planes = std::vector<int32_t>;
  EXPECT_EQ(PlanesFor(4, 64), std::pair(Planes({4}), 2));  // 32 bytes a head.
  EXPECT_EQ(PlanesFor(6, 64), std::pair(Planes({6}), 3));  // 96 bytes for two.
  EXPECT_EQ(PlanesFor(8, 64), std::pair(Planes({8}), 4));
  EXPECT_EQ(PlanesFor(12, 64), std::pair(Planes({8, 4}), 6));  // 96 bytes a head.
  EXPECT_EQ(PlanesFor(16, 64), std::pair(Planes({8, 8}), 8));
  EXPECT_EQ(PlanesFor(32, 64).second, 16);
  EXPECT_EQ(PlanesFor(5, 64), std::pair(Planes({6}), 3)) << "no sum is exact";
  EXPECT_EQ(PlanesFor(1, 64), std::pair(Planes({4}), 2));
  EXPECT_EQ(PlanesFor(8, 128), std::pair(Planes({8}), 8));
}

TEST(BitPlanes, AHeadOfAFusedWordAloneTakesTheTransactionsThatItTouches) {
  const BitPlane plane = PlanesOf(6, 64, 32, Profiles()).at(0);
  EXPECT_EQ(plane.fused_heads, 2);
  EXPECT_EQ(plane.Bursts(0, 2, 32), 3);
  EXPECT_EQ(plane.Bursts(0, 1, 32), 2);  // Bytes 0 to 47,
  EXPECT_EQ(plane.Bursts(1, 1, 32), 2);  // and 48 to 95.
}

}  // namespace
}  // namespace thresher
