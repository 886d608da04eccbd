// What callers and connections that are let in, or are not, tell Prometheus. Thread-safe.
#ifndef THRESHER_SERVER_SECURITY_METRICS_H_
#define THRESHER_SERVER_SECURITY_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// What is true at the moment.
struct SecurityState {
  std::optional<int> grpc_connections;
  std::optional<absl::Time> certificate_not_after;  // With TLS.
};

class SecurityMetrics {
 public:
  /// `registry` must outlive this object.
  explicit SecurityMetrics(prometheus::Registry& registry);

  /// A call of the caller whom the operator's file gives this name.
  void OnAccepted(std::string_view caller);
  /// `front` and `reason` as AuthEvents names them.
  void OnRefused(std::string_view front, std::string_view reason);
  void OnConnectionRefused();

  /// `state` is asked when scraped, until the next call of Watch; null takes it away.
  void Watch(std::function<SecurityState()> state);
  std::vector<prometheus::MetricFamily> Collect();

 private:
  prometheus::Family<prometheus::Counter>& accepted_;
  prometheus::Family<prometheus::Counter>& refused_;
  prometheus::Counter& connections_refused_;
  Mutex mutex_;
  std::function<SecurityState()> state_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_SECURITY_METRICS_H_
