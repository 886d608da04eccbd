#include "server/pruning_metrics.h"

#include <algorithm>

namespace thresher {
namespace {

using prometheus::Counter;
using prometheus::Histogram;
using v1::PruningReport;

/// Of shares; most sequences lie at 1, many of the others below one half.
const std::vector<double> kShares = {0.02, 0.05, 0.1,  0.15, 0.2,  0.25, 0.3,
                                     0.35, 0.4,  0.45, 0.5,  0.55, 0.6,  0.65,
                                     0.7,  0.75, 0.8,  0.85, 0.9,  0.95, 1.0};
/// Nats: a uniform row over T keys has ln T, which is 6.2 for 512 keys and 9.0 for 8192.
const std::vector<double> kNats = {0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25,
                                   2.5, 2.75, 3.0, 3.5,  4.0, 4.5,  5.0, 6.0,  7.0, 9.0};
/// Nats of a small divergence, or 1 - cosine.
const std::vector<double> kDrifts = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.05,
                                     0.1,    0.2,    0.5,   1.0,   2.0,  5.0};
/// In the order of ShadowOutcome.
constexpr std::array kShadowOutcomes = {"agreed", "disagreed", "skipped", "failed"};

double Skipped(const PruningReport::Amount& amount) {
  return static_cast<double>(std::max<int64_t>(amount.dense() - amount.done(), 0));
}

}  // namespace

PruningMetrics::PruningMetrics(const MetricsOptions& options, prometheus::Registry& registry)
    : options_(options),
      registry_(registry),
      keep_(Histograms("thresher_keep_ratio",
                       "Work done over dense work of each answered sequence, by kind of work: "
                       "values and scores are what the policy reads, not what this device "
                       "executed.")),
      done_(Counters("thresher_operations_done_total",
                     "Operations done, by kind of work: values and scores are what the policy "
                     "reads, not what this device executed.")),
      skipped_(Counters("thresher_operations_skipped_total",
                        "Operations that dense would have done and the policy left out.")),
      bytes_fetched_(
          Counters("thresher_kv_fetched_bytes_total",
                   "Bytes of K and V that the policy reads, not what this device fetched.")),
      bytes_saved_(Counters("thresher_kv_saved_bytes_total",
                            "Bytes of K and V that dense would have read besides.")),
      softmax_rows_(Counters("thresher_softmax_rows_total",
                             "Rows of attention probabilities, over heads and queries.")),
      refetched_rows_(
          Counters("thresher_refetched_rows_total", "Softmax rows made again from all bits of K.")),
      predicted_rows_(Counters("thresher_predicted_rows_total",
                               "Rows of Q and K that were predicted besides, over heads; dense has "
                               "none.")),
      predicted_scores_(
          Counters("thresher_predicted_scores_total",
                   "Scores that were predicted besides, over heads; dense has none.")),
      predicted_outputs_(Counters("thresher_predicted_outputs_total",
                                  "Outputs of feed-forward networks' first products that were "
                                  "predicted besides; dense has none.")),
      entropy_(Histograms("thresher_attention_entropy_nats",
                          "Mean entropy of the softmax rows of each measured sequence.")),
      sink_share_(Histograms("thresher_attention_sink_share",
                             "Mean probability of the first token over the softmax rows of each "
                             "measured sequence.")),
      sink_heads_(Histograms("thresher_attention_sink_heads_share",
                             "Share of heads, over layers, that give the first token more than "
                             "0.3 in the mean, of each measured sequence.")),
      collapsed_heads_(Histograms("thresher_attention_collapsed_heads_share",
                                  "Share of heads, over layers, whose entropy is at most a quarter "
                                  "of the largest head's, of each measured sequence.")),
      overloaded_heads_(Histograms("thresher_attention_overloaded_heads_share",
                                   "Share of heads, over layers, whose entropy is above three "
                                   "quarters of the largest head's, of each measured sequence.")),
      elastic_(Histograms("thresher_elastic_level",
                          "Share of its allowed quality loss that each call was given, under "
                          "--elastic: 0 is dense.")),
      shadow_(Counters("thresher_shadow_checks_total",
                       "Pruned answers that were to be checked against dense ones, by what came of "
                       "it: agreed, disagreed, skipped (the queue was too full), failed.")),
      drift_(Histograms("thresher_shadow_drift",
                        "Drift from dense of each checked answer: KL divergence in nats, of "
                        "embeddings 1 - cosine.")) {
  if (!options.per_layer) return;
  layer_done_ = &Counters("thresher_layer_operations_done_total",
                          "Operations done, by kind of work and layer.");
  layer_skipped_ = &Counters("thresher_layer_operations_skipped_total",
                             "Operations left out, by kind of work and layer.");
}

prometheus::Family<Counter>& PruningMetrics::Counters(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_);
}

prometheus::Family<Histogram>& PruningMetrics::Histograms(const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_);
}

ReportDetail PruningMetrics::NextDetail(std::string_view model) {
  ReportDetail detail{.layers = options_.per_layer};
  if (options_.attention_every > 0) {
    MutexLock lock(&mutex_);
    detail.distribution = UseModel(model).sequences++ % options_.attention_every == 0;
  }
  return detail;
}

