// The quality of a policy's answers: against what is right, and against the dense answers.
#ifndef THRESHER_BACKEND_EVALUATION_QUALITY_H_
#define THRESHER_BACKEND_EVALUATION_QUALITY_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/evaluation/labelled_data.h"

namespace thresher {

/// The answer to one example.
struct Answer {
  std::vector<float> output;  // kAccuracy: a logit for each class; kSimilarity: one number.
  std::vector<float> pooled;  // The pooled last hidden state (of a pair embedded apart: both).
};

struct Quality {
  int64_t n = 0;
  // Which of them there are follows from the measure.
  std::optional<double> accuracy;
  std::optional<double> pearson;
  std::optional<double> spearman;
  /// kAccuracy: share of examples with the dense answer's class. kSimilarity: Pearson's correlation
  /// of the answers with the dense ones.
  double agreement = 1;
  /// What dense has more of the metric (accuracy, or Spearman's correlation), in absolute points.
  double loss = 0;
  double loss_upper = 0;  // Its upper confidence bound.
  /// kAccuracy: mean KL divergence of the output distribution from the dense one, in nats, and its
  /// upper confidence bound.
  std::optional<double> kl;
  std::optional<double> kl_upper;
  double cosine = 1;  // Mean cosine of the pooled state with the dense one.
  /// kSimilarity: upper confidence bound of the mean of 1 - cosine.
  std::optional<double> cosine_drift_upper;
};

/// "accuracy" or "spearman": what a loss is a loss of.
std::string_view LossMetric(Measure measure);

/// The measure of that metric; none for any other text.
std::optional<Measure> MeasureOfMetric(std::string_view metric);

/// One answer of each kind for each example. INVALID_ARGUMENT: a correlation that is not defined,
/// since all scores are equal; INTERNAL: answers of different shapes.
///
/// The bounds are one-sided. For accuracy: AccuracyLossUpperBound (backend/sparsity/confidence.h).
/// For a correlation: the paired percentile bootstrap of 1000 resamples, from a fixed seed; but
/// never less than BinomialUpperBound(0, n), the share of examples unlike all n that n may have
/// missed.
absl::StatusOr<Quality> MeasureQuality(Measure measure, std::span<const LabelledExample> examples,
                                       std::span<const Answer> dense,
                                       std::span<const Answer> answers, double confidence);

/// The least bound that n examples can promise: the loss_upper of answers that are the dense ones.
double LeastLossUpperBound(Measure measure, int64_t n, double confidence);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_QUALITY_H_
