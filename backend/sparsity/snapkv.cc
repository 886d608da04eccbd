#include "backend/sparsity/snapkv.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/work.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

struct Settings {
  PolicyShape shape;
  std::string text;
  std::optional<double> keep;  // A share of the prompt's tokens; unset: `capacity` of them.
  int32_t capacity = 0;
  int32_t window = 1;
  int32_t pool = 1;  // Odd.
  bool mean = true;  // Else the largest.
  int32_t first = 0;

  /// Of a prompt of `tokens`.
  int32_t Kept(int32_t tokens) const {
    const int64_t asked = keep ? KeepCount(tokens, *keep) : capacity;
    return static_cast<int32_t>(std::min<int64_t>(tokens, std::max<int64_t>(asked, least())));
  }
  int64_t least() const { return int64_t{window} + first; }
};

class SnapKvRun final : public CacheRun {
 public:
  explicit SnapKvRun(const Settings& settings)
      : settings_(settings),
        sums_(static_cast<size_t>(settings.shape.layers) * settings.shape.kv_heads) {}

  bool WantsSums(int32_t layer) const override { return !ended_; }

  void AddSums(int32_t layer, int32_t slots, std::span<const int64_t> sums) override {
    for (int32_t head = 0; head < settings_.shape.kv_heads; ++head) {
      std::vector<int64_t>& total = sums_[layer * settings_.shape.kv_heads + head];
      total.resize(slots);
      const auto added = sums.subspan(static_cast<size_t>(head) * slots, slots);
      for (int32_t s = 0; s < slots; ++s) total[s] += added[s];
    }
  }

  void EndPrompt(int32_t tokens, std::vector<std::vector<int32_t>>* survivors) override {
    ended_ = true;
    const int32_t kept = settings_.Kept(tokens);
    if (kept < tokens) {
      for (const std::vector<int64_t>& sums : sums_) {
        survivors->push_back(Survivors(std::span(sums).first(tokens - settings_.window), kept));
      }
    }
    sums_ = {};
  }

 private:
  /// `sums` of the tokens before the window.
  std::vector<int32_t> Survivors(std::span<const int64_t> sums, int32_t kept) {
    Pool(sums);
    std::vector<int32_t> always(settings_.first);
    std::iota(always.begin(), always.end(), 0);
    const auto voted = top_k_(votes_, kept - settings_.window, always);
    std::vector<int32_t> stay(voted.begin(), voted.end());
    const auto tokens = static_cast<int32_t>(sums.size()) + settings_.window;
    for (int32_t token = tokens - settings_.window; token < tokens; ++token) stay.push_back(token);
    return stay;
  }

  void Pool(std::span<const int64_t> sums) {
    const auto tokens = static_cast<int64_t>(sums.size());
    const int64_t reach = settings_.pool / 2;
    votes_.resize(sums.size());
    for (int64_t j = 0; j < tokens; ++j) {
      const auto begin = sums.begin() + std::max<int64_t>(0, j - reach);
      const auto end = sums.begin() + std::min(tokens, j + reach + 1);
      votes_[j] =
          settings_.mean ? std::accumulate(begin, end, int64_t{0}) : *std::max_element(begin, end);
    }
  }

  const Settings& settings_;
  bool ended_ = false;                      // The prompt.
  std::vector<std::vector<int64_t>> sums_;  // [layers][kv_heads]
  std::vector<int64_t> votes_;
  TopK<int64_t> top_k_;
};

class SnapKv final : public Policy {
 public:
  explicit SnapKv(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "snapkv"; }
  bool is_dense() const override { return settings_.keep == 1.0; }
  /// As if all of the text had been prompt.
  double CostShare(int32_t tokens) const override {
    const int32_t kept = settings_.Kept(std::max(tokens, 1));
    return DecodeCostShare(settings_.shape, tokens, kept, kept);
  }
  CacheRules cache_rules() const override {
    return {.evicts = true, .wants_prompt_sums = true, .prompt_sum_rows = settings_.window};
  }
  std::unique_ptr<CacheRun> StartCache() const override {
    return std::make_unique<SnapKvRun>(settings_);
  }
  int32_t CacheSlots(int32_t prompt, int32_t tokens) const override {
    const int32_t read = std::min(prompt, tokens);
    return settings_.Kept(read) + (tokens - read);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeSnapKv(const PolicyValues& values,
                                                         const PolicyShape& shape) {
  Settings settings{.shape = shape,
                    .text = values.Canonical(),
                    .capacity = static_cast<int32_t>(values.number("capacity")),
                    .window = static_cast<int32_t>(values.number("window")),
                    .pool = static_cast<int32_t>(values.number("pool")),
                    .mean = values.text("pooling") == "avg",
                    .first = static_cast<int32_t>(values.number("first"))};
  if (values.has("keep")) settings.keep = values.number("keep");
  if (settings.pool % 2 == 0) {
    return InvalidArgument("snapkv: pool={}: must be odd, so that a token stands in the middle",
                           settings.pool);
  }
  if (!settings.keep && settings.capacity < settings.least()) {
    return InvalidArgument("snapkv: capacity={}: less than window and first together, which is {}",
                           settings.capacity, settings.least());
  }
  return std::make_shared<const SnapKv>(std::move(settings));
}

}  // namespace thresher
