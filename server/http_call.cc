#include "server/http_call.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "backend/scheduler/clock.h"
#include "backend/tensor/status.h"
#include "server/http_json.h"

namespace thresher {
namespace {

/// At most `digits` of them, and nothing else.
std::optional<int64_t> ParseDigits(std::string_view text, size_t digits) {
  int64_t value = 0;
  if (text.empty() || text.size() > digits || text[0] == '-') return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<absl::Duration> Unit(char letter) {
  switch (letter) {
    case 'H':
      return absl::Hours(1);
    case 'M':
      return absl::Minutes(1);
    case 'S':
      return absl::Seconds(1);
    case 'm':
      return absl::Milliseconds(1);
    case 'u':
      return absl::Microseconds(1);
    case 'n':
      return absl::Nanoseconds(1);
    default:
      return std::nullopt;
  }
}

absl::StatusOr<absl::Duration> ReadTimeout(const HttpRequest& request) {
  absl::Duration timeout = absl::InfiniteDuration();
  if (const std::string_view text = request.Header("grpc-timeout"); !text.empty()) {
    const auto unit = Unit(text.back());
    const auto value = ParseDigits(text.substr(0, text.size() - 1), 8);
    if (!unit || !value) {
      return InvalidArgument(
          "header Grpc-Timeout: '{}' is not at most 8 digits and one of H, M, "
          "S, m, u, n; 250m is a quarter of a second",
          text);
    }
    timeout = *value * *unit;
  }
  if (const std::string_view text = request.Header("connect-timeout-ms"); !text.empty()) {
    const auto value = ParseDigits(text, 10);
    if (!value) {
      return InvalidArgument("header Connect-Timeout-Ms: '{}' is not at most 10 digits", text);
    }
    timeout = std::min(timeout, absl::Milliseconds(*value));
  }
  return timeout;
}

}  // namespace

absl::StatusOr<HttpCall> HttpCall::Begin(const HttpRequest& request) {
  const absl::Time arrival = Clock::Real()->Now();
  THRESHER_ASSIGN_OR_RETURN(const absl::Duration timeout, ReadTimeout(request));
  return HttpCall(request, arrival, arrival + timeout);
}

bool HttpCall::Gone() {
  if (*cancelled_) return true;
  const absl::Time now = Clock::Real()->Now();
  if (now - looked_ < kClientCheck) return false;
  looked_ = now;
  if (request_->gone()) *cancelled_ = true;
  return *cancelled_;
}

absl::StatusOr<HeldInput> HoldJson(Inference& inference, const HttpRequest& request) {
  return inference.HoldInput(static_cast<int64_t>(kJsonGrowth * request.body.size()));
}

}  // namespace thresher
