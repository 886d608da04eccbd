// How simulations look: for people and as JSON.
#ifndef THRESHER_CLIENT_CLI_SIMULATION_FORMAT_H_
#define THRESHER_CLIENT_CLI_SIMULATION_FORMAT_H_

#include <span>
#include <string>

#include "client/cli/format.h"
#include "client/cli/simulation_workload.h"

namespace thresher::cli {

/// The keys are described in docs/simulator.md. Ratios of nothing are null.
Json ToJson(const SimulationRun& run);

/// All of one simulation.
std::string ToText(const SimulationRun& run);
/// Several, a line each.
std::string ToTable(std::span<const SimulationRun> runs);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SIMULATION_FORMAT_H_
