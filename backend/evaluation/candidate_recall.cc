#include "backend/evaluation/candidate_recall.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/forwarding_device.h"
#include "backend/device/top_k.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

float Dot(const float* a, const float* b, int32_t size) {
  return std::inner_product(a, a + size, b, 0.0f);
}

class WatchedRun final : public PolicyRun {
 public:
  WatchedRun(std::unique_ptr<PolicyRun> run, int32_t heads, RecallCount* count)
      : run_(std::move(run)), heads_(heads), count_(count) {}

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    run_->BeforeProjection(layer, positions, prediction, plan);
    // Taken back until Q and K are there, whole.
    candidates_ = std::exchange(plan->candidates, std::nullopt);
    one_hot_ = std::exchange(plan->one_hot, {});
  }

  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    plan->candidates = std::exchange(candidates_, std::nullopt);
    plan->one_hot = std::exchange(one_hot_, {});
    run_->BeforeScores(layer, positions, vectors, prediction, plan);
    if (!plan->candidates) return;
    if (plan->heads) {
      for (const int32_t head : *plan->heads) CountHead(head, vectors, *plan);
    } else {
      for (int32_t head = 0; head < heads_; ++head) CountHead(head, vectors, *plan);
    }
  }

  void AfterAttention(int32_t layer, std::span<const int32_t> positions,
                      const AttentionRecord& record, CascadeDecision* decision) override {
    run_->AfterAttention(layer, positions, record, decision);
  }

 private:
  void CountHead(int32_t head, const LayerVectors& vectors, const SequencePlan& plan) {
    const CandidateMask& mask = *plan.candidates;
    const auto dim = static_cast<int32_t>(vectors.query.cols / heads_);
    const int64_t kv_head = head / (vectors.query.cols / vectors.key.cols);
    scores_.resize(static_cast<size_t>(mask.keys()));
    for (int32_t q = 0; q < mask.queries(); ++q) {
      const size_t at = static_cast<size_t>(head) * mask.queries() + q;
      if (!plan.one_hot.empty() && plan.one_hot[at] >= 0) continue;
      int64_t chosen = 0;
      for (int32_t k = 0; k < mask.keys(); ++k) chosen += mask.test(head, q, k) ? 1 : 0;
      if (chosen == mask.keys()) continue;
      const float* const query = vectors.query.row(q) + int64_t{head} * dim;
      for (int32_t k = 0; k < mask.keys(); ++k) {
        scores_[static_cast<size_t>(k)] = Dot(query, vectors.key.row(k) + kv_head * dim, dim);
      }
      int64_t found = 0;
      for (const int32_t k : top_k_(scores_, chosen)) found += mask.test(head, q, k) ? 1 : 0;
      count_->Add(found, chosen);
    }
  }

  const std::unique_ptr<PolicyRun> run_;
  const int32_t heads_;
  RecallCount* const count_;
  std::optional<CandidateMask> candidates_;
  std::vector<int32_t> one_hot_;
  std::vector<float> scores_;
  TopK<float> top_k_;
};

class WatchedPolicy final : public Policy {
 public:
  WatchedPolicy(std::shared_ptr<const Policy> policy, int32_t heads, RecallCount* count)
      : policy_(std::move(policy)), heads_(heads), count_(count) {}

  std::string text() const override { return policy_->text(); }
  std::string name() const override { return policy_->name(); }
  bool is_dense() const override { return policy_->is_dense(); }
  PredictionRequest prediction() const override { return policy_->prediction(); }
  bool chooses_from_scores() const override { return true; }
  bool chooses_rows() const override { return policy_->chooses_rows(); }
  int32_t low_ffn_bits() const override { return policy_->low_ffn_bits(); }
  double CostShare(int32_t tokens) const override { return policy_->CostShare(tokens); }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<WatchedRun>(policy_->Start(tokens, protected_positions), heads_,
                                        count_);
  }

 private:
  const std::shared_ptr<const Policy> policy_;
  const int32_t heads_;
  RecallCount* const count_;
};

