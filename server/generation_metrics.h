// What texts that are generated tell Prometheus: latencies as their readers see them, tokens,
// steps, and how much of the KV cache decode steps read and held, by model (and policy).
// Thread-safe.
#ifndef THRESHER_SERVER_GENERATION_METRICS_H_
#define THRESHER_SERVER_GENERATION_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "backend/engine/kv_cache.h"
#include "backend/scheduler/generation.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// The series of one model, all of its versions together. Lives as long as the metrics.
class TextSeries final : public GenerationObserver {
 public:
  void OnStep(int32_t texts, int32_t decode_tokens, int32_t prompt_tokens,
              absl::Duration compute) override;
  /// From a call's arrival to its first generated token.
  void OnFirstToken(absl::Duration time);
  /// From one generated token to the next.
  void OnNextToken(absl::Duration time);
  /// A text that was generated or scored to its end, under the policy of that name.
  void OnEnd(const GenerationResult& result, std::string_view policy);

 private:
  friend class GenerationMetrics;
  struct PolicySeries {
    prometheus::Counter *read, *spared, *held, *held_saved;
  };
  struct Families;

  TextSeries(Families& families, const std::string& model);
  PolicySeries& UsePolicy(std::string_view policy);

  Families& families_;
  const std::string model_;
  prometheus::Histogram &first_, &next_, &step_texts_, &step_seconds_;
  prometheus::Counter &prompt_, &cached_, &generated_;
  Mutex mutex_;
  std::map<std::string, PolicySeries, std::less<>> policies_;
};

class GenerationMetrics {
 public:
  /// `seconds` are the bounds of all durations. `registry` must outlive this object.
  GenerationMetrics(prometheus::Registry& registry, const std::vector<double>& seconds);
  ~GenerationMetrics();

  /// Made when first asked for, all at zero.
  TextSeries& Of(std::string_view model);

 private:
  const std::unique_ptr<TextSeries::Families> families_;
  Mutex mutex_;
  std::map<std::string, std::unique_ptr<TextSeries>, std::less<>> models_;
};

/// Gauges and counters of a pool, as it is now.
std::vector<prometheus::MetricFamily> KvPoolMetrics(const KvPool::Snapshot& pool);

}  // namespace thresher

#endif  // THRESHER_SERVER_GENERATION_METRICS_H_
