#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <map>
#include <utility>
#include <vector>

#include "backend/build_info/build_info.h"
#include "backend/tensor/mutex.h"
#include "server/generation_metrics.h"
#include "server/model_repository.h"
#include "server/process_metrics.h"
#include "server/pruning_metrics.h"
#include "server/security_metrics.h"
#include "server/simulation_metrics.h"

namespace thresher {
namespace {

using prometheus::Counter;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr std::array kMethods = {Method::kClassify, Method::kEmbed,    Method::kTokenClassify,
                                 Method::kAnswer,   Method::kTokenize, Method::kModelInfer,
                                 Method::kGenerate, Method::kScore};

/// The closed set of values of the label `outcome`.
constexpr std::array<std::string_view, 9> kOutcomes = {"ok",
                                                       "invalid_argument",
                                                       "not_found",
                                                       "resource_exhausted",
                                                       "deadline_exceeded",
                                                       "cancelled",
                                                       "unavailable",
                                                       "unimplemented",
                                                       "internal"};

size_t OutcomeIndex(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 1;
    case absl::StatusCode::kNotFound:
      return 2;
    case absl::StatusCode::kResourceExhausted:
      return 3;
    case absl::StatusCode::kDeadlineExceeded:
      return 4;
    case absl::StatusCode::kCancelled:
      return 5;
    case absl::StatusCode::kUnavailable:
      return 6;
    case absl::StatusCode::kUnimplemented:
      return 7;
    default:
      return 8;
  }
}

/// The one ladder of all durations, in seconds: 50 us to 60 s, no step larger than a factor of 2.
const std::vector<double> kSeconds = {
    50e-6,  100e-6, 200e-6, 350e-6, 500e-6, 1e-3, 2e-3, 3.5e-3, 5e-3, 10e-3, 20e-3, 35e-3, 50e-3,
    100e-3, 200e-3, 350e-3, 500e-3, 1,      2,    3.5,  5,      10,   20,    35,    50,    60};

std::vector<double> PowersOfTwo(int count) {
  std::vector<double> bounds;
  for (double bound = 1; count > 0; --count, bound *= 2) bounds.push_back(bound);
  return bounds;
}

/// What the head of a model answers; the rest would be series that stay at zero for ever.
bool Answers(Task task, Method method) {
  switch (method) {
    case Method::kClassify:
      return task == Task::kSequenceClassification;
    case Method::kTokenClassify:
      return task == Task::kTokenClassification;
    case Method::kAnswer:
      return task == Task::kQuestionAnswering;
    case Method::kEmbed:
      return task != Task::kGeneration;
    case Method::kGenerate:
    case Method::kScore:
      return task == Task::kGeneration;
    default:
      return true;
  }
}

/// The series of one model and method, looked up once. Null until first used.
struct RequestSeries {
  Histogram* queue = nullptr;
  Histogram* tokenize = nullptr;
  Histogram* compute = nullptr;
  Histogram* total = nullptr;
  std::array<Counter*, kOutcomes.size()> outcomes = {};
};

struct ModelSeries {
  std::array<RequestSeries, kMethods.size()> requests;
  Histogram* batch_sequences = nullptr;
  Histogram* batch_tokens = nullptr;
  Histogram* batch_compute = nullptr;
};

prometheus::ClientMetric Sample(std::vector<std::pair<std::string, std::string>> labels,
                                double value) {
  prometheus::ClientMetric metric;
  for (auto& [name, text] : labels) metric.label.push_back({std::move(name), std::move(text)});
  metric.gauge.value = value;
  return metric;
}

}  // namespace

std::string_view Name(Method method) {
  switch (method) {
    case Method::kClassify:
      return "Classify";
    case Method::kEmbed:
      return "Embed";
    case Method::kTokenClassify:
      return "TokenClassify";
    case Method::kAnswer:
      return "Answer";
    case Method::kTokenize:
      return "Tokenize";
    case Method::kModelInfer:
      return "ModelInfer";
    case Method::kGenerate:
      return "Generate";
    case Method::kScore:
      return "Score";
  }
  return "unknown";
}

class Metrics::Impl {
 public:
  explicit Impl(const MetricsOptions& options)
      : pruning_(options, registry_),
        simulation_(registry_),
        generation_(registry_, kSeconds),
        security_(registry_) {}

