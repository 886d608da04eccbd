#include "backend/sparsity/quest.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "backend/device/top_k.h"
#include "backend/sparsity/work.h"

namespace thresher {
namespace {

// The released code's.
constexpr int64_t kLeastStretches = 3;

struct Settings {
  PolicyShape shape;
  std::string text;
  std::optional<double> keep;  // A share of the slots; unset: `budget` of them.
  int32_t budget = 0;
  int32_t page = 16;
  int32_t whole = 0;  // So many first layers read all.

  /// 0: all.
  int32_t Stretches(int32_t layer, int32_t slots) const {
    if (layer < whole || keep == 1.0) return 0;
    const int64_t held = (int64_t{slots} + page - 1) / page;
    int64_t read = budget / page;
    if (keep) read = KeepCount(slots, *keep / page);
    read = std::max(read, kLeastStretches);
    return read < held ? static_cast<int32_t>(read) : 0;
  }
};

class QuestRun final : public CacheRun {
 public:
  explicit QuestRun(const Settings& settings) : settings_(settings) {}

  int32_t StretchesToRead(int32_t layer, int32_t slots) const override {
    return settings_.Stretches(layer, slots);
  }

 private:
  const Settings& settings_;
};

class Quest final : public Policy {
 public:
  explicit Quest(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "quest"; }
  bool is_dense() const override {
    return settings_.keep == 1.0 || settings_.whole >= settings_.shape.layers;
  }
  double CostShare(int32_t tokens) const override {
    double keys = 0, values = 0;
    for (int32_t l = 0; l < settings_.shape.layers; ++l) {
      const int32_t stretches = settings_.Stretches(l, tokens);
      const double read = stretches == 0 ? tokens : std::min(tokens, stretches * settings_.page);
      values += read;
      // A stretch's bounds are as much as two keys.
      keys += read + (stretches == 0 ? 0.0 : 2.0 * tokens / settings_.page);
    }
    const int32_t layers = settings_.shape.layers;
    return DecodeCostShare(settings_.shape, tokens, keys / layers, values / layers);
  }
  CacheRules cache_rules() const override { return {.stretch = is_dense() ? 0 : settings_.page}; }
  std::unique_ptr<CacheRun> StartCache() const override {
    return std::make_unique<QuestRun>(settings_);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeQuest(const PolicyValues& values,
                                                        const PolicyShape& shape) {
  Settings settings{.shape = shape,
                    .text = values.Canonical(),
                    .budget = static_cast<int32_t>(values.number("budget")),
                    .page = std::stoi(std::string(values.text("page"))),
                    .whole = static_cast<int32_t>(values.number("whole"))};
  if (values.has("keep")) settings.keep = values.number("keep");
  return std::make_shared<const Quest>(std::move(settings));
}

}  // namespace thresher
