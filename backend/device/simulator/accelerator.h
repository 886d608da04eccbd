// A modelled accelerator: a preset, and a mapping of layer records onto its units. It computes no
// numbers; it says what the layer would have cost. The same records give the same charges, always.
//
// Threading: one thread at a time.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_ACCELERATOR_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_ACCELERATOR_H_

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"
#include "backend/device/simulator/timeline.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

class DramObserver;  // dram/dram.h

struct RunScope {
  bool attention_only = false;   // As most papers count; else QKV, feed-forward and norms as well.
  Timeline* timeline = nullptr;  // Filled in if given.
  DramObserver* dram_observer =
      nullptr;  // Is shown each command of the memory, if it has commands.
};

struct LayerCharge {
  v1::Simulation total;
  /// Of each sequence of the record, its part of the energy and of the traffic: they sum to 1.
  /// (Its time is the whole layer's: a batch ends together.)
  std::vector<double> shares;
};

class Accelerator {
 public:
  virtual ~Accelerator() = default;

  /// Policies that it has hardware for, by the names in the part of a policy text before `:`.
  /// "dense" is always among them.
  virtual std::span<const std::string_view> policies() const = 0;

  /// What it could do, if nothing ever waited: multiplications and additions of attention, and
  /// bytes to and from its memory, in a second. 0: not known.
  virtual double peak_operations() const { return 0.0; }
  virtual double peak_bandwidth() const { return 0.0; }

  /// INVALID_ARGUMENT, with the reason, for what it can neither charge nor show. Run says so as
  /// well.
  virtual absl::Status CheckScope(const RunScope&) const { return absl::OkStatus(); }

  /// Forgets all state (open rows, refresh, queues): the clock starts at 0 again.
  virtual void Reset() = 0;

  /// Runs one layer after what ran before it. INVALID_ARGUMENT for a record that can't be (counts
  /// that contradict each other, more tokens than the hardware holds).
  virtual absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope& scope) = 0;
};

/// INVALID_ARGUMENT for a preset that can't work, naming the field and the reason.
absl::StatusOr<std::unique_ptr<Accelerator>> CreateAccelerator(const v1::Preset& preset);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_ACCELERATOR_H_
