// What the scheduler knows of each engine: what waits for it, what it costs, and the run in
// progress.
//
// Plain data; the scheduler holds its lock around it.
#ifndef THRESHER_BACKEND_SCHEDULER_LANE_H_
#define THRESHER_BACKEND_SCHEDULER_LANE_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/time/time.h"
#include "backend/scheduler/cost_model.h"
#include "backend/scheduler/job_queue.h"

namespace thresher {

/// Of one engine.
struct Lane {
  std::weak_ptr<Engine> engine;
  JobQueue queue;
  CostModel model;
  int64_t served = 0;  // Virtual time: cost served, and more where the lane was idle.
};

/// The run in progress, if it has jobs.
struct CurrentRun {
  Lane* lane = nullptr;  // Of the latest run, over or not.
  int32_t jobs = 0;
  int64_t cost = 0;
  absl::Time since;

  /// How long it will likely go on.
  absl::Duration Rest(absl::Time now) const {
    if (jobs == 0) return absl::ZeroDuration();
    return std::max(lane->model.Likely(cost) - (now - since), absl::ZeroDuration());
  }
};

struct Lanes {
  std::map<const Engine*, Lane> of;
  CurrentRun current;

  /// Null: none.
  const Lane* Find(const Engine* engine) const {
    const auto found = of.find(engine);
    return found == of.end() ? nullptr : &found->second;
  }
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_LANE_H_
