// What `thresher compare` measures: policies side by side, each at settings that save as much work
// as the others.
//
// The work that is matched is what a policy for attention can save: of an encoder the scores that
// are made and the V rows that are read, of a decoder the bytes of keys and values (and of what is
// kept to choose among them) that its decode steps read. What else a policy saves shows in its
// speed.
#ifndef THRESHER_CLIENT_CLI_COMPARISON_H_
#define THRESHER_CLIENT_CLI_COMPARISON_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/engine/loaded_model.h"
#include "backend/sparsity/policy_text.h"
#include "client/cli/evaluate_text.h"
#include "client/cli/evaluation_flags.h"

namespace thresher::cli {

/// A policy that a kind of model may have, and what is turned.
struct Contender {
  std::string name;     // "spatten"; of a control "spatten:importance=random".
  std::string control;  // "random", "inverse"; empty: it is none.
  const PolicySpec* spec = nullptr;
  std::string more;  // Keys beside the knob's: "importance=random".
};

/// All policies with a knob; after each, its controls: the values but the default of its keys whose
/// source is "control".
std::vector<Contender> Contenders(bool decoder);

/// On one accelerator, over dense there.
struct SimulatedRatio {
  std::string preset;
  double time = 1.0;
  double energy = 1.0;
};

struct ComparedPolicy {
  std::string name, control;  // As of its contender; "dense".
  double target = 0.0;        // Share of the work that was to be saved; 0: dense.
  std::string sparsity;       // The setting that was found; empty: the model can't have the policy.
  std::string why_not;        // Then the reason.
  bool reached = true;        // The target, on the sample that the setting was found on.
  double saved = 0.0;         // On all of the data.
  double metric = 0.0;        // Accuracy, Spearman's correlation, or perplexity.
  double loss = 0.0;          // Against dense: points of the metric; of a decoder nats a token.
  double loss_upper = 0.0;    // Its upper 95 % confidence bound.
  double drift = 0.0;         // KL from dense in nats; of similarities 1 - cosine.
  double agreement = 1.0;     // Share of the answers, or of the next tokens, that dense gives too.
  std::optional<double> recall;  // Of keys chosen: how many are among as many of largest score.
  double predicted = 0.0;        // Scores predicted, over dense's scores.
  int32_t predicted_bits = 0;    // Width of the prediction's operands; 0: none, or floats.
  double speedup = 1.0;          // Over dense, in one run, in turns.
  std::vector<SimulatedRatio> simulated;

  bool measured() const { return !sparsity.empty(); }
};

struct Comparison {
  std::string model, data;
  bool decoder = false;
  std::string metric;    // "accuracy", "spearman", "perplexity"
  int64_t examples = 0;  // Examples, or tokens scored.
  std::string device;    // What ran it, and on how many threads.
  std::vector<double> targets;
  std::vector<ComparedPolicy> policies;  // Dense first.
};

struct ComparisonOptions {
  std::string directory;
  DataFlags data;
  LocalModelFlags local;
  WindowFlags text;
  std::vector<double> targets = {0.5, 0.25};
  int rounds = 3;
  int64_t simulated = 8;  // Examples that the accelerators run; 0: none. Of a decoder one window.
  /// Is told what is being done, and how much of that; false stops.
  std::function<bool(const std::string& what, double share)> progress;
};

/// A kind of model, and its data.
class ComparisonSubject {
 public:
  virtual ~ComparisonSubject() = default;
  virtual absl::Status CheckPolicy(const std::string& policy) const = 0;
  /// The share of the work that the policy leaves, on a sample of the data.
  virtual absl::StatusOr<double> WorkLeft(const std::string& policy) = 0;
  /// Fills in all of the comparison's policies but recall and what is simulated.
  virtual absl::Status Measure(Comparison* comparison) = 0;
  virtual absl::StatusOr<std::optional<double>> Recall(const std::string& policy) = 0;
  /// What a part of the data costs on an accelerator. INVALID_ARGUMENT if it can't run the policy.
  virtual absl::StatusOr<v1::Simulation> Simulate(const std::string& preset,
                                                  const std::string& policy) = 0;
};

/// Of an encoder (compare_encoder.cc) and of a decoder (compare_decoder.cc). Fill in the
/// comparison's first lines. `options` must outlive the subject.
absl::StatusOr<std::unique_ptr<ComparisonSubject>> MakeEncoderSubject(
    std::shared_ptr<LoadedModel> model, const ComparisonOptions& options, Comparison* comparison);
absl::StatusOr<std::unique_ptr<ComparisonSubject>> MakeDecoderSubject(
    std::shared_ptr<LoadedModel> model, const ComparisonOptions& options, Comparison* comparison);

/// Runs everything. CANCELLED when stopped.
absl::StatusOr<Comparison> Compare(const ComparisonOptions& options);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_COMPARISON_H_
