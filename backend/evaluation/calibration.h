// Finds the fastest policy that keeps a bound on the quality lost, and measures how sure that is.
//
// What is searched are ladders: a policy's text with '*' for a share, which falls rung by rung, or
// '~' for a threshold, which rises (WithShare). A ladder is walked from its gentlest rung, for each
// bound, until a rung fails: its upper confidence bound of the loss is above the bound, or that of
// the drift above `max_kl` (`max_cosine_drift` where similarity is measured). Rungs are tested in
// an order fixed beforehand and only while all before them passed, so that the ladder as a whole
// errs no more often than one test does; several ladders share the allowed error evenly. The
// confidence thus holds for the policy chosen for a bound, however many were tried; for each bound,
// not for all of them together. The drift's bound is the central limit theorem's, so nearly so.
//
// Of the rungs that passed, the fastest is chosen; dense if none is faster than dense.
#ifndef THRESHER_BACKEND_EVALUATION_CALIBRATION_H_
#define THRESHER_BACKEND_EVALUATION_CALIBRATION_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/evaluation/labelled_data.h"
#include "backend/evaluation/runner.h"
#include "backend/evaluation/sweep.h"
#include "thresher/v1/profile.pb.h"

namespace thresher {

/// The ladder whose rungs are thresholds that are learned from the data first (elsa_thresholds.h);
/// CalibrationOptions::rung must know it.
inline constexpr std::string_view kElsaLadder = "elsa";

/// The ladders of a policy by name alone ("spatten", "ltp"); a text with '*' or '~' is a ladder
/// itself.
/// INVALID_ARGUMENT for a text that has nothing to search.
absl::StatusOr<std::vector<std::string>> LaddersOf(std::string_view policy);

/// 0.95, 0.9, ... 0.05.
std::vector<double> DefaultShares();

/// A mean drift of 0.01 nats moves at most 7 % of the probability in the mean (Pinsker's
/// inequality). On the models measured, choosing tokens by chance drifts further at shares where
/// choosing by attention stays below (docs/quality.md).
inline constexpr double kDefaultMaxKl = 0.01;

/// Of the mean of 1 - cosine with the dense embedding.
inline constexpr double kDefaultMaxCosineDrift = 0.05;

struct CalibrationOptions {
  std::vector<std::string> ladders;
  /// The policy of a ladder's rung.
  std::function<std::string(std::string_view ladder, double share)> rung = WithShare;
  std::vector<double> shares = DefaultShares();      // Falling.
  std::vector<double> bounds;                        // Of the loss, each in (0, 1].
  double max_kl = kDefaultMaxKl;                     // kAccuracy; in nats.
  double max_cosine_drift = kDefaultMaxCosineDrift;  // kSimilarity.
  double confidence = 0.95;
  int rounds = 3;  // Timed passes of the rungs to choose from.
  /// Says what is measured and how much of it is done; false stops with CANCELLED.
  std::function<bool(std::string_view policy, double share)> progress;
};

/// A rung that was measured.
struct CalibrationStep {
  std::string policy;
  Quality quality;
};

struct Calibration {
  /// Bounds rising; metric, confidence, the drift's bound, n and data are filled in. No entry for a
  /// bound that so few examples can't promise.
  v1::SparsityProfile profile;
  std::vector<CalibrationStep> steps;  // In the order in which they were measured.
  /// Bounds without an entry, and how many examples a promise would take at least.
  struct TooFew {
    double bound = 0;
    double least = 0;  // What these examples can promise at best.
    int64_t needed = 0;
  };
  std::vector<TooFew> too_few;
};

/// INVALID_ARGUMENT for options that make no sense and for a ladder whose first rung the model
/// can't have; a later rung that it can't have is where the ladder ends.
absl::StatusOr<Calibration> Calibrate(Runner& runner, Measure measure, const LabelledData& data,
                                      const CalibrationOptions& options);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_CALIBRATION_H_