class WatchingDevice final : public ForwardingDevice {
 public:
  WatchingDevice(std::unique_ptr<Device> device, RecallCount* count)
      : ForwardingDevice(std::move(device)), count_(count) {}

  absl::Status CachedAttention(const CachedAttentionInput& input, Matrix out,
                               std::span<CachedRecord> records) override {
    THRESHER_RETURN_IF_ERROR(ForwardingDevice::CachedAttention(input, out, records));
    for (size_t s = 0; s < input.sequences.size(); ++s) {
      const CachedSequence& sequence = input.sequences[s];
      if (!sequence.decode || sequence.SlotsRead(*input.layout) == sequence.slots) continue;
      for (int32_t head = 0; head < input.shape.kv_heads; ++head) {
        FindRead(input, sequence, records[s], head);
        CountGroup(input, sequence, head);
      }
    }
    return absl::OkStatus();
  }

 private:
  /// Flags the slots that a KV head reads.
  void FindRead(const CachedAttentionInput& input, const CachedSequence& sequence,
                const CachedRecord& record, int32_t kv_head) {
    read_.assign(static_cast<size_t>(sequence.slots), false);
    for (const int32_t slot : sequence.reads) read_[static_cast<size_t>(slot)] = true;
    if (record.stretches.empty()) return;
    const auto count = static_cast<size_t>(sequence.read_stretches);
    const int32_t length = input.layout->format().stretch;
    for (const int32_t stretch :
         std::span(record.stretches).subspan(static_cast<size_t>(kv_head) * count, count)) {
      for (int32_t i = stretch * length; i < std::min(sequence.slots, (stretch + 1) * length);
           ++i) {
        read_[static_cast<size_t>(i)] = true;
      }
    }
  }

  void CountGroup(const CachedAttentionInput& input, const CachedSequence& sequence,
                  int32_t kv_head) {
    const int32_t dim = input.shape.head_dim;
    const int32_t heads = input.shape.heads / input.shape.kv_heads;
    const int64_t chosen = sequence.SlotsRead(*input.layout);
    key_.resize(static_cast<size_t>(dim));
    scores_.resize(static_cast<size_t>(heads) * sequence.slots);
    const float* const queries =
        input.query.row(sequence.first_row) + int64_t{kv_head} * heads * dim;
    for (int32_t slot = 0; slot < sequence.slots; ++slot) {
      std::byte* const page = sequence.pages[static_cast<size_t>(slot / kKvPageTokens)];
      LoadKeyRow(*input.layout, input.layout->keys(page, input.layer, kv_head),
                 slot % kKvPageTokens, false, key_.data());
      if (input.layout->format().rotate_on_read) {
        RotateRow(*input.rotary, sequence.positions[static_cast<size_t>(slot)], key_.data());
      }
      for (int32_t h = 0; h < heads; ++h) {
        scores_[static_cast<size_t>(h) * sequence.slots + slot] =
            Dot(queries + int64_t{h} * dim, key_.data(), dim);
      }
    }
    const auto slots = static_cast<size_t>(sequence.slots);
    for (int32_t h = 0; h < heads; ++h) {
      int64_t found = 0;
      for (const int32_t slot :
           top_k_(std::span<const float>(scores_).subspan(static_cast<size_t>(h) * slots, slots),
                  chosen)) {
        found += read_[static_cast<size_t>(slot)] ? 1 : 0;
      }
      count_->Add(found, chosen);
    }
  }

  RecallCount* const count_;
  std::vector<bool> read_;  // By slot.
  std::vector<float> key_, scores_;
  TopK<float> top_k_;
};

}  // namespace

std::shared_ptr<const Policy> WatchCandidates(std::shared_ptr<const Policy> policy, int32_t heads,
                                              RecallCount* count) {
  return std::make_shared<const WatchedPolicy>(std::move(policy), heads, count);
}

std::unique_ptr<Device> WatchReads(std::unique_ptr<Device> device, RecallCount* count) {
  return std::make_unique<WatchingDevice>(std::move(device), count);
}

}  // namespace thresher
