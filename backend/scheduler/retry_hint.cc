#include "backend/scheduler/retry_hint.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/cord.h"

namespace thresher {
namespace {

constexpr char kType[] = "thresher/retry-after-ms";

}  // namespace

absl::Status WithRetryHint(absl::Status status, absl::Duration wait) {
  const absl::Duration hint = std::clamp(wait, absl::Milliseconds(10), absl::Seconds(30));
  status.SetPayload(kType, absl::Cord(std::to_string(absl::ToInt64Milliseconds(hint))));
  return status;
}

std::optional<absl::Duration> RetryHint(const absl::Status& status) {
  const auto payload = status.GetPayload(kType);
  if (!payload) return std::nullopt;
  return absl::Milliseconds(std::strtoll(std::string(*payload).c_str(), nullptr, 10));
}

}  // namespace thresher
