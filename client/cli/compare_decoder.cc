// What `compare` measures of a decoder: windows of a text, as `evaluate` does.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <utility>

#include "backend/engine/sampler.h"
#include "backend/evaluation/candidate_recall.h"
#include "backend/evaluation/perplexity.h"
#include "backend/model/files.h"
#include "backend/sparsity/comparison.h"
#include "backend/sparsity/confidence.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"
#include "client/cli/comparison.h"

namespace thresher::cli {
namespace {

constexpr size_t kMaxTextBytes = size_t{16} << 20;
// Windows that settings are found on, and that recall is counted on.
constexpr size_t kSample = 4;
// Logits of dense that are held to measure drift against: 256 MB.
constexpr size_t kMostLogits = size_t{64} << 20;

using Windows = std::vector<std::vector<int32_t>>;

/// The next tokens of a text under a policy, against dense's.
class Drift {
 public:
  explicit Drift(const Windows& windows) : windows_(windows), dense_(windows.size()) {}

  /// Of dense, which is heard first.
  void AddDense(size_t window, size_t token, std::span<const float> logits) {
    if (held_ + logits.size() > kMostLogits) return;
    held_ += logits.size();
    dense_[window].resize(windows_[window].size());
    dense_[window][token].assign(logits.begin(), logits.end());
  }

  void Start() {
    kl_ = agreed_ = 0;
    compared_ = 0;
    losses_.assign(windows_.size(), {});
  }
  void Add(size_t window, size_t token, std::span<const float> logits) {
    if (dense_[window].empty() || dense_[window][token].empty()) return;
    const std::vector<float>& dense = dense_[window][token];
    const int32_t next = windows_[window][token];
    losses_[window].sum += LogProbability(dense, next) - LogProbability(logits, next);
    ++losses_[window].tokens;
    kl_ += KlDivergence(dense, logits);
    agreed_ += std::ranges::max_element(dense) - dense.begin() ==
                       std::ranges::max_element(logits) - logits.begin()
                   ? 1
                   : 0;
    ++compared_;
  }

  void Fill(ComparedPolicy* policy) const {
    const auto n = static_cast<double>(std::max<int64_t>(compared_, 1));
    policy->drift = kl_ / n;
    policy->agreement = agreed_ / n;
    std::vector<double> means;  // Tokens of a window belong together.
    for (const auto& [sum, tokens] : losses_) {
      if (tokens > 0) means.push_back(sum / tokens);
    }
    policy->loss_upper = MeanUpperBound(means, 0.95);
  }

 private:
  struct Loss {
    double sum = 0;
    double tokens = 0;
  };

  const Windows& windows_;
  size_t held_ = 0;
  std::vector<std::vector<std::vector<float>>> dense_;  // [window][token]; empty: not held.
  double kl_ = 0, agreed_ = 0;
  int64_t compared_ = 0;
  std::vector<Loss> losses_;  // Beyond dense's, by window.
};

class DecoderSubject final : public ComparisonSubject {
 public:
  DecoderSubject(std::shared_ptr<LoadedModel> model, const ComparisonOptions& options)
      : model_(std::move(model)), options_(options) {}

  absl::Status Init(Comparison* comparison) {
    THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(options_.data.path, kMaxTextBytes));
    auto windows = CutWindows(*model_->tokenizer, *model_->decoder, text,
                              {.tokens = options_.text.window,
                               .document = options_.text.document,
                               .limit = options_.data.limit});
    if (!windows.ok()) return Annotate(windows.status(), options_.data.path);
    windows_ = *std::move(windows);
    // A prompt that some policies evict from, and as much after it.
    size_t longest = 0;
    for (const auto& window : windows_) longest = std::max(longest, window.size());
    prompt_ = options_.text.prompt > 0 ? options_.text.prompt : static_cast<int32_t>(longest / 2);
    std::erase_if(windows_, [&](const auto& window) {
      return static_cast<int64_t>(window.size()) <= prompt_ + 1;
    });
    if (windows_.empty()) {
      return InvalidArgument("{}: no window is longer than --prompt-tokens {}", options_.data.path,
                             prompt_);
    }
    comparison->data = std::filesystem::path(options_.data.path).filename().string();
    comparison->metric = "perplexity";
    for (const auto& window : windows_) {
      comparison->examples += static_cast<int64_t>(window.size()) - prompt_;
    }
    return absl::OkStatus();
  }

