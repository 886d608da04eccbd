#include "client/cli/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "backend/device/simulator/accelerator.h"
#include "backend/device/simulator/presets.h"
#include "backend/engine/layer_pricing.h"
#include "backend/evaluation/matched_work.h"
#include "backend/tensor/status.h"

namespace thresher::cli {
namespace {

// How near to its target a setting's work has to come.
constexpr double kTolerance = 0.01;
constexpr std::string_view kControlSource = "control";

std::string PolicyText(const Contender& contender, const std::string& keys) {
  return fmt::format("{}:{}{}{}", contender.spec->name, keys, contender.more.empty() ? "" : ",",
                     contender.more);
}

/// The setting of one policy at one target.
absl::StatusOr<ComparedPolicy> FindSetting(const Contender& contender, double target,
                                           ComparisonSubject& subject) {
  ComparedPolicy compared{.name = contender.name, .control = contender.control, .target = target};
  const PolicyKnob& knob = contender.spec->knob;
  const std::string most = PolicyText(contender, WithNumber(knob.keys, knob.most));
  if (const absl::Status status = subject.CheckPolicy(most); !status.ok()) {
    compared.why_not = Message(status);
    return compared;
  }
  THRESHER_ASSIGN_OR_RETURN(const MatchedWork found,
                            MatchWork(knob, 1.0 - target, kTolerance, [&](const std::string& keys) {
                              return subject.WorkLeft(PolicyText(contender, keys));
                            }));
  compared.sparsity = PolicyText(contender, found.keys);
  compared.reached = found.reached;
  return compared;
}

/// Every accelerator that has hardware for some policy, and for which.
struct Hardware {
  std::string preset;
  std::vector<std::string> policies;
};
absl::StatusOr<std::vector<Hardware>> KnownHardware() {
  std::vector<Hardware> all;
  for (const std::string& name : PresetNames()) {
    THRESHER_ASSIGN_OR_RETURN(const v1::Preset preset, FindPreset(name));
    THRESHER_ASSIGN_OR_RETURN(const auto accelerator, CreateAccelerator(preset));
    const auto known = accelerator->policies();
    all.push_back({name, {known.begin(), known.end()}});
  }
  return all;
}

std::string_view SpecName(const ComparedPolicy& policy) {
  return std::string_view(policy.sparsity).substr(0, policy.sparsity.find(':'));
}

class Work {
 public:
  Work(const ComparisonOptions& options, ComparisonSubject& subject, Comparison* comparison)
      : options_(options), subject_(subject), comparison_(*comparison) {}

  absl::Status Run() {
    THRESHER_RETURN_IF_ERROR(FindSettings());
    THRESHER_RETURN_IF_ERROR(subject_.Measure(&comparison_));
    THRESHER_RETURN_IF_ERROR(CountRecall());
    return options_.simulated > 0 ? Simulate() : absl::OkStatus();
  }

 private:
  absl::Status Tell(const std::string& what, size_t done, size_t all) const {
    const double share = static_cast<double>(done) / static_cast<double>(std::max<size_t>(all, 1));
    if (options_.progress && !options_.progress(what, share)) return Cancelled("stopped");
    return absl::OkStatus();
  }

