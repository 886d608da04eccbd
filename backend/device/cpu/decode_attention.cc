#include "backend/device/cpu/decode_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/device/top_k.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/cpu/decode_attention.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/attention-inl.h"
#include "backend/device/cpu/top_k-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

constexpr size_t kLine = 64;
// Rows ahead of the one in use that are fetched: those of a list or of the next page are nowhere
// that the processor would guess.
constexpr size_t kAhead = 16;
// Values are listed by so many slots, and added by so many rows at a time.
constexpr size_t kValueBlock = 256;
constexpr size_t kValueStep = 8;

struct Layout : ScratchLayout {
  /// `bounds`: of so many stretches, of which some are to be chosen.
  Layout(size_t heads, size_t head_dim, size_t slots, bool planes, size_t bounds)
      : stride((slots + 63) / 64 * 64), words(stride / 64), out_stride(PaddedCols(head_dim)) {
    weights = Take(heads * stride);
    scores = planes ? Take(heads * stride) : weights;
    largest = Take(heads);
    total = Take(heads);
    output = Take(heads * out_stride);
    row = Take(head_dim);
    ordered = Take(OrderedSize(stride));
    chosen = Take(2 * heads * words);
    if (bounds == 0) return;
    list = Take(slots);
    bound = Take(bounds + hn::Lanes(F32()));
    bound_ordered = Take(OrderedSize(bounds));
    bound_chosen = Take(2 * ((bounds + 63) / 64));
  }
  size_t stride;
  size_t words;
  size_t out_stride;
  size_t weights;  // [heads][stride]: 2^(exponent - largest).
  size_t scores;   // [heads][stride]: kept apart where a head may need them again.
  size_t largest;  // [heads]
  size_t total;    // [heads]: the sum of a head's weights.
  size_t output;   // [heads][out_stride]: sums of weights times V.
  size_t row;      // [head_dim]: a key that is rotated.
  size_t ordered;  // What choosing values needs,
  size_t chosen;   // and the chosen ones: [heads][words] of bits.
  // Where stretches are chosen:
  size_t list = 0;           // [slots]: those that are read.
  size_t bound = 0;          // The largest of each stretch's bounds, but for the newest,
  size_t bound_ordered = 0;  // and what choosing among them needs.
  size_t bound_chosen = 0;
};

Layout LayoutOf(const CachedAttentionInput& input, const CachedSequence& sequence) {
  const KvLayout& cache = *input.layout;
  return {static_cast<size_t>(input.shape.heads / input.shape.kv_heads),
          static_cast<size_t>(input.shape.head_dim), static_cast<size_t>(sequence.SlotsRead(cache)),
          cache.format().planes.has_value(),
          sequence.ChoosesStretches(cache)
              ? static_cast<size_t>(cache.Stretches(sequence.slots) - 1)
              : 0};
}

size_t ScratchSize(const CachedAttentionInput& input, const CachedSequence& sequence) {
  return LayoutOf(input, sequence).size;
}

// ---- Rows of a cache, as vectors of floats: element i on, the first `n` of a vector ----

struct FloatRowOf {
  const float* row;
  VF32 operator()(size_t i, size_t n) const { return LoadPart(F32(), row + i, n); }
};

struct BF16RowOf {
  const uint16_t* row;
  VF32 operator()(size_t i, size_t n) const {
    const F32 d;
    const hn::RebindToUnsigned<F32> du;
    const hn::Rebind<uint16_t, F32> half;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, LoadPart(half, row + i, n))));
  }
};

/// One plane, without the scale.
template <typename T>
struct PlaneRowOf {
  const T* plane;
  VF32 operator()(size_t i, size_t n) const {
    const F32 d;
    const hn::RebindToSigned<F32> di;
    const hn::Rebind<T, F32> narrow;
    return hn::ConvertTo(d, hn::PromoteTo(di, LoadPart(narrow, plane + i, n)));
  }
};

/// q . row for kHeads queries, `dim` apart.
template <size_t kHeads, typename Row>
HWY_INLINE void Dots(const float* query, const Row& row, size_t dim, float* dots, size_t stride) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  VF32 even[kHeads], odd[kHeads];
#pragma GCC unroll 4
  for (size_t h = 0; h < kHeads; ++h) even[h] = odd[h] = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= dim; i += 2 * lanes) {
    const VF32 first = row(i, lanes), second = row(i + lanes, lanes);
#pragma GCC unroll 4
    for (size_t h = 0; h < kHeads; ++h) {
      even[h] = hn::MulAdd(hn::LoadU(d, query + h * dim + i), first, even[h]);
      odd[h] = hn::MulAdd(hn::LoadU(d, query + h * dim + i + lanes), second, odd[h]);
    }
  }
  for (; i < dim; i += lanes) {
    const size_t n = std::min(lanes, dim - i);
    const VF32 part = row(i, n);
#pragma GCC unroll 4
    for (size_t h = 0; h < kHeads; ++h) {
      even[h] = hn::MulAdd(LoadPart(d, query + h * dim + i, n), part, even[h]);
    }
  }
