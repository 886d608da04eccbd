// Tiles of work through units that work at the same time: which waits for which, and for how long,
// is the outcome. Each tile goes through the same steps; each unit takes its steps in the order in
// which they are listed, and a step begins when its unit is free and its inputs are there. Units
// keep two tiles between them (double buffers): none begins on a tile before all are done with the
// one two before. Memory is a unit as well: it runs ahead of the others by as many tiles as there
// is room for.
//
// Work is bounded whatever the number of tiles: when a loop comes round to the state it had before
// (all times relative to each other, to the tick), what happened since then is repeated without
// being run. The result is that of the full run, exactly.
//
// Time is in ticks from the beginning. Sums of times must stay below 2^62. One thread at a time.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_TILE_PIPELINE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_TILE_PIPELINE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backend/device/simulator/timeline.h"

namespace thresher {

class TilePipeline {
 public:
  struct Step {
    std::string name;
    int unit = 0;
    std::vector<int> inputs;  // Steps.
    bool behind = false;      // Works on the tile before the one that the others work on.
    bool ahead = false;       // Runs ahead (memory): waits for the tile `window` before to be over.
    // After it all units without steps that run ahead wait for each other, and for so many ticks.
    bool barrier = false;
    int64_t barrier_ticks = 0;
    std::string barrier_cause;
  };

  struct Program {
    std::vector<std::string> units;
    std::vector<Step> steps;
    int window = 1;  // From 1: tiles that steps run ahead.
  };

  /// Tiles, or loops over such, `count` times one after the other. A tile is a loop without a body.
  struct Loop {
    int64_t count = 1;
    std::vector<Loop> body;
    std::vector<int64_t> ticks;  // Of a tile: how long each step takes; 0: it is left out.
  };

  explicit TilePipeline(Program program);

  /// Every step that is run from now on becomes a span, at `begin_ps` + ticks x `ps_per_tick`;
  /// repetitions that are not run do not. Null ends it.
  void Record(Timeline* timeline, double begin_ps, double ps_per_tick);
  /// For tests: runs every tile.
  void set_repeat(bool repeat) { repeat_ = repeat; }

  void Run(const Loop& loop);
  /// The steps that are behind, of the last tile.
  void Drain();

  /// When all that ran is over.
  int64_t now() const;
  /// Ticks that units waited with steps to run, by "unit: waits for STEP" (or "for room"). Of those
  /// that do not run ahead.
  std::map<std::string, int64_t> stalls() const;
  /// Tiles that were run, rather than repeated.
  int64_t tiles_run() const { return tiles_run_; }

 private:
  // All that what comes next depends on, and the sums that go along.
  struct State {
    std::vector<int64_t> free;         // By unit.
    std::vector<int64_t> done;         // By step: its last run.
    std::vector<int64_t> done_before;  // The same, when the tile began.
    std::vector<int64_t> finished;     // When the last tiles were over, oldest first.
    std::vector<int64_t> last_tile;    // Its ticks; empty: there was none.
    std::vector<int64_t> stalls;  // [steps][causes]; causes are steps, then room, then barrier.
  };

  void RunTile(const std::vector<int64_t>& ticks);
  // Not before `earliest`.
  void RunStep(int step, int64_t ticks, int64_t earliest);
  void Synchronize(int step);
  // When the tile so many before the next one was over.
  int64_t Finished(int before) const {
    return state_.finished[state_.finished.size() - static_cast<size_t>(before)];
  }
  // No step can begin earlier.
  int64_t Floor() const;
  // The state relative to Floor(), without what can have no effect any more.
  std::vector<int64_t> Shape() const;
  // Lets what happened since `before` happen `times` more.
  void Repeat(const State& before, int64_t ticks, int64_t times);

  const Program program_;
  std::vector<bool> unit_used_;   // Has steps.
  std::vector<bool> unit_ahead_;  // Has a step that runs ahead.
  State state_;
  bool repeat_ = true;
  int64_t tiles_run_ = 0;
  Timeline* timeline_ = nullptr;
  double begin_ps_ = 0;
  double ps_per_tick_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_TILE_PIPELINE_H_
