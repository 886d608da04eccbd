#include "backend/sparsity/fact.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <string>
#include <utility>

#include "backend/device/top_k.h"
#include "backend/sparsity/key_choice.h"
#include "backend/sparsity/work.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

enum class QuerySkip { kOff, kLargeGap, kSmallGap };

struct Settings {
  PolicyShape shape;
  std::string text;
  KeyRule rule;
  double ffn = 1.0;
  int32_t ffn_bits = 8;
  QuerySkip skip = QuerySkip::kOff;
  double gap = 0.0;
  int32_t bits = 8;
  bool protect_model = true;

  bool chooses_keys() const { return !rule.keeps_all(); }
  bool dense() const { return !chooses_keys() && ffn == 1.0 && skip == QuerySkip::kOff; }
};

class FactRun final : public PolicyRun {
 public:
  FactRun(const Settings& settings, std::span<const int32_t> protected_positions)
      : settings_(settings) {
    if (settings.protect_model) {
      protected_.assign(protected_positions.begin(), protected_positions.end());
    }
  }

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    if (prediction == nullptr) return;
    const int32_t heads = settings_.shape.heads;
    const auto rows = static_cast<int32_t>(positions.size());
    const std::vector<int32_t> running = RunningHeads(*plan, heads);

    // What an earlier part chose: only those keys may be chosen again.
    const std::optional<CandidateMask> earlier = std::move(plan->candidates);
    const bool choose = earlier || settings_.chooses_keys();
    plan->candidates.reset();
    if (choose) plan->candidates.emplace(heads, rows, rows);
    if (settings_.skip != QuerySkip::kOff && plan->one_hot.empty()) {
      plan->one_hot.assign(static_cast<size_t>(heads) * rows, -1);
    }
    prediction->ForEachBlock(running, [&](int32_t head, int64_t first, ConstMatrix scores) {
      RowChooser chooser(settings_.rule);
      for (int64_t r = 0; r < scores.rows; ++r) {
        const auto query = static_cast<int32_t>(first + r);
        chooser.Look(scores.row(r), rows, earlier ? earlier->row(head, query) : nullptr);
        uint64_t* const bits = choose ? plan->candidates->row(head, query) : nullptr;
        if (IsOneHot(chooser)) {
          plan->one_hot[static_cast<size_t>(head) * rows + query] = chooser.best();
          if (choose) bits[chooser.best() / 64] |= uint64_t{1} << (chooser.best() % 64);
        } else if (choose) {
          chooser.Choose(bits);
        }
      }
    });
    if (settings_.ffn < 1.0) {
      CountChosen(running, *plan);
      RankTokens(positions, plan);
    }
  }

 private:
  /// Is the row's softmax taken as one-hot, of the best key?
  bool IsOneHot(RowChooser& row) const {
    if (settings_.skip == QuerySkip::kOff) return false;
    // A NaN beside the best makes the lead NaN, which is neither large nor small.
    const double lead = row.lead();
    return settings_.skip == QuerySkip::kLargeGap ? lead >= settings_.gap : lead < settings_.gap;
  }

  /// By how many queries and heads each row was chosen.
  void CountChosen(std::span<const int32_t> running, const SequencePlan& plan) {
    const CandidateMask& mask = *plan.candidates;
    chosen_.assign(mask.keys(), 0.0);
    for (const int32_t head : running) {
      for (int32_t query = 0; query < mask.queries(); ++query) {
        const uint64_t* const bits = mask.row(head, query);
        for (int32_t w = 0; w < mask.words(); ++w) {
          for (uint64_t rest = bits[w]; rest != 0; rest &= rest - 1) {
            chosen_[w * 64 + std::countr_zero(rest)] += 1.0;
          }
        }
      }
    }
  }

  void RankTokens(std::span<const int32_t> positions, SequencePlan* plan) {
    std::vector<int32_t> always;
    for (size_t row = 0; row < positions.size(); ++row) {
      if (std::ranges::binary_search(protected_, positions[row])) {
        always.push_back(static_cast<int32_t>(row));
      }
    }
    plan->ffn_low_precision.assign(positions.size(), 1);
    plan->ffn_low_bits = settings_.ffn_bits;
    const int64_t full = KeepCount(static_cast<int64_t>(positions.size()), settings_.ffn);
    for (const int32_t row : rank_(chosen_, full, always)) plan->ffn_low_precision[row] = 0;
  }

  const Settings& settings_;
  std::vector<int32_t> protected_;  // Positions, ascending.
  // The layer in hand.
  std::vector<double> chosen_;  // By row: by how many queries and heads.
  TopK<double> rank_;
};

class Fact final : public Policy {
 public:
  explicit Fact(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "fact"; }
  bool is_dense() const override { return settings_.dense(); }
  PredictionRequest prediction() const override {
    if (is_dense()) return {};
    return {.kind = PredictionKind::kEager, .bits = settings_.bits};
  }

  bool chooses_rows() const override {
    return settings_.chooses_keys() || settings_.skip != QuerySkip::kOff;
  }
  int32_t low_ffn_bits() const override { return settings_.ffn < 1.0 ? settings_.ffn_bits : 0; }

  /// Low precision is counted as half the work.
  double CostShare(int32_t tokens) const override {
    const double saved = (1.0 - settings_.ffn) * LinearWorkOf(settings_.shape).ffn / 2;
    return PredictingCostShare(settings_.shape, tokens, prediction(), saved);
  }

  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<FactRun>(settings_, protected_positions);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeFact(const PolicyValues& values,
                                                       const PolicyShape& shape) {
  Settings settings{
      .shape = shape,
      .text = values.Canonical(),
      .rule = {.topk = values.number("topk"), .threshold = values.number("threshold")},
      .ffn = values.number("ffn"),
      .ffn_bits = values.text("ffnbits") == "4" ? 4 : 8,
      .gap = values.number("gap"),
      .bits = static_cast<int32_t>(values.number("bits")),
      .protect_model = values.text("protect") == "model"};
  if (values.text("qskip") == "gap") settings.skip = QuerySkip::kLargeGap;
  if (values.text("qskip") == "small-gap") settings.skip = QuerySkip::kSmallGap;
  if (settings.ffn < 1.0 && !settings.chooses_keys()) {
    return InvalidArgument(
        "fact: ffn={} ranks tokens by how often they are chosen, and with topk=1 and threshold=0 "
        "all "
        "are chosen alike; give topk or threshold",
        settings.ffn);
  }
  return std::make_shared<const Fact>(std::move(settings));
}

}  // namespace thresher
