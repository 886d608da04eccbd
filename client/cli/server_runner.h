// Runs labelled examples by asking a server.
#ifndef THRESHER_CLIENT_CLI_SERVER_RUNNER_H_
#define THRESHER_CLIENT_CLI_SERVER_RUNNER_H_

#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/evaluation/runner.h"
#include "client/cli/ordered_calls.h"
#include "client/client.h"

namespace thresher::cli {

/// A model's classes as the server tells them; empty for one that only embeds.
absl::StatusOr<std::vector<std::string>> LabelsOf(client::Client& client,
                                                  const v1::ModelSpec& model, std::stop_token stop);

/// As EngineRunner, but a pass takes the time that the server's answers take: queue, tokenizing and
/// network included. The pooled states of a classifier come from further calls, which are not
/// timed.
class ServerRunner final : public Runner {
 public:
  /// `classifies`: the model has a head for whole texts. All arguments outlive the runner.
  ServerRunner(client::Client& client, const v1::ModelSpec& model, Measure measure, bool classifies,
               std::span<const LabelledExample> examples, const CallLimits& limits,
               std::stop_token stop)
      : client_(client),
        model_(model),
        classifies_(measure == Measure::kAccuracy || classifies),
        examples_(examples),
        limits_(limits),
        stop_(stop) {}

  absl::StatusOr<Pass> Run(std::string_view policy, const PassProgress& progress) override;

 private:
  template <typename Request, typename Take>
  absl::Status CallAll(const Request& prototype, bool texts_apart, const PassProgress& progress,
                       Take take);
  absl::Status Classify(const v1::RequestOptions& options, const PassProgress& progress,
                        Pass* pass);
  absl::Status EmbedPooled(const v1::RequestOptions& options, Pass* pass);
  absl::Status EmbedPairs(const v1::RequestOptions& options, const PassProgress& progress,
                          Pass* pass);

  client::Client& client_;
  const v1::ModelSpec& model_;
  const bool classifies_;
  const std::span<const LabelledExample> examples_;
  const CallLimits limits_;
  const std::stop_token stop_;
};

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SERVER_RUNNER_H_
