#include "backend/scheduler/admission.h"

#include <algorithm>
#include <utility>

#include "backend/scheduler/retry_hint.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::Status OwnTimeExceeds(absl::Duration left, absl::Duration own) {
  return DeadlineExceeded("the deadline is {} away and the answer would take at least {}",
                          absl::FormatDuration(left), absl::FormatDuration(own));
}

Admission::Ahead Admission::AheadOf(const Job& job, const Lane* lane, absl::Time now) const {
  Ahead ahead = {.running = lanes_.current.Rest(now)};
  if (lane == nullptr) return ahead;
  ahead.cost = lane->queue.CostBefore(job);
  ahead.queued = lane->model.Likely(ahead.cost);
  // Other engines' turns cost as much as this one's, if they have so much to do.
  for (const auto& [engine, other] : lanes_.of) {
    if (&other == lane) continue;
    ahead.queued += other.model.Likely(std::min(ahead.cost, other.queue.cost()));
  }
  return ahead;
}

absl::Status Admission::CheckPlaces(size_t jobs, size_t queued, absl::Time now) {
  const auto room = static_cast<size_t>(options_.max_queue);
  if (jobs > room) {
    return ResourceExhausted(
        "{} sequences at once are more than the queue ever holds, {}: send fewer", jobs, room);
  }
  if (queued + jobs <= room) return absl::OkStatus();
  absl::Duration wait = lanes_.current.Rest(now);
  for (const auto& [engine, lane] : lanes_.of) wait += lane.model.Likely(lane.queue.cost());
  return RefuseForNow(ResourceExhausted("the queue is full: {} of {} places are taken and {} are "
                                        "wanted",
                                        queued, room, jobs),
                      wait);
}

absl::Duration Admission::MostWait(const Job& job, const Lane* lane, absl::Time now) const {
  if (options_.max_queue_delay > absl::ZeroDuration()) return options_.max_queue_delay;
  const bool long_queue = lane != nullptr && lane->queue.calls() >= SchedulerOptions::kAlwaysWait;
  if (options_.patience <= absl::ZeroDuration() || !long_queue) return absl::InfiniteDuration();
  if (job.deadline == absl::InfiniteFuture()) return options_.patience;
  return std::max(options_.patience, (job.deadline - now) / 10);
}

absl::Status Admission::CheckWait(const Job& job, const Lane* lane, absl::Time now) {
  if (job.deadline <= now) return DeadlineExceeded("the deadline has passed");
  const Ahead ahead = AheadOf(job, lane, now);
  if (const absl::Duration most = MostWait(job, lane, now); ahead.all() > most) {
    return RefuseForNow(
        ResourceExhausted("the wait is expected to be {}, and {} is the most",
                          absl::FormatDuration(ahead.all()), absl::FormatDuration(most)),
        ahead.all());
  }
  const absl::Duration left = job.deadline - now;
  if (ahead.running + kMargin * ahead.queued <= left) return absl::OkStatus();
  return BehindOthers(left, ahead.all(), ahead.all());
}

absl::Status Admission::CheckInTime(const QueuedJob& job, const Lane& lane,
                                    const Ahead& before_call, absl::Time now) {
  if (job.job.deadline == absl::InfiniteFuture()) return absl::OkStatus();
  const absl::Duration left = job.job.deadline - now;
  // With those of its own call that run before it, in batches as full as they may be.
  const int64_t cost = lane.queue.CostBefore(job.number) - before_call.cost + job.cost;
  const absl::Duration own =
      cost / options_.max_batch_cost * lane.model.AtLeast(options_.max_batch_cost, now) +
      lane.model.AtLeast(cost % options_.max_batch_cost, now);
  if (own > left) return OwnTimeExceeds(left, own);
  if (before_call.running + kMargin * before_call.queued + own <= left) return absl::OkStatus();
  return BehindOthers(left, before_call.all() + own, before_call.all());
}

double Admission::Pressure(size_t queued) const {
  double pressure = static_cast<double>(queued) / options_.max_queue;
  for (const auto& [engine, lane] : lanes_.of) pressure = std::max(pressure, PressureInTime(lane));
  return std::min(pressure, 1.0);
}

double Admission::PressureInTime(const Lane& lane) const {
  const absl::Duration wait = lane.model.Likely(lane.queue.cost());
  if (options_.max_queue_delay > absl::ZeroDuration()) {
    return absl::FDivDuration(wait, options_.max_queue_delay);
  }
  if (options_.patience <= absl::ZeroDuration()) return 0.0;
  return std::min(absl::FDivDuration(wait, options_.patience),
                  static_cast<double>(lane.queue.calls()) / SchedulerOptions::kAlwaysWait);
}

absl::Status Admission::BehindOthers(absl::Duration left, absl::Duration wait,
                                     absl::Duration hint) {
  return RefuseForNow(
      ResourceExhausted("the deadline is {} away, too near with about {} of work ahead",
                        absl::FormatDuration(left), absl::FormatDuration(wait)),
      hint);
}

/// The hint is from one half of the wait to all of it, another share each time: callers who are
/// refused together come back apart.
absl::Status Admission::RefuseForNow(absl::Status status, absl::Duration wait) {
  constexpr double kGolden = 0.6180339887498949;
  spread_ += kGolden;
  if (spread_ >= 1.0) spread_ -= 1.0;
  return WithRetryHint(std::move(status), wait * (0.5 + 0.5 * spread_));
}

}  // namespace thresher
