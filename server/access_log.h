// One record for each call, in the log and for tracing, and the ids that tell calls apart across
// machines. Both fronts use it.
#ifndef THRESHER_SERVER_ACCESS_LOG_H_
#define THRESHER_SERVER_ACCESS_LOG_H_

#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace thresher {

class SpanExport;

/// Who is asking for what, in the words of others' logs.
struct CallIdentity {
  std::string request_id;  // The caller's (`x-request-id`), else a new one.
  std::string trace_id;    // Of the caller's W3C trace context; empty without one.
  std::string span_id;     // This call's own in that trace.
  std::string parent_id;   // The caller's span; empty where the trace begins here.
  std::string trace_flags;
  bool exported = false;  // Its span is sent (span_export.h).

  /// `traceresponse` as W3C has it: the trace, and this call's span in it. Empty without a trace.
  std::string TraceResponse() const;
};

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
  /// Records are of level info, else of level debug. `spans` may be null, and must outlive this.
  explicit AccessLog(bool info, SpanExport* spans = nullptr) : info_(info), spans_(spans) {}

  /// From the values of the headers `x-request-id` and `traceparent`, empty where there are none.
  /// What is malformed, or no visible ASCII of at most 128 bytes, is as if it were not there. With
  /// `spans`, a call without a trace begins one.
  CallIdentity Begin(std::string_view method, std::string_view request_id,
                     std::string_view traceparent) const;
  /// Whether a record of the call is wanted.
  bool Wants(const CallIdentity& identity) const { return identity.exported || Logs(); }
  void End(const CallRecord& record) const;

 private:
  bool Logs() const;

  bool info_;
  SpanExport* spans_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_ACCESS_LOG_H_
