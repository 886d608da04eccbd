#include "backend/device/simulator/spatial/tile_pipeline.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "fmt/format.h"

namespace thresher {
namespace {

// Tiles between units.
constexpr int kApart = 2;

}  // namespace

TilePipeline::TilePipeline(Program program)
    : program_(std::move(program)),
      unit_used_(program_.units.size()),
      unit_ahead_(program_.units.size()) {
  const size_t steps = program_.steps.size();
  for (const Step& step : program_.steps) {
    unit_used_[step.unit] = true;
    if (step.ahead) unit_ahead_[step.unit] = true;
  }
  state_.free.assign(program_.units.size(), 0);
  state_.done.assign(steps, 0);
  state_.done_before = state_.done;
  state_.finished.assign(static_cast<size_t>(std::max(program_.window, kApart)), 0);
  state_.stalls.assign(steps * (steps + 2), 0);
}

void TilePipeline::Record(Timeline* timeline, double begin_ps, double ps_per_tick) {
  timeline_ = timeline;
  begin_ps_ = begin_ps;
  ps_per_tick_ = ps_per_tick;
}

void TilePipeline::Run(const Loop& loop) {
  // Brent's search for a cycle: the state of one round is kept, and compared with those that follow
  // until twice as many rounds have passed.
  struct Kept {
    int64_t round;
    int64_t floor;
    std::vector<int64_t> shape;
    State state;
  };
  std::optional<Kept> kept;
  bool search = repeat_ && loop.count > 2;
  for (int64_t round = 0; round < loop.count;) {
    if (loop.body.empty()) {
      RunTile(loop.ticks);
    } else {
      for (const Loop& part : loop.body) Run(part);
    }
    ++round;
    if (!search) continue;
    std::vector<int64_t> shape = Shape();
    if (kept && shape == kept->shape) {
      const int64_t period = round - kept->round;
      const int64_t times = (loop.count - round) / period;
      Repeat(kept->state, Floor() - kept->floor, times);
      round += times * period;
      search = false;
    } else if ((round & (round - 1)) == 0) {
      kept = {round, Floor(), std::move(shape), state_};
    }
  }
}

void TilePipeline::Drain() {
  if (state_.last_tile.empty()) return;
  const std::vector<int64_t> ticks = std::exchange(state_.last_tile, {});
  state_.done_before = state_.done;
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    if (program_.steps[i].behind && ticks[i] > 0) RunStep(static_cast<int>(i), ticks[i], 0);
  }
}

void TilePipeline::RunTile(const std::vector<int64_t>& ticks) {
  ++tiles_run_;
  state_.done_before = state_.done;
  const int64_t room = Finished(kApart);
  const int64_t room_ahead = Finished(program_.window);
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    const Step& step = program_.steps[i];
    const int64_t earliest = step.ahead ? room_ahead : room;
    if (!step.behind) {
      if (ticks[i] > 0) RunStep(static_cast<int>(i), ticks[i], earliest);
    } else if (!state_.last_tile.empty() && state_.last_tile[i] > 0) {
      RunStep(static_cast<int>(i), state_.last_tile[i], earliest);
    }
    if (step.barrier) Synchronize(static_cast<int>(i));
  }
  state_.last_tile = ticks;
  int64_t finished = 0;
  for (size_t unit = 0; unit < state_.free.size(); ++unit) {
    // One that had nothing to do does not lag behind.
    state_.free[unit] = std::max(state_.free[unit], unit_ahead_[unit] ? room_ahead : room);
    if (!unit_ahead_[unit]) finished = std::max(finished, state_.free[unit]);
  }
  state_.finished.erase(state_.finished.begin());
  state_.finished.push_back(finished);
}

