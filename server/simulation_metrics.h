// What simulated devices charged (thresher/v1/simulator.proto), for Prometheus: time, energy and
// traffic of each answered sequence, by model and preset, and what the accelerator's units did.
//
// Labels are closed sets: served models, presets, the units that a preset has. Thread-safe.
#ifndef THRESHER_SERVER_SIMULATION_METRICS_H_
#define THRESHER_SERVER_SIMULATION_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string_view>

#include "thresher/v1/simulator.pb.h"

namespace thresher {

class SimulationMetrics {
 public:
  /// `registry` must outlive this object. The series of a model begin with its first report.
  explicit SimulationMetrics(prometheus::Registry& registry);

  void OnSimulation(std::string_view model, const v1::Simulation& simulation);

 private:
  using Counters = prometheus::Family<prometheus::Counter>;
  using Histograms = prometheus::Family<prometheus::Histogram>;

  Histograms& seconds_;
  Histograms& energy_;
  Histograms& traffic_;
  Counters& cycles_;
  Counters& busy_;
  Counters& stalled_;
  Counters& rows_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_SIMULATION_METRICS_H_
