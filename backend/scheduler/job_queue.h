// The jobs of one engine that wait, in the order in which they will run: priority (higher first),
// then deadline, then arrival.
//
// Every operation is O(log n). Not thread-safe; the scheduler holds its lock around it.
#ifndef THRESHER_BACKEND_SCHEDULER_JOB_QUEUE_H_
#define THRESHER_BACKEND_SCHEDULER_JOB_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <ext/pb_ds/assoc_container.hpp>
#include <ext/pb_ds/tree_policy.hpp>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/time/time.h"
#include "backend/scheduler/scheduler.h"

namespace thresher {

/// A job that was accepted.
struct QueuedJob {
  Job job;
  int64_t cost = 1;
  absl::Time arrival;
  uint64_t number = 0;  // Counts arrivals: unique in the scheduler.
  bool leads = true;    // The first of those that came together, in one call.
};

class JobQueue {
 public:
  void Push(QueuedJob job);
  bool empty() const { return jobs_.empty(); }
  size_t size() const { return jobs_.size(); }
  /// Calls whose first job is here.
  size_t calls() const { return calls_; }
  /// Of all jobs.
  int64_t cost() const { return cost_; }

  /// The cost of the jobs that run before one like this that came now.
  int64_t CostBefore(const Job& job) const;

  // The rest needs a queue that is not empty.

  /// The job that runs next.
  const QueuedJob& Front() const { return jobs_.at(order_.begin()->first.number); }
  QueuedJob PopFront() { return Remove(order_.begin()->first.number); }
  /// Takes out the job with this number, which must be here.
  QueuedJob Remove(uint64_t number);
  /// The job with this number, which must be here.
  const QueuedJob& Get(uint64_t number) const { return jobs_.at(number); }
  /// The cost of the jobs that run before this one, which must be here.
  int64_t CostBefore(uint64_t number) const;
  /// The job that has waited longest.
  const QueuedJob& Oldest() const { return jobs_.begin()->second; }
  /// The earliest deadline of all, possibly infinite.
  absl::Time EarliestDeadline() const {
    return deadlines_.empty() ? absl::InfiniteFuture() : deadlines_.begin()->first;
  }
  /// Takes out the job with the earliest deadline if that has passed.
  std::optional<QueuedJob> PopExpired(absl::Time now);

 private:
  struct Order {
    int32_t priority = 0;
    absl::Time deadline;
    uint64_t number = 0;
    bool operator<(const Order& other) const;
  };
  static Order OrderOf(const QueuedJob& job);

  // Keeps in every node of a balanced tree from Order to cost the sum of the costs below it, so
  // that the cost before a job is a walk from the root. (What GNU's tree calls a node update
  // policy.)
  template <typename NodeConstIterator, typename NodeIterator, typename Compare, typename Allocator>
  class CostSums {
   public:
    using metadata_type = int64_t;

    void operator()(NodeIterator node, NodeConstIterator end) const {
      const int64_t sum =
          (*node)->second + Sum(node.get_l_child(), end) + Sum(node.get_r_child(), end);
      const_cast<int64_t&>(node.get_metadata()) = sum;
    }

    int64_t CostBefore(const Order& order) const {
      int64_t sum = 0;
      NodeConstIterator node = node_begin();
      while (node != node_end()) {
        if ((*node)->first < order) {
          sum += (*node)->second + Sum(node.get_l_child(), node_end());
          node = node.get_r_child();
        } else {
          node = node.get_l_child();
        }
      }
      return sum;
    }

   protected:
    virtual ~CostSums() = default;
    virtual NodeConstIterator node_begin() const = 0;
    virtual NodeConstIterator node_end() const = 0;

   private:
    static int64_t Sum(NodeConstIterator node, NodeConstIterator end) {
      return node == end ? 0 : node.get_metadata();
    }
  };

  std::map<uint64_t, QueuedJob> jobs_;  // By number, so in order of arrival.
  __gnu_pbds::tree<Order, int64_t, std::less<Order>, __gnu_pbds::rb_tree_tag, CostSums> order_;
  std::set<std::pair<absl::Time, uint64_t>> deadlines_;  // The finite ones.
  int64_t cost_ = 0;
  size_t calls_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_JOB_QUEUE_H_
