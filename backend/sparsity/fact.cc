#include "backend/sparsity/fact.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "backend/device/top_k.h"
#include "backend/sparsity/work.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

enum class QuerySkip { kOff, kLargeGap, kSmallGap };

struct Settings {
  PolicyShape shape;
  std::string text;
  double topk = 1.0;
  double threshold = 0.0;
  double ffn = 1.0;
  QuerySkip skip = QuerySkip::kOff;
  double gap = 0.0;
  int32_t bits = 8;
  bool protect_model = true;

  bool chooses_keys() const { return topk < 1.0 || threshold > 0.0; }
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
    std::vector<int32_t> running(heads);
    std::iota(running.begin(), running.end(), 0);
    if (plan->heads) running = *plan->heads;

    // What an earlier part chose: only those keys may be chosen again.
    const std::optional<CandidateMask> earlier = std::move(plan->candidates);
    CandidateMask mask(heads, rows, rows);
    if (settings_.skip != QuerySkip::kOff && plan->one_hot.empty()) {
      plan->one_hot.assign(static_cast<size_t>(heads) * rows, -1);
    }
    chosen_.assign(rows, 0.0);
    for (const int32_t h : running) {
      for (int32_t i = 0; i < rows; ++i) {
        Collect(prediction->scores[h].row(i), settings_.shape.causal ? i + 1 : rows,
                earlier ? &*earlier : nullptr, h, i);
        if (settings_.skip != QuerySkip::kOff && OneHot()) {
          plan->one_hot[static_cast<size_t>(h) * rows + i] = keys_[best_];
          mask.set(h, i, keys_[best_]);
          chosen_[keys_[best_]] += 1.0;
        } else {
          Choose(h, i, &mask);
        }
      }
    }
    if (earlier || settings_.chooses_keys()) plan->candidates = std::move(mask);
    if (settings_.ffn < 1.0) RankTokens(positions, plan);
  }

 private:
  /// Fills keys_ and scores_ with the keys that the row may choose from, finds the best of them and
  /// its lead over the second.
  void Collect(const float* row, int32_t visible, const CandidateMask* earlier, int32_t head,
               int32_t query) {
    visible_ = visible;
    keys_.clear();
    scores_.clear();
    for (int32_t j = 0; j < visible; ++j) {
      if (earlier != nullptr && !earlier->test(head, query, j)) continue;
      keys_.push_back(j);
      scores_.push_back(row[j]);
    }
    best_ = 0;
    // As in the top-k, NaN is below everything; of equals the first is the best.
    for (size_t n = 1; n < scores_.size(); ++n) {
      if (scores_[n] > scores_[best_] || (std::isnan(scores_[best_]) && !std::isnan(scores_[n]))) {
        best_ = n;
      }
    }
  }

  bool OneHot() const {
    float second = -std::numeric_limits<float>::infinity();
    for (size_t n = 0; n < scores_.size(); ++n) {
      // A NaN beside the best makes the lead NaN, which is neither large nor small.
      if (n != best_ && !(scores_[n] <= second)) second = scores_[n];
      if (std::isnan(second)) break;
    }
    const double lead = double{scores_[best_]} - second;
    return settings_.skip == QuerySkip::kLargeGap ? lead >= settings_.gap : lead < settings_.gap;
  }

  void Choose(int32_t head, int32_t query, CandidateMask* mask) {
    const double largest = scores_[best_];
    double least = 0.0;  // In units of the best key's probability.
    if (settings_.threshold > 0.0) {
      double total = 0.0;
      for (const float score : scores_) total += std::exp(score - largest);
      least = settings_.threshold * total;
    }
    for (const int32_t n : top_k_(scores_, KeepCount(visible_, settings_.topk))) {
      if (n != static_cast<int32_t>(best_) && std::exp(scores_[n] - largest) < least) continue;
      mask->set(head, query, keys_[n]);
      chosen_[keys_[n]] += 1.0;
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
    const int64_t full = KeepCount(static_cast<int64_t>(positions.size()), settings_.ffn);
    for (const int32_t row : rank_(chosen_, full, always)) plan->ffn_low_precision[row] = 0;
  }

  const Settings& settings_;
  std::vector<int32_t> protected_;  // Positions, ascending.
  // The row in hand.
  int32_t visible_ = 0;
  std::vector<int32_t> keys_;
  std::vector<float> scores_;
  size_t best_ = 0;  // Index into keys_ and scores_.
  TopK<float> top_k_;
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
    return {.wanted = !is_dense(), .bits = settings_.bits};
  }

  bool chooses_rows() const override {
    return settings_.chooses_keys() || settings_.skip != QuerySkip::kOff;
  }
  bool lowers_ffn() const override { return settings_.ffn < 1.0; }

  /// Low precision is counted as half the work. Candidates shrink no matrix product of a general
  /// processor and are counted as no saving, so that the scheduler never promises too much.
  double CostShare(int32_t tokens) const override {
    if (is_dense() || tokens <= 0) return 1.0;
    const PolicyShape& shape = settings_.shape;
    const LinearWork linear = LinearWorkOf(shape);
    const double attention = AttentionWorkOf(shape, tokens);
    const double prediction = linear.projections / 2 + attention / 2;  // Q, K and scores.
    const double dense = linear.projections + linear.ffn + attention;
    const double work = dense + prediction / 2 - (1.0 - settings_.ffn) * linear.ffn / 2;
    return std::clamp(work / dense, 1e-6, 1.0);
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
  Settings settings{.shape = shape,
                    .text = values.Canonical(),
                    .topk = values.number("topk"),
                    .threshold = values.number("threshold"),
                    .ffn = values.number("ffn"),
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
