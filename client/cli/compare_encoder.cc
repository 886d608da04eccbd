// What `compare` measures of an encoder: labelled examples, as `evaluate` does.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "backend/device/simulator/simulation.h"
#include "backend/evaluation/candidate_recall.h"
#include "backend/evaluation/engine_runner.h"
#include "backend/evaluation/sweep.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"
#include "client/cli/comparison.h"

namespace thresher::cli {
namespace {

// Examples that settings are found on, and that recall is counted on.
constexpr int64_t kSample = 100;

/// Of scores and V rows, which cost the same.
double AttentionLeft(const v1::PruningReport::Work& work) {
  const int64_t dense = work.scores().dense() + work.values().dense();
  if (dense == 0) return 1.0;
  return static_cast<double>(work.scores().done() + work.values().done()) /
         static_cast<double>(dense);
}

class EncoderSubject final : public ComparisonSubject {
 public:
  EncoderSubject(std::shared_ptr<LoadedModel> model, const ComparisonOptions& options)
      : model_(std::move(model)), options_(options) {}

  absl::Status Init(Comparison* comparison) {
    if (options_.data.measure) {
      measure_ = *options_.data.measure;
    } else {
      THRESHER_ASSIGN_OR_RETURN(measure_, MeasureOf(model_->info));
    }
    THRESHER_ASSIGN_OR_RETURN(data_, ReadData(options_.data, measure_, model_->info.labels));
    THRESHER_ASSIGN_OR_RETURN(runner_, EngineRunner::Create(model_, measure_, data_.examples));
    LabelledData sample = data_;
    sample.Limit(kSample);
    THRESHER_ASSIGN_OR_RETURN(sample_, EngineRunner::Create(model_, measure_, sample.examples));
    comparison->data = data_.name;
    comparison->metric = LossMetric(measure_);
    comparison->examples = static_cast<int64_t>(data_.examples.size());
    return absl::OkStatus();
  }

  absl::Status CheckPolicy(const std::string& policy) const override {
    return model_->engine->ParsePolicy(policy).status();
  }

  absl::StatusOr<double> WorkLeft(const std::string& policy) override {
    THRESHER_ASSIGN_OR_RETURN(const Pass pass, sample_->Run(policy, nullptr));
    return AttentionLeft(pass.work);
  }

  absl::Status Measure(Comparison* comparison) override {
    std::vector<std::string> policies;  // Each once.
    for (const ComparedPolicy& policy : comparison->policies) {
      if (policy.measured() && std::ranges::count(policies, policy.sparsity) == 0) {
        policies.push_back(policy.sparsity);
      }
    }
    SweepOptions sweep;
    sweep.rounds = options_.rounds;
    sweep.progress = [&](double passes, int64_t total) {
      return !options_.progress ||
             options_.progress("of quality and speed", passes / static_cast<double>(total));
    };
    THRESHER_ASSIGN_OR_RETURN(const std::vector<PolicyResult> results,
                              thresher::Sweep(*runner_, measure_, data_.examples, policies, sweep));
    for (ComparedPolicy& policy : comparison->policies) {
      if (!policy.measured()) continue;
      Fill(*std::ranges::find(results, policy.sparsity, &PolicyResult::sparsity), &policy);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<double>> Recall(const std::string& policy) override {
    THRESHER_ASSIGN_OR_RETURN(const auto parsed, model_->engine->ParsePolicy(policy));
    RecallCount count;
    THRESHER_RETURN_IF_ERROR(
        sample_->Run(WatchCandidates(parsed, model_->info.heads, &count), nullptr).status());
    return count.recall();
  }

  absl::StatusOr<v1::Simulation> Simulate(const std::string& preset,
                                          const std::string& policy) override {
    auto& simulated = simulated_[preset];
    if (simulated == nullptr) {
      LocalModelFlags local = options_.local;
      local.device = fmt::format("sim:{}@{}", preset, local.device);
      THRESHER_ASSIGN_OR_RETURN(simulated, LoadLocalModel(options_.directory, local));
    }
    THRESHER_ASSIGN_OR_RETURN(const auto parsed, simulated->engine->ParsePolicy(policy));
    v1::Simulation total;
    const std::span<const Sequence> sequences = sample_->sequences();
    for (Sequence sequence :
         sequences.first(std::min(sequences.size(), static_cast<size_t>(options_.simulated)))) {
      sequence.policy = parsed;
      const Sequence* const one[] = {&sequence};
      SequenceOutput output[1];
      THRESHER_RETURN_IF_ERROR(simulated->engine->Run(one, output));
      THRESHER_RETURN_IF_ERROR(output[0].status);
      AddSimulation(output[0].report.simulation(), &total);
    }
    return total;
  }

 private:
  void Fill(const PolicyResult& result, ComparedPolicy* policy) const {
    const Quality& quality = result.quality;
    policy->saved = 1.0 - AttentionLeft(result.work);
    policy->metric = quality.accuracy ? *quality.accuracy : quality.spearman.value_or(0);
    policy->loss = quality.loss;
    policy->loss_upper = quality.loss_upper;
    policy->drift = quality.kl ? *quality.kl : 1.0 - quality.cosine;
    policy->agreement = quality.agreement;
    policy->speedup = result.speedup;
    policy->predicted = static_cast<double>(result.work.predicted_scores()) /
                        static_cast<double>(std::max<int64_t>(1, result.work.scores().dense()));
    const auto parsed = model_->engine->ParsePolicy(policy->sparsity);
    if (parsed.ok() && (*parsed)->prediction().wanted()) {
      policy->predicted_bits = (*parsed)->prediction().kind == PredictionKind::kSignHash
                                   ? 1
                                   : (*parsed)->prediction().bits;
    }
  }

  const std::shared_ptr<LoadedModel> model_;
  const ComparisonOptions& options_;
  thresher::Measure measure_ = thresher::Measure::kAccuracy;
  LabelledData data_;
  std::unique_ptr<EngineRunner> runner_, sample_;
  std::map<std::string, std::shared_ptr<LoadedModel>> simulated_;  // By preset.
};

}  // namespace

absl::StatusOr<std::unique_ptr<ComparisonSubject>> MakeEncoderSubject(
    std::shared_ptr<LoadedModel> model, const ComparisonOptions& options, Comparison* comparison) {
  auto subject = std::make_unique<EncoderSubject>(std::move(model), options);
  THRESHER_RETURN_IF_ERROR(subject->Init(comparison));
  return subject;
}

}  // namespace thresher::cli
