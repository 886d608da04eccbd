#include "backend/sparsity/h2o.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/work.h"

namespace thresher {
namespace {

struct Settings {
  PolicyShape shape;
  std::string text;
  double heavy = 1.0;
  double recent = 1.0;
  int32_t first = 0;

  /// Of `tokens` seen so far.
  int32_t Recent(int32_t tokens) const { return static_cast<int32_t>(KeepCount(tokens, recent)); }
  int32_t Slots(int32_t tokens) const {
    const int64_t rest = std::max<int64_t>(KeepCount(tokens, heavy), first);
    return static_cast<int32_t>(std::min<int64_t>(tokens, rest + Recent(tokens)));
  }
};

/// What one layer and KV head holds, by slot.
struct HeldTokens {
  std::vector<int32_t> tokens;  // Numbered as they came.
  std::vector<int64_t> sums;
};

class H2oRun final : public CacheRun {
 public:
  explicit H2oRun(const Settings& settings)
      : settings_(settings),
        held_(static_cast<size_t>(settings.shape.layers) * settings.shape.kv_heads) {}

  bool WantsSums(int32_t layer) const override { return true; }

  void AddSums(int32_t layer, int32_t slots, std::span<const int64_t> sums) override {
    for (int32_t head = 0; head < settings_.shape.kv_heads; ++head) {
      std::vector<int64_t>& total = held_[layer * settings_.shape.kv_heads + head].sums;
      total.resize(slots);
      const auto added = sums.subspan(static_cast<size_t>(head) * slots, slots);
      for (int32_t s = 0; s < slots; ++s) total[s] += added[s];
    }
  }

  void EndPrompt(int32_t tokens, std::vector<std::vector<int32_t>>* survivors) override {
    tokens_ = tokens;
    const bool evicts = settings_.Slots(tokens) < tokens;
    for (HeldTokens& held : held_) {
      held.sums.resize(tokens);
      held.tokens.resize(tokens);
      std::iota(held.tokens.begin(), held.tokens.end(), 0);
      if (!evicts) continue;
      held.tokens = Survivors(held.sums);
      survivors->push_back(held.tokens);
      std::vector<int64_t> sums;
      for (const int32_t token : held.tokens) sums.push_back(held.sums[token]);
      held.sums = std::move(sums);
    }
  }

  void PlaceNew(int32_t slots, std::vector<int32_t>* victims) override {
    const int32_t newest = tokens_++;
    if (slots < settings_.Slots(tokens_)) {
      for (HeldTokens& held : held_) {
        held.tokens.push_back(newest);
        held.sums.push_back(0);
      }
      return;
    }
    for (HeldTokens& held : held_) {
      const int32_t slot = Lightest(held);
      held.tokens[slot] = newest;
      held.sums[slot] = 0;
      victims->push_back(slot);
    }
  }

 private:
  /// The tokens of the prompt that stay.
  std::vector<int32_t> Survivors(std::span<const int64_t> sums) {
    const int32_t recent = settings_.Recent(tokens_);
    // With fewer slots than tokens the first ones end before the recent ones begin.
    std::vector<int32_t> always(settings_.first);
    std::iota(always.begin(), always.end(), 0);
    const auto chosen =
        top_k_(sums.first(tokens_ - recent), settings_.Slots(tokens_) - recent, always);
    std::vector<int32_t> stay(chosen.begin(), chosen.end());
    for (int32_t token = tokens_ - recent; token < tokens_; ++token) stay.push_back(token);
    return stay;
  }

  /// The slot of the token that leaves: neither among the first nor among the recent. There is one,
  /// since as many slots are held as there is room for, the newest token's included.
  int32_t Lightest(const HeldTokens& held) const {
    const int32_t recent_from = tokens_ - settings_.Recent(tokens_);
    int32_t lightest = -1;
    for (int32_t s = 0; s < static_cast<int32_t>(held.tokens.size()); ++s) {
      if (held.tokens[s] < settings_.first || held.tokens[s] >= recent_from) continue;
      if (lightest < 0 || held.sums[s] < held.sums[lightest] ||
          (held.sums[s] == held.sums[lightest] && held.tokens[s] > held.tokens[lightest])) {
        lightest = s;
      }
    }
    return lightest;
  }

  const Settings& settings_;
  int32_t tokens_ = 0;            // Seen so far.
  std::vector<HeldTokens> held_;  // [layers][kv_heads]; while the prompt is read, its sums alone.
  TopK<int64_t> top_k_;
};

class H2o final : public Policy {
 public:
  explicit H2o(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "h2o"; }
  bool is_dense() const override { return settings_.heavy + settings_.recent >= 1.0; }
  double CostShare(int32_t tokens) const override {
    const int32_t slots = settings_.Slots(tokens);
    return DecodeCostShare(settings_.shape, tokens, slots, slots);
  }
  CacheRules cache_rules() const override { return {.evicts = true, .wants_prompt_sums = true}; }
  std::unique_ptr<CacheRun> StartCache() const override {
    return std::make_unique<H2oRun>(settings_);
  }
  int32_t CacheSlots(int32_t /*prompt*/, int32_t tokens) const override {
    return settings_.Slots(tokens);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeH2o(const PolicyValues& values,
                                                      const PolicyShape& shape) {
  return std::make_shared<const H2o>(
      Settings{.shape = shape,
               .text = values.Canonical(),
               .heavy = values.number("heavy"),
               .recent = values.number("recent"),
               .first = static_cast<int32_t>(values.number("first"))});
}

}  // namespace thresher
