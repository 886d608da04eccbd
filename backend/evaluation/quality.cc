#include "backend/evaluation/quality.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "backend/sparsity/comparison.h"
#include "backend/sparsity/confidence.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// The first of the largest.
int32_t Class(const Answer& answer) {
  return static_cast<int32_t>(std::ranges::max_element(answer.output) - answer.output.begin());
}

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// A constant follows nothing.
double ZeroIfUndefined(double correlation) { return std::isnan(correlation) ? 0.0 : correlation; }

absl::Status CheckShapes(std::span<const LabelledExample> examples, std::span<const Answer> dense,
                         std::span<const Answer> answers) {
  if (examples.empty()) return InvalidArgument("no examples to measure on");
  bool same = dense.size() == examples.size() && answers.size() == examples.size();
  for (size_t i = 0; same && i < examples.size(); ++i) {
    same = !dense[i].output.empty() && dense[i].output.size() == dense[0].output.size() &&
           dense[i].output.size() == answers[i].output.size() &&
           dense[i].pooled.size() == answers[i].pooled.size();
  }
  if (same) return absl::OkStatus();
  return Internal("the answers do not fit the {} examples and each other", examples.size());
}

void MeasureAccuracy(std::span<const LabelledExample> examples, std::span<const Answer> dense,
                     std::span<const Answer> answers, double confidence, Quality* quality) {
  std::vector<int32_t> labels, dense_classes, classes;
  std::vector<double> drift;
  int64_t agreed = 0;
  for (size_t i = 0; i < examples.size(); ++i) {
    labels.push_back(static_cast<int32_t>(examples[i].gold));
    dense_classes.push_back(Class(dense[i]));
    classes.push_back(Class(answers[i]));
    agreed += classes.back() == dense_classes.back() ? 1 : 0;
    drift.push_back(KlDivergence(dense[i].output, answers[i].output));
  }
  const PairedCounts counts = CountPairs(labels, dense_classes, classes);
  const auto n = static_cast<double>(counts.n());
  quality->accuracy = static_cast<double>(counts.both_right + counts.gained) / n;
  quality->agreement = static_cast<double>(agreed) / n;
  quality->loss = counts.loss();
  quality->loss_upper = AccuracyLossUpperBound(counts, confidence);
  quality->kl = Mean(drift);
  quality->kl_upper = MeanUpperBound(drift, confidence);
}

/// Upper bound of what Spearman's correlation with `gold` loses from `dense` to `pruned`.
double SpearmanLossUpperBound(std::span<const double> gold, std::span<const double> dense,
                              std::span<const double> pruned, double confidence) {
  constexpr int kResamples = 1000;
  const size_t n = gold.size();
  std::mt19937_64 random(20210227);
  std::vector<double> losses;
  std::vector<double> g(n), d(n), p(n);
  for (int resample = 0; resample < kResamples; ++resample) {
    for (size_t i = 0; i < n; ++i) {
      const size_t pick = random() % n;
      g[i] = gold[pick];
      d[i] = dense[pick];
      p[i] = pruned[pick];
    }
    losses.push_back(ZeroIfUndefined(SpearmanCorrelation(g, d)) -
                     ZeroIfUndefined(SpearmanCorrelation(g, p)));
  }
  const auto at = static_cast<int64_t>(std::ceil(confidence * kResamples)) - 1;
  const auto quantile = losses.begin() + std::clamp<int64_t>(at, 0, kResamples - 1);
  std::nth_element(losses.begin(), quantile, losses.end());
  return *quantile;
}

absl::Status MeasureSimilarity(std::span<const LabelledExample> examples,
                               std::span<const Answer> dense, std::span<const Answer> answers,
                               double confidence, Quality* quality) {
  std::vector<double> gold, dense_scores, scores;
  for (size_t i = 0; i < examples.size(); ++i) {
    gold.push_back(examples[i].gold);
    dense_scores.push_back(dense[i].output[0]);
    scores.push_back(answers[i].output[0]);
  }
  const double dense_spearman = SpearmanCorrelation(gold, dense_scores);
  if (std::isnan(dense_spearman)) {
    return InvalidArgument(
        "a correlation needs two examples or more whose scores differ, in the data and in the "
        "dense answers");
  }
  quality->pearson = ZeroIfUndefined(PearsonCorrelation(gold, scores));
  quality->spearman = ZeroIfUndefined(SpearmanCorrelation(gold, scores));
  quality->agreement = ZeroIfUndefined(PearsonCorrelation(dense_scores, scores));
  quality->loss = dense_spearman - *quality->spearman;
  quality->loss_upper =
      std::max({quality->loss, SpearmanLossUpperBound(gold, dense_scores, scores, confidence),
                BinomialUpperBound(0, quality->n, confidence)});
  return absl::OkStatus();
}

}  // namespace

std::string_view LossMetric(Measure measure) {
  return measure == Measure::kAccuracy ? "accuracy" : "spearman";
}

std::optional<Measure> MeasureOfMetric(std::string_view metric) {
  for (const Measure measure : {Measure::kAccuracy, Measure::kSimilarity}) {
    if (metric == LossMetric(measure)) return measure;
  }
  return std::nullopt;
}

absl::StatusOr<Quality> MeasureQuality(Measure measure, std::span<const LabelledExample> examples,
                                       std::span<const Answer> dense,
                                       std::span<const Answer> answers, double confidence) {
  THRESHER_RETURN_IF_ERROR(CheckShapes(examples, dense, answers));
  Quality quality;
  quality.n = static_cast<int64_t>(examples.size());
  if (measure == Measure::kAccuracy) {
    MeasureAccuracy(examples, dense, answers, confidence, &quality);
  } else {
    THRESHER_RETURN_IF_ERROR(MeasureSimilarity(examples, dense, answers, confidence, &quality));
  }
  std::vector<double> drift;
  for (size_t i = 0; i < examples.size(); ++i) {
    drift.push_back(1 - CosineSimilarity(dense[i].pooled, answers[i].pooled));
  }
  quality.cosine = 1 - Mean(drift);
  if (measure == Measure::kSimilarity) {
    quality.cosine_drift_upper = MeanUpperBound(drift, confidence);
  }
  return quality;
}

double LeastLossUpperBound(Measure measure, int64_t n, double confidence) {
  return measure == Measure::kAccuracy ? AccuracyLossUpperBound({.both_right = n}, confidence)
                                       : BinomialUpperBound(0, n, confidence);
}

}  // namespace thresher