  PruningMetrics& pruning() { return pruning_; }
  SimulationMetrics& simulation() { return simulation_; }
  GenerationMetrics& generation() { return generation_; }
  SecurityMetrics& security() { return security_; }

  void OnRequest(std::string_view model, Method method, const absl::Status& status,
                 const RequestTimes& times) {
    RequestSeries series;
    {
      MutexLock lock(&mutex_);
      series = UseRequest(model.empty() ? kUnknown : model, method, OutcomeIndex(status));
    }
    series.outcomes[OutcomeIndex(status)]->Increment();
    if (!status.ok()) return;
    series.tokenize->Observe(absl::ToDoubleSeconds(times.tokenize));
    series.total->Observe(absl::ToDoubleSeconds(times.total));
    if (series.queue == nullptr) return;
    series.queue->Observe(absl::ToDoubleSeconds(times.queue));
    series.compute->Observe(absl::ToDoubleSeconds(times.compute));
  }

  void OnBatch(const Engine& engine, int32_t sequences, int64_t tokens, absl::Duration compute) {
    ModelSeries* series = nullptr;
    {
      MutexLock lock(&mutex_);
      series = FindEngine(engine);
    }
    if (series == nullptr) return;
    series->batch_sequences->Observe(sequences);
    series->batch_tokens->Observe(static_cast<double>(tokens));
    series->batch_compute->Observe(absl::ToDoubleSeconds(compute));
  }

  void Watch(const Scheduler* scheduler, const ModelRepository* repository) {
    MutexLock lock(&mutex_);
    scheduler_ = scheduler;
    repository_ = repository;
  }

  void SetThreads(int threads, double cpu_quota) {
    MutexLock lock(&mutex_);
    threads_ = threads;
    cpu_quota_ = cpu_quota;
  }

  std::string Exposition() {
    std::vector<MetricFamily> families = CollectGauges();
    for (MetricFamily& family : registry_.Collect()) families.push_back(std::move(family));
    for (MetricFamily& family : security_.Collect()) families.push_back(std::move(family));
    for (MetricFamily& family : CollectProcessMetrics()) families.push_back(std::move(family));
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  static constexpr std::string_view kUnknown = "unknown";

  prometheus::Family<Histogram>& Histograms(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_);
  }

  /// Never moves once made: handles are used without the lock. Needs mutex_, as all below.
  ModelSeries& UseModel(std::string_view model) {
    const auto found = models_.find(model);
    if (found != models_.end()) return found->second;
    return models_[std::string(model)];
  }

  RequestSeries& UseRequest(std::string_view model, Method method, size_t outcome) {
    RequestSeries& series = UseModel(model).requests[static_cast<size_t>(method)];
    if (series.outcomes[outcome] != nullptr && (outcome != 0 || series.total != nullptr)) {
      return series;
    }
    const std::map<std::string, std::string> labels = {{"model", std::string(model)},
                                                       {"method", std::string(Name(method))}};
    std::map<std::string, std::string> with_outcome = labels;
    with_outcome["outcome"] = std::string(kOutcomes[outcome]);
    series.outcomes[outcome] = &requests_.Add(with_outcome);
    if (outcome == 0) {
      series.tokenize = &tokenize_.Add(labels, kSeconds);
      series.total = &total_.Add(labels, kSeconds);
      if (method != Method::kTokenize) {  // Which is neither queued nor computed.
        series.queue = &queue_.Add(labels, kSeconds);
        series.compute = &compute_.Add(labels, kSeconds);
      }
    }
    return series;
  }

  ModelSeries& UseBatch(std::string_view model) {
    ModelSeries& series = UseModel(model);
    if (series.batch_sequences == nullptr) {
      const std::map<std::string, std::string> labels = {{"model", std::string(model)}};
      series.batch_sequences = &batch_sequences_.Add(labels, PowersOfTwo(11));
      series.batch_tokens = &batch_tokens_.Add(labels, PowersOfTwo(17));
      series.batch_compute = &batch_compute_.Add(labels, kSeconds);
    }
    return series;
  }

