// Where one sequence's Q, K, V and outputs lie in the memory of SpAtten, and which transactions
// fetch rows of them. K and V lie by K/V head, plane and token, so that a token's position is its
// address, whatever was pruned.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_LAYOUT_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_LAYOUT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device/layer_record.h"
#include "backend/device/simulator/spatten/planes.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "thresher/v1/simulator_spatten.pb.h"

namespace thresher {

class SpAttenLayout {
 public:
  /// So many rows of a K/V head.
  struct Rows {
    int32_t kv_head = 0;
    int32_t count = 0;
  };

  /// `record` must outlive the layout.
  SpAttenLayout(const LayerRecord& record, int32_t sequence, const v1::SpAttenSpec& spec,
                int32_t burst_bytes);

  /// Heads whose rows share words, at most.
  int32_t fused_heads() const { return fused_heads_; }
  bool fuses_values() const { return fuses_values_; }

  /// The first `count` keys from the first_key-th that the sequence reads. Heads of one word are
  /// fetched together as far as both have rows.
  std::vector<FetchPart> Keys(std::span<const Rows> rows, int32_t first_key) const;
  /// Their lower bits, for one head.
  std::vector<FetchPart> LowerBits(Rows rows, int32_t first_key) const;
  /// `count` values among `spread` keys from the first_key-th: evenly spread, since nobody recorded
  /// which; 0: one after the other.
  std::vector<FetchPart> Values(std::span<const Rows> rows, int32_t first_key,
                                int32_t spread) const;
  /// The i-th query that is read, in the layer; if it follows another segment, with what that left.
  std::vector<FetchPart> Query(int64_t i, bool partial) const;
  std::vector<FetchPart> Output(int64_t i, bool partial) const;

  // Bits that a row of each takes, to the bit.
  int64_t key_bits() const { return key_bits_; }
  int64_t lower_bits() const { return lower_bits_; }
  int64_t value_bits() const { return value_bits_; }
  int64_t query_bits() const { return query_bits_; }
  int64_t output_bits(bool partial) const { return partial ? partial_bits_ : output_bits_; }

 private:
  enum Kind { kKeys, kLowerBits, kValues, kKinds };

  void AddRows(Kind kind, const std::vector<BitPlane>& planes, std::span<const Rows> rows,
               int32_t first_key, int32_t spread, std::vector<FetchPart>* parts) const;
  FetchPart Vector(uint64_t region, int64_t i, int64_t bits, bool write) const;

  const SequenceRecord* sequence_;
  int32_t burst_bytes_;
  uint64_t first_region_ = 0;  // Of the layer's K and V, in bytes.
  uint64_t tokens_ = 0;        // That a head's plane has place for.
  int32_t kv_heads_ = 0;
  std::vector<BitPlane> planes_[kKinds];
  int32_t fused_heads_ = 1;
  bool fuses_values_ = false;
  int64_t key_bits_ = 0;
  int64_t lower_bits_ = 0;
  int64_t value_bits_ = 0;
  int64_t query_bits_ = 0;
  int64_t output_bits_ = 0;
  int64_t partial_bits_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_LAYOUT_H_
