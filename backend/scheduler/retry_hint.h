// How long a caller that was refused for want of room had better wait: carried by the status
// itself, from whoever knows to whoever tells.
#ifndef THRESHER_BACKEND_SCHEDULER_RETRY_HINT_H_
#define THRESHER_BACKEND_SCHEDULER_RETRY_HINT_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace thresher {

/// The status with the hint; hints are from 10 milliseconds to 30 seconds, and are cut to that.
absl::Status WithRetryHint(absl::Status status, absl::Duration wait);

/// Nothing if the status has none.
std::optional<absl::Duration> RetryHint(const absl::Status& status);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SCHEDULER_RETRY_HINT_H_