#pragma GCC unroll 4
  for (size_t h = 0; h < kHeads; ++h) {
    dots[h * stride] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even[h], odd[h])));
  }
}

/// The largest value that q . k can have for a key within the bounds.
template <typename Row>
HWY_INLINE float BoundOf(const float* query, const Row& least, const Row& greatest, size_t dim) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const auto zero = hn::Zero(d);
  VF32 sum = zero;
  for (size_t i = 0; i < dim; i += lanes) {
    const size_t n = std::min(lanes, dim - i);
    const VF32 q = LoadPart(d, query + i, n);
    sum = hn::MulAdd(q, hn::IfThenElse(hn::Gt(q, zero), greatest(i, n), least(i, n)), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

/// kVectors vectors of sums += weights[n] * rows[n], one row after the other.
template <size_t kVectors, typename RowOf>
HWY_INLINE void AddVectors(const std::byte* const* rows, const float* weights, size_t count,
                           size_t first, size_t n, const RowOf& row_of, float* sums) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  VF32 sum[kVectors];
#pragma GCC unroll 8
  for (size_t v = 0; v < kVectors; ++v) sum[v] = hn::Load(d, sums + first + v * lanes);
  for (size_t k = 0; k < count; ++k) {
    const auto row = row_of(rows[k]);
    const auto weight = hn::Set(d, weights[k]);
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      sum[v] = hn::MulAdd(weight, row(first + v * lanes, n), sum[v]);
    }
  }
#pragma GCC unroll 8
  for (size_t v = 0; v < kVectors; ++v) hn::Store(sum[v], d, sums + first + v * lanes);
}

template <typename RowOf>
void AddRows(const std::byte* const* rows, const float* weights, size_t count, size_t dim,
             const RowOf& row_of, float* sums) {
  const size_t lanes = hn::Lanes(F32());
  size_t i = 0;
  for (; i + 8 * lanes <= dim; i += 8 * lanes) {
    AddVectors<8>(rows, weights, count, i, lanes, row_of, sums);
  }
  for (; i + 4 * lanes <= dim; i += 4 * lanes) {
    AddVectors<4>(rows, weights, count, i, lanes, row_of, sums);
  }
  for (; i < dim; i += lanes) {
    AddVectors<1>(rows, weights, count, i, std::min(lanes, dim - i), row_of, sums);
  }
}

void Fetch(const std::byte* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i);
  // GCC drops calls of functions that do nothing but prefetch, and their callers in turn: it takes
  // them to have no effect. This says that there is one.
  asm volatile("");
}

class Group {
 public:
  Group(const DecodeTask& task, float* memory, Matrix out, int64_t* sums, int32_t* stretches,
        DecodeRecord* record)
      : input_(*task.input),
        sequence_(*task.sequence),
        cache_(*input_.layout),
        dim_(static_cast<size_t>(input_.shape.head_dim)),
        heads_(static_cast<size_t>(input_.shape.heads / input_.shape.kv_heads)),
        slots_(static_cast<size_t>(sequence_.SlotsRead(cache_))),
        keys_(cache_.keys(sequence_.pages[0], input_.layer, task.kv_head) - sequence_.pages[0]),
        values_(cache_.values(sequence_.pages[0], input_.layer, task.kv_head) - sequence_.pages[0]),
        bounds_(cache_.bounds(sequence_.pages[0], input_.layer, task.kv_head) - sequence_.pages[0]),
        row_bytes_(cache_.value_bytes()),
        layout_(LayoutOf(input_, sequence_)),
        memory_(memory),
        sums_(sums),
        stretches_(stretches),
        record_(record) {
    const size_t column = static_cast<size_t>(task.kv_head) * heads_ * dim_;
    query_ = input_.query.row(sequence_.first_row) + column;
    out_ = out.row(sequence_.first_row) + column;
  }

