// Any bytes as a policy's text. What is accepted must read back as itself, and must lead a sequence
// through the layers with plans that are sound, whatever the scores and statistics are; or a
// decoder's text through its cache as CacheRun promises.
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "backend/device/plan_rows.h"
#include "backend/sparsity/policy.h"
#include "tests/sparsity/cache_walk.h"
#include "tests/sparsity/given_scores.h"

namespace {

using thresher::AttentionExtent;
using thresher::AttentionRecord;
using thresher::CascadeDecision;
using thresher::ConstMatrix;
using thresher::Policy;
using thresher::PolicyShape;
using thresher::SequencePlan;

void Require(bool condition) {
  if (!condition) std::abort();
}

/// Numbers of every kind, NaN and infinities included, from a seed.
class Floats {
 public:
  explicit Floats(uint32_t seed) : state_(seed) {}
  float Next() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_ % 8 == 0 ? std::bit_cast<float>(state_) : static_cast<float>(state_ >> 24) / 16;
  }
  std::vector<float> Take(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = Next();
    return values;
  }

 private:
  uint32_t state_;
};

std::vector<int32_t> Numbers(size_t count) {
  std::vector<int32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

/// `chosen` is a part of 0 .. size - 1, ascending, not empty.
void RequireSubset(const std::vector<int32_t>& chosen, size_t size) {
  Require(!chosen.empty() && chosen.front() >= 0 && chosen.back() < static_cast<int32_t>(size));
  for (size_t i = 1; i < chosen.size(); ++i) Require(chosen[i - 1] < chosen[i]);
}

void Walk(const Policy& policy, const PolicyShape& shape, int32_t tokens, Floats floats) {
  std::vector<int32_t> protect = {0};
  if (tokens > 1) protect.push_back(tokens - 1);
  const auto run = policy.Start(tokens, protect);
  std::vector<int32_t> positions = Numbers(tokens);
  std::vector<int32_t> heads = Numbers(shape.heads);
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    const auto rows = static_cast<int32_t>(positions.size());
    const std::vector<float> scores = floats.Take(static_cast<size_t>(rows) * rows);
    const std::vector<ConstMatrix> predicted(shape.heads, ConstMatrix(scores.data(), rows, rows));
    const thresher::testing::GivenScores prediction(predicted);
    SequencePlan plan;
    plan.heads = heads;
    run->BeforeProjection(layer, positions, policy.prediction().wanted() ? &prediction : nullptr,
                          &plan);
    const AttentionExtent extent = {.heads = shape.heads,
                                    .kv_heads = shape.kv_heads,
                                    .queries = rows,
                                    .keys = rows,
                                    .causal = shape.causal};
    Require(thresher::CheckPlan(plan, extent).ok());
    thresher::RowsToGenerate(plan, extent);

    AttentionRecord record;
    for (const float x : floats.Take(plan.wanted.column_sums ? rows : 0)) {
      record.column_sums.push_back(x);
    }
    for (const float x : floats.Take(plan.wanted.head_l1 ? shape.heads : 0)) {
      record.head_l1.push_back(x);
    }
    CascadeDecision decision = {.rows = Numbers(rows), .heads = heads};
    run->AfterAttention(layer, positions, record, &decision);
    RequireSubset(decision.rows, positions.size());
    RequireSubset(decision.heads, shape.heads);
    for (int32_t& row : decision.rows) row = positions[row];
    positions = decision.rows;
    heads = decision.heads;
  }
}

void WalkCache(const Policy& policy, const PolicyShape& shape, int32_t tokens, uint64_t seed) {
  for (int32_t held = 1; held < 40; ++held) Require(policy.CacheSlots(1, held) <= held);
  thresher::testing::CacheWalk walk(policy, shape, seed);
  Require(walk.Prompt(std::vector<int32_t>{tokens, 1}).ok());
  for (int32_t step = 0; step < 12; ++step) Require(walk.Step().ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const PolicyShape& shape : {PolicyShape{.layers = 6,
                                  .heads = 4,
                                  .kv_heads = 4,
                                  .head_dim = 8,
                                  .hidden_size = 32,
                                  .ffn_size = 64,
                                  .relu = true},
                                   PolicyShape{.layers = 3,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .head_dim = 8,
                                   .hidden_size = 32,
                                   .ffn_size = 64,
                                   .ffn_matrices = 3},
                                   PolicyShape{.layers = 3,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .head_dim = 8,
                                   .hidden_size = 32,
                                   .ffn_size = 64,
                                   .relu = true,
                                   .causal = true}}) {
    const auto policy = Policy::Parse(text, shape);
    if (!policy.ok()) {
      Require(policy.status().code() == absl::StatusCode::kInvalidArgument);
      continue;
    }
    const auto again = Policy::Parse((*policy)->text(), shape);
    Require(again.ok() && (*again)->text() == (*policy)->text());
    Require((*again)->is_dense() == (*policy)->is_dense());
    for (const int32_t tokens : {1, 2, 9}) {
      const double share = (*policy)->CostShare(tokens);
      Require(share > 0 && share <= 1);
      if (shape.causal) {
        WalkCache(**policy, shape, tokens, size);
      } else {
        Walk(**policy, shape, tokens, Floats(static_cast<uint32_t>(size)));
      }
    }
  }
  return 0;
}
