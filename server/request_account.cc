#include "server/request_account.h"

namespace thresher {

v1::Timings ToProto(const RequestTimes& times) {
  v1::Timings out;
  out.set_queue(absl::ToDoubleSeconds(times.queue));
  out.set_tokenize(absl::ToDoubleSeconds(times.tokenize));
  out.set_compute(absl::ToDoubleSeconds(times.compute));
  out.set_total(absl::ToDoubleSeconds(times.total));
  return out;
}

std::string PolicyName(const Policy* policy) {
  return policy != nullptr ? policy->name() : "dense";
}

void Account(Metrics& metrics, std::string_view model, const std::string& policy, bool explain,
             v1::PruningReport* report) {
  metrics.OnReport(model, policy, *report);
  if (explain) return;
  report->clear_layers();
  report->clear_keys_read();
  report->clear_attention_entropy();
  report->clear_sink_share();
  report->clear_sink_heads();
  report->clear_collapsed_heads();
  report->clear_overloaded_heads();
}

}  // namespace thresher