  absl::Status CheckPolicy(const std::string& policy) const override {
    return model_->decoder->ParsePolicy(policy).status();
  }

  absl::StatusOr<double> WorkLeft(const std::string& policy) override {
    THRESHER_ASSIGN_OR_RETURN(const PerplexityResult result,
                              Run(*model_->decoder, Sample(kSample), policy, {}));
    return std::min(1.0, KeepRatio(result.decode.bytes()));
  }

  absl::Status Measure(Comparison* comparison) override {
    std::vector<ComparedPolicy*> measured;
    for (ComparedPolicy& policy : comparison->policies) {
      if (policy.measured()) measured.push_back(&policy);
    }
    Drift drift(windows_);
    std::vector<double> seconds(measured.size(), std::numeric_limits<double>::infinity());
    double dense_loss = 0;
    const double runs = static_cast<double>(measured.size()) * (options_.rounds + 1);
    double run = 0;
    // The first round, which is not timed, hears the answers.
    for (int round = 0; round <= options_.rounds; ++round) {
      for (size_t i = 0; i < measured.size(); ++i) {
        ComparedPolicy& policy = *measured[i];
        if (options_.progress && !options_.progress("of quality and speed", run++ / runs)) {
          return Cancelled("stopped");
        }
        PerplexityOptions hears;
        if (round == 0) {
          drift.Start();
          hears.on_logits = [&](size_t window, size_t token, std::span<const float> logits) {
            if (i == 0) drift.AddDense(window, token, logits);
            drift.Add(window, token, logits);
          };
        }
        auto result = Run(*model_->decoder, windows_, policy.sparsity, std::move(hears));
        if (!result.ok()) return Annotate(result.status(), policy.sparsity);
        if (round > 0) {
          seconds[i] = std::min(seconds[i], result->seconds);
          continue;
        }
        if (i == 0) dense_loss = result->loss;
        drift.Fill(&policy);
        Fill(*result, dense_loss, &policy);
      }
    }
    for (size_t i = 0; i < measured.size(); ++i) measured[i]->speedup = seconds[0] / seconds[i];
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<double>> Recall(const std::string& policy) override {
    THRESHER_ASSIGN_OR_RETURN(auto device, CreateDevice(options_.local.device, {}));
    RecallCount count;
    LoadOptions load;
    load.precision = model_->info.precision;
    THRESHER_ASSIGN_OR_RETURN(
        const auto watched,
        LoadModel(options_.directory, WatchReads(std::move(device), &count), load));
    THRESHER_RETURN_IF_ERROR(Run(*watched->decoder, Sample(kSample), policy, {}).status());
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
    THRESHER_ASSIGN_OR_RETURN(const PerplexityResult result,
                              Run(*simulated->decoder, Sample(1), policy, {.batch = 1}));
    return result.simulation;
  }

 private:
  std::span<const std::vector<int32_t>> Sample(size_t count) const {
    return std::span(windows_).first(std::min(windows_.size(), count));
  }

  absl::StatusOr<PerplexityResult> Run(DecoderEngine& engine,
                                       std::span<const std::vector<int32_t>> windows,
                                       const std::string& policy, PerplexityOptions run) const {
    run.prompt = prompt_;
    return MeasurePerplexity(engine, windows, policy, run);
  }

  void Fill(const PerplexityResult& result, double dense_loss, ComparedPolicy* policy) const {
    policy->saved = 1.0 - KeepRatio(result.decode.bytes());
    policy->metric = std::exp(result.loss);
    policy->loss = result.loss - dense_loss;
    policy->predicted = static_cast<double>(result.decode.predicted_scores()) /
                        static_cast<double>(std::max<int64_t>(1, result.decode.scores().dense()));
  }

  const std::shared_ptr<LoadedModel> model_;
  const ComparisonOptions& options_;
  int32_t prompt_ = 1;
  Windows windows_;
  std::map<std::string, std::shared_ptr<LoadedModel>> simulated_;  // By preset.
};

}  // namespace

absl::StatusOr<std::unique_ptr<ComparisonSubject>> MakeDecoderSubject(
    std::shared_ptr<LoadedModel> model, const ComparisonOptions& options, Comparison* comparison) {
  auto subject = std::make_unique<DecoderSubject>(std::move(model), options);
  THRESHER_RETURN_IF_ERROR(subject->Init(comparison));
  return subject;
}

}  // namespace thresher::cli
