// Keys and values of earlier tokens as a decoder's attention reads them: pages of dense memory, and
// the view of them that one sequence has.
//
// A page holds kKvPageTokens **slots**, each the K and V rows of one token, for every layer and KV
// head. Within a page the rows of one layer and head lie together:
//
//   for each layer, for each KV head:  K block [slots][head_dim], then V block [slots][head_dim]
//
// Keys are kept in one of two forms: as elements (float or bfloat16), or, for SpAtten's progressive
// quantization (HPCA 2021, III-D), as two planes of integers, so that reading the upper bits alone
// moves fewer bytes:
//
//   K block as planes:  upper int8 [slots][head_dim], lower uint8 [slots][head_dim], float [slots]
//
// A row x becomes q = round(x / s), ties to even, s = largest magnitude / (2^(msb + lsb - 1) - 1)
// (0 for a row of zeros); upper = q >> lsb (arithmetic shift: toward minus infinity), lower = the
// low lsb bits; the float is s. Upper planes read alone mean s * (upper << lsb).
//
// Keys that are elements may have **bounds** (Quest, arXiv 2406.10774): for each **stretch** of a
// few slots (what Quest calls a page) the least and the greatest of each element of its keys, so
// that no key of the stretch has a score above sum over d of max(q_d * least_d, q_d * greatest_d).
// They follow the V block:
//
//   bounds of the stretches of a page, of each: least [head_dim], then greatest [head_dim]
//
// Blocks begin at multiples of 64 bytes, and so must pages. Pages know nothing of sequences: who
// may write is the caller's business (backend/engine/kv_cache.h).
#ifndef THRESHER_BACKEND_DEVICE_KV_CACHE_H_
#define THRESHER_BACKEND_DEVICE_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/tensor/dtype.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Slots of a page.
inline constexpr int32_t kKvPageTokens = 32;

/// Widths of a key's two planes: upper at most 8 bits, lower at most 8, at least 2 and 1.
struct KeyPlanes {
  int32_t msb_bits = 8;
  int32_t lsb_bits = 4;
  friend bool operator==(const KeyPlanes&, const KeyPlanes&) = default;
};

/// What one element of a cache is.
struct KvFormat {
  DType element = DType::kF32;      // kF32 or kBF16: values, and keys unless they are planes.
  std::optional<KeyPlanes> planes;  // Keys as integers.
  /// Keys are kept as they were before rotation, and rotated as they are read, to where they stand
  /// in the cache (StreamingLLM). Otherwise they are kept rotated.
  bool rotate_on_read = false;
  /// Slots of a stretch, a divisor of kKvPageTokens; 0: keys have no bounds. Only of keys that are
  /// elements, kept rotated, and never written a second time.
  int32_t stretch = 0;
  friend bool operator==(const KvFormat&, const KvFormat&) = default;
};

/// Where things are in a page.
class KvLayout {
 public:
  KvLayout() = default;
  KvLayout(const KvFormat& format, int32_t layers, int32_t kv_heads, int32_t head_dim);

  const KvFormat& format() const { return format_; }
  int32_t layers() const { return layers_; }
  int32_t kv_heads() const { return kv_heads_; }
  int32_t head_dim() const { return head_dim_; }
  size_t page_bytes() const { return page_bytes_; }
  /// Bytes that one token takes, over all layers and heads, without a page's unused slots.
  size_t token_bytes() const { return page_bytes_ / kKvPageTokens; }
  /// Bytes that reading one key of one head moves: of the upper plane (with the scale) and of what
  /// a refetch adds; without planes all is upper.
  size_t upper_key_bytes() const;
  size_t lower_key_bytes() const;
  size_t value_bytes() const {
    return static_cast<size_t>(head_dim_) * ElementSize(format_.element);
  }
  /// And one stretch's bounds.
  size_t bound_bytes() const { return 2 * value_bytes(); }
  /// Stretches that so many slots lie in.
  int32_t Stretches(int32_t slots) const { return (slots + format_.stretch - 1) / format_.stretch; }

  /// The K and V blocks of a layer and head within `page`.
  std::byte* keys(std::byte* page, int32_t layer, int32_t head) const {
    return page + (static_cast<size_t>(layer) * kv_heads_ + head) *
                      (key_block_ + value_block_ + bound_block_);
  }
  std::byte* values(std::byte* page, int32_t layer, int32_t head) const {
    return keys(page, layer, head) + key_block_;
  }
  std::byte* bounds(std::byte* page, int32_t layer, int32_t head) const {
    return values(page, layer, head) + value_block_;
  }
  /// Within a K block of planes.
  size_t lower_offset() const { return static_cast<size_t>(kKvPageTokens) * head_dim_; }
  size_t scale_offset() const { return 2 * lower_offset(); }

 private:
  KvFormat format_;
  int32_t layers_ = 0;
  int32_t kv_heads_ = 0;
  int32_t head_dim_ = 0;
  size_t key_block_ = 0;
  size_t value_block_ = 0;
  size_t bound_block_ = 0;
  size_t page_bytes_ = 0;
};

