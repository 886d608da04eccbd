// How a comparison of policies looks: for people, as JSON, as a page of docs/ and as a picture.
#ifndef THRESHER_CLIENT_CLI_COMPARISON_FORMAT_H_
#define THRESHER_CLIENT_CLI_COMPARISON_FORMAT_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/cli/comparison.h"
#include "client/cli/format.h"

namespace thresher::cli {

/// A table for each target, and below it the verdicts.
std::string ToTable(const Comparison& comparison);

/// {"model", "data", "metric", "examples", "device", "policies": [{"policy", "control", "target",
/// "sparsity", "refused" | "reached", "saved", "metric", "loss", "loss_upper", "drift",
/// "agreement", "recall", "predicted", "predicted_bits", "speedup", "earns", "simulated":
/// [{"preset", "time", "energy"}]}]}.
Json ToJson(const Comparison& comparison);

/// Whether a policy earns its cost at its target: it is faster than dense by 5 %, its loss is
/// within one point (of a decoder 0.05 nats a token) by its upper bound, and it drifts less than
/// chance does at the same work; and in words.
struct Verdict {
  bool earns = false;
  std::string text;
};
Verdict Judge(const Comparison& comparison, const ComparedPolicy& policy);

/// What the page says before the first model.
std::string ComparisonIntro();
/// The part of the page on one model: a heading, "## MODEL on DATA", a table and verdicts for each
/// target.
std::string ComparisonSection(const Comparison& comparison);
/// The page with this comparison's part in the place of the earlier one of that model, or at the
/// end, and a fresh intro.
std::string WithSection(std::string_view page, const Comparison& comparison);

/// gnuplot's commands: drift against speed, a cloud for each target, every policy by its name.
/// INVALID_ARGUMENT for a path that ends otherwise than in .svg or .png.
absl::StatusOr<std::string> ComparisonPlotScript(const Comparison& comparison,
                                                 const std::string& path);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_COMPARISON_FORMAT_H_