  absl::Status FindSettings() {
    const std::vector<Contender> contenders = Contenders(comparison_.decoder);
    const size_t all = contenders.size() * comparison_.targets.size();
    comparison_.policies = {{.name = "dense", .sparsity = "dense"}};
    for (const double target : comparison_.targets) {
      for (const Contender& contender : contenders) {
        THRESHER_RETURN_IF_ERROR(Tell(fmt::format("of the settings, {}", contender.name),
                                      comparison_.policies.size() - 1, all));
        auto found = FindSetting(contender, target, subject_);
        if (!found.ok()) return Annotate(found.status(), contender.name);
        comparison_.policies.push_back(*std::move(found));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CountRecall() {
    for (ComparedPolicy& policy : comparison_.policies) {
      if (!policy.measured() || policy.target == 0) continue;
      const auto done = static_cast<size_t>(&policy - comparison_.policies.data());
      THRESHER_RETURN_IF_ERROR(
          Tell(fmt::format("of recall, {}", policy.name), done, comparison_.policies.size()));
      THRESHER_ASSIGN_OR_RETURN(policy.recall, subject_.Recall(policy.sparsity));
    }
    return absl::OkStatus();
  }

  absl::Status Simulate() {
    THRESHER_ASSIGN_OR_RETURN(const std::vector<Hardware> hardware, KnownHardware());
    for (size_t h = 0; h < hardware.size(); ++h) {
      THRESHER_RETURN_IF_ERROR(
          Tell(fmt::format("of accelerators, {}", hardware[h].preset), h, hardware.size()));
      THRESHER_RETURN_IF_ERROR(SimulateOn(hardware[h]));
    }
    return absl::OkStatus();
  }

  absl::Status SimulateOn(const Hardware& hardware) {
    std::optional<v1::Simulation> dense;
    for (ComparedPolicy& policy : comparison_.policies) {
      if (!policy.measured() || policy.target == 0 ||
          std::ranges::count(hardware.policies, SpecName(policy)) == 0) {
        continue;
      }
      for (const std::string& sparsity : {std::string("dense"), policy.sparsity}) {
        if (sparsity == "dense" && dense) continue;
        auto cost = subject_.Simulate(hardware.preset, sparsity);
        // What the hardware has not, such as so many tokens or this kind of model.
        if (absl::IsInvalidArgument(cost.status())) return absl::OkStatus();
        if (!cost.ok()) return Annotate(cost.status(), hardware.preset);
        if (sparsity == "dense") {
          dense = *std::move(cost);
          continue;
        }
        policy.simulated.push_back({.preset = hardware.preset,
                                    .time = cost->seconds() / dense->seconds(),
                                    .energy = cost->energy_joules() / dense->energy_joules()});
      }
    }
    return absl::OkStatus();
  }

  const ComparisonOptions& options_;
  ComparisonSubject& subject_;
  Comparison& comparison_;
};

}  // namespace

std::vector<Contender> Contenders(bool decoder) {
  std::vector<Contender> contenders;
  for (const PolicySpec& spec : PolicySpecs()) {
    if (!(decoder ? spec.decoders : spec.encoders) || spec.knob.keys.empty()) continue;
    contenders.push_back({.name = std::string(spec.name), .spec = &spec});
    for (const PolicyKey& key : spec.keys) {
      if (key.kind != ValueKind::kChoice || key.source != kControlSource) continue;
      std::string_view left = key.choices;
      while (!left.empty()) {
        const std::string choice(left.substr(0, left.find('|')));
        left.remove_prefix(std::min(left.size(), choice.size() + 1));
        if (choice == key.fallback) continue;
        std::string more = fmt::format("{}={}", key.name, choice);
        contenders.push_back({.name = fmt::format("{}:{}", spec.name, more),
                              .control = choice,
                              .spec = &spec,
                              .more = std::move(more)});
      }
    }
  }
  return contenders;
}

absl::StatusOr<Comparison> Compare(const ComparisonOptions& options) {
  std::error_code code;
  if (!std::filesystem::is_directory(options.directory, code)) {
    return InvalidArgument("--model {}: no such directory", options.directory);
  }
  THRESHER_ASSIGN_OR_RETURN(std::shared_ptr<LoadedModel> model,
                            LoadLocalModel(options.directory, options.local));
  Comparison comparison;
  const std::filesystem::path path(options.directory);
  comparison.model = (path.has_filename() ? path : path.parent_path()).filename().string();
  comparison.decoder = model->decoder != nullptr;
  comparison.targets = options.targets;
  const DeviceDescription& device = model->device->description();
  comparison.device =
      fmt::format("{} ({}, {}), {}, {} thread{}", device.name, device.isa, device.library,
                  Name(model->info.precision), device.threads, device.threads == 1 ? "" : "s");
  const auto make = comparison.decoder ? MakeDecoderSubject : MakeEncoderSubject;
  THRESHER_ASSIGN_OR_RETURN(const auto subject, make(std::move(model), options, &comparison));
  THRESHER_RETURN_IF_ERROR(Work(options, *subject, &comparison).Run());
  return comparison;
}

}  // namespace thresher::cli
