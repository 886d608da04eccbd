// How good a policy's choice of keys is: of the keys that it lets a query attend to, how many are
// among as many that have the largest scores. The scores are those of the layer as it ran, under
// the policy; choices that leave nothing out do not count.
#ifndef THRESHER_BACKEND_EVALUATION_CANDIDATE_RECALL_H_
#define THRESHER_BACKEND_EVALUATION_CANDIDATE_RECALL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "backend/device/device.h"
#include "backend/sparsity/policy.h"

namespace thresher {

/// Thread-safe.
class RecallCount {
 public:
  void Add(int64_t found, int64_t chosen) {
    found_ += found;
    chosen_ += chosen;
  }
  /// Unset if nothing was chosen.
  std::optional<double> recall() const {
    if (chosen_ == 0) return std::nullopt;
    return static_cast<double>(found_) / static_cast<double>(chosen_);
  }

 private:
  std::atomic<int64_t> found_ = 0, chosen_ = 0;
};

/// An encoder's policy that does as `policy` and counts its candidates, by query and head. All rows
/// of Q and K are generated while it is watched, so that every key has a score. `heads` of the
/// model. `count` must outlive it.
std::shared_ptr<const Policy> WatchCandidates(std::shared_ptr<const Policy> policy, int32_t heads,
                                              RecallCount* count);

/// A device that does as `device` and counts which slots the decode rows of decoders read, by row
/// and head. Scores are of keys in full width. `count` must outlive it.
std::unique_ptr<Device> WatchReads(std::unique_ptr<Device> device, RecallCount* count);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_CANDIDATE_RECALL_H_
