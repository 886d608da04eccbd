// All that a load test found, for whatever shows it.
#ifndef THRESHER_CLIENT_LOAD_LOAD_REPORT_H_
#define THRESHER_CLIENT_LOAD_LOAD_REPORT_H_

#include <optional>
#include <string>
#include <vector>

#include "client/load/bound.h"
#include "client/load/load_plan.h"
#include "client/load/load_run.h"

namespace thresher::load {

struct LevelReport {
  std::string sparsity;  // As asked; empty: nothing was.
  Level level;
  RunResult run;
  Split split;
  std::vector<std::string> limits;  // LimitsOf the generator; empty: it was none.
  std::optional<ScenarioResult> scenario;
};

/// What a search found, of one policy.
struct Peak {
  std::string sparsity;
  std::optional<size_t> level;  // The highest that kept the bound; nothing if none did.
  /// What broke the bound just above: the "server" or the "generator"; "limit": nothing did.
  std::string ended_by;
};

struct LoadReport {
  std::string command;  // That gave it.
  std::string begun;    // When.
  std::string server;
  std::string server_version;      // As it calls itself; empty: it does not.
  std::vector<std::string> parts;  // Of the workload: "classify sst2-mini".
  Mode mode = Mode::kClosed;
  std::optional<Bound> bound;
  std::vector<LevelReport> levels;
  std::vector<Peak> peaks;  // Of a search.
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_LOAD_REPORT_H_
