// Spans of calls for an OpenTelemetry collector, sent by OTLP over gRPC in the background, in
// batches. Where it is and what is sent is said by OpenTelemetry's own environment variables
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/); those that
// are heard stand in docs/operations.md.
//
// Built with opentelemetry-cpp (Debian 13 has it): span_export_otlp.cc; without it:
// span_export_none.cc.
#ifndef THRESHER_SERVER_SPAN_EXPORT_H_
#define THRESHER_SERVER_SPAN_EXPORT_H_

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/access_log.h"

namespace thresher {

/// Thread-safe.
class SpanExport {
 public:
  /// Null where the environment names no collector. UNIMPLEMENTED where it does and this build has
  /// no OpenTelemetry, INVALID_ARGUMENT naming a variable whose value is none.
  static absl::StatusOr<std::unique_ptr<SpanExport>> FromEnvironment();
  /// The library's version, as in "1.19.0"; null: there is none.
  static const char* LibraryVersion();

  /// Sends what has not been sent, for a few seconds at most.
  virtual ~SpanExport() = default;

  /// Decides whether the call's span will be sent, and says so in `identity`, which is in a trace:
  /// the caller's, or one that begins with it.
  virtual void Begin(std::string_view method, CallIdentity* identity) = 0;
  /// The call has ended. Never waits: what can't be sent in time is dropped.
  virtual void End(const CallRecord& record) = 0;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_SPAN_EXPORT_H_
