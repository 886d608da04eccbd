#include "backend/sparsity/sinks.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/sparsity/work.h"

namespace thresher {
namespace {

struct Settings {
  PolicyShape shape;
  std::string text;
  int32_t first = 0;
  int32_t recent = 1;

  int32_t capacity() const { return first + recent; }
  size_t caches() const { return static_cast<size_t>(shape.layers) * shape.kv_heads; }
};

class SinksRun final : public CacheRun {
 public:
  explicit SinksRun(const Settings& settings) : settings_(settings) {}

  void EndPrompt(int32_t tokens, std::vector<std::vector<int32_t>>* survivors) override {
    if (tokens <= settings_.capacity()) return;
    std::vector<int32_t> stay(settings_.capacity());
    const auto recent = stay.begin() + settings_.first;
    std::iota(stay.begin(), recent, 0);
    std::iota(recent, stay.end(), tokens - settings_.recent);
    survivors->assign(settings_.caches(), stay);
  }

  void PlaceNew(int32_t slots, std::vector<int32_t>* victims) override {
    if (slots < settings_.capacity()) return;
    victims->assign(settings_.caches(), settings_.first + oldest_);
    oldest_ = (oldest_ + 1) % settings_.recent;
  }

  void Positions(int32_t slots, std::vector<int32_t>* positions) const override {
    CacheRun::Positions(slots, positions);
    // Until the ring is full oldest_ is 0, and a slot stands where it is.
    if (oldest_ == 0) return;
    const auto ring = positions->begin() + settings_.first;
    std::rotate(ring, positions->end() - oldest_, positions->end());
  }

 private:
  const Settings& settings_;
  int32_t oldest_ = 0;  // Within the ring, once it is full.
};

class Sinks final : public Policy {
 public:
  explicit Sinks(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "sinks"; }
  double CostShare(int32_t tokens) const override {
    return DecodeCostShare(settings_.shape, tokens, Slots(tokens), Slots(tokens));
  }
  CacheRules cache_rules() const override { return {.rotate_on_read = true, .evicts = true}; }
  std::unique_ptr<CacheRun> StartCache() const override {
    return std::make_unique<SinksRun>(settings_);
  }
  int32_t CacheSlots(int32_t /*prompt*/, int32_t tokens) const override { return Slots(tokens); }

 private:
  int32_t Slots(int32_t tokens) const { return std::min(tokens, settings_.capacity()); }

  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeSinks(const PolicyValues& values,
                                                        const PolicyShape& shape) {
  return std::make_shared<const Sinks>(
      Settings{.shape = shape,
               .text = values.Canonical(),
               .first = static_cast<int32_t>(values.number("first")),
               .recent = static_cast<int32_t>(values.number("recent"))});
}

}  // namespace thresher
