#include "backend/evaluation/candidate_recall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "backend/device/kv_cache.h"
#include "backend/tensor/matrix.h"

namespace thresher {
namespace {

using Choose = std::function<void(SequencePlan*)>;

/// A policy that does what a test says, before the projection or before the scores.
class TestPolicy final : public Policy {
 public:
  TestPolicy(Choose before_projection, Choose before_scores)
      : before_projection_(std::move(before_projection)),
        before_scores_(std::move(before_scores)) {}

  std::string text() const override { return "test"; }
  std::string name() const override { return "test"; }
  double CostShare(int32_t) const override { return 0.5; }
  std::unique_ptr<PolicyRun> Start(int32_t, std::span<const int32_t>) const override {
    class Run final : public PolicyRun {
     public:
      explicit Run(const TestPolicy& policy) : policy_(policy) {}
      void BeforeProjection(int32_t, std::span<const int32_t>, const LayerPrediction*,
                            SequencePlan* plan) override {
        if (policy_.before_projection_) policy_.before_projection_(plan);
      }
      void BeforeScores(int32_t, std::span<const int32_t>, const LayerVectors&,
                        const LayerPrediction*, SequencePlan* plan) override {
        if (policy_.before_scores_) policy_.before_scores_(plan);
      }

     private:
      const TestPolicy& policy_;
    };
    return std::make_unique<Run>(*this);
  }

 private:
  const Choose before_projection_, before_scores_;
};

/// Two heads of one dimension and four tokens. Every query of head 0 ranks keys 3, 2, 1, 0, of head
/// 1 keys 0, 1, 2, 3.
struct Vectors {
  Vectors() : query(4, 2), key(4, 2) {
    for (int64_t row = 0; row < 4; ++row) {
      query.view().row(row)[0] = 1;
      query.view().row(row)[1] = -1;
      key.view().row(row)[0] = key.view().row(row)[1] = static_cast<float>(row);
    }
  }
  MatrixBuffer query, key;
};

/// Each query may attend to keys 2 and 3.
void ChooseLast(SequencePlan* plan) {
  plan->candidates.emplace(2, 4, 4);
  for (int32_t h = 0; h < 2; ++h) {
    for (int32_t q = 0; q < 4; ++q) {
      for (const int32_t k : {2, 3}) plan->candidates->set(h, q, k);
    }
  }
}

std::optional<double> RecallOf(Choose before_projection, Choose before_scores, SequencePlan* plan) {
  RecallCount count;
  const auto policy = WatchCandidates(
      std::make_shared<TestPolicy>(std::move(before_projection), std::move(before_scores)), 2,
      &count);
  const auto run = policy->Start(4, {});
  const std::vector<int32_t> positions = {0, 1, 2, 3};
  run->BeforeProjection(0, positions, nullptr, plan);
  EXPECT_FALSE(plan->candidates.has_value());  // All rows are generated.
  EXPECT_TRUE(plan->one_hot.empty());
  const Vectors vectors;
  run->BeforeScores(0, positions, {.query = vectors.query.view(), .key = vectors.key.view()},
                    nullptr, plan);
  return count.recall();
}

TEST(CandidateRecall, CountsWhatIsAmongTheLargestScores) {
  for (const bool before : {true, false}) {
    SequencePlan plan;
    // All of head 0's, none of head 1's.
    EXPECT_EQ(RecallOf(before ? Choose(ChooseLast) : nullptr, before ? nullptr : Choose(ChooseLast),
                       &plan),
              0.5);
    SequencePlan expected;
    ChooseLast(&expected);
    EXPECT_EQ(plan.candidates, expected.candidates);  // Still obeyed.
  }
}

TEST(CandidateRecall, HeadsAndQueriesThatDoNotRunDoNotCount) {
  SequencePlan plan;
  plan.heads = {0};
  EXPECT_EQ(RecallOf(ChooseLast, nullptr, &plan), 1.0);
  plan = {};
  const auto one_hot = [](SequencePlan* plan) {
    ChooseLast(plan);
    plan->one_hot = {-1, -1, -1, -1, /*head 1*/ 0, 0, 0, -1};
  };
  EXPECT_EQ(RecallOf(one_hot, nullptr, &plan), 8.0 / 10);
  EXPECT_EQ(plan.one_hot.size(), 8u);
}

TEST(CandidateRecall, ChoosingNothingOrEverythingIsNoChoice) {
  SequencePlan plan;
  EXPECT_EQ(RecallOf(nullptr, nullptr, &plan), std::nullopt);
  const auto all = [](SequencePlan* plan) {
    plan->candidates.emplace(2, 4, 4);
    for (int32_t i = 0; i < 32; ++i) plan->candidates->set(i / 16, i / 4 % 4, i % 4);
  };
  EXPECT_EQ(RecallOf(all, nullptr, &plan), std::nullopt);
}

TEST(CandidateRecall, SlotsThatADecodeRowReads) {
  RecallCount count;
  auto reference = CreateDevice("reference", {});
  ASSERT_TRUE(reference.ok());
  const auto device = WatchReads(*std::move(reference), &count);
  const KvLayout layout({.stretch = 2}, 1, 1, 1);
  AlignedBuffer<std::byte> page(layout.page_bytes());
  // Stretches' bounds: 5, 4, and the newest.
  const float keys[] = {5, -9, 4, 3, 0};
  const float value = 1;
  for (int32_t s = 0; s < 5; ++s) {
    StoreKeyRow(layout, &keys[s], s, layout.keys(page.data(), 0, 0));
    StoreValueRow(layout, &value, s, layout.values(page.data(), 0, 0));
    BoundKeys(layout, layout.keys(page.data(), 0, 0), s, s + 1, layout.bounds(page.data(), 0, 0));
  }
  std::byte* const pages[] = {page.data()};
  MatrixBuffer query(1, 1), out(1, 1);
  query.view().row(0)[0] = 1;
  const auto attend = [&](const CachedSequence& sequence) {
    CachedRecord record;
    const absl::Status status = device->CachedAttention({.shape = {1, 1, 1},
                                                         .query = query.view(),
                                                         .layout = &layout,
                                                         .sequences = std::span(&sequence, 1)},
                                                        out.view(), std::span(&record, 1));
    EXPECT_TRUE(status.ok()) << status;
  };
  CachedSequence sequence = {.rows = 1, .decode = true, .pages = pages, .slots = 5};
  attend(sequence);
  EXPECT_EQ(count.recall(), std::nullopt);
  sequence.read_stretches = 2;  // Slots 0, 1 and 4, where 0, 2 and 3 are the largest.
  attend(sequence);
  EXPECT_DOUBLE_EQ(count.recall().value(), 1.0 / 3);
  const std::vector<int32_t> reads = {2, 4};
  sequence.read_stretches = 0;
  sequence.reads = reads;
  attend(sequence);
  EXPECT_DOUBLE_EQ(count.recall().value(), (1.0 + 1) / (3 + 2));
}

}  // namespace
}  // namespace thresher
