// Every series that the server exports to Prometheus. Seconds, histograms, fixed label sets: labels
// are only ever a configured model's name, a method of the list below, an outcome of the list
// below, and what pruning_metrics.h names. Thread-safe.
#ifndef THRESHER_SERVER_METRICS_H_
#define THRESHER_SERVER_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/scheduler/scheduler.h"

namespace prometheus {
class Registry;
}

namespace thresher {

class ModelRepository;
class SecurityMetrics;
class TextSeries;

enum class Method {
  kClassify,
  kEmbed,
  kTokenClassify,
  kAnswer,
  kTokenize,
  kModelInfer,
  kGenerate,
  kScore
};
std::string_view Name(Method method);

/// Times of one sequence that was answered, or what is known of one that was not.
struct RequestTimes {
  absl::Duration queue, tokenize, compute, total;
  /// Of its own work and waiting: by this the slowest of a call's inputs is found.
  absl::Duration parts() const { return queue + tokenize + compute; }
};

/// What became of a pruned answer that was to be checked against dense.
enum class ShadowOutcome { kAgreed, kDisagreed, kSkipped, kFailed };

struct MetricsOptions {
  /// The attention is measured in a model's first sequence and in each so many after it; 0: never
  /// for the sake of metrics.
  int32_t attention_every = 100;
  bool per_layer = false;  // Counters of work by layer.
};

class Metrics final : public SchedulerObserver {
 public:
  explicit Metrics(const MetricsOptions& options = {});
  ~Metrics() override;

  /// One input's end. `model` must be a served model's name, or empty when there is none by the
  /// name asked for (label "unknown"). The outcome label is made from the status code: "ok",
  /// "invalid_argument", "not_found", "resource_exhausted", "deadline_exceeded", "cancelled",
  /// "unavailable", "unimplemented", "internal". Durations are only recorded for "ok".
  void OnRequest(std::string_view model, Method method, const absl::Status& status,
                 const RequestTimes& times);
  /// What the report of the model's next sequence must tell beyond its totals, for OnReport.
  ReportDetail NextDetail(std::string_view model);
  /// One answered sequence's account, under the policy of that name; nothing if it has no amounts.
  void OnReport(std::string_view model, std::string_view policy, const v1::PruningReport& report);
  /// A call that allows a quality loss was given this share of it (0 to 1), with --elastic.
  void OnElastic(std::string_view model, double level);
  /// A shadow check ended; the drift counts where two answers were compared.
  void OnShadow(std::string_view model, ShadowOutcome outcome, double drift);
  void OnBatch(const Engine& engine, int32_t sequences, int64_t tokens, int64_t cost,
               absl::Duration compute) override;
  /// The series of a decoder's texts (generation_metrics.h).
  TextSeries& TextsOf(std::string_view model);
  /// Callers and connections (security_metrics.h).
  SecurityMetrics& security();

  /// Gauges that are read when scraped: queue depth and age, loaded models and their memory, texts
  /// and their caches. Both must outlive this object or the next call of Watch; null takes one
  /// away.
  void Watch(const Scheduler* scheduler, const ModelRepository* repository);
  /// `cpu_quota` in cores; 0: there is none, and the series is left out.
  void SetThreads(int threads, double cpu_quota);

  /// The whole of /metrics, in Prometheus' text format.
  std::string Exposition();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_METRICS_H_
