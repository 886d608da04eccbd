#include "server/security_metrics.h"

#include <string>
#include <utility>

#include "server/process_metrics.h"

namespace thresher {

using prometheus::MetricType;

SecurityMetrics::SecurityMetrics(prometheus::Registry& registry)
    : accepted_(prometheus::BuildCounter()
                    .Name("thresher_auth_accepted_total")
                    .Help("Calls with a token that is known, by its name in the token file.")
                    .Register(registry)),
      refused_(prometheus::BuildCounter()
                   .Name("thresher_auth_refused_total")
                   .Help("Calls that were not authenticated, by what was wrong.")
                   .Register(registry)),
      connections_refused_(prometheus::BuildCounter()
                               .Name("thresher_grpc_connections_refused_total")
                               .Help("gRPC connections that were one too many.")
                               .Register(registry)
                               .Add({})) {}

void SecurityMetrics::OnAccepted(std::string_view caller) {
  accepted_.Add({{"caller", std::string(caller)}}).Increment();
}

void SecurityMetrics::OnRefused(std::string_view front, std::string_view reason) {
  refused_.Add({{"front", std::string(front)}, {"reason", std::string(reason)}}).Increment();
}

void SecurityMetrics::OnConnectionRefused() { connections_refused_.Increment(); }

void SecurityMetrics::Watch(std::function<SecurityState()> state) {
  MutexLock lock(&mutex_);
  state_ = std::move(state);
}

std::vector<prometheus::MetricFamily> SecurityMetrics::Collect() {
  MutexLock lock(&mutex_);  // Held, so that what is watched may go once Watch has returned.
  std::vector<prometheus::MetricFamily> families;
  if (!state_) return families;
  const SecurityState state = state_();
  if (state.grpc_connections) {
    families.push_back(SingleMetric("thresher_grpc_connections", "gRPC connections that are open.",
                                    MetricType::Gauge, *state.grpc_connections));
  }
  if (state.certificate_not_after) {
    families.push_back(
        SingleMetric("thresher_tls_certificate_expiry_timestamp_seconds",
                     "When the server's certificate expires, in Unix time.", MetricType::Gauge,
                     static_cast<double>(absl::ToUnixSeconds(*state.certificate_not_after))));
  }
  return families;
}

}  // namespace thresher