  /// Which model an engine is of, learned from the repository when first seen. The weak pointer
  /// tells an engine from a later one at the same address. Null: not a served one (a warm-up).
  ModelSeries* FindEngine(const Engine& engine) {
    const auto found = engines_.find(&engine);
    if (found != engines_.end() && !found->second.engine.expired()) return found->second.series;
    if (repository_ == nullptr) return nullptr;
    std::erase_if(engines_, [](const auto& item) { return item.second.engine.expired(); });
    for (const auto& served : repository_->Ready()) {
      if (served->engine == nullptr) continue;
      engines_[served->engine.get()] = {served->engine, &UseBatch(served->name)};
    }
    const auto learned = engines_.find(&engine);
    return learned == engines_.end() ? nullptr : learned->second.series;
  }

  std::vector<MetricFamily> CollectGauges() {
    // The scheduler and the repository have locks of their own: asked without this one, they can
    // never wait for each other.
    int threads = 0;
    double cpu_quota = 0;
    const Scheduler* scheduler = nullptr;
    const ModelRepository* repository = nullptr;
    {
      MutexLock lock(&mutex_);
      threads = threads_;
      cpu_quota = cpu_quota_;
      scheduler = scheduler_;
      repository = repository_;
    }
    std::vector<MetricFamily> families;
    const BuildInfo& build = GetBuildInfo();
    families.push_back({"thresher_build_info",
                        "Always 1; the labels tell what runs.",
                        MetricType::Gauge,
                        {Sample({{"version", build.version},
                                 {"commit", build.commit},
                                 {"build_type", build.build_type},
                                 {"compiler", build.compiler}},
                                1)}});
    const auto add = [&families](std::string_view name, std::string_view help, double value) {
      families.push_back(SingleMetric(name, help, MetricType::Gauge, value));
    };
    add("thresher_threads", "Threads that compute.", threads);
    if (cpu_quota > 0) add("thresher_cpu_quota_cores", "The cgroup's CPU quota.", cpu_quota);
    if (scheduler != nullptr) {
      const Scheduler::Snapshot snapshot = scheduler->snapshot();
      add("thresher_queue_depth", "Sequences that wait.", snapshot.queued);
      add("thresher_queue_oldest_age_seconds", "How long the oldest has waited; 0 if none waits.",
          absl::ToDoubleSeconds(snapshot.oldest_age));
      add("thresher_running_sequences", "Sequences in the batch that runs.", snapshot.running);
      add("thresher_queue_pressure",
          "How near the queue is to refusing, in number or in time: 1 refuses.", snapshot.pressure);
    }
    if (repository != nullptr) {
      CollectModels(*repository, &families);
      if (const KvPool* pool = repository->kv_pool()) {
        for (MetricFamily& family : KvPoolMetrics(pool->snapshot())) {
          families.push_back(std::move(family));
        }
      }
    }
    return families;
  }

  void CollectModels(const ModelRepository& repository, std::vector<MetricFamily>* families) {
    MetricFamily ready{"thresher_model_ready",
                       "1 if the version can serve; absent once it was unloaded on purpose.",
                       MetricType::Gauge,
                       {}};
    for (const ModelIndexEntry& entry : repository.Index()) {
      if (!entry.wanted && entry.state != ModelState::kReady) continue;
      ready.metric.push_back(Sample({{"model", entry.name}, {"version", entry.version}},
                                    entry.state == ModelState::kReady ? 1 : 0));
    }
    MetricFamily bytes{
        "thresher_model_packed_bytes", "Memory of the packed weights.", MetricType::Gauge, {}};
    MetricFamily running{
        "thresher_running_texts", "Texts that are being read or generated.", MetricType::Gauge, {}};
    MetricFamily waiting{"thresher_waiting_texts",
                         "Texts that wait for their turn or for memory.",
                         MetricType::Gauge,
                         {}};
    MetricFamily profile{"thresher_quality_profile_active",
                         "1 while max_quality_loss is served by the version's profile, 0 once its "
                         "answers were found "
                         "to drift further from dense than it measured.",
                         MetricType::Gauge,
                         {}};
    for (const auto& served : repository.Ready()) {
      const ModelInfo& info = served->model->info;
      bytes.metric.push_back(Sample({{"model", served->name}, {"version", served->version}},
                                    static_cast<double>(info.packed_bytes)));
      if (served->profile_watch != nullptr) {
        profile.metric.push_back(Sample({{"model", served->name}, {"version", served->version}},
                                        served->profile_watch->failed() ? 0 : 1));
      }
      if (served->generator != nullptr) {
        const Generator::Snapshot texts = served->generator->snapshot();
        const auto add = [&](int32_t count, MetricFamily* family) {
          family->metric.push_back(
              Sample({{"model", served->name}, {"version", served->version}}, count));
        };
        add(texts.running, &running);
        add(texts.waiting, &waiting);
        generation_.Of(served->name);
      }
      // Series begin at 0 with the model's first scrape, so that rates see its first request.
      pruning_.Begin(served->name);
      MutexLock lock(&mutex_);
      if (served->engine != nullptr) UseBatch(served->name);
      for (const Method method : kMethods) {
        if (Answers(info.task, method)) UseRequest(served->name, method, /*outcome=*/0);
      }
    }
    for (MetricFamily* family : {&ready, &bytes, &running, &waiting, &profile}) {
      if (!family->metric.empty()) families->push_back(std::move(*family));
    }
  }

