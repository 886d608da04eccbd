#include "backend/evaluation/calibration.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

absl::Status Check(const CalibrationOptions& options) {
  // Written so that NaN fails too.
  for (const double bound : options.bounds) {
    if (!(bound > 0 && bound <= 1)) {
      return InvalidArgument("max loss: {} is not in (0, 1]", bound);
    }
  }
  if (options.bounds.empty()) return InvalidArgument("max loss: no bound is given");
  if (!(options.confidence > 0.5 && options.confidence < 1)) {
    return InvalidArgument("confidence: {} is not between 0.5 and 1", options.confidence);
  }
  if (!(options.max_kl > 0)) return InvalidArgument("max kl: {} is not above 0", options.max_kl);
  if (!(options.max_cosine_drift > 0)) {
    return InvalidArgument("max cosine drift: {} is not above 0", options.max_cosine_drift);
  }
  if (options.ladders.empty()) return InvalidArgument("no policy to search");
  if (options.shares.empty()) return InvalidArgument("no shares to try");
  return absl::OkStatus();
}

/// The least number of examples with which the bound can be promised at all.
int64_t ExamplesNeeded(Measure measure, double bound, double confidence) {
  int64_t enough = 1;
  while (LeastLossUpperBound(measure, enough, confidence) > bound && enough < (int64_t{1} << 40)) {
    enough *= 2;
  }
  int64_t few = enough / 2;
  while (enough - few > 1) {
    const int64_t middle = few + (enough - few) / 2;
    (LeastLossUpperBound(measure, middle, confidence) > bound ? few : enough) = middle;
  }
  return enough;
}

/// The ladders share the error that is allowed.
double LadderConfidence(const CalibrationOptions& options) {
  return 1 - (1 - options.confidence) / static_cast<double>(options.ladders.size());
}

/// The walk of all bounds down all ladders.
class Search {
 public:
  Search(Runner& runner, Measure measure, const LabelledData& data,
         const CalibrationOptions& options, std::vector<double> bounds)
      : runner_(runner),
        measure_(measure),
        examples_(data.examples),
        options_(options),
        bounds_(std::move(bounds)),
        confidence_(LadderConfidence(options)) {}

  /// For each bound, the rungs that passed.
  absl::StatusOr<std::vector<std::vector<CalibrationStep>>> Walk(
      std::vector<CalibrationStep>* steps) {
    const double rung =
        1 / (phases() * static_cast<double>(options_.shares.size() * options_.ladders.size()));
    THRESHER_ASSIGN_OR_RETURN(Pass dense, Run("dense", 0, 0));
    dense_ = std::move(dense.answers);
    std::vector<std::vector<CalibrationStep>> passed(bounds_.size());
    for (size_t l = 0; l < options_.ladders.size(); ++l) {
      std::vector<bool> alive(bounds_.size(), true);
      for (size_t r = 0; r < options_.shares.size(); ++r) {
        if (std::ranges::count(alive, true) == 0) break;
        const std::string policy = options_.rung(options_.ladders[l], options_.shares[r]);
        const double rungs = static_cast<double>(options_.shares.size());
        const double done = (static_cast<double>(l) + static_cast<double>(r) / rungs) /
                            static_cast<double>(options_.ladders.size());
        auto pass = Run(policy, done / phases(), rung);
        if (absl::IsInvalidArgument(pass.status()) && r > 0) break;
        if (!pass.ok()) return pass.status();
        CalibrationStep step{policy, {}};
        THRESHER_ASSIGN_OR_RETURN(
            step.quality, MeasureQuality(measure_, examples_, dense_, pass->answers, confidence_));
        for (size_t b = 0; b < bounds_.size(); ++b) {
          alive[b] = alive[b] && Passes(step.quality, bounds_[b]);
          if (alive[b]) passed[b].push_back(step);
        }
        steps->push_back(std::move(step));
      }
    }
    return passed;
  }

  /// Speedup over dense of each policy.
  absl::StatusOr<std::map<std::string, double>> Time(const std::set<std::string>& policies) {
    std::map<std::string, double> seconds;
    const double part = 1 / (phases() * static_cast<double>(policies.size() + 1));
    for (int round = 0; round < rounds(); ++round) {
      double done = (1 + round) / phases();
      const auto time = [&](const std::string& policy) -> absl::Status {
        THRESHER_ASSIGN_OR_RETURN(const Pass pass, Run(policy, done, part));
        done += part;
        const auto [entry, first] = seconds.emplace(policy, pass.seconds);
        entry->second = std::min(entry->second, pass.seconds);
        return absl::OkStatus();
      };
      THRESHER_RETURN_IF_ERROR(time("dense"));
      for (const std::string& policy : policies) THRESHER_RETURN_IF_ERROR(time(policy));
    }
    const double dense = seconds.at("dense");
    for (auto& [policy, value] : seconds) value = dense / value;
    return seconds;
  }

 private:
  bool Passes(const Quality& quality, double bound) const {
    const bool drift_passes = measure_ == Measure::kAccuracy
                                  ? *quality.kl_upper <= options_.max_kl
                                  : *quality.cosine_drift_upper <= options_.max_cosine_drift;
    return quality.loss_upper <= bound && drift_passes;
  }

  int rounds() const { return std::max(options_.rounds, 1); }
  /// The walk, and each round of timing: for the progress, about equally long.
  double phases() const { return 1.0 + rounds(); }

