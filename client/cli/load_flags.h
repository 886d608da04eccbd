// The flags of `thresher load`.
#ifndef THRESHER_CLIENT_CLI_LOAD_FLAGS_H_
#define THRESHER_CLIENT_CLI_LOAD_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/evaluation_flags.h"
#include "client/cli/inputs.h"
#include "client/cli/server_flags.h"
#include "client/load/load_plan.h"
#include "client/load/workload.h"

namespace thresher::cli {

struct LoadFlags {
  ServerFlags server;
  ModelFlags model;
  std::string method = "classify";
  std::string mix;
  int connections = 1;

  std::string mode = "closed";
  std::string concurrency, rate, bound;
  std::string schedule;
  std::optional<double> precision;
  load::Plan plan;

  InputFlags file;
  std::string data, label_column;
  std::string lengths = "32";
  bool truncate = false;
  std::vector<std::string> sparsity;
  std::vector<double> shares = kDefaultShares;
  std::optional<double> max_quality_loss;
  std::optional<int32_t> max_tokens;
  bool ignore_eos = false;
  std::vector<std::string> inputs;
  int64_t largest_id = 999;

  std::string report, csv;
  bool quiet = false;
};

void AddLoadFlags(CLI::App& app, LoadFlags& flags);

/// What the flags ask, read and checked, files included. INVALID_ARGUMENT says which flag or line
/// is wrong.
absl::StatusOr<load::Plan> PlanOf(const LoadFlags& flags);
/// The policies that are run one after another; a single "" where none was asked for.
absl::StatusOr<std::vector<std::string>> PoliciesOf(const LoadFlags& flags);
/// The parts of the workload, as far as flags alone tell. `batch`: inputs in one call.
absl::StatusOr<std::vector<load::PartOptions>> PartsOf(const LoadFlags& flags, int batch);
/// The texts of --file; empty without one.
absl::StatusOr<std::vector<load::Text>> ReadTexts(const LoadFlags& flags);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_LOAD_FLAGS_H_
