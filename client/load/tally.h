// Adds up how calls ended: of a level, of a part of its workload.
#ifndef THRESHER_CLIENT_LOAD_TALLY_H_
#define THRESHER_CLIENT_LOAD_TALLY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/load/bound.h"
#include "client/load/latency_histogram.h"
#include "client/load/port.h"

namespace thresher::load {

/// Where the mean latency of the answers goes; the parts add up to it. What the server does not
/// tell is absent.
struct Split {
  absl::Duration client;  // From when a request was due until it was sent.
  std::optional<absl::Duration> network;
  std::optional<absl::Duration> queue;
  std::optional<absl::Duration> tokenize;
  std::optional<absl::Duration> compute;
  std::optional<absl::Duration> other;  // The rest of the server's own time.
};

/// An answer, and within the bound if there is one.
bool IsGood(const Completion& call, absl::Duration due, const std::optional<Bound>& bound);

class Tally {
 public:
  /// `due`: when the call should have been sent, from which its latency counts.
  void Add(const Completion& call, absl::Duration due, const std::optional<Bound>& bound);

  /// Calls that have ended, however.
  int64_t ended() const { return ended_; }
  int64_t ok() const { return latency.count(); }
  Split MeanSplit() const;
  /// What the p-th percentile of all calls' latencies is at most, at 99 % confidence, failed calls
  /// counted as endless. Nothing: too few calls, or too many of them failed.
  std::optional<absl::Duration> AtMost(double p) const;

  std::map<absl::StatusCode, int64_t> outcomes;
  std::map<absl::StatusCode, std::string> messages;  // The first of each error.
  int64_t good = 0;
  int64_t inputs = 0;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  int64_t labelled = 0;
  int64_t right = 0;
  // Of answers.
  LatencyHistogram latency;
  LatencyHistogram first_token;  // From when the request was due.
  LatencyHistogram inter_token;
  // Of calls that were RESOURCE_EXHAUSTED: how long it took to say so.
  LatencyHistogram refusal;

 private:
  int64_t ended_ = 0;
  absl::Duration client_;
  int64_t timed_ = 0;  // Answers with the server's times; of these:
  absl::Duration network_;
  ServerTimes server_;
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_TALLY_H_
