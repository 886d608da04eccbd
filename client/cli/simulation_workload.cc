#include "client/cli/simulation_workload.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "backend/device/cpu_resources.h"
#include "backend/device/simulator/simulated_device.h"
#include "backend/device/simulator/simulation.h"
#include "backend/device/simulator/trace/trace.h"
#include "backend/engine/loaded_model.h"
#include "backend/engine/sampler.h"
#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher::cli {
namespace {

constexpr size_t kMostTextBytes = size_t{64} << 20;

absl::Status Stopped() { return absl::CancelledError("interrupted"); }

/// Passes on what is asked of the whole simulation, and counts.
class Scoped final : public Accelerator {
 public:
  Scoped(std::unique_ptr<Accelerator> inner, const SimulationOptions& options)
      : inner_(std::move(inner)), options_(options) {}

  std::span<const std::string_view> policies() const override { return inner_->policies(); }
  void Reset() override { inner_->Reset(); }
  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope&) override {
    if (!counts_) return inner_->Run(record, {.attention_only = options_.attention_only});
    ++layers_;
    if (options_.recorder != nullptr) options_.recorder->Write(record);
    return inner_->Run(record,
                       {.attention_only = options_.attention_only, .timeline = options_.timeline});
  }
  int64_t layers() const { return layers_; }
  /// Before this, layers are those of a model's first check.
  void Begin() { counts_ = true; }

 private:
  const std::unique_ptr<Accelerator> inner_;
  const SimulationOptions& options_;
  bool counts_ = false;
  int64_t layers_ = 0;
};

absl::Status RunRecord(const LayerRecord& record, Accelerator& accelerator, SimulationRun* run) {
  if (run->sequences == 0) run->sequences = static_cast<int64_t>(record.sequences.size());
  THRESHER_ASSIGN_OR_RETURN(const LayerCharge charge, accelerator.Run(record, {}));
  AddSimulation(charge.total, &run->total);
  return absl::OkStatus();
}

bool GoesOn(const SimulationOptions& options, int64_t done, int64_t all) {
  return !options.progress ||
         options.progress(all > 0 ? static_cast<double>(done) / static_cast<double>(all) : 0.0);
}

absl::Status RunTrace(const std::string& path, Accelerator& accelerator,
                      const SimulationOptions& options, SimulationRun* run) {
  THRESHER_ASSIGN_OR_RETURN(const auto reader, TraceReader::Open(path));
  int64_t rows = 0;
  while (true) {
    THRESHER_ASSIGN_OR_RETURN(const std::optional<LayerRecord> record, reader->Next());
    if (!record) return absl::OkStatus();
    THRESHER_RETURN_IF_ERROR(RunRecord(*record, accelerator, run));
    for (const HeadRecord& head : record->sequences.front().heads) rows += head.queries;
    if (!GoesOn(options, rows, reader->rows())) return Stopped();
  }
}

absl::Status RunShape(const SyntheticOptions& shape, Accelerator& accelerator,
                      const SimulationOptions& options, SimulationRun* run) {
  SyntheticOptions checked = shape;
  checked.hardware.assign(accelerator.policies().begin(), accelerator.policies().end());
  THRESHER_ASSIGN_OR_RETURN(const auto layers, SyntheticLayers::Create(checked));
  int64_t done = 0;
  while (const LayerRecord* const record = layers->Next()) {
    THRESHER_RETURN_IF_ERROR(RunRecord(*record, accelerator, run));
    if (!GoesOn(options, ++done, layers->layers())) return Stopped();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadLines(const ModelWorkload& workload) {
  THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(workload.data, kMostTextBytes));
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
    if (workload.limit > 0 && static_cast<int64_t>(lines.size()) == workload.limit) break;
  }
  if (lines.empty()) return InvalidArgument("{}: has no text", workload.data);
  return lines;
}

absl::Status RunEncoder(LoadedModel& model, const std::vector<std::string>& lines,
                        const ModelWorkload& workload, const std::string& policy_text,
                        const SimulationOptions& options, SimulationRun* run) {
  THRESHER_ASSIGN_OR_RETURN(const auto policy, model.engine->ParsePolicy(policy_text));
  const auto step = static_cast<size_t>(workload.batch);
  for (size_t begin = 0; begin < lines.size(); begin += step) {
    std::vector<Sequence> batch;
    for (size_t i = begin; i < std::min(begin + step, lines.size()); ++i) {
      THRESHER_ASSIGN_OR_RETURN(
          const Encoding encoding,
          model.tokenizer->Encode(lines[i],
                                  {.max_tokens = model.info.max_tokens, .truncate = true}));
      Sequence& sequence = batch.emplace_back();
      for (const EncodedToken& token : encoding.tokens) {
        sequence.ids.push_back(token.id);
        sequence.type_ids.push_back(token.type_id);
      }
      sequence.want_embedding = true;
      sequence.policy = policy;
    }
    std::vector<const Sequence*> sequences;
    for (const Sequence& sequence : batch) {
      THRESHER_RETURN_IF_ERROR(model.engine->Validate(sequence));
      sequences.push_back(&sequence);
    }
    std::vector<SequenceOutput> outputs(batch.size());
    THRESHER_RETURN_IF_ERROR(model.engine->Run(sequences, outputs));
    run->sequences += static_cast<int64_t>(batch.size());
    // Each has its own part of energy and traffic, and the time of the whole batch.
    for (size_t i = 0; i < outputs.size(); ++i) {
      v1::Simulation part = outputs[i].report.simulation();
      if (i > 0) {
        part.set_cycles(0);
        part.set_seconds(0.0);
        part.clear_busy_cycles();
        part.clear_stall_cycles();
        part.clear_dram();
      }
      AddSimulation(part, &run->total);
    }
    if (!GoesOn(options, run->sequences, static_cast<int64_t>(lines.size()))) return Stopped();
  }
  return absl::OkStatus();
}

