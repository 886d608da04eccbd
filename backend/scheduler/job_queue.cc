#include "backend/scheduler/job_queue.h"

#include <limits>
#include <tuple>

namespace thresher {

bool JobQueue::Order::operator<(const Order& other) const {
  // Higher first, so turned round.
  return std::tie(other.priority, deadline, number) <
         std::tie(priority, other.deadline, other.number);
}

JobQueue::Order JobQueue::OrderOf(const QueuedJob& job) {
  return {job.job.priority, job.job.deadline, job.number};
}

void JobQueue::Push(QueuedJob job) {
  order_.insert({OrderOf(job), job.cost});
  if (job.job.deadline != absl::InfiniteFuture()) deadlines_.insert({job.job.deadline, job.number});
  cost_ += job.cost;
  calls_ += job.leads ? 1 : 0;
  const uint64_t number = job.number;
  jobs_.emplace(number, std::move(job));
}

QueuedJob JobQueue::Remove(uint64_t number) {
  QueuedJob job = std::move(jobs_.extract(number).mapped());
  order_.erase(OrderOf(job));
  deadlines_.erase({job.job.deadline, number});
  cost_ -= job.cost;
  calls_ -= job.leads ? 1 : 0;
  return job;
}

int64_t JobQueue::CostBefore(uint64_t number) const {
  return order_.CostBefore(OrderOf(jobs_.at(number)));
}

int64_t JobQueue::CostBefore(const Job& job) const {
  return order_.CostBefore({job.priority, job.deadline, std::numeric_limits<uint64_t>::max()});
}

std::optional<QueuedJob> JobQueue::PopExpired(absl::Time now) {
  if (EarliestDeadline() > now) return std::nullopt;
  return Remove(deadlines_.begin()->second);
}

}  // namespace thresher
