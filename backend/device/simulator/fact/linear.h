// FACT's output projection and feed-forward network: weights stream through their double buffer
// past the rows that the activation buffer holds, and come again for the next ones. Rows of low
// precision go through the array apart from the others, several products to a multiplier. What
// follows a product goes through the softmax's lanes (row_norms.h).
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_LINEAR_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_LINEAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"
#include "backend/device/simulator/fact/geometry.h"
#include "backend/device/simulator/timeline.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/device/simulator/units/row_norms.h"
#include "backend/device/simulator/units/unit_clock.h"
#include "thresher/v1/simulator_fact.pb.h"

namespace thresher {

/// [rows, in] x [in, out], in one width.
struct FactProduct {
  /// Rows of one width; `beats` times do some of them pass through the array, as many as lie in
  /// different banks.
  struct Rows {
    int32_t bits = 0;
    int64_t count = 0;
    int64_t beats = 0;
  };
  std::string name;
  int64_t in = 0;
  int64_t out = 0;
  std::vector<Rows> rows;
  // What follows it.
  bool activated = false;
  bool normalized = false;

  int64_t count() const {
    int64_t sum = 0;
    for (const Rows& part : rows) sum += part.count;
    return sum;
  }
};

/// Output projection and feed-forward network.
std::vector<FactProduct> FactProducts(const LayerRecord& record, const v1::FactSpec& spec);

class FactLinear {
 public:
  /// All must outlive it; the timeline may be null.
  FactLinear(const v1::FactSpec& spec, FetchNetwork* network, UnitClock* array, Timeline* timeline);

  /// Runs the product of `layer` from cycle `begin`, and what follows it; returns when all is in
  /// memory.
  absl::StatusOr<int64_t> Run(const FactProduct& product, int32_t layer, int64_t begin);

  int64_t products() const { return products_; }                            // Of full width,
  int64_t low_products() const { return low_products_; }                    // and of low.
  int64_t plain_bits() const { return plain_bits_ + norms_.plain_bits(); }  // Asked of the memory.
  int64_t sram_bits() const { return sram_bits_ + norms_.sram_bits(); }
  const RowNorms& norms() const { return norms_; }
  int64_t conflict_cycles() const { return conflict_cycles_; }

 private:
  void Count(const FactProduct& product, int64_t tiles);

  const v1::FactSpec& spec_;
  const FactGeometry geometry_;
  FetchNetwork* network_;
  UnitClock* array_;
  Timeline* timeline_;
  RowNorms norms_;
  int64_t products_ = 0;
  int64_t low_products_ = 0;
  int64_t plain_bits_ = 0;
  int64_t sram_bits_ = 0;
  int64_t conflict_cycles_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_LINEAR_H_