  void Run() {
    *record_ = {};
    if (!sequence_.reads.empty()) list_ = sequence_.reads.data();
    if (sequence_.ChoosesStretches(cache_)) ChooseStretches();
    const bool planes = cache_.format().planes.has_value();
    Score();
    bool refetched = false;
    for (size_t h = 0; h < heads_; ++h) {
      Softmax(h, BaseTwo(input_.scale));
      // The largest weight is e^0 = 1.
      if (!planes || !(1.0 / total(h) < sequence_.refetch_threshold)) continue;
      AddLowerPlane(h);
      Softmax(h, 1.0f);
      refetched = true;
      record_->refetched_rows += 1;
    }
    if (sums_ != nullptr) {
      for (size_t h = 0; h < heads_; ++h) Sum(h);
    }
    ChooseValues();
    ReadValues();
    record_->bytes += static_cast<int64_t>(
        slots_ * (cache_.upper_key_bytes() + (refetched ? cache_.lower_key_bytes() : 0)));
  }

 private:
  float* weights(size_t h) { return memory_ + layout_.weights + h * layout_.stride; }
  float* scores(size_t h) { return memory_ + layout_.scores + h * layout_.stride; }
  float& total(size_t h) { return memory_[layout_.total + h]; }
  float* output(size_t h) { return memory_ + layout_.output + h * layout_.out_stride; }
  uint64_t* chosen(size_t h) {
    return reinterpret_cast<uint64_t*>(memory_ + layout_.chosen) + h * layout_.words;
  }

  /// The n-th slot that is read, and where its blocks and rows are.
  size_t Slot(size_t n) const { return list_ == nullptr ? n : static_cast<size_t>(list_[n]); }
  const std::byte* KeyBlock(size_t slot) const {
    return sequence_.pages[slot / kKvPageTokens] + keys_;
  }
  const std::byte* ValueRow(size_t slot) const {
    return sequence_.pages[slot / kKvPageTokens] + values_ + slot % kKvPageTokens * row_bytes_;
  }

  /// Of planes the upper one.
  void FetchKey(size_t slot) const {
    const std::byte* const block = KeyBlock(slot);
    const size_t i = slot % kKvPageTokens;
    if (!cache_.format().planes) return Fetch(block + i * row_bytes_, row_bytes_);
    Fetch(block + i * dim_, dim_);
    Fetch(block + cache_.scale_offset() + i * sizeof(float), sizeof(float));
  }
  /// Of a key in planes.
  float ScaleOf(size_t slot) const {
    float scale;
    std::memcpy(&scale,
                KeyBlock(slot) + cache_.scale_offset() + slot % kKvPageTokens * sizeof(float),
                sizeof(float));
    return scale;
  }

  /// Reads the bounds, and lists the slots of those stretches that are read.
  void ChooseStretches() {
    const auto newest = static_cast<size_t>(cache_.Stretches(sequence_.slots) - 1);
    if (cache_.format().element == DType::kF32) {
      Bound(newest,
            [](const std::byte* row) { return FloatRowOf{reinterpret_cast<const float*>(row)}; });
    } else {
      Bound(newest,
            [](const std::byte* row) { return BF16RowOf{reinterpret_cast<const uint16_t*>(row)}; });
    }
    auto* const chosen = reinterpret_cast<uint64_t*>(memory_ + layout_.bound_chosen);
    ChooseLargest(memory_ + layout_.bound, newest,
                  static_cast<size_t>(sequence_.read_stretches - 1),
                  reinterpret_cast<int32_t*>(memory_ + layout_.bound_ordered), chosen);
    auto* const list = reinterpret_cast<int32_t*>(memory_ + layout_.list);
    const auto length = static_cast<size_t>(cache_.format().stretch);
    size_t count = 0, slots = 0;
    for (size_t stretch = 0; stretch <= newest; ++stretch) {
      if (stretch < newest && !TestBit(chosen, stretch)) continue;
      stretches_[count++] = static_cast<int32_t>(stretch);
      for (size_t i = 0; i < length && slots < slots_; ++i) {
        list[slots++] = static_cast<int32_t>(stretch * length + i);
      }
    }
    list_ = list;
    record_->bounds = static_cast<int64_t>(heads_ * newest);
    record_->bytes = static_cast<int64_t>(newest * cache_.bound_bytes());
  }

  /// The bounds of so many stretches: of the heads the largest.
  template <typename RowOf>
  HWY_NOINLINE void Bound(size_t stretches, const RowOf& row_of) {
    const auto in_page = static_cast<size_t>(kKvPageTokens / cache_.format().stretch);
    for (size_t stretch = 0; stretch < stretches; ++stretch) {
      const std::byte* const bounds =
          sequence_.pages[stretch / in_page] + bounds_ + stretch % in_page * cache_.bound_bytes();
      float largest = -std::numeric_limits<float>::infinity();
      for (size_t h = 0; h < heads_; ++h) {
        const float bound =
            BoundOf(query_ + h * dim_, row_of(bounds), row_of(bounds + row_bytes_), dim_);
        // Whose bound is NaN has such a key, which must be seen.
        largest =
            std::isnan(bound) ? std::numeric_limits<float>::infinity() : std::max(largest, bound);
      }
      memory_[layout_.bound + stretch] = largest;
    }
  }