  struct EngineSeries {
    std::weak_ptr<const Engine> engine;
    ModelSeries* series = nullptr;
  };

  prometheus::Registry registry_;
  prometheus::Family<Histogram>& queue_ =
      Histograms("thresher_request_queue_seconds", "Time of an input from its arrival to compute.");
  prometheus::Family<Histogram>& tokenize_ =
      Histograms("thresher_request_tokenize_seconds", "Time to turn an input into tokens.");
  prometheus::Family<Histogram>& compute_ = Histograms(
      "thresher_request_compute_seconds", "Run of the batch in which an input was answered.");
  prometheus::Family<Histogram>& total_ = Histograms(
      "thresher_request_total_seconds", "Time of an input from the call's arrival to its answer.");
  prometheus::Family<Histogram>& batch_sequences_ =
      Histograms("thresher_batch_sequences", "Sequences in a batch.");
  prometheus::Family<Histogram>& batch_tokens_ =
      Histograms("thresher_batch_tokens", "Tokens in a batch.");
  prometheus::Family<Histogram>& batch_compute_ =
      Histograms("thresher_batch_compute_seconds", "Run of a batch.");
  prometheus::Family<Counter>& requests_ =
      prometheus::BuildCounter()
          .Name("thresher_requests_total")
          .Help("Inputs that came to an end, by how they ended.")
          .Register(registry_);

  PruningMetrics pruning_;
  SimulationMetrics simulation_;
  GenerationMetrics generation_;
  SecurityMetrics security_;

  Mutex mutex_;  // Held for a lookup; observing happens outside.
  std::map<std::string, ModelSeries, std::less<>> models_;
  std::map<const Engine*, EngineSeries> engines_;
  const Scheduler* scheduler_ = nullptr;
  const ModelRepository* repository_ = nullptr;
  int threads_ = 0;
  double cpu_quota_ = 0;
};

Metrics::Metrics(const MetricsOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Metrics::~Metrics() = default;

void Metrics::OnRequest(std::string_view model, Method method, const absl::Status& status,
                        const RequestTimes& times) {
  impl_->OnRequest(model, method, status, times);
}
ReportDetail Metrics::NextDetail(std::string_view model) {
  return impl_->pruning().NextDetail(model);
}
void Metrics::OnReport(std::string_view model, std::string_view policy,
                       const v1::PruningReport& report) {
  impl_->pruning().OnReport(model, policy, report);
  if (!report.simulation().preset().empty()) {
    impl_->simulation().OnSimulation(model, report.simulation());
  }
}
void Metrics::OnElastic(std::string_view model, double level) {
  impl_->pruning().OnElastic(model, level);
}
void Metrics::OnShadow(std::string_view model, ShadowOutcome outcome, double drift) {
  impl_->pruning().OnShadow(model, outcome, drift);
}
void Metrics::OnBatch(const Engine& engine, int32_t sequences, int64_t tokens, int64_t /*cost*/,
                      absl::Duration compute) {
  impl_->OnBatch(engine, sequences, tokens, compute);
}
TextSeries& Metrics::TextsOf(std::string_view model) { return impl_->generation().Of(model); }
SecurityMetrics& Metrics::security() { return impl_->security(); }
void Metrics::Watch(const Scheduler* scheduler, const ModelRepository* repository) {
  impl_->Watch(scheduler, repository);
}
void Metrics::SetThreads(int threads, double cpu_quota) { impl_->SetThreads(threads, cpu_quota); }
std::string Metrics::Exposition() { return impl_->Exposition(); }

}  // namespace thresher
