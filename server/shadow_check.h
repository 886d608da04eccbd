// Checks pruned answers against dense ones while serving: one in so many sequences that a policy
// pruned is run again densely, when there is nothing better to do, and the two answers compared.
//
// What can be compared are classes (of texts, of tokens) and embeddings. Where the policy came from
// a quality profile, the drift goes to the version's ProfileWatch; a profile that fails there is
// served no more: until the model is loaded again, calls that allow a quality loss run densely.
#ifndef THRESHER_SERVER_SHADOW_CHECK_H_
#define THRESHER_SERVER_SHADOW_CHECK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "backend/engine/engine.h"
#include "backend/scheduler/scheduler.h"
#include "server/metrics.h"
#include "server/model_repository.h"

namespace thresher {

/// How near an answer is to the dense one.
struct ShadowComparison {
  bool agrees = false;  // The same class, of each token; an embedding's cosine is at least 0.95.
  double drift = 0;     // Mean KL(dense || pruned) in nats; of an embedding 1 - cosine.
};

/// None where the answers are of a kind, or a shape, that can't be compared.
std::optional<ShadowComparison> CompareWithDense(const ModelInfo& info, const SequenceOutput& dense,
                                                 const SequenceOutput& pruned);

/// Thread-safe.
class ShadowCheck {
 public:
  /// One in `every` is checked; 0: none. Both must outlive this object and the scheduler's work.
  ShadowCheck(int32_t every, Scheduler* scheduler, Metrics* metrics)
      : every_(every), scheduler_(scheduler), metrics_(metrics) {}

  /// Whether the pruned sequence that was answered just now is one to be checked.
  bool Next() { return every_ > 0 && pruned_.fetch_add(1) % every_ == 0; }

  /// Runs `sequence` densely at the lowest priority and compares. Skipped, and counted so, while
  /// the queue is more than a quarter full. `entry` is the profile's that chose the policy.
  void Check(std::shared_ptr<const ServedModel> model, Sequence sequence, SequenceOutput pruned,
             std::optional<size_t> entry);

 private:
  const int32_t every_;
  Scheduler* const scheduler_;
  Metrics* const metrics_;
  std::atomic<int64_t> pruned_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_SHADOW_CHECK_H_
