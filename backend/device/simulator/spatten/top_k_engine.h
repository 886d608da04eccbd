// SpAtten's top-k engine (HPCA 2021, section IV-B): quick-select on a row of comparators. In each
// round a pivot, drawn at random from what remains, is compared with all that remains,
// `parallelism` elements a cycle; two zero eliminators close the gaps in what is greater and what
// is less, and the side that holds the wanted rank goes on, until the pivot is of that rank. It is
// the threshold: all above it are kept, and of its equals the first ones in order.
//
// Deterministic: the same calls since the last Reset give the same pivots. One thread at a time.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_TOP_K_ENGINE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_TOP_K_ENGINE_H_

#include <cstdint>
#include <span>
#include <vector>

namespace thresher {

class TopKEngine {
 public:
  struct Options {
    int32_t parallelism = 16;  // Elements compared in a cycle.
    int32_t round_cycles = 3;  // What a round takes beyond its comparisons.
    uint64_t seed = 1;         // Of the pivots.
  };
  struct Cost {
    int64_t cycles = 0;
    int64_t rounds = 0;
    int64_t comparisons = 0;
  };
  struct Selection {
    std::vector<int32_t> kept;  // Indices, ascending.
    Cost cost;
  };

  explicit TopKEngine(const Options& options) : options_(options), state_(options.seed) {}

  void Reset() { state_ = options_.seed; }

  /// The cost of selecting the best k of n values that nobody knows, all different: pivots of
  /// random rank, until one has rank k, counted from 0. Nothing where all or none are kept.
  Cost Rank(int64_t n, int64_t k);

  /// The same on values, none of them NaN. 0 <= k <= values.size().
  Selection Select(std::span<const float> values, int32_t k);

 private:
  uint64_t Random(uint64_t below);
  void AddRound(int64_t compared, Cost* cost) const;

  Options options_;
  uint64_t state_;
};

/// The mean of Rank(n, k).cycles, exactly. Takes k * (n - k) steps.
double ExpectedRankCycles(int64_t n, int64_t k, const TopKEngine::Options& options);

/// Closes the gaps in one row of lanes, of which `occupied` are not zero: lanes move left by the
/// number of zeros before them, by 1, 2, 4, ... in stages, and so keep their order. Returns the
/// number of stages.
int EliminateZeros(std::vector<int32_t>* lanes, std::vector<bool>* occupied);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_TOP_K_ENGINE_H_
