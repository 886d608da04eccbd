#include "backend/sparsity/spatten_cache.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/work.h"

namespace thresher {
namespace {

using Importance = SpattenSettings::Importance;

class SpattenCache final : public Policy {
 public:
  explicit SpattenCache(SpattenSettings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "spatten"; }
  bool is_dense() const override {
    return !leaves_out_keys() && settings_.values == 1.0 && !settings_.quantization;
  }
  double CostShare(int32_t tokens) const override {
    double keys = 0;
    double values = 0;
    for (int32_t l = 0; l < settings_.shape.layers; ++l) {
      const int32_t reads = Reads(l, std::max(tokens, 1));
      keys += reads;
      values += static_cast<double>(KeepCount(reads, settings_.values));
    }
    const int32_t layers = settings_.shape.layers;
    return DecodeCostShare(settings_.shape, tokens, keys / layers, values / layers);
  }

  CacheRules cache_rules() const override {
    CacheRules rules = {.value_keep = settings_.values, .wants_prompt_sums = wants_sums()};
    if (settings_.quantization) {
      rules.planes = {.msb_bits = settings_.quantization->msb_bits,
                      .lsb_bits = settings_.quantization->lsb_bits};
      rules.refetch_threshold = settings_.quantization->threshold;
    }
    return rules;
  }
  std::unique_ptr<CacheRun> StartCache() const override;

  const SpattenSettings& settings() const { return settings_; }
  bool wants_sums() const {
    return leaves_out_keys() && settings_.importance != Importance::kRandom;
  }
  /// So many slots at the beginning are always read.
  int32_t first() const { return std::max(settings_.first, settings_.protect_model ? 1 : 0); }
  /// So many of `slots` does `layer` read.
  int32_t Reads(int32_t layer, int32_t slots) const {
    return std::max(KeepFloor(slots, settings_.tokens[layer]), std::min(slots, first() + 1));
  }

 private:
  bool leaves_out_keys() const { return settings_.tokens.back() < 1.0; }

  const SpattenSettings settings_;
};

class SpattenCacheRun final : public CacheRun {
 public:
  explicit SpattenCacheRun(const SpattenCache& policy) : policy_(policy) {}

  bool WantsSums(int32_t layer) const override { return policy_.wants_sums(); }

  void AddSums(int32_t layer, int32_t slots, std::span<const int64_t> sums) override {
    if (!policy_.wants_sums()) return;
    Grow(slots);
    const int64_t sign = policy_.settings().importance == Importance::kInverse ? -1 : 1;
    const size_t count = sums.size() / static_cast<size_t>(policy_.settings().shape.kv_heads);
    const bool all = count == static_cast<size_t>(slots);
    for (size_t head = 0; head < sums.size(); head += count) {
      for (size_t n = 0; n < count; ++n) {
        importance_[all ? n : static_cast<size_t>(present_[n])] += sign * sums[head + n];
      }
    }
  }

  bool RescalesAfter(int32_t layer) const override {
    const SpattenSettings& settings = policy_.settings();
    return policy_.wants_sums() && settings.rescale != 1.0 && layer + 1 == settings.shape.layers;
  }

  void ChooseReads(int32_t layer, int32_t slots, std::vector<int32_t>* reads) override {
    Grow(slots);
    if (layer == 0) {
      present_.clear();
      Fade();
    }
    Narrow(slots, policy_.Reads(layer, slots));
    *reads = present_;
  }

 private:
  /// Slots that come begin with no importance, or have that of chance.
  void Grow(int32_t slots) {
    const SpattenSettings& settings = policy_.settings();
    while (importance_.size() < static_cast<size_t>(slots)) {
      importance_.push_back(
          settings.importance == Importance::kRandom
              ? static_cast<int64_t>(0x1p53 * RandomRank(settings.seed, 0, importance_.size()))
              : 0);
    }
  }

  void Fade() {
    const double factor = policy_.settings().rescale;
    if (factor == 1.0 || policy_.settings().importance == Importance::kRandom) return;
    const auto whole = static_cast<int64_t>(std::llround(factor * 65536));
    // In whole numbers, so that the order of sums still doesn't matter.
    for (int64_t& value : importance_)
      value = value / 65536 * whole + value % 65536 * whole / 65536;
  }

  void Narrow(int32_t slots, int32_t count) {
    const bool all = present_.empty();
    const int32_t present = all ? slots : static_cast<int32_t>(present_.size());
    if (count >= present) return;
    // The newest always; of the recent ones as many as there is room for.
    const int32_t recent =
        std::clamp(policy_.settings().recent, 1, std::max(1, count - policy_.first()));
    scores_.clear();
    always_.clear();
    for (int32_t i = 0; i < present; ++i) {
      const int32_t slot = all ? i : present_[i];
      if (slot < policy_.first() || slot >= slots - recent) always_.push_back(i);
      scores_.push_back(importance_[slot]);
    }
    const std::span<const int32_t> kept = top_k_(scores_, count, always_);
    // Kept indices ascend, so that none is written before it is read.
    if (all) present_.resize(kept.size());
    for (size_t i = 0; i < kept.size(); ++i) present_[i] = all ? kept[i] : present_[kept[i]];
    present_.resize(kept.size());
  }

  const SpattenCache& policy_;
  std::vector<int64_t> importance_;  // By slot; largest first.
  std::vector<int32_t> present_;     // What the last layer read; empty: all.
  std::vector<int64_t> scores_;
  std::vector<int32_t> always_;
  TopK<int64_t> top_k_;
};

std::unique_ptr<CacheRun> SpattenCache::StartCache() const {
  return std::make_unique<SpattenCacheRun>(*this);
}

}  // namespace

std::shared_ptr<const Policy> MakeSpattenCache(SpattenSettings settings) {
  return std::make_shared<const SpattenCache>(std::move(settings));
}

}  // namespace thresher
