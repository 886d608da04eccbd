// What the answered sequences' reports (thresher/v1/sparsity.proto) tell Prometheus: how much of
// each kind of work was done and left out, by model and policy, and what the attention looked like.
//
// Labels are closed sets: served models, Policy::name(), the kinds of KeepRatios and, only where it
// is asked for, the model's layers. Thread-safe.
#ifndef THRESHER_SERVER_PRUNING_METRICS_H_
#define THRESHER_SERVER_PRUNING_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "backend/sparsity/report.h"
#include "backend/tensor/mutex.h"
#include "server/metrics.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

class PruningMetrics {
 public:
  /// `registry` must outlive this object.
  PruningMetrics(const MetricsOptions& options, prometheus::Registry& registry);

  /// What the next sequence's report must tell beyond its totals.
  ReportDetail NextDetail(std::string_view model);
  /// One answered sequence's account; one without amounts is not counted.
  void OnReport(std::string_view model, std::string_view policy, const v1::PruningReport& report);
  /// The share of its allowed quality loss that a call was given.
  void OnElastic(std::string_view model, double level);
  /// A shadow check ended (metrics.h).
  void OnShadow(std::string_view model, ShadowOutcome outcome, double drift);
  /// Makes the model's dense series, at zero.
  void Begin(std::string_view model);

 private:
  static constexpr size_t kKinds = kKindsOfWork.size();
  using Labels = std::map<std::string, std::string>;

  struct Operations {
    prometheus::Counter* done = nullptr;
    prometheus::Counter* skipped = nullptr;
  };
  /// The series of one model under one policy.
  struct PolicySeries {
    std::array<prometheus::Histogram*, kKinds> keep = {};
    std::array<Operations, kKinds> operations = {};
    Operations bytes;
    prometheus::Counter* softmax_rows = nullptr;
    prometheus::Counter* refetched_rows = nullptr;
    prometheus::Counter* predicted_rows = nullptr;
    prometheus::Counter* predicted_scores = nullptr;
    prometheus::Counter* predicted_outputs = nullptr;
    std::vector<std::array<Operations, kKinds>> layers;  // Only ever grows.
  };
  struct ModelSeries {
    std::map<std::string, PolicySeries, std::less<>> policies;
    prometheus::Histogram* entropy = nullptr;
    prometheus::Histogram* sink_share = nullptr;
    prometheus::Histogram* sink_heads = nullptr;
    prometheus::Histogram* collapsed_heads = nullptr;
    prometheus::Histogram* overloaded_heads = nullptr;
    prometheus::Histogram* elastic = nullptr;         // Made with its first call.
    std::array<prometheus::Counter*, 4> shadow = {};  // By ShadowOutcome; made with the first
    prometheus::Histogram* drift = nullptr;           // check, as is this.
    int64_t sequences = 0;                            // That NextDetail was asked for.
  };

  prometheus::Family<prometheus::Counter>& Counters(const char* name, const char* help);
  prometheus::Family<prometheus::Histogram>& Histograms(const char* name, const char* help);
  /// Need mutex_. Made when first used.
  ModelSeries& UseModel(std::string_view model);
  PolicySeries& UsePolicy(std::string_view model, std::string_view policy, size_t layers);

  const MetricsOptions options_;
  prometheus::Registry& registry_;
  prometheus::Family<prometheus::Histogram>& keep_;
  prometheus::Family<prometheus::Counter>& done_;
  prometheus::Family<prometheus::Counter>& skipped_;
  prometheus::Family<prometheus::Counter>& bytes_fetched_;
  prometheus::Family<prometheus::Counter>& bytes_saved_;
  prometheus::Family<prometheus::Counter>& softmax_rows_;
  prometheus::Family<prometheus::Counter>& refetched_rows_;
  prometheus::Family<prometheus::Counter>& predicted_rows_;
  prometheus::Family<prometheus::Counter>& predicted_scores_;
  prometheus::Family<prometheus::Counter>& predicted_outputs_;
  prometheus::Family<prometheus::Histogram>& entropy_;
  prometheus::Family<prometheus::Histogram>& sink_share_;
  prometheus::Family<prometheus::Histogram>& sink_heads_;
  prometheus::Family<prometheus::Histogram>& collapsed_heads_;
  prometheus::Family<prometheus::Histogram>& overloaded_heads_;
  prometheus::Family<prometheus::Histogram>& elastic_;
  prometheus::Family<prometheus::Counter>& shadow_;
  prometheus::Family<prometheus::Histogram>& drift_;
  prometheus::Family<prometheus::Counter>* layer_done_ = nullptr;  // With per_layer.
  prometheus::Family<prometheus::Counter>* layer_skipped_ = nullptr;

  Mutex mutex_;  // Held while series are looked up and counted: reports come a batch at a time.
  std::map<std::string, ModelSeries, std::less<>> models_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_PRUNING_METRICS_H_
