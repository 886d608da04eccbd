#include "backend/device/simulator/spatial/extents.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace thresher {
namespace {

bool LiesOver2d(std::string_view rank) { return rank == "m" || rank == "m0"; }

// One loop of an Einsum in time.
struct TimeLoop {
  std::string rank;
  int64_t count = 0;
  int level = 0;  // From outermost.
};

// Outermost first: on the 2D array blocks of keys, then from one array full of the other rank to
// the next; on the 1D array from one array full to the next, then the keys; then what is walked
// within.
std::vector<TimeLoop> TimeLoops(const SpatialMachine& machine, size_t einsum,
                                const Extents& extents, Stationary stationary) {
  std::vector<TimeLoop> loops;
  const Einsum& spec = machine.cascade.einsums()[einsum];
  const bool on_1d = machine.einsums[einsum].array == v1::ARRAY_1D;
  const bool weight =
      !on_1d && stationary == Stationary::kWeight && (spec.Iterates("e") || spec.Iterates("f"));
  for (const std::string& rank : spec.Ranks()) {
    const int64_t count = extents.Of(rank);
    if (rank == "m1") {
      loops.push_back({rank, count, on_1d});
    } else if (LiesOver2d(rank)) {
      loops.push_back({rank, on_1d ? count : CeilDiv(count, machine.columns), on_1d});
    } else if (weight == (rank != "p")) {
      loops.push_back({rank, CeilDiv(count, on_1d ? machine.lanes : machine.rows), !on_1d});
    } else {
      loops.push_back({rank, count, 2});
    }
  }
  std::stable_sort(loops.begin(), loops.end(),
                   [](const TimeLoop& a, const TimeLoop& b) { return a.level < b.level; });
  return loops;
}

}  // namespace

int64_t Extents::Of(std::string_view rank) const {
  if (rank == "p") return p;
  if (rank == "m") return m;
  if (rank == "m1") return m1;
  if (rank == "m0") return m0;
  if (rank == "e") return e;
  return f;
}

double Extents::Points(const std::vector<std::string>& ranks) const {
  double points = 1;
  for (const std::string& rank : ranks) points *= static_cast<double>(Of(rank));
  return points;
}

int64_t CyclesOf(const SpatialMachine& machine, size_t einsum, const Extents& extents,
                 Stationary stationary) {
  double cycles = static_cast<double>(machine.einsums[einsum].cycles);
  for (const TimeLoop& loop : TimeLoops(machine, einsum, extents, stationary)) {
    cycles *= static_cast<double>(loop.count);
  }
  return std::llround(std::min(cycles, kMostCycles));
}

double MovedWords(const SpatialMachine& machine, size_t einsum, const TensorUse& use,
                  const Extents& extents, Stationary stationary) {
  double words = extents.Points(use.ranks);
  double rounds = 1;
  for (const TimeLoop& loop : TimeLoops(machine, einsum, extents, stationary)) {
    if (use.Has(loop.rank)) {
      if (loop.count == 1) continue;  // Wholly over the array: no loop.
      words *= rounds;
      rounds = 1;
    } else {
      rounds *= static_cast<double>(loop.count);
    }
  }
  return words;
}

}  // namespace thresher
