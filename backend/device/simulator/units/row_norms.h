// What SpAtten and FACT do beside products when a whole layer is charged: the addition of residuals
// and the normalization of rows, and the activation function. No paper says what does it. Our
// reading: the lanes of the softmax, which have all the floating point that it takes and stand idle
// outside attention. A row is whole only when the last chunk of weights has passed, so rows come
// back from memory for their normalization, together with the residual; the activation function is
// taken on the way out of a product, which it holds up where it is slower.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_ROW_NORMS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_ROW_NORMS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "backend/device/simulator/timeline.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/device/simulator/units/unit_clock.h"

namespace thresher {

class RowNorms {
 public:
  struct Options {
    int32_t lanes = 0;       // Elements a cycle.
    int32_t passes = 0;      // Over a row. 0: nothing is charged.
    int32_t bits = 0;        // Of an element.
    int64_t sram_bytes = 0;  // For two chunks of rows.
    double clock_hz = 0;
    uint64_t rows_at = 0;      // In memory: what a product made,
    uint64_t residual_at = 0;  // and what is added to it and gives way to the results.
  };

  /// `network` and `timeline` must outlive it; the timeline may be null.
  RowNorms(const Options& options, FetchNetwork* network, Timeline* timeline)
      : options_(options), network_(network), timeline_(timeline) {}

  /// Adds the residual to [rows, width] and normalizes, from cycle `begin`; `waiting` is the unit
  /// that stands still meanwhile. Returns when the results are in memory.
  absl::StatusOr<int64_t> Run(int64_t rows, int64_t width, int32_t layer, int64_t begin,
                              UnitClock* waiting);

  /// Counts so many elements that pass the activation function; returns the cycles that it takes.
  int64_t Activate(int64_t elements);

  const UnitClock& unit() const { return unit_; }
  int64_t elements() const { return elements_; }      // Normalized.
  int64_t activated() const { return activated_; }    // Elements.
  int64_t plain_bits() const { return plain_bits_; }  // Asked of the memory.
  int64_t sram_bits() const { return sram_bits_; }

 private:
  const Options options_;
  FetchNetwork* const network_;
  Timeline* const timeline_;
  UnitClock unit_{"norm"};
  int64_t elements_ = 0;
  int64_t activated_ = 0;
  int64_t plain_bits_ = 0;
  int64_t sram_bits_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_ROW_NORMS_H_
