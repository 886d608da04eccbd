#include "server/simulation_metrics.h"

#include <map>
#include <string>
#include <vector>

namespace thresher {
namespace {

using Labels = std::map<std::string, std::string>;

/// `from`, and each next one `factor` times as much, as long as it is not above `to`.
std::vector<double> Ladder(double from, double factor, double to) {
  std::vector<double> bounds;
  for (double bound = from; bound <= to * 1.000001; bound *= factor) bounds.push_back(bound);
  return bounds;
}

}  // namespace

SimulationMetrics::SimulationMetrics(prometheus::Registry& registry)
    : seconds_(prometheus::BuildHistogram()
                   .Name("thresher_simulated_seconds")
                   .Help("Time of each answered sequence's layers on the modelled accelerator.")
                   .Register(registry)),
      energy_(prometheus::BuildHistogram()
                  .Name("thresher_simulated_energy_joules")
                  .Help("Energy of each answered sequence on the modelled accelerator.")
                  .Register(registry)),
      traffic_(prometheus::BuildHistogram()
                   .Name("thresher_simulated_dram_bytes")
                   .Help("Bytes between the modelled accelerator and its memory, of each answered "
                         "sequence.")
                   .Register(registry)),
      cycles_(prometheus::BuildCounter()
                  .Name("thresher_simulated_cycles_total")
                  .Help("Cycles of the modelled accelerator.")
                  .Register(registry)),
      busy_(prometheus::BuildCounter()
                .Name("thresher_simulated_busy_cycles_total")
                .Help("Those of the cycles in which a unit worked.")
                .Register(registry)),
      stalled_(prometheus::BuildCounter()
                   .Name("thresher_simulated_stall_cycles_total")
                   .Help("Those of the cycles in which a unit could not go on, by cause.")
                   .Register(registry)),
      rows_(prometheus::BuildCounter()
                .Name("thresher_simulated_dram_rows_total")
                .Help("Accesses of the modelled memory: the row was open (hit), its bank was "
                      "closed (miss), or another row was open (conflict).")
                .Register(registry)) {}

void SimulationMetrics::OnSimulation(std::string_view model, const v1::Simulation& simulation) {
  // Finding a series takes a lock and a map; a simulated layer takes a thousand times as long.
  const Labels labels = {{"model", std::string(model)}, {"preset", simulation.preset()}};
  const auto with = [&labels](const char* name, const std::string& value) {
    Labels all = labels;
    all[name] = value;
    return all;
  };
  seconds_.Add(labels, Ladder(1e-6, 2.0, 70.0)).Observe(simulation.seconds());
  energy_.Add(labels, Ladder(1e-6, 2.0, 70.0)).Observe(simulation.energy_joules());
  traffic_.Add(labels, Ladder(1024.0, 2.0, 1e11)).Observe(simulation.dram_bytes());
  cycles_.Add(labels).Increment(static_cast<double>(simulation.cycles()));
  for (const auto& [unit, cycles] : simulation.busy_cycles()) {
    busy_.Add(with("unit", unit)).Increment(cycles);
  }
  for (const auto& [cause, cycles] : simulation.stall_cycles()) {
    stalled_.Add(with("cause", cause)).Increment(cycles);
  }
  const v1::DramCounts& dram = simulation.dram();
  rows_.Add(with("access", "hit")).Increment(static_cast<double>(dram.row_hits()));
  rows_.Add(with("access", "miss")).Increment(static_cast<double>(dram.row_misses()));
  rows_.Add(with("access", "conflict")).Increment(static_cast<double>(dram.row_conflicts()));
}

}  // namespace thresher
