#include "backend/device/simulator/spatten/layout.h"

#include <algorithm>
#include <bit>

namespace thresher {
namespace {

// Parts of the address space; a memory that is smaller wraps around.
constexpr uint64_t kQueries = uint64_t{1} << 40;
constexpr uint64_t kOutputs = uint64_t{2} << 40;
constexpr uint64_t kPartials = uint64_t{3} << 40;
constexpr uint64_t kLeastTokens = 1024;
constexpr int32_t kPartialBits = 32;  // Of an element of a partial output: a float.

/// The record's widths as they are in memory.
OperandBits StoredBits(OperandBits bits, const v1::SpAttenSpec& spec) {
  if (bits.value == 0 && bits.key > 0) bits.value = bits.key + bits.key_refetch;
  for (int32_t* width : {&bits.query, &bits.key, &bits.value}) {
    if (*width == 0) *width = spec.unquantized_bits();
  }
  return bits;
}

}  // namespace

SpAttenLayout::SpAttenLayout(const LayerRecord& record, int32_t sequence,
                             const v1::SpAttenSpec& spec, int32_t burst_bytes)
    : sequence_(&record.sequences[sequence]),
      burst_bytes_(burst_bytes),
      kv_heads_(record.shape.kv_heads) {
  const int32_t head_dim = record.shape.head_dim;
  const OperandBits bits = StoredBits(sequence_->bits, spec);
  planes_[kKeys] = PlanesOf(bits.key, head_dim, burst_bytes, spec.fetch());
  if (bits.key_refetch > 0) {
    planes_[kLowerBits] = PlanesOf(bits.key_refetch, head_dim, burst_bytes, spec.fetch());
  }
  planes_[kValues] = PlanesOf(bits.value, head_dim, burst_bytes, spec.fetch());
  for (const BitPlane& plane : planes_[kKeys]) {
    fused_heads_ = std::max(fused_heads_, plane.fused_heads);
  }
  for (const BitPlane& plane : planes_[kValues]) {
    fused_heads_ = std::max(fused_heads_, plane.fused_heads);
    fuses_values_ |= plane.fused_heads > 1;
  }
  key_bits_ = static_cast<int64_t>(head_dim) * bits.key;
  lower_bits_ = static_cast<int64_t>(head_dim) * bits.key_refetch;
  value_bits_ = static_cast<int64_t>(head_dim) * bits.value;
  query_bits_ = static_cast<int64_t>(head_dim) * bits.query;
  output_bits_ = static_cast<int64_t>(head_dim) * spec.element_bits();
  partial_bits_ = static_cast<int64_t>(head_dim) * kPartialBits;

  const auto& positions = sequence_->positions;
  uint64_t tokens = std::max<uint64_t>(kLeastTokens, sequence_->dense_keys);
  if (!positions.empty()) tokens = std::max<uint64_t>(tokens, positions.back() + uint64_t{1});
  // One more, so that not all heads begin in the same channel.
  tokens_ = std::bit_ceil(tokens) + 1;
  uint64_t token_bytes = 0;
  for (const auto& planes : planes_) {
    for (const BitPlane& plane : planes) token_bytes += plane.word_bursts * burst_bytes_;
  }
  first_region_ = (static_cast<uint64_t>(sequence) * record.shape.layers + record.layer) *
                  kv_heads_ * tokens_ * token_bytes;
}

void SpAttenLayout::AddRows(Kind kind, const std::vector<BitPlane>& planes,
                            std::span<const Rows> rows, int32_t first_key, int32_t spread,
                            std::vector<FetchPart>* parts) const {
  uint64_t region = first_region_;
  for (int before = 0; before < kind; ++before) {
    for (const BitPlane& plane : planes_[before]) {
      region += kv_heads_ * tokens_ * plane.word_bursts * burst_bytes_;
    }
  }
  for (const BitPlane& plane : planes) {
    const uint64_t stride = static_cast<uint64_t>(plane.word_bursts) * burst_bytes_;
    size_t end = 0;
    for (size_t begin = 0; begin < rows.size(); begin = end) {
      const int32_t word = rows[begin].kv_head / plane.fused_heads;
      while (end < rows.size() && rows[end].kv_head / plane.fused_heads == word) ++end;
      // The rows that all heads of the word have, then those that fewer have.
      int32_t done = 0;
      while (true) {
        int32_t first = plane.fused_heads, last = -1, until = 0;
        for (size_t i = begin; i < end; ++i) {
          if (rows[i].count <= done) continue;
          const int32_t place = rows[i].kv_head % plane.fused_heads;
          first = std::min(first, place);
          last = std::max(last, place);
          until = until == 0 ? rows[i].count : std::min(until, rows[i].count);
        }
        if (last < 0) break;
        FetchPart part;
        part.base = region + word * tokens_ * stride +
                    first * plane.row_bytes / burst_bytes_ * burst_bytes_;
        part.stride = stride;
        part.count = until - done;
        part.bursts = plane.Bursts(first, last - first + 1, burst_bytes_);
        part.positions = sequence_->positions;
        part.first = spread > 0 ? first_key : first_key + done;
        part.spread = spread;
        parts->push_back(part);
        done = until;
      }
    }
    region += kv_heads_ * tokens_ * stride;
  }
}

std::vector<FetchPart> SpAttenLayout::Keys(std::span<const Rows> rows, int32_t first_key) const {
  std::vector<FetchPart> parts;
  AddRows(kKeys, planes_[kKeys], rows, first_key, 0, &parts);
  return parts;
}

std::vector<FetchPart> SpAttenLayout::LowerBits(Rows rows, int32_t first_key) const {
  std::vector<FetchPart> parts;
  AddRows(kLowerBits, planes_[kLowerBits], std::span(&rows, 1), first_key, 0, &parts);
  return parts;
}

std::vector<FetchPart> SpAttenLayout::Values(std::span<const Rows> rows, int32_t first_key,
                                             int32_t spread) const {
  std::vector<FetchPart> parts;
  AddRows(kValues, planes_[kValues], rows, first_key, spread, &parts);
  return parts;
}

FetchPart SpAttenLayout::Vector(uint64_t region, int64_t i, int64_t bits, bool write) const {
  FetchPart part;
  part.bursts = static_cast<int32_t>((bits / 8 + burst_bytes_ - 1) / burst_bytes_);
  part.base = region + static_cast<uint64_t>(i) * part.bursts * burst_bytes_;
  part.count = 1;
  part.write = write;
  return part;
}

std::vector<FetchPart> SpAttenLayout::Query(int64_t i, bool partial) const {
  std::vector<FetchPart> parts = {Vector(kQueries, i, query_bits_, false)};
  if (partial) parts.push_back(Vector(kPartials, i, partial_bits_, false));
  return parts;
}

std::vector<FetchPart> SpAttenLayout::Output(int64_t i, bool partial) const {
  return {Vector(partial ? kPartials : kOutputs, i, output_bits(partial), true)};
}

}  // namespace thresher
