#include "backend/device/simulator/sanger/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace thresher {
namespace {

using ::testing::ElementsAre;

v1::SangerSpec Spec(int32_t vector_keys, int32_t row_elements, bool skips = true) {
  v1::SangerSpec spec;
  spec.set_vector_keys(vector_keys);
  spec.set_row_elements(row_elements);
  spec.set_skips_empty_vectors(skips);
  return spec;
}

/// One head, its mask drawn as text.
struct Drawn {
  explicit Drawn(const std::vector<std::string>& rows)
      : mask(1, static_cast<int32_t>(rows.size()), static_cast<int32_t>(rows[0].size())) {
    sequence.rows = static_cast<int32_t>(rows.size());
    sequence.keys = static_cast<int32_t>(rows[0].size());
    head.queries = sequence.rows;
    for (int32_t q = 0; q < sequence.rows; ++q) {
      for (int32_t k = 0; k < sequence.keys; ++k) {
        if (rows[q][k] != '1') continue;
        mask.set(0, q, k);
        ++head.scores;
      }
    }
    sequence.candidates = &mask;
  }
  CandidateMask mask;
  SequenceRecord sequence;
  HeadRecord head;
};

TEST(SangerPack, VectorsAreSplitIntoSubRowsAndEmptyOnesSkipped) {
  const Drawn drawn({"111110",    // 4 and 1 of vectors of 4 and of 2: sub-rows of 2 + 2, and 1.
                     "001000",    // 1 and none.
                     "110111"});  // 2 + 1, and 2.
  const PackedHead packed = Pack(drawn.sequence, drawn.head, false, Spec(4, 2));
  EXPECT_EQ(packed.kept, 11);
  EXPECT_EQ(packed.vectors, 5);
  EXPECT_EQ(packed.empty, 1);
  EXPECT_THAT(packed.sub_rows, ElementsAre(2 + 1 + 2, 1 + 0 + 1));
  EXPECT_EQ(packed.Passes(2), 3 + 1);
  EXPECT_EQ(packed.Passes(64), 2);
  // (sum floor + sum frac) / sum ceil of 4, 1, 1, 3 and 2 over 2.
  EXPECT_DOUBLE_EQ(packed.Utilization(2), (4 + 1.5) / 7);
}

TEST(SangerPack, WithoutSkippingAnEmptyVectorTakesARowAndAFullOneNoMoreThanBefore) {
  const Drawn drawn({"111110", "001000", "110111"});
  const PackedHead packed = Pack(drawn.sequence, drawn.head, false, Spec(4, 2, false));
  EXPECT_THAT(packed.sub_rows, ElementsAre(5, 3));
  EXPECT_DOUBLE_EQ(packed.Utilization(2), 5.5 / (7 + 1));
  // The authors' evaluation adds the vectors that are not empty: 5.5 / (7 + 5).
  EXPECT_GT(packed.Utilization(2), 5.5 / 12);
}

TEST(SangerPack, NoVectorIsEmptyThatAQueryDoesNotSee) {
  const Drawn drawn({"100000", "010000", "101000", "000100", "000011", "000001"});
  const PackedHead packed = Pack(drawn.sequence, drawn.head, /*causal=*/true, Spec(2, 2));
  // In sight of the six queries are 1, 1, 2, 2, 3 and 3 vectors.
  EXPECT_EQ(packed.vectors + packed.empty, 12);
  EXPECT_EQ(packed.kept, 1 + 1 + 2 + 1 + 1 + 1);  // The fifth query's last key is out of sight.
}

TEST(SangerPack, AVectorMayLieAcrossTheWordsOfAMask) {
  std::mt19937 random(7);
  for (const int32_t keys : {1, 63, 64, 65, 130, 200}) {
    std::vector<std::string> rows(5, std::string(static_cast<size_t>(keys), '0'));
    for (std::string& row : rows) {
      for (char& key : row) key = random() % 3 == 0 ? '1' : '0';
    }
    const Drawn drawn(rows);
    for (const int32_t width : {1, 7, 48, 64, 100, 128}) {
      for (const int32_t elements : {1, 3, 16}) {
        const PackedHead packed = Pack(drawn.sequence, drawn.head, false, Spec(width, elements));
        // The formula, vector by vector.
        double floors = 0, fractions = 0, ceilings = 0;
        for (const std::string& row : rows) {
          for (int32_t begin = 0; begin < keys; begin += width) {
            const std::string vector = row.substr(begin, width);
            const double splits =
                static_cast<double>(std::count(vector.begin(), vector.end(), '1')) / elements;
            floors += std::floor(splits);
            fractions += splits - std::floor(splits);
            ceilings += std::ceil(splits);
          }
        }
        EXPECT_EQ(packed.kept, drawn.head.scores);
        EXPECT_EQ(static_cast<double>(packed.all_sub_rows()), ceilings);
        if (ceilings > 0) {
          EXPECT_NEAR(packed.Utilization(elements), (floors + fractions) / ceilings, 1e-12);
        }
      }
    }
  }
}

TEST(SangerPack, CountsAloneSpreadEvenlyAndAllOfThemOnce) {
  SequenceRecord sequence{.rows = 100, .keys = 150};
  HeadRecord head{.queries = 100};
  for (const bool causal : {false, true}) {
    const int64_t sight = causal ? 51 * 100 + 99 * 100 / 2 : 150 * 100;
    for (const int64_t scores : {int64_t{0}, int64_t{99}, int64_t{3000}, sight - 1, sight}) {
      head.scores = scores;
      const PackedHead packed = Pack(sequence, head, causal, Spec(64, 16));
      EXPECT_EQ(packed.kept, scores);
      EXPECT_LE(packed.Utilization(16), 1.0);
    }
  }
  // A quarter of 64 keys fills a row of 16: as well as it can be.
  sequence = {.rows = 64, .keys = 128};
  head = {.queries = 64, .scores = 64 * 32};
  EXPECT_EQ(Pack(sequence, head, false, Spec(64, 16)).Utilization(16), 1.0);
}

TEST(SangerPack, AllInSightIsTheSameFromCountsAndFromAMask) {
  for (const bool causal : {false, true}) {
    const std::vector<std::string> rows(130, std::string(130, '1'));
    Drawn drawn(rows);
    if (causal) drawn.head.scores = 130 * 131 / 2;
    const PackedHead masked = Pack(drawn.sequence, drawn.head, causal, Spec(64, 16));
    drawn.sequence.candidates = nullptr;
    const PackedHead counted = Pack(drawn.sequence, drawn.head, causal, Spec(64, 16));
    EXPECT_EQ(masked.kept, drawn.head.scores);
    EXPECT_EQ(counted.kept, masked.kept);
    EXPECT_EQ(counted.sub_rows, masked.sub_rows);
    EXPECT_EQ(counted.vectors, masked.vectors);
  }
}

}  // namespace
}  // namespace thresher
