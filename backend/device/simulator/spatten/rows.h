// In what order SpAtten works on a layer: loads of K (and of V, where all queries read all of it)
// into SRAM, and the softmax rows that use each. A load is one K/V head of one sequence, or the few
// whose rows share words in memory, and one segment of its keys: contexts that a half of the SRAM
// does not hold are cut into segments, each of which runs as rows of its own, whose partial outputs
// are weighed together at the end. (Nothing published says how SpAtten would do this; it is ours.)
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_ROWS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_ROWS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/device/layer_record.h"

namespace thresher {

/// A K/V head of a load, and the query heads that read it.
struct SpAttenSet {
  int32_t kv_head = 0;
  int32_t first_head = 0;  // Index into the sequence's heads.
  int32_t heads = 0;
  int32_t keys = 0;  // K rows of this segment.
  int32_t values =
      0;  // V rows of this segment: those loaded, or the sum of those that rows choose.
};

struct SpAttenLoad {
  int32_t sequence = 0;
  int32_t segment = 0;
  bool last = true;           // Segment of its keys.
  int32_t first_key = 0;      // Of the segment, among those that the sequence's queries read.
  bool loads_values = false;  // With the keys. Else each row fetches those that it chooses.
  std::vector<SpAttenSet> sets;
};

/// A query of a head in a segment.
struct SpAttenRow {
  int32_t set = 0;      // Of its load.
  int32_t head = 0;     // Index into the sequence's heads.
  int32_t ordinal = 0;  // Among the set's rows, from 0.
  int32_t keys = 0;
  int32_t values = 0;
  bool refetch = false;
};

/// The loads of a layer, in order; one at a time, whatever the layer's size.
class SpAttenLoads {
 public:
  /// `fused_heads`, by sequence: how many K/V heads a load has at most; its first one is a multiple
  /// of that. `segment`: keys of one set at most. The record must be valid and outlive this.
  SpAttenLoads(const LayerRecord* record, std::vector<int32_t> fused_heads, int32_t segment);

  std::optional<SpAttenLoad> Next();

 private:
  bool NextGroup();

  const LayerRecord* record_;
  std::vector<int32_t> fused_heads_;
  int32_t segment_;
  int32_t sequence_ = 0;
  int32_t first_head_ = 0;  // Of the group of heads under way,
  int32_t end_head_ = 0;    // and the next one's first.
  int32_t first_key_ = 0;
  int32_t group_keys_ = 0;
};

/// The rows of a load, in order. Rows that read nothing are left out.
class SpAttenRows {
 public:
  SpAttenRows(const LayerRecord& record, const SpAttenLoad* load);

  std::optional<SpAttenRow> Next();
  /// The first set that may still have rows.
  int32_t set() const { return set_; }

 private:
  const SequenceRecord* sequence_;
  const SpAttenLoad* load_;
  bool causal_;
  int32_t set_ = 0;
  int32_t head_ = 0;  // Within the set.
  int64_t query_ = 0;
  int32_t ordinal_ = 0;
};

/// Of `head`'s queries the i-th's part of the sums that its record holds: they add up to it.
/// Queries of a causal prompt see ever more keys, as far as the sums allow; others as many as each
/// other.
SpAttenRow RowOf(const HeadRecord& head, int64_t query, bool causal);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_ROWS_H_
