// Arithmetic on what simulations say.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SIMULATION_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SIMULATION_H_

#include <vector>

#include "backend/device/layer_record.h"
#include "backend/device/simulator/units/unit_clock.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

/// What ran one after the other.
void AddSimulation(const v1::Simulation& part, v1::Simulation* total);

/// Multiplies traffic, energy, operations and counts of rows by `share`, and leaves time and what
/// units did as they are: the part of one sequence in a batch that ends together.
v1::Simulation ShareOf(const v1::Simulation& total, double share);

/// What a memory did between two looks at its counts.
v1::DramCounts CountsSince(const v1::DramCounts& before, const v1::DramCounts& after);

/// Multiplications and additions of the sequence's attention, had nothing been pruned.
double DenseAttentionOperations(const LayerShape& shape, const SequenceRecord& sequence);

/// Adds what the layer would have had with nothing pruned: bytes of K and V, and operations.
void AddDense(const LayerRecord& record, bool attention_only, v1::Simulation* total);

/// Adds a unit's busy cycles, under its name, and its stalls, as "name: cause".
void AddUnit(const UnitClock& unit, v1::Simulation* total);

/// Turns what each sequence cost into its share of the whole: they sum to 1. Where nothing cost
/// anything, all shares are alike.
void MakeShares(std::vector<double>* costs);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SIMULATION_H_