  void Score() {
    if (cache_.format().rotate_on_read) {
      float* const row = memory_ + layout_.row;
      return ScoreRows([&](size_t slot, float* scale) {
        LoadKeyRow(cache_, KeyBlock(slot), static_cast<int32_t>(slot % kKvPageTokens), true, row);
        RotateRow(*input_.rotary, sequence_.positions[slot], row);
        *scale = 1.0f;
        return FloatRowOf{row};
      });
    }
    if (cache_.format().planes) {
      const auto step = static_cast<float>(1 << cache_.format().planes->lsb_bits);
      return ScoreRows([this, step](size_t slot, float* scale) {
        *scale = step * ScaleOf(slot);
        const std::byte* const upper = KeyBlock(slot) + slot % kKvPageTokens * dim_;
        return PlaneRowOf<int8_t>{reinterpret_cast<const int8_t*>(upper)};
      });
    }
    const auto at = [this](size_t slot, float* scale) {
      *scale = 1.0f;
      return KeyBlock(slot) + slot % kKvPageTokens * row_bytes_;
    };
    if (cache_.format().element == DType::kF32) {
      return ScoreRows([&](size_t slot, float* scale) {
        return FloatRowOf{reinterpret_cast<const float*>(at(slot, scale))};
      });
    }
    ScoreRows([&](size_t slot, float* scale) {
      return BF16RowOf{reinterpret_cast<const uint16_t*>(at(slot, scale))};
    });
  }

  /// Scores of all slots read: q . row_of(slot, &scale) * scale.
  template <typename RowOf>
  HWY_NOINLINE void ScoreRows(const RowOf& row_of) {
    const size_t stride = layout_.stride;
    for (size_t n = 0; n < slots_; ++n) {
      if (n + kAhead < slots_) FetchKey(Slot(n + kAhead));
      float scale;
      const auto row = row_of(Slot(n), &scale);
      size_t h = 0;
      for (; h + 4 <= heads_; h += 4) Dots<4>(query_ + h * dim_, row, dim_, scores(h) + n, stride);
      for (; h < heads_; ++h) Dots<1>(query_ + h * dim_, row, dim_, scores(h) + n, stride);
      for (h = 0; h < heads_; ++h) scores(h)[n] *= scale;
    }
  }

  /// Adds to a head's scaled scores what the lower plane is worth: the upper one's is there.
  HWY_NOINLINE void AddLowerPlane(size_t h) {
    const auto lower = [this](size_t slot) {
      return KeyBlock(slot) + cache_.lower_offset() + slot % kKvPageTokens * dim_;
    };
    const float* const query = query_ + h * dim_;
    float* const rotated = memory_ + layout_.row;
    for (size_t n = 0; n < slots_; ++n) {
      if (n + kAhead < slots_) Fetch(lower(Slot(n + kAhead)), dim_);
      const size_t slot = Slot(n);
      const auto* const plane = reinterpret_cast<const uint8_t*>(lower(slot));
      float dot;
      if (cache_.format().rotate_on_read) {
        std::copy_n(plane, dim_, rotated);
        RotateRow(*input_.rotary, sequence_.positions[slot], rotated);
        Dots<1>(query, FloatRowOf{rotated}, dim_, &dot, 0);
      } else {
        Dots<1>(query, PlaneRowOf<uint8_t>{plane}, dim_, &dot, 0);
      }
      scores(h)[n] += BaseTwo(input_.scale) * ScaleOf(slot) * dot;
    }
  }

  /// Makes exponents of the scores, too.
  void Softmax(size_t h, float scale) {
    const size_t lanes = hn::Lanes(F32());
    const size_t width = (slots_ + lanes - 1) / lanes * lanes;
    float largest = -std::numeric_limits<float>::infinity();
    total(h) = 0.0f;
    SoftmaxRow(scores(h), nullptr, slots_, width, scale, largest, total(h), weights(h));
  }