void TilePipeline::RunStep(int index, int64_t ticks, int64_t earliest) {
  const Step& step = program_.steps[index];
  const size_t causes = program_.steps.size() + 2;
  int64_t begin = state_.free[step.unit];
  size_t cause = 0;
  for (const int input : step.inputs) {
    // What ran earlier in this round has gone on to the next tile.
    const bool gone_on = step.behind && !program_.steps[input].behind && input < index;
    const int64_t done = (gone_on ? state_.done_before : state_.done)[input];
    if (done > begin) {
      begin = done;
      cause = static_cast<size_t>(input);
    }
  }
  if (earliest > begin) {
    begin = earliest;
    cause = causes - 2;
  }
  if (!step.ahead) state_.stalls[index * causes + cause] += begin - state_.free[step.unit];
  const int64_t end = begin + ticks;
  state_.free[step.unit] = end;
  state_.done[index] = end;
  if (timeline_ != nullptr) {
    const auto ps = [&](int64_t t) {
      return std::llround(std::min(begin_ps_ + static_cast<double>(t) * ps_per_tick_, 9e18));
    };
    timeline_->Add(program_.units[step.unit], step.name, ps(begin), ps(end));
  }
}

void TilePipeline::Synchronize(int step) {
  int64_t latest = 0;
  for (size_t unit = 0; unit < state_.free.size(); ++unit) {
    if (!unit_ahead_[unit]) latest = std::max(latest, state_.free[unit]);
  }
  latest += program_.steps[step].barrier_ticks;
  const size_t causes = program_.steps.size() + 2;
  for (size_t unit = 0; unit < state_.free.size(); ++unit) {
    if (unit_ahead_[unit] || !unit_used_[unit]) continue;
    state_.stalls[step * causes + causes - 1] += latest - state_.free[unit];
    state_.free[unit] = latest;
  }
}

int64_t TilePipeline::Floor() const {
  int64_t floor = std::numeric_limits<int64_t>::max();
  for (size_t unit = 0; unit < state_.free.size(); ++unit) {
    if (!unit_used_[unit]) continue;
    floor = std::min(
        floor, std::max(state_.free[unit], Finished(unit_ahead_[unit] ? program_.window : kApart)));
  }
  return floor;
}

std::vector<int64_t> TilePipeline::Shape() const {
  const int64_t floor = Floor();
  std::vector<int64_t> shape;
  // As they are: how long a unit has waited is counted from then.
  for (const int64_t time : state_.free) shape.push_back(time - floor);
  for (const auto* times : {&state_.done, &state_.finished}) {
    for (const int64_t time : *times) shape.push_back(std::max(time, floor - 1) - floor);
  }
  shape.insert(shape.end(), state_.last_tile.begin(), state_.last_tile.end());
  return shape;
}

void TilePipeline::Repeat(const State& before, int64_t ticks, int64_t times) {
  for (auto* moments : {&state_.free, &state_.done, &state_.done_before, &state_.finished}) {
    for (int64_t& moment : *moments) moment += ticks * times;
  }
  for (size_t i = 0; i < state_.stalls.size(); ++i) {
    state_.stalls[i] += (state_.stalls[i] - before.stalls[i]) * times;
  }
}

int64_t TilePipeline::now() const {
  return *std::max_element(state_.free.begin(), state_.free.end());
}

std::map<std::string, int64_t> TilePipeline::stalls() const {
  std::map<std::string, int64_t> stalls;
  const size_t steps = program_.steps.size();
  for (size_t step = 0; step < steps; ++step) {
    for (size_t cause = 0; cause < steps + 2; ++cause) {
      const int64_t ticks = state_.stalls[step * (steps + 2) + cause];
      if (ticks == 0) continue;
      const std::string& unit = program_.units[program_.steps[step].unit];
      if (cause < steps) {
        stalls[fmt::format("{}: waits for {}", unit, program_.steps[cause].name)] += ticks;
      } else if (cause == steps) {
        stalls[fmt::format("{}: waits for room", unit)] += ticks;
      } else {
        stalls[program_.steps[step].barrier_cause] += ticks;
      }
    }
  }
  return stalls;
}

}  // namespace thresher
