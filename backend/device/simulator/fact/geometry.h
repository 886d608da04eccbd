// How much FACT's array and memories take at once.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_GEOMETRY_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_GEOMETRY_H_

#include <algorithm>
#include <cstdint>

#include "backend/device/layer_record.h"
#include "thresher/v1/simulator_fact.pb.h"

namespace thresher {

/// Keys that the sequence's row-th query sees.
inline int64_t SightOf(const SequenceRecord& sequence, bool causal, int64_t row) {
  return causal ? sequence.keys - sequence.rows + row + 1 : sequence.keys;
}

class FactGeometry {
 public:
  explicit FactGeometry(const v1::FactSpec& spec) : spec_(&spec) {}

  int64_t multipliers() const {
    return int64_t{spec_->array_rows()} * spec_->array_columns() * spec_->array_depth();
  }

  /// Cycles in which up to array_rows rows pass through [in, out] weights, where each multiplier
  /// makes `at_once` products.
  int64_t GroupCycles(int64_t in, int64_t out, int64_t at_once = 1) const {
    return Up(in, spec_->array_depth() * at_once) * Up(out, spec_->array_columns());
  }
  /// Products of `bits` that a multiplier makes at once.
  int64_t AtOnce(int32_t bits) const {
    return std::max<int64_t>(1, spec_->element_bits() / std::max(bits, 1));
  }

  // K and V. Rows of `dim` elements, each row a step later in the banks than the one before it.

  /// Places in the banks where a row can begin so that rows of different places meet nowhere.
  int64_t KvPlaces(int64_t dim) const {
    if (!spec_->diagonal_storage()) return 1;
    return std::max<int64_t>(1, spec_->kv_banks() / Up(dim, spec_->array_depth()));
  }
  /// Rows that the multipliers take in a cycle.
  int64_t KvRowsAtOnce(int64_t dim) const { return std::max<int64_t>(1, multipliers() / dim); }
  /// Of each beat of rows.
  int64_t KvBeatCycles(int64_t dim) const {
    return std::max(Up(dim, multipliers()), Up(Up(dim, spec_->array_depth()), spec_->kv_banks()));
  }

  static int64_t Up(int64_t a, int64_t b) { return (a + b - 1) / b; }

 private:
  const v1::FactSpec* spec_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_GEOMETRY_H_