  void Sum(size_t h) {
    const float factor = static_cast<float>(1.0 / kProbabilityUnit) / total(h);
    const F32 d;
    const hn::RebindToSigned<F32> di;
    const size_t lanes = hn::Lanes(d);
    int32_t units[HWY_MAX_BYTES / sizeof(int32_t)];
    for (size_t n = 0; n < slots_; n += lanes) {
      auto p = hn::Mul(hn::Load(d, weights(h) + n), hn::Set(d, factor));
      p = hn::IfThenZeroElse(hn::IsNaN(p), p);
      hn::StoreU(hn::NearestInt(p), di, units);
      for (size_t i = 0; i < std::min(lanes, slots_ - n); ++i) sums_[n + i] += units[i];
    }
  }

  /// Which values each head reads.
  void ChooseValues() {
    const auto keep =
        static_cast<size_t>(KeepCount(static_cast<int64_t>(slots_), sequence_.value_keep));
    auto* const ordered = reinterpret_cast<int32_t*>(memory_ + layout_.ordered);
    for (size_t h = 0; h < heads_; ++h) {
      ChooseLargest(weights(h), slots_, keep, ordered, chosen(h));
    }
    const size_t words = (slots_ + 63) / 64;
    int64_t rows = 0;  // That some head reads.
    for (size_t w = 0; w < words; ++w) {
      uint64_t bits = 0;
      for (size_t h = 0; h < heads_; ++h) bits |= chosen(h)[w];
      rows += std::popcount(bits);
    }
    record_->values = static_cast<int64_t>(heads_ * keep);
    record_->bytes += rows * static_cast<int64_t>(cache_.value_bytes());
  }

  void ReadValues() {
    std::fill_n(output(0), heads_ * layout_.out_stride, 0.0f);
    for (size_t begin = 0; begin < slots_; begin += kValueBlock) {
      for (size_t h = 0; h < heads_; ++h) {
        if (cache_.format().element == DType::kF32) {
          AddBlock(h, begin, [](const std::byte* row) {
            return FloatRowOf{reinterpret_cast<const float*>(row)};
          });
        } else {
          AddBlock(h, begin, [](const std::byte* row) {
            return BF16RowOf{reinterpret_cast<const uint16_t*>(row)};
          });
        }
      }
    }
    for (size_t h = 0; h < heads_; ++h) FinishRow(output(h), total(h), dim_, out_ + h * dim_);
  }

  /// Adds the chosen values of kValueBlock slots.
  template <typename RowOf>
  void AddBlock(size_t h, size_t begin, const RowOf& row_of) {
    const std::byte* rows[kValueBlock];
    float row_weights[kValueBlock];
    size_t count = 0;
    for (size_t w = begin; w < std::min(slots_, begin + kValueBlock); w += 64) {
      for (uint64_t bits = chosen(h)[w / 64]; bits != 0; bits &= bits - 1) {
        const size_t n = w + static_cast<size_t>(std::countr_zero(bits));
        rows[count] = ValueRow(Slot(n));
        row_weights[count++] = weights(h)[n];
      }
    }
    size_t fetched = 0;
    for (size_t i = 0; i < count; i += kValueStep) {
      for (; fetched < std::min(count, i + kValueStep + kAhead); ++fetched) {
        Fetch(rows[fetched], row_bytes_);
      }
      AddRows(rows + i, row_weights + i, std::min(kValueStep, count - i), dim_, row_of, output(h));
    }
  }

  const CachedAttentionInput& input_;
  const CachedSequence& sequence_;
  const KvLayout& cache_;
  const size_t dim_;
  const size_t heads_;                      // That share the KV head.
  const size_t slots_;                      // That are read,
  const int32_t* list_ = nullptr;           // and which; null: all.
  const ptrdiff_t keys_, values_, bounds_;  // The KV head's blocks within every page.
  const size_t row_bytes_;                  // Of a value, and of a key that is not in planes.
  const Layout layout_;
  float* const memory_;
  int64_t* const sums_;
  int32_t* const stretches_;
  DecodeRecord* const record_;
  const float* query_;
  float* out_;
};

void Attend(const DecodeTask& task, float* memory, Matrix out, int64_t* sums, int32_t* stretches,
            DecodeRecord* record) {
  Group(task, memory, out, sums, stretches, record).Run();
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(ScratchSize);
HWY_EXPORT(Attend);

size_t DecodeScratchSize(const CachedAttentionInput& input, const CachedSequence& sequence) {
  return HWY_DYNAMIC_DISPATCH(ScratchSize)(input, sequence);
}

void AttendDecode(const DecodeTask& task, float* scratch, Matrix out, int64_t* sums,
                  int32_t* stretches, DecodeRecord* record) {
  HWY_DYNAMIC_DISPATCH(Attend)(task, scratch, out, sums, stretches, record);
}

}  // namespace thresher
#endif  // HWY_ONCE