  /// `done` and `part` are of everything: what came before this pass, and what it is.
  absl::StatusOr<Pass> Run(const std::string& policy, double done, double part) {
    const auto progress = [&](int64_t answered) {
      const double share = static_cast<double>(answered) / static_cast<double>(examples_.size());
      return !options_.progress || options_.progress(policy, std::min(done + part * share, 1.0));
    };
    auto pass = runner_.Run(policy, progress);
    if (pass.ok() || absl::IsCancelled(pass.status())) return pass;
    return Annotate(pass.status(), fmt::format("sparsity '{}'", policy));
  }

  Runner& runner_;
  const Measure measure_;
  const std::span<const LabelledExample> examples_;
  const CalibrationOptions& options_;
  const std::vector<double> bounds_;
  const double confidence_;
  std::vector<Answer> dense_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> LaddersOf(std::string_view policy) {
  if (HasShare(policy)) return std::vector<std::string>{std::string(policy)};
  // Head pruning alone shrinks two of a layer's products, token pruning all of them; so heads are
  // searched beside tokens.
  if (policy == "spatten") {
    return std::vector<std::string>{"spatten:final=*", "spatten:final=*,heads=*"};
  }
  if (policy == kElsaLadder) return std::vector<std::string>{std::string(kElsaLadder)};
  for (const std::string_view name : {"dota", "projection", "sofa", "principal"}) {
    if (policy == name) return std::vector<std::string>{fmt::format("{}:topk=*", name)};
  }
  if (policy == "sanger") return std::vector<std::string>{"sanger:threshold=~"};
  if (policy == "fact") return std::vector<std::string>{"fact:topk=*", "fact:topk=*,ffn=*"};
  if (policy == "powerbert") return std::vector<std::string>{"powerbert:final=*"};
  if (policy == "ltp") return std::vector<std::string>{"ltp:final=~"};
  if (policy == "tome") return std::vector<std::string>{"tome:final=*"};
  if (policy == "mnnfast") return std::vector<std::string>{"mnnfast:threshold=~"};
  return InvalidArgument(
      "policy '{}': nothing to search; say spatten, fact, powerbert, ltp, tome, mnnfast, sanger, "
      "elsa, dota, projection, sofa or principal, or "
      "write "
      "* for the share (~ for the threshold) that is searched: spatten:final=*,heads=0.75",
      policy);
}

std::vector<double> DefaultShares() {
  std::vector<double> shares;
  for (int twentieths = 19; twentieths > 0; --twentieths) shares.push_back(twentieths / 20.0);
  return shares;
}

absl::StatusOr<Calibration> Calibrate(Runner& runner, Measure measure, const LabelledData& data,
                                      const CalibrationOptions& options) {
  THRESHER_RETURN_IF_ERROR(Check(options));
  const auto n = static_cast<int64_t>(data.examples.size());
  Calibration calibration;
  v1::SparsityProfile& profile = calibration.profile;
  profile.set_metric(std::string(LossMetric(measure)));
  profile.set_confidence(options.confidence);
  if (measure == Measure::kAccuracy) {
    profile.set_max_kl(options.max_kl);
  } else {
    profile.set_max_cosine_drift(options.max_cosine_drift);
  }
  profile.set_n(n);
  profile.set_data(data.name);
  profile.set_data_sha256(data.sha256);

  const std::set<double> sorted(options.bounds.begin(), options.bounds.end());
  const double confidence = LadderConfidence(options);
  const double least = LeastLossUpperBound(measure, n, confidence);
  std::vector<double> bounds;
  for (const double bound : sorted) {
    if (bound >= least) {
      bounds.push_back(bound);
    } else {
      calibration.too_few.push_back({bound, least, ExamplesNeeded(measure, bound, confidence)});
    }
  }
  if (bounds.empty()) return calibration;

  Search search(runner, measure, data, options, bounds);
  THRESHER_ASSIGN_OR_RETURN(const auto passed, search.Walk(&calibration.steps));
  std::set<std::string> policies;
  for (const auto& rungs : passed) {
    for (const CalibrationStep& rung : rungs) policies.insert(rung.policy);
  }
  std::map<std::string, double> speedups;
  if (!policies.empty()) {
    THRESHER_ASSIGN_OR_RETURN(speedups, search.Time(policies));
  }
  for (size_t b = 0; b < bounds.size(); ++b) {
    v1::SparsityProfile::Entry& entry = *profile.add_entries();
    entry.set_max_loss(bounds[b]);
    entry.set_policy("dense");
    entry.set_speedup(1);
    for (const CalibrationStep& rung : passed[b]) {
      const double speedup = speedups.at(rung.policy);
      if (speedup <= entry.speedup()) continue;
      const Quality& quality = rung.quality;
      entry.set_policy(rung.policy);
      entry.set_loss(quality.loss);
      entry.set_loss_upper(quality.loss_upper);
      if (quality.kl) entry.set_kl(*quality.kl);
      if (quality.kl_upper) entry.set_kl_upper(*quality.kl_upper);
      if (quality.cosine_drift_upper) {
        entry.set_cosine_drift(1 - quality.cosine);
        entry.set_cosine_drift_upper(*quality.cosine_drift_upper);
      }
      entry.set_speedup(speedup);
    }
  }
  return calibration;
}

}  // namespace thresher
