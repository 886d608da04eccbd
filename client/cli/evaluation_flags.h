// What `evaluate`, `calibrate` and `load` have in common: flags for labelled data, for sweeps over
// policies and for a model that is run in this process, and what they lead to.
#ifndef THRESHER_CLIENT_CLI_EVALUATION_FLAGS_H_
#define THRESHER_CLIENT_CLI_EVALUATION_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/engine/loaded_model.h"
#include "backend/evaluation/labelled_data.h"

namespace thresher::cli {

struct DataFlags {
  std::string path;
  DataColumns columns;
  std::optional<Measure> measure;  // Unset: by the model.
  int64_t limit = 0;
};

struct LocalModelFlags {
  std::string device = "cpu";
  std::string precision;  // Empty: the device's default.
  int threads = 0;        // 0: what the process may use.
};

void AddDataFlags(CLI::App& app, DataFlags& flags);
void AddLocalModelFlags(CLI::App& app, LocalModelFlags& flags);

/// --shares: what a '*' in a policy stands for.
inline const std::vector<double> kDefaultShares = {0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1};
CLI::Option* AddShares(CLI::App& app, std::vector<double>& shares);

/// A text with '*' is a series of all shares, any other is itself.
std::vector<std::string> PoliciesOf(const std::string& sparsity, const std::vector<double>& shares);

/// INVALID_ARGUMENT for a directory or flags that can't be; else as LoadModel.
absl::StatusOr<std::shared_ptr<LoadedModel>> LoadLocalModel(const std::string& directory,
                                                            const LocalModelFlags& flags);

/// `labels`: the model's.
absl::StatusOr<LabelledData> ReadData(const DataFlags& flags, Measure measure,
                                      std::span<const std::string> labels);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_EVALUATION_FLAGS_H_