void PruningMetrics::OnReport(std::string_view model, std::string_view policy,
                              const PruningReport& report) {
  if (!report.has_total()) return;
  const size_t layers = options_.per_layer ? static_cast<size_t>(report.layers_size()) : 0;
  const auto count = [](const PruningReport::Amount& amount, const Operations& operations) {
    operations.done->Increment(static_cast<double>(amount.done()));
    operations.skipped->Increment(Skipped(amount));
  };
  MutexLock lock(&mutex_);
  PolicySeries& series = UsePolicy(model, policy, layers);
  const PruningReport::Work& total = report.total();
  for (size_t kind = 0; kind < kKinds; ++kind) {
    const auto amount = kKindsOfWork[kind].amount;
    series.keep[kind]->Observe(KeepRatio((total.*amount)()));
    count((total.*amount)(), series.operations[kind]);
    for (size_t l = 0; l < layers; ++l) {
      count((report.layers(static_cast<int>(l)).*amount)(), series.layers[l][kind]);
    }
  }
  count(total.bytes(), series.bytes);
  series.softmax_rows->Increment(static_cast<double>(total.softmax_rows()));
  series.refetched_rows->Increment(static_cast<double>(total.refetched_rows()));
  series.predicted_rows->Increment(static_cast<double>(total.predicted_rows()));
  series.predicted_scores->Increment(static_cast<double>(total.predicted_scores()));
  series.predicted_outputs->Increment(static_cast<double>(total.predicted_outputs()));
  if (!report.has_attention_entropy()) return;
  ModelSeries& measured = UseModel(model);
  measured.entropy->Observe(report.attention_entropy());
  measured.collapsed_heads->Observe(report.collapsed_heads());
  measured.overloaded_heads->Observe(report.overloaded_heads());
  if (!report.has_sink_share()) return;
  measured.sink_share->Observe(report.sink_share());
  measured.sink_heads->Observe(report.sink_heads());
}

void PruningMetrics::OnShadow(std::string_view model, ShadowOutcome outcome, double drift) {
  MutexLock lock(&mutex_);
  ModelSeries& series = UseModel(model);
  if (series.drift == nullptr) {
    const Labels labels = {{"model", std::string(model)}};
    series.drift = &drift_.Add(labels, kDrifts);
    for (size_t i = 0; i < kShadowOutcomes.size(); ++i) {
      Labels with_outcome = labels;
      with_outcome["outcome"] = kShadowOutcomes[i];
      series.shadow[i] = &shadow_.Add(with_outcome);
    }
  }
  series.shadow[static_cast<size_t>(outcome)]->Increment();
  if (outcome == ShadowOutcome::kAgreed || outcome == ShadowOutcome::kDisagreed) {
    series.drift->Observe(drift);
  }
}

void PruningMetrics::OnElastic(std::string_view model, double level) {
  MutexLock lock(&mutex_);
  ModelSeries& series = UseModel(model);
  if (series.elastic == nullptr) {
    series.elastic = &elastic_.Add({{"model", std::string(model)}}, kShares);
  }
  series.elastic->Observe(level);
}

void PruningMetrics::Begin(std::string_view model) {
  MutexLock lock(&mutex_);
  UsePolicy(model, "dense", 0);
}

PruningMetrics::ModelSeries& PruningMetrics::UseModel(std::string_view model) {
  const auto found = models_.find(model);
  if (found != models_.end()) return found->second;
  ModelSeries& series = models_[std::string(model)];
  const Labels labels = {{"model", std::string(model)}};
  series.entropy = &entropy_.Add(labels, kNats);
  series.sink_share = &sink_share_.Add(labels, kShares);
  series.sink_heads = &sink_heads_.Add(labels, kShares);
  series.collapsed_heads = &collapsed_heads_.Add(labels, kShares);
  series.overloaded_heads = &overloaded_heads_.Add(labels, kShares);
  return series;
}

PruningMetrics::PolicySeries& PruningMetrics::UsePolicy(std::string_view model,
                                                        std::string_view policy, size_t layers) {
  auto& policies = UseModel(model).policies;
  const Labels labels = {{"model", std::string(model)}, {"policy", std::string(policy)}};
  auto found = policies.find(policy);
  if (found == policies.end()) {
    found = policies.emplace(std::string(policy), PolicySeries()).first;
    PolicySeries& series = found->second;
    series.bytes = {&bytes_fetched_.Add(labels), &bytes_saved_.Add(labels)};
    series.softmax_rows = &softmax_rows_.Add(labels);
    series.refetched_rows = &refetched_rows_.Add(labels);
    series.predicted_rows = &predicted_rows_.Add(labels);
    series.predicted_scores = &predicted_scores_.Add(labels);
    series.predicted_outputs = &predicted_outputs_.Add(labels);
    for (size_t kind = 0; kind < kKinds; ++kind) {
      Labels with_kind = labels;
      with_kind["kind"] = std::string(kKindsOfWork[kind].name);
      series.keep[kind] = &keep_.Add(with_kind, kShares);
      series.operations[kind] = {&done_.Add(with_kind), &skipped_.Add(with_kind)};
    }
  }
  PolicySeries& series = found->second;
  for (size_t l = series.layers.size(); l < layers; ++l) {
    auto& layer = series.layers.emplace_back();
    for (size_t kind = 0; kind < kKinds; ++kind) {
      Labels with_layer = labels;
      with_layer["kind"] = std::string(kKindsOfWork[kind].name);
      with_layer["layer"] = std::to_string(l);
      layer[kind] = {&layer_done_->Add(with_layer), &layer_skipped_->Add(with_layer)};
    }
  }
  return series;
}

}  // namespace thresher