absl::Status RunDecoder(LoadedModel& model, const std::vector<std::string>& lines,
                        const ModelWorkload& workload, const std::string& policy_text,
                        const SimulationOptions& options, SimulationRun* run) {
  DecoderEngine& engine = *model.decoder;
  THRESHER_ASSIGN_OR_RETURN(const auto policy, engine.ParsePolicy(policy_text));
  for (const std::string& line : lines) {
    THRESHER_ASSIGN_OR_RETURN(const Encoding encoding, model.tokenizer->Encode(line, {}));
    std::vector<int32_t> prompt;
    for (const EncodedToken& token : encoding.tokens) prompt.push_back(token.id);
    THRESHER_RETURN_IF_ERROR(engine.ValidatePrompt(prompt));
    const auto length = static_cast<int32_t>(prompt.size());
    const int32_t steps = std::min(workload.generate, engine.MaxTokens(policy.get()) - length);
    THRESHER_ASSIGN_OR_RETURN(
        const CachedTextPtr text,
        engine.Start(policy, {}, engine.CacheBytes(policy.get(), length, length + steps)));
    Sampler sampler({}, prompt);
    absl::StatusOr<int32_t> next = 0;
    const auto sample = [&](size_t, int32_t, std::span<const float> logits) {
      next = sampler.Next(logits);
    };
    StepPart part = {.text = text.get(),
                     .ids = prompt,
                     .prompt_tokens = length,
                     .logits = StepPart::Logits::kLast};
    for (int32_t i = 0; i <= steps; ++i) {
      THRESHER_RETURN_IF_ERROR(engine.Step(std::span(&part, 1), sample));
      THRESHER_RETURN_IF_ERROR(next.status());
      part = {.text = text.get(), .ids = std::span(&*next, 1), .logits = StepPart::Logits::kLast};
    }
    AddSimulation(DecoderEngine::Report(*text).simulation(), &run->total);
    ++run->sequences;
    if (!GoesOn(options, run->sequences, static_cast<int64_t>(lines.size()))) return Stopped();
  }
  return absl::OkStatus();
}

absl::Status RunModel(const ModelWorkload& workload, const std::string& policy,
                      std::unique_ptr<Accelerator> accelerator, const SimulationOptions& options,
                      SimulationRun* run) {
  THRESHER_ASSIGN_OR_RETURN(const std::vector<std::string> lines, ReadLines(workload));
  DeviceOptions device_options;
  device_options.threads =
      workload.local.threads > 0 ? workload.local.threads : DetectCpuResources().usable();
  THRESHER_ASSIGN_OR_RETURN(auto inner, CreateDevice(workload.local.device, device_options));
  const std::shared_ptr<Device> device = CreateSimulatedDevice(
      "sim:" + run->preset.name(), std::move(inner), {.accelerator = std::move(accelerator)});
  LoadOptions load;
  if (!workload.local.precision.empty()) {
    THRESHER_ASSIGN_OR_RETURN(load.precision, ParsePrecision(workload.local.precision));
  }
  THRESHER_ASSIGN_OR_RETURN(const auto model, LoadModel(workload.directory, device, load));
  auto* const scoped = static_cast<Scoped*>(device->simulated()->accelerator.get());
  scoped->Begin();
  THRESHER_RETURN_IF_ERROR(model->engine != nullptr
                               ? RunEncoder(*model, lines, workload, policy, options, run)
                               : RunDecoder(*model, lines, workload, policy, options, run));
  run->layers = scoped->layers();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SimulationRun> Simulate(const v1::Preset& preset, const Workload& workload,
                                       const SimulationOptions& options) {
  SimulationRun run;
  run.preset = preset;
  THRESHER_ASSIGN_OR_RETURN(auto inner, CreateAccelerator(preset));
  THRESHER_RETURN_IF_ERROR(
      inner->CheckScope({.attention_only = options.attention_only, .timeline = options.timeline}));
  run.peak_operations = inner->peak_operations();
  run.peak_bandwidth = inner->peak_bandwidth();
  auto accelerator = std::make_unique<Scoped>(std::move(inner), options);
  const absl::Time begin = absl::Now();
  if (workload.model != nullptr) {
    THRESHER_RETURN_IF_ERROR(
        RunModel(*workload.model, workload.policy, std::move(accelerator), options, &run));
  } else {
    accelerator->Begin();
    THRESHER_RETURN_IF_ERROR(workload.shape != nullptr
                                 ? RunShape(*workload.shape, *accelerator, options, &run)
                                 : RunTrace(workload.trace, *accelerator, options, &run));
    run.layers = accelerator->layers();
  }
  run.host_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return run;
}

}  // namespace thresher::cli
