#include "server/generation_metrics.h"

#include <algorithm>

#include "server/process_metrics.h"

namespace thresher {
namespace {

using prometheus::Counter;
using prometheus::Histogram;
using prometheus::MetricType;
using prometheus::Registry;

// Texts in one step.
const std::vector<double> kTexts = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

prometheus::Family<Counter>& Counters(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
prometheus::Family<Histogram>& Histograms(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

/// Done, and what dense would have besides.
void Count(const v1::PruningReport::Amount& amount, Counter& done, Counter& saved) {
  done.Increment(static_cast<double>(amount.done()));
  saved.Increment(static_cast<double>(std::max<int64_t>(amount.dense() - amount.done(), 0)));
}

}  // namespace

struct TextSeries::Families {
  Families(Registry& registry, const std::vector<double>& seconds_bounds)
      : seconds(seconds_bounds),
        first(Histograms(registry, "thresher_time_to_first_token_seconds",
                         "Time of a text from the call's arrival to its first generated token.")),
        next(Histograms(registry, "thresher_inter_token_latency_seconds",
                        "Time from one generated token of a text to the next, as they are handed "
                        "on.")),
        step_texts(Histograms(registry, "thresher_generation_step_texts",
                              "Texts that a step of generation mixes.")),
        step_seconds(Histograms(registry, "thresher_generation_step_seconds", "Run of a step.")),
        prompt(Counters(registry, "thresher_prompt_tokens_total",
                        "Tokens of the prompts of texts that came to their end.")),
        cached(Counters(registry, "thresher_cached_prompt_tokens_total",
                        "Those of them that were not run, since another text had left their keys "
                        "and values.")),
        generated(Counters(registry, "thresher_generated_tokens_total",
                           "Generated tokens of texts that came to their end.")),
        read(Counters(registry, "thresher_decode_kv_read_bytes_total",
                      "Bytes of K and V that decode steps read of the cache.")),
        spared(Counters(registry, "thresher_decode_kv_saved_bytes_total",
                        "Bytes of K and V that dense decode steps would have read besides.")),
        held(Counters(registry, "thresher_kv_held_bytes_total",
                      "Bytes of cache that texts held at their end, summed over texts.")),
        held_saved(Counters(registry, "thresher_kv_held_saved_bytes_total",
                            "Bytes of cache that dense texts would have held besides.")) {}

  const std::vector<double> seconds;
  prometheus::Family<Histogram>&first, &next, &step_texts, &step_seconds;
  prometheus::Family<Counter>&prompt, &cached, &generated, &read, &spared, &held, &held_saved;
};

TextSeries::TextSeries(Families& families, const std::string& model)
    : families_(families),
      model_(model),
      first_(families.first.Add({{"model", model}}, families.seconds)),
      next_(families.next.Add({{"model", model}}, families.seconds)),
      step_texts_(families.step_texts.Add({{"model", model}}, kTexts)),
      step_seconds_(families.step_seconds.Add({{"model", model}}, families.seconds)),
      prompt_(families.prompt.Add({{"model", model}})),
      cached_(families.cached.Add({{"model", model}})),
      generated_(families.generated.Add({{"model", model}})) {
  MutexLock lock(&mutex_);
  UsePolicy("dense");
}

void TextSeries::OnStep(int32_t texts, int32_t /*decode_tokens*/, int32_t /*prompt_tokens*/,
                        absl::Duration compute) {
  step_texts_.Observe(texts);
  step_seconds_.Observe(absl::ToDoubleSeconds(compute));
}

void TextSeries::OnFirstToken(absl::Duration time) { first_.Observe(absl::ToDoubleSeconds(time)); }
void TextSeries::OnNextToken(absl::Duration time) { next_.Observe(absl::ToDoubleSeconds(time)); }

void TextSeries::OnEnd(const GenerationResult& result, std::string_view policy) {
  prompt_.Increment(result.prompt_tokens);
  cached_.Increment(result.cached_prompt_tokens);
  generated_.Increment(result.generated_tokens);
  MutexLock lock(&mutex_);
  const PolicySeries& series = UsePolicy(policy);
  Count(result.report.decode().bytes(), *series.read, *series.spared);
  Count(result.report.kv_held(), *series.held, *series.held_saved);
}

TextSeries::PolicySeries& TextSeries::UsePolicy(std::string_view policy) {
  const auto found = policies_.find(policy);
  if (found != policies_.end()) return found->second;
  const std::map<std::string, std::string> labels = {{"model", model_},
                                                     {"policy", std::string(policy)}};
  return policies_
      .emplace(std::string(policy),
               PolicySeries{&families_.read.Add(labels), &families_.spared.Add(labels),
                            &families_.held.Add(labels), &families_.held_saved.Add(labels)})
      .first->second;
}

GenerationMetrics::GenerationMetrics(Registry& registry, const std::vector<double>& seconds)
    : families_(std::make_unique<TextSeries::Families>(registry, seconds)) {}
GenerationMetrics::~GenerationMetrics() = default;

TextSeries& GenerationMetrics::Of(std::string_view model) {
  MutexLock lock(&mutex_);
  const auto found = models_.find(model);
  if (found != models_.end()) return *found->second;
  const std::string name(model);
  std::unique_ptr<TextSeries> series(new TextSeries(*families_, name));
  return *models_.emplace(name, std::move(series)).first->second;
}

std::vector<prometheus::MetricFamily> KvPoolMetrics(const KvPool::Snapshot& pool) {
  std::vector<prometheus::MetricFamily> families;
  const auto gauge = [&](const char* name, const char* help, size_t bytes) {
    families.push_back(SingleMetric(name, help, MetricType::Gauge, static_cast<double>(bytes)));
  };
  const auto counter = [&](const char* name, const char* help, int64_t count) {
    families.push_back(SingleMetric(name, help, MetricType::Counter, static_cast<double>(count)));
  };
  gauge("thresher_kv_cache_limit_bytes", "The most that KV caches may take.", pool.limit);
  gauge("thresher_kv_cache_used_bytes", "In pages that texts hold.", pool.used);
  gauge("thresher_kv_cache_reserved_bytes", "Kept beyond that for what running texts may need.",
        pool.reserved);
  gauge("thresher_kv_cache_idle_bytes",
        "In pages that no text holds, left for prompts that begin alike; given up when wanted.",
        pool.idle);
  counter("thresher_prefix_cache_hits_total", "Pages of prompts that another text had left.",
          pool.prefix_hits);
  counter("thresher_prefix_cache_misses_total", "Pages of prompts that none had left.",
          pool.prefix_misses);
  return families;
}

}  // namespace thresher