/// Writes one K row into `slot` of a K block, or one V row into that of a V block.
void StoreKeyRow(const KvLayout& layout, const float* row, int32_t slot, std::byte* block);
void StoreValueRow(const KvLayout& layout, const float* row, int32_t slot, std::byte* block);
/// Reads one back as float: of planes, all bits or (`upper_only`) the upper ones.
void LoadKeyRow(const KvLayout& layout, const std::byte* block, int32_t slot, bool upper_only,
                float* row);
void LoadValueRow(const KvLayout& layout, const std::byte* block, int32_t slot, float* row);
/// Makes the bounds of one layer and head in one page hold its keys in slots [first, last), which
/// have just been stored: a stretch's first slot begins it anew. A NaN among the keys stays.
void BoundKeys(const KvLayout& layout, const std::byte* key_block, int32_t first, int32_t last,
               std::byte* bound_block);
/// Reads the bounds of stretch `stretch` of a page.
void LoadBounds(const KvLayout& layout, const std::byte* bound_block, int32_t stretch, float* least,
                float* greatest);
/// Copies the slot's K and V of one layer and head to another place of the same layout; bounds
/// are not made.
void CopySlot(const KvLayout& layout, int32_t layer, int32_t head, std::byte* from_page,
              int32_t from_slot, std::byte* to_page, int32_t to_slot);

/// cos and sin of every position's rotation (RoPE, arXiv 2104.09864): dimension i < half of a head
/// turns with dimension i + half, as Hugging Face's checkpoints have it; dimensions from
/// 2 * half on stay. Empty: the model has no rotary positions.
struct RotaryTable {
  int32_t half = 0;
  std::vector<float> cos, sin;  // [positions][half]

  bool empty() const { return half == 0; }
  int32_t positions() const {
    return empty() ? 0 : static_cast<int32_t>(cos.size() / static_cast<size_t>(half));
  }
};

/// Rotates one head's row of a query or key, in place, to `position` (within the table). The one
/// place where it is done, so that a row has the same bits whenever it is rotated.
void RotateRow(const RotaryTable& table, int32_t position, float* row);

/// One sequence's rows in a batch, and its cache, which holds the K and V of those rows too.
///
/// A **prompt** chunk is the last `rows` of the slots, in order; row r sees the slots up to its
/// own. A **decode** row (rows = 1) sees every slot that it reads.
struct CachedSequence {
  int32_t first_row = 0;  // Of the batch's matrices.
  int32_t rows = 0;
  bool decode = false;
  std::span<std::byte* const> pages;  // Slot s is slot s % kKvPageTokens of page s / kKvPageTokens.
  int32_t slots = 0;                  // Held, with those of the new rows.
  /// Decode, where tokens are evicted: the slot that the new K and V go to, for each layer and KV
  /// head [layers][kv_heads]. Empty: the last slot.
  std::span<const int32_t> new_slots;
  /// Decode: the slots that all heads read in this layer, ascending; it holds the new one. Empty:
  /// all.
  std::span<const int32_t> reads;
  /// With rotate_on_read: where each slot stands in the cache [slots].
  std::span<const int32_t> positions;
  // Rules, as in SequencePlan, of a decode row: a prompt row reads every V, and every bit of K.
  double value_keep = 1.0;
  double refetch_threshold = 0.0;  // With planes: below it a row's keys are read in full.
  /// With bounds: in each KV head the row reads so many stretches alone, the newest slot's and
  /// those whose bound is largest (of equals the first; of heads that share K the larger counts).
  /// 0: all. Not beside `reads` or want_sums.
  int32_t read_stretches = 0;
  bool want_sums = false;
  int32_t sums_from = 0;  // The first of the rows that sums are of.

  /// Where the K and V of row `row` go in one layer and KV head.
  int32_t SlotOf(const KvLayout& layout, int32_t layer, int32_t kv_head, int32_t row) const {
    if (new_slots.empty()) return slots - rows + row;
    return new_slots[static_cast<size_t>(layer) * layout.kv_heads() + kv_head];
  }
  /// Whether stretches are chosen: not if all would be.
  bool ChoosesStretches(const KvLayout& layout) const {
    return read_stretches > 0 && read_stretches < layout.Stretches(slots);
  }
  /// Slots that a decode row reads in each KV head.
  int32_t SlotsRead(const KvLayout& layout) const {
    if (!reads.empty()) return static_cast<int32_t>(reads.size());
    if (!ChoosesStretches(layout)) return slots;
    return slots - (layout.Stretches(slots) - read_stretches) * layout.format().stretch;
  }
};

/// What the attention of one CachedSequence in one layer did.
struct CachedRecord {
  /// If wanted, for each KV head and slot that is read [kv_heads][]: sum over the rows and group's
  /// heads of the probability, each rounded to a whole number of 2^-24. Whole, so that the sum
  /// over chunks of a prompt doesn't depend on how it was cut.
  std::vector<int64_t> sums;
  /// Where stretches were chosen: which, ascending, [kv_heads][read_stretches].
  std::vector<int32_t> stretches;
  int64_t rows = 0;  // Softmax rows.
  int64_t refetched_rows = 0;
  int64_t scores = 0;
  int64_t refetched_scores = 0;
  int64_t bounds = 0;  // Of scores, that were made to choose stretches.
  int64_t values = 0;
  int64_t bytes = 0;  // Of K, bounds and V that were read; heads that share them read them once.
};
inline constexpr double kProbabilityUnit = 0x1p-24;

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_KV_CACHE_H_
