// What `simulate` runs on a modelled accelerator: a trace file, layers of a shape that nobody ran,
// or texts through a real model.
#ifndef THRESHER_CLIENT_CLI_SIMULATION_WORKLOAD_H_
#define THRESHER_CLIENT_CLI_SIMULATION_WORKLOAD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"
#include "backend/device/simulator/accelerator.h"
#include "backend/engine/layer_recorder.h"
#include "backend/engine/synthetic_layers.h"
#include "client/cli/evaluation_flags.h"

namespace thresher::cli {

struct ModelWorkload {
  std::string directory;
  std::string data;       // A text in each line.
  int64_t limit = 0;      // Lines at most; 0: all.
  int32_t batch = 1;      // Texts in a batch of an encoder.
  int32_t generate = 16;  // Tokens after each prompt of a decoder.
  LocalModelFlags local;
};

struct Workload {
  // Exactly one is set.
  std::string trace;
  std::unique_ptr<SyntheticOptions> shape;
  std::unique_ptr<ModelWorkload> model;
  std::string policy = "dense";  // Not of a trace, which has been pruned already.
};

struct SimulationRun {
  v1::Preset preset;
  v1::Simulation total;
  int64_t layers = 0;     // Runs of a layer.
  int64_t sequences = 0;  // Of a model: texts. Else those of the first layer.
  double peak_operations = 0.0, peak_bandwidth = 0.0;  // A second; 0: not known.
  double host_seconds = 0.0;                           // That the simulation took.
};

struct SimulationOptions {
  bool attention_only = false;
  Timeline* timeline = nullptr;
  LayerRecorder* recorder = nullptr;
  /// Called now and then with the share that is done; false stops.
  std::function<bool(double share)> progress;
};

/// Runs all of the workload on the accelerator of the preset. CANCELLED when stopped.
absl::StatusOr<SimulationRun> Simulate(const v1::Preset& preset, const Workload& workload,
                                       const SimulationOptions& options);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SIMULATION_WORKLOAD_H_
