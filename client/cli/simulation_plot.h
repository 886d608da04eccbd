// Pictures of simulations, drawn by gnuplot (gnuplot.h).
#ifndef THRESHER_CLIENT_CLI_SIMULATION_PLOT_H_
#define THRESHER_CLIENT_CLI_SIMULATION_PLOT_H_

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/simulation_workload.h"

namespace thresher::cli {

/// gnuplot's commands for one picture in `path`, .svg or .png (else INVALID_ARGUMENT): above, the
/// roofline (operations a second against operations for each byte moved, under each preset's own
/// roofs); below, where time and energy go: each unit's busy share, and each part's energy.
absl::StatusOr<std::string> SimulationPlot(std::span<const SimulationRun> runs,
                                           const std::string& path, const std::string& title);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SIMULATION_PLOT_H_
