// Linear layers on SpAtten's multipliers, as the paper's end-to-end variant has them: both arrays
// work on one product, the K SRAM is a double buffer for weights that stream from memory, and the V
// SRAM holds as many rows of activations as fit; weights are streamed again for the next ones.
// (The paper says that weights are streamed and arrays are shared; the rest is our reading.) What
// follows a product goes through the softmax's lanes (row_norms.h).
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_LINEAR_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_LINEAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"
#include "backend/device/simulator/timeline.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/device/simulator/units/row_norms.h"
#include "backend/device/simulator/units/unit_clock.h"
#include "thresher/v1/simulator_spatten.pb.h"

namespace thresher {

/// [rows, in] x [in, out].
struct LinearProduct {
  std::string name;
  int64_t rows = 0;
  int64_t in = 0;
  int64_t out = 0;
  int64_t products = 0;  // Multiplications: fewer than rows * in * out where rows were left out.
  // What follows it.
  bool activated = false;
  bool normalized = false;
};

/// Those of a layer before its attention, and after it.
std::vector<LinearProduct> ProductsBefore(const LayerRecord& record);
std::vector<LinearProduct> ProductsAfter(const LayerRecord& record);

class SpAttenLinear {
 public:
  /// All must outlive it; the timeline may be null.
  SpAttenLinear(const v1::SpAttenSpec& spec, FetchNetwork* network, Timeline* timeline);

  /// Runs the product of `layer` from cycle `begin`, and what follows it; returns when all is in
  /// memory.
  absl::StatusOr<int64_t> Run(const LinearProduct& product, int32_t layer, int64_t begin);

  const UnitClock& unit() const { return unit_; }
  int64_t products() const { return products_; }
  int64_t plain_bits() const { return plain_bits_ + norms_.plain_bits(); }  // Asked of the memory.
  int64_t sram_bits() const { return sram_bits_ + norms_.sram_bits(); }
  const RowNorms& norms() const { return norms_; }

 private:
  const v1::SpAttenSpec& spec_;
  FetchNetwork* network_;
  Timeline* timeline_;
  RowNorms norms_;
  UnitClock unit_{"linear"};
  int64_t products_ = 0;
  int64_t plain_bits_ = 0;
  int64_t sram_bits_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_LINEAR_H_
