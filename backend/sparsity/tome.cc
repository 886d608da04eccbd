#include "backend/sparsity/tome.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/schedule.h"
#include "backend/sparsity/work.h"

namespace thresher {
namespace {

struct Settings {
  PolicyShape shape;
  std::string text;
  int32_t merged = 0;  // In each layer; or
  Schedule shares;     // what each layer leaves, unless empty.
  bool protect_model = true;

  /// Tokens that a layer with `rows` of them merges away at most.
  int64_t Merged(int32_t tokens, int32_t layer, int64_t rows) const {
    const int64_t wanted = shares.empty() ? merged : rows - KeepCount(tokens, shares[layer]);
    return std::clamp<int64_t>(wanted, 0, rows / 2);
  }
};

class TomeRun final : public PolicyRun {
 public:
  TomeRun(const Settings& settings, int32_t tokens, std::span<const int32_t> protected_positions)
      : settings_(settings),
        tokens_(tokens),
        sizes_(static_cast<size_t>(tokens), 1),
        protected_(static_cast<size_t>(tokens), 0) {
    for (const int32_t p : protected_positions) {
      if (settings.protect_model && p >= 0 && p < tokens) protected_[p] = 1;
    }
  }

  void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                        const LayerPrediction* prediction, SequencePlan* plan) override {
    if (std::ranges::all_of(positions, [&](int32_t p) { return sizes_[p] == 1; })) return;
    for (const int32_t p : positions) plan->token_sizes.push_back(static_cast<float>(sizes_[p]));
  }

  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    matches_.clear();
    const int64_t merged = settings_.Merged(tokens_, layer, std::ssize(positions));
    if (merged == 0) return;
    FindMetric(vectors.key);
    Match(positions);
    // Of the sources, those that are most alike to their targets.
    scores_.clear();
    for (const Pair& pair : matches_) scores_.push_back(pair.similarity);
    std::vector<Pair> chosen;
    for (const int32_t i : top_k_(scores_, merged)) chosen.push_back(matches_[i]);
    matches_ = std::move(chosen);
  }

  void AfterAttention(int32_t layer, std::span<const int32_t> positions,
                      const AttentionRecord& record, CascadeDecision* decision) override {
    std::vector<uint8_t> goes(positions.size(), 0);
    for (const auto& [similarity, from, into] : matches_) {
      // Another part of the policy may have dropped either.
      if (!std::ranges::binary_search(decision->rows, from) ||
          !std::ranges::binary_search(decision->rows, into)) {
        continue;
      }
      int32_t& size = sizes_[positions[into]];
      const int32_t added = sizes_[positions[from]];
      size += added;
      goes[from] = 1;
      decision->merges.push_back({.from = from,
                                  .into = into,
                                  .share = static_cast<float>(added) / static_cast<float>(size)});
    }
    if (decision->merges.empty()) return;
    std::erase_if(decision->rows, [&](int32_t row) { return goes[row] != 0; });
    decision->before_ffn = true;
  }

 private:
  struct Pair {
    double similarity = 0;
    int32_t from = 0;
    int32_t into = 0;
  };

  /// metric_: for each row its mean key, at unit length (one of zeros as it is).
  void FindMetric(ConstMatrix key) {
    const int32_t heads = settings_.shape.kv_heads;
    dim_ = key.cols / heads;
    metric_.assign(static_cast<size_t>(key.rows * dim_), 0.0);
    for (int64_t i = 0; i < key.rows; ++i) {
      double* const m = metric_.data() + i * dim_;
      double norm = 0.0;
      for (int64_t d = 0; d < dim_; ++d) {
        for (int32_t h = 0; h < heads; ++h) m[d] += key.row(i)[h * dim_ + d];
        norm += m[d] * m[d];
      }
      norm = std::sqrt(norm);
      for (int64_t d = 0; norm > 0.0 && d < dim_; ++d) m[d] /= norm;
    }
  }

  /// matches_: for each source its best target, if there is any.
  void Match(std::span<const int32_t> positions) {
    const auto rows = static_cast<int32_t>(positions.size());
    for (int32_t from = 0; from < rows; from += 2) {
      if (protected_[positions[from]]) continue;
      Pair best{.similarity = -std::numeric_limits<double>::infinity(), .from = from, .into = -1};
      for (int32_t into = 1; into < rows; into += 2) {
        if (protected_[positions[into]]) continue;
        double similarity = 0.0;
        for (int64_t d = 0; d < dim_; ++d) {
          similarity += metric_[from * dim_ + d] * metric_[into * dim_ + d];
        }
        if (similarity > best.similarity) best = {similarity, from, into};
      }
      if (best.into >= 0) matches_.push_back(best);
    }
  }

  const Settings& settings_;
  const int32_t tokens_;
  std::vector<int32_t> sizes_;      // By position: how many tokens it stands for.
  std::vector<uint8_t> protected_;  // By position.
  int64_t dim_ = 0;
  std::vector<double> metric_;
  std::vector<Pair> matches_;
  std::vector<double> scores_;
  TopK<double> top_k_;
};

class Tome final : public Policy {
 public:
  explicit Tome(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "tome"; }
  bool is_dense() const override {
    return settings_.shares.empty() ? settings_.merged == 0 : settings_.shares.back() == 1;
  }
  /// It reads K of all that are present.
  bool chooses_from_scores() const override { return true; }

  double CostShare(int32_t tokens) const override {
    if (tokens <= 0) return 1.0;
    const PolicyShape& shape = settings_.shape;
    const double ffn = LinearWorkOf(shape).ffn;
    double work = 0.0;
    int64_t rows = tokens;
    for (int32_t l = 0; l < shape.layers; ++l) {
      const int64_t merged = settings_.Merged(tokens, l, rows);
      work += LayerWorkOf(shape, static_cast<double>(rows)) - static_cast<double>(merged) * ffn;
      rows -= merged;
    }
    return std::clamp(work / (LayerWorkOf(shape, tokens) * shape.layers), 1e-6, 1.0);
  }

  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<TomeRun>(settings_, tokens, protected_positions);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeTome(const PolicyValues& values,
                                                       const PolicyShape& shape) {
  Settings settings{.shape = shape,
                    .text = values.Canonical(),
                    .protect_model = values.text("protect") == "model"};
  if (values.has("merge")) {
    settings.merged = static_cast<int32_t>(values.number("merge"));
  } else {
    settings.shares = ScheduleByFinal(shape.layers, 0, values.number("final"), ScheduleKind::kRamp);
  }
  return std::make_shared<const Tome>(std::move(settings));
}

}  // namespace thresher
