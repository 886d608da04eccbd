// The setting of a policy that leaves a wanted share of the work: what makes policies comparable.
#ifndef THRESHER_BACKEND_EVALUATION_MATCHED_WORK_H_
#define THRESHER_BACKEND_EVALUATION_MATCHED_WORK_H_

#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// A policy's keys with `number` written for every '*': a plain decimal of four significant digits.
std::string WithNumber(std::string_view keys, double number);

/// A setting that was found, or the nearest there is.
struct MatchedWork {
  std::string keys;   // As in a policy's text.
  double left = 1.0;  // Share of the work, as measured.
  bool reached = false;
};

/// Measures the share of work that a policy with these keys leaves, within [0, 1].
using MeasureWork = absl::FunctionRef<absl::StatusOr<double>(const std::string& keys)>;

/// Halves the knob's way from least to most until the share left is within `tolerance` of `left`,
/// or nothing lies between any more (14 measurements at most). Work that steps over the wanted
/// share, or does not come down to it, gives the nearest setting met, with `reached` false. Errors
/// are those of `measure`.
absl::StatusOr<MatchedWork> MatchWork(const PolicyKnob& knob, double left, double tolerance,
                                      MeasureWork measure);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_MATCHED_WORK_H_
