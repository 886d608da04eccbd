// One record for each call, and the ids that tell calls apart across machines. Both fronts use it.
#ifndef THRESHER_SERVER_ACCESS_LOG_H_
#define THRESHER_SERVER_ACCESS_LOG_H_

#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace thresher {

/// Who is asking for what, in the words of others' logs.
struct CallIdentity {
  std::string request_id;  // The caller's (`x-request-id`), else a new one.
  std::string trace_id;    // Of the caller's W3C trace context; empty without one.
  std::string span_id;     // This call's own in that trace.
  std::string trace_flags;

  /// `traceresponse` as W3C has it: the trace, and this call's span in it. Empty without a trace.
  std::string TraceResponse() const;
};

/// From the values of the headers `x-request-id` and `traceparent`, empty where there are none.
/// What is malformed, or no visible ASCII of at most 128 bytes, is as if it were not there.
CallIdentity IdentifyCall(std::string_view request_id, std::string_view traceparent);

struct CallRecord {
  std::string_view front;   // "grpc" or "http".
  std::string_view method;  // "/thresher.v1.Thresher/Classify", "POST /v1/classify".
  std::string_view status;  // "OK", "404".
  absl::Duration time;
  const CallIdentity& identity;
  std::string_view caller;  // By its token; empty: unknown.
  std::string_view peer;    // Its address.
};

/// Thread-safe.
class AccessLog {
 public:
  /// Records are of level info, else of level debug.
  explicit AccessLog(bool info) : info_(info) {}
  /// Whether records are written at all.
  bool enabled() const;
  void Write(const CallRecord& record) const;

 private:
  bool info_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_ACCESS_LOG_H_
