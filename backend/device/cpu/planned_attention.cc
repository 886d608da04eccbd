#include "backend/device/cpu/planned_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "backend/device/top_k.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/cpu/planned_attention.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/attention-inl.h"
#include "backend/device/cpu/top_k-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

size_t Blocks(size_t keys) { return (keys + kKeyBlock - 1) / kKeyBlock; }

struct Layout : ScratchLayout {
  Layout(size_t head_dim, size_t keys)
      : out_stride(PaddedCols(head_dim)),
        stride(Blocks(keys) * kKeyBlock),
        blocks(Blocks(keys)),
        products(*this, head_dim) {
    query = Take(kQueryBlock * head_dim);
    scores = Take(BlockProducts::kMostRows * kKeyBlock);
    weights = Take(kQueryBlock * stride);
    corrections = Take(kQueryBlock * blocks);
    output = Take(kQueryBlock * out_stride);
    largest = Take(kQueryBlock);
    total = Take(kQueryBlock);
    row = Take(stride);
    ordered = Take(OrderedSize(stride));
    chosen = Take(2 * stride / 64);
  }
  size_t out_stride;  // Of a row of output: head_dim padded to whole tiles.
  size_t stride;      // Of a row of weights: whole blocks of keys.
  size_t blocks;
  BlockProducts::Layout products;
  size_t query;        // [kQueryBlock][head_dim]: the queries that run, where not all do.
  size_t scores;       // [BlockProducts::kMostRows][kKeyBlock]
  size_t weights;      // [kQueryBlock][stride]: 2^(exponent - largest at its block).
  size_t corrections;  // [kQueryBlock][blocks]: what sums before a block are multiplied by there.
  size_t output;       // [kQueryBlock][out_stride]
  size_t largest;      // [kQueryBlock]
  size_t total;        // [kQueryBlock]
  size_t row;          // [stride]: probabilities of one row;
  size_t ordered;      // what choosing among them needs,
  size_t chosen;       // and the chosen ones: a bit for each key.
};

size_t ScratchSize(size_t head_dim, size_t keys) { return Layout(head_dim, keys).size; }

/// Some of the queries that run, ascending: their slots and, in the same order, their rows of Q.
struct QueryRows {
  size_t count = 0;
  uint16_t slots[kQueryBlock];
  ConstMatrix query;
};

class Block {
 public:
  Block(const PlannedHeadTask& task, float* memory, Matrix out, PlannedHeadRecord* record,
        const PlannedHeadSums& sums)
      : task_(task),
        dim_(static_cast<size_t>(task.head.query.cols)),
        layout_(dim_, static_cast<size_t>(task.head.key.rows)),
        memory_(memory),
        products_(task.head.bf16, layout_.products, dim_, memory),
        out_(out),
        record_(record),
        sums_(sums) {}

  void Run() {
    *record_ = {};
    if (task_.wanted.column_sums) std::fill_n(sums_.column, task_.head.key.rows, 0.0f);
    if (task_.wanted.self_sums) std::fill_n(sums_.self, task_.head.query.rows, 0.0f);
    FindRows();
    if (rows_ > 0) {
      QueryRows all;
      Select(&all, [](size_t) { return true; });
      Score(task_.head.key, all);
      Refetch();
      Calibrate();
      Observe();
      if (!task_.only_sums) {
        Count();
        ChooseValues();
        SkipValues();
        ReadValues();
      }
    }
    AddOneHot();
    if (!task_.only_sums) Finish();
  }

 private:
  float* weights(size_t slot) { return memory_ + layout_.weights + slot * layout_.stride; }
  float* corrections(size_t slot) { return memory_ + layout_.corrections + slot * layout_.blocks; }
  float& largest(size_t slot) { return memory_[layout_.largest + slot]; }
  float& total(size_t slot) { return memory_[layout_.total + slot]; }
  const uint64_t* candidates(size_t slot) const {
    if (task_.candidates == nullptr) return nullptr;
    return task_.candidates + static_cast<int64_t>(queries_[slot]) * task_.candidate_words;
  }
  /// Keys that the slot's query sees.
  size_t visible(size_t slot) const {
    return task_.head.causal ? static_cast<size_t>(task_.head.first_query) + queries_[slot] + 1
                             : static_cast<size_t>(task_.head.key.rows);
  }

  /// The key that is query i's own row.
  size_t OwnKey(int64_t i) const { return static_cast<size_t>(task_.head.first_query + i); }

  /// The queries that run, and the keys that the last of them sees.
  void FindRows() {
    for (int64_t i = 0; i < task_.head.query.rows; ++i) {
      if (task_.one_hot != nullptr && task_.one_hot[i] >= 0) continue;
      queries_[rows_++] = static_cast<uint16_t>(i);
    }
    keys_ = rows_ > 0 ? visible(rows_ - 1) : 0;
  }

  /// The running queries for which `chosen(slot)`.
  template <typename Chosen>
  void Select(QueryRows* selected, const Chosen& chosen) {
    for (size_t slot = 0; slot < rows_; ++slot) {
      if (chosen(slot)) selected->slots[selected->count++] = static_cast<uint16_t>(slot);
    }
    if (selected->count == static_cast<size_t>(task_.head.query.rows)) {
      selected->query = task_.head.query;
      return;
    }
    const Matrix gathered(memory_ + layout_.query, static_cast<int64_t>(selected->count),
                          static_cast<int64_t>(dim_));
    for (size_t n = 0; n < selected->count; ++n) {
      std::copy_n(task_.head.query.row(queries_[selected->slots[n]]), dim_,
                  gathered.row(static_cast<int64_t>(n)));
    }
    selected->query = gathered;
  }

  /// Weights, corrections, maxima and sums of `rows` over all keys.
  void Score(ConstMatrix key, const QueryRows& rows) {
    const size_t tile = TileCols();
    const size_t step = products_.row_step();
    float* const scores = memory_ + layout_.scores;
    for (size_t n = 0; n < rows.count; ++n) {
      largest(rows.slots[n]) = -std::numeric_limits<float>::infinity();
      total(rows.slots[n]) = 0.0f;
    }
    for (size_t begin = 0; begin < keys_; begin += kKeyBlock) {
      const size_t count = std::min(kKeyBlock, keys_ - begin);
      const size_t width = (count + tile - 1) / tile * tile;
      products_.TakeKeys(key.Rows(static_cast<int64_t>(begin), static_cast<int64_t>(count)));
      for (size_t q = 0; q < rows.count; q += step) {
        const size_t n = std::min(step, rows.count - q);
        if (const size_t seen = visible(rows.slots[q + n - 1]); seen > begin) {
          products_.Score(rows.query.row(static_cast<int64_t>(q)),
                          static_cast<size_t>(rows.query.stride), n, std::min(count, seen - begin),
                          scores);
        }
        for (size_t r = 0; r < n; ++r) {
          const size_t slot = rows.slots[q + r];
          float* const to = weights(slot) + begin;
          float& correction = corrections(slot)[begin / kKeyBlock];
          correction = 1.0f;
          if (visible(slot) <= begin) {
            std::fill_n(to, width, 0.0f);
            continue;
          }
          const uint64_t* bits = candidates(slot);
          correction =
              SoftmaxRow(scores + r * kKeyBlock, bits != nullptr ? bits + begin / 64 : nullptr,
                         std::min(count, visible(slot) - begin), width, BaseTwo(task_.head.scale),
                         largest(slot), total(slot), to,
                         task_.key_bias != nullptr ? task_.key_bias + begin : nullptr);
        }
      }
    }
  }

  /// Progressive quantization: rows in which no key stands out are scored again in full width.
  void Refetch() {
    if (task_.full_key.data == nullptr) return;
    QueryRows again;
    // A row's largest weight is e^0 = 1.
    Select(&again,
           [&](size_t slot) { return 1.0 / double{total(slot)} < task_.refetch_threshold; });
    if (again.count == 0) return;
    Score(task_.full_key, again);
    record_->refetched_rows = static_cast<int64_t>(again.count);
    for (size_t n = 0; n < again.count; ++n) record_->refetched_scores += Scored(again.slots[n]);
  }

  /// Scores of the slot's row: its candidates in sight.
  int64_t Scored(size_t slot) const {
    const size_t seen = visible(slot);
    if (task_.candidates == nullptr) return static_cast<int64_t>(seen);
    int64_t count = 0;
    for (size_t w = 0; w * 64 < seen; ++w) count += std::popcount(CandidateWord(slot, w));
    return count;
  }

  void Count() {
    record_->rows = static_cast<int64_t>(rows_);
    for (size_t slot = 0; slot < rows_; ++slot) {
      const int64_t scored = Scored(slot);
      record_->scores += scored;
      record_->values += std::min(scored, ValuesRead(slot));
    }
  }
  int64_t ValuesRead(size_t slot) const {
    return KeepCount(static_cast<int64_t>(visible(slot)), task_.value_keep);
  }

  /// body(first key, keys, factor) for the blocks of keys that the slot's query sees, from the last
  /// to the first: the factor turns the row's weights there into probabilities.
  template <typename Body>
  void ForEachBlock(size_t slot, const Body& body) {
    float factor = 1.0f / total(slot);
    for (size_t b = Blocks(visible(slot)); b-- > 0;) {
      body(b * kKeyBlock, std::min(kKeyBlock, visible(slot) - b * kKeyBlock), factor);
      factor *= corrections(slot)[b];
    }
  }

  /// Takes all but beta of the sinks' probability and gives it to the other keys. Row sums stay.
  void Calibrate() {
    if (task_.sinks == nullptr) return;
    const F32 d;
    const auto is_sink = [&](size_t j) {
      const uint64_t bits = task_.sinks[j / 64] >> (j % 64);
      return hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
    };
    for (size_t slot = 0; slot < rows_; ++slot) {
      float* const w = weights(slot);
      double sinks = 0.0, others = 0.0;
      ForEachBlock(slot, [&](size_t begin, size_t count, float factor) {
        auto sink = hn::Zero(d), other = hn::Zero(d);
        for (size_t j = begin; j < begin + count; j += hn::Lanes(d)) {
          const auto p = hn::Load(d, w + j);
          sink = hn::Add(sink, hn::IfThenElseZero(is_sink(j), p));
          other = hn::Add(other, hn::IfThenZeroElse(is_sink(j), p));
        }
        sinks += double{hn::GetLane(hn::SumOfLanes(d, sink))} * factor;
        others += double{hn::GetLane(hn::SumOfLanes(d, other))} * factor;
      });
      if (others == 0.0) continue;
      const auto beta = hn::Set(d, static_cast<float>(task_.beta));
      const auto gain = hn::Set(d, static_cast<float>(1.0 + (1.0 - task_.beta) * sinks / others));
      for (size_t j = 0; j < visible(slot); j += hn::Lanes(d)) {
        const auto by = hn::IfThenElse(is_sink(j), beta, gain);
        hn::Store(hn::Mul(hn::Load(d, w + j), by), d, w + j);
      }
    }
  }

  /// Statistics of the probabilities, from the last block to the first: a factor for each row turns
  /// its weights there into probabilities.
  void Observe() {
    const WantedStatistics& wanted = task_.wanted;
    if (!wanted.column_sums && !wanted.self_sums && !wanted.distribution) return;
    float factors[kQueryBlock];
    for (size_t slot = 0; slot < rows_; ++slot) factors[slot] = 1.0f / total(slot);
    for (size_t b = Blocks(keys_); b-- > 0;) {
      const size_t begin = b * kKeyBlock;
      const size_t count = std::min(kKeyBlock, keys_ - begin);
      if (wanted.column_sums) SumColumns(begin, count, factors);
      if (wanted.distribution) Distribution(begin, count, factors);
      for (size_t slot = 0; wanted.self_sums && slot < rows_; ++slot) {
        const size_t own = OwnKey(queries_[slot]);
        if (own / kKeyBlock == b) sums_.self[queries_[slot]] = weights(slot)[own] * factors[slot];
      }
      for (size_t slot = 0; slot < rows_; ++slot) factors[slot] *= corrections(slot)[b];
    }
  }

  void SumColumns(size_t begin, size_t count, const float* factors) {
    const F32 d;
    const size_t lanes = hn::Lanes(d);
    const size_t stride = layout_.stride;
    for (size_t j = 0; j < count; j += 2 * lanes) {
      // Two rows at a time, so that four sums are under way.
      auto even0 = hn::Zero(d), even1 = hn::Zero(d), odd0 = hn::Zero(d), odd1 = hn::Zero(d);
      const float* row = weights(0) + begin + j;
      size_t slot = 0;
      for (; slot + 2 <= rows_; slot += 2, row += 2 * stride) {
        const auto even = hn::Set(d, factors[slot]), odd = hn::Set(d, factors[slot + 1]);
        even0 = hn::MulAdd(hn::Load(d, row), even, even0);
        even1 = hn::MulAdd(hn::Load(d, row + lanes), even, even1);
        odd0 = hn::MulAdd(hn::Load(d, row + stride), odd, odd0);
        odd1 = hn::MulAdd(hn::Load(d, row + stride + lanes), odd, odd1);
      }
      if (slot < rows_) {
        const auto even = hn::Set(d, factors[slot]);
        even0 = hn::MulAdd(hn::Load(d, row), even, even0);
        even1 = hn::MulAdd(hn::Load(d, row + lanes), even, even1);
      }
      float* const to = sums_.column + begin + j;
      StorePart(hn::Add(even0, odd0), d, to, std::min(lanes, count - j));
      if (j + lanes < count) {
        StorePart(hn::Add(even1, odd1), d, to + lanes, std::min(lanes, count - j - lanes));
      }
    }
  }

  void Distribution(size_t begin, size_t count, const float* factors) {
    const F32 d;
    const auto least = hn::Set(d, std::numeric_limits<float>::min());
    for (size_t slot = 0; slot < rows_; ++slot) {
      const float* const row = weights(slot) + begin;
      const auto factor = hn::Set(d, factors[slot]);
      auto sum = hn::Zero(d);
      for (size_t j = 0; j < count; j += hn::Lanes(d)) {  // Beyond the last key weights are zero.
        const auto p = hn::Mul(hn::Load(d, row + j), factor);
        sum = hn::NegMulAdd(p, hn::Log(d, hn::Max(p, least)), sum);
      }
      record_->entropy += double{hn::GetLane(hn::SumOfLanes(d, sum))};
      if (begin == 0) record_->sink += double{row[0]} * double{factors[slot]};
    }
  }

  /// Local value pruning: the weights of values that are not read become zero.
  void ChooseValues() {
    if (task_.value_keep >= 1.0) return;
    const F32 d;
    const size_t lanes = hn::Lanes(d);
    float* const row = memory_ + layout_.row;
    auto* const ordered = reinterpret_cast<int32_t*>(memory_ + layout_.ordered);
    auto* const chosen = reinterpret_cast<uint64_t*>(memory_ + layout_.chosen);
    for (size_t slot = 0; slot < rows_; ++slot) {
      const int64_t read = ValuesRead(slot);
      if (read >= Scored(slot)) continue;
      const size_t seen = visible(slot);
      float* const w = weights(slot);
      ForEachBlock(slot, [&](size_t begin, size_t count, float factor) {
        for (size_t j = begin; j < begin + count; j += lanes) {
          hn::Store(hn::Mul(hn::Load(d, w + j), hn::Set(d, factor)), d, row + j);
        }
      });
      ChooseLargest(row, seen, static_cast<size_t>(read), ordered, chosen);
      for (size_t j = 0; j < seen; j += lanes) {
        const uint64_t bits = chosen[j / 64] >> (j % 64);
        const auto mask = hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
        hn::Store(hn::IfThenElseZero(mask, hn::Load(d, w + j)), d, w + j);
      }
    }
  }

  /// Zero-skipping: the weights of values whose probability is below the threshold become zero.
  void SkipValues() {
    if (task_.value_threshold <= 0.0) return;
    const F32 d;
    const auto threshold = hn::Set(d, static_cast<float>(task_.value_threshold));
    record_->values = 0;
    for (size_t slot = 0; slot < rows_; ++slot) {
      float* const w = weights(slot);
      ForEachBlock(slot, [&](size_t begin, size_t count, float factor) {
        for (size_t j = begin; j < begin + count; j += hn::Lanes(d)) {
          const auto weight = hn::Load(d, w + j);
          const auto read = hn::Ge(hn::Mul(weight, hn::Set(d, factor)), threshold);
          record_->values += static_cast<int64_t>(hn::CountTrue(d, read));
          hn::Store(hn::IfThenElseZero(read, weight), d, w + j);
        }
      });
    }
  }

  /// Word `w` of the slot's candidates in sight.
  uint64_t CandidateWord(size_t slot, size_t w) const {
    const size_t seen = visible(slot);
    if (seen >= (w + 1) * 64) return candidates(slot)[w];
    if (seen <= w * 64) return 0;
    return candidates(slot)[w] & ((uint64_t{1} << (seen - w * 64)) - 1);
  }

  /// Which keys from `begin` on some running query has as a candidate in sight; null: all.
  const uint64_t* WantedValues(size_t begin, size_t count, uint64_t* wanted) const {
    if (task_.candidates == nullptr) return nullptr;
    for (size_t w = 0; w * 64 < count; ++w) {
      wanted[w] = 0;
      for (size_t slot = 0; slot < rows_; ++slot) wanted[w] |= CandidateWord(slot, begin / 64 + w);
    }
    return wanted;
  }

  /// The sums of weights times V, block by block as in AttendHead.
  void ReadValues() {
    const size_t step = products_.row_step();
    const size_t stride = layout_.out_stride;
    float* const output = memory_ + layout_.output;
    std::fill_n(output, rows_ * stride, 0.0f);
    uint64_t wanted[kKeyBlock / 64];
    for (size_t begin = 0; begin < keys_; begin += kKeyBlock) {
      const size_t count = std::min(kKeyBlock, keys_ - begin);
      products_.TakeValues(
          task_.head.value.Rows(static_cast<int64_t>(begin), static_cast<int64_t>(count)),
          WantedValues(begin, count, wanted));
      for (size_t q = 0; q < rows_; q += step) {
        const size_t n = std::min(step, rows_ - q);
        const size_t seen = visible(q + n - 1);
        if (seen <= begin) continue;  // All these keys are later.
        for (size_t slot = q; slot < q + n; ++slot) {
          const float correction = corrections(slot)[begin / kKeyBlock];
          if (begin > 0 && correction != 1.0f) {
            ScaleInPlace(correction, stride, output + slot * stride);
          }
        }
        products_.AddValues(weights(q) + begin, layout_.stride, n, std::min(count, seen - begin),
                            output + q * stride, stride);
      }
    }
  }

  /// One-hot queries give all to one key.
  void AddOneHot() {
    if (task_.one_hot == nullptr) return;
    for (int64_t i = 0; i < task_.head.query.rows; ++i) {
      const int32_t key = task_.one_hot[i];
      if (key < 0) continue;
      if (task_.wanted.column_sums) sums_.column[key] += 1.0f;
      if (task_.wanted.self_sums && static_cast<size_t>(key) == OwnKey(i)) sums_.self[i] = 1.0f;
      record_->values += 1;
    }
  }

  /// The output rows: of queries that ran, and of one-hot ones.
  void Finish() {
    for (size_t slot = 0; slot < rows_; ++slot) {
      FinishRow(memory_ + layout_.output + slot * layout_.out_stride, total(slot), dim_,
                out_.row(queries_[slot]));
    }
    for (int64_t i = 0; rows_ < static_cast<size_t>(out_.rows) && i < out_.rows; ++i) {
      const int32_t key = task_.one_hot[i];
      if (key < 0) continue;
      std::copy_n(task_.head.value.row(key), dim_, out_.row(i));
    }
    if (!task_.wanted.head_l1) return;
    const F32 d;
    for (int64_t i = 0; i < out_.rows; ++i) {
      auto sum = hn::Zero(d);
      for (size_t j = 0; j < dim_; j += hn::Lanes(d)) {
        sum = hn::Add(sum, hn::Abs(LoadPart(d, out_.row(i) + j, dim_ - j)));
      }
      record_->head_l1 += double{hn::GetLane(hn::SumOfLanes(d, sum))};
    }
  }

  const PlannedHeadTask& task_;
  const size_t dim_;
  const Layout layout_;
  float* const memory_;
  BlockProducts products_;
  const Matrix out_;
  PlannedHeadRecord* const record_;
  const PlannedHeadSums& sums_;
  // The queries that run. A slot is an index into them, and a row of weights, output and so on.
  size_t rows_ = 0;
  size_t keys_ = 0;  // That any of them sees.
  uint16_t queries_[kQueryBlock];
};

void AttendPlanned(const PlannedHeadTask& task, float* memory, Matrix out,
                   PlannedHeadRecord* record, const PlannedHeadSums& sums) {
  Block(task, memory, out, record, sums).Run();
}

void Quantize(ConstMatrix x, int32_t msb_bits, int32_t lsb_bits, Matrix full, Matrix upper) {
  // In double, as the reference does it: a tie between two integers must fall the same way.
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const size_t lanes = hn::Lanes(d);
  const auto cols = static_cast<size_t>(x.cols);
  const double limit = (1 << (msb_bits + lsb_bits - 1)) - 1;
  const auto step = hn::Set(d, static_cast<double>(1 << lsb_bits));
  for (int64_t i = 0; i < x.rows; ++i) {
    const float* const row = x.row(i);
    float magnitude = 0.0f;
    bool nan = false;
    for (size_t j = 0; j < cols; ++j) {
      nan |= std::isnan(row[j]);
      magnitude = std::max(magnitude, std::abs(row[j]));
    }
    const double largest = nan ? std::numeric_limits<double>::quiet_NaN() : magnitude;
    // A row of zeros has no scale, and needs none.
    const auto scale = hn::Set(d, largest == 0.0 ? 1.0 : largest / limit);
    for (size_t j = 0; j < cols; j += lanes) {
      const size_t count = std::min(lanes, cols - j);
      const auto v = hn::PromoteTo(d, LoadPart(half, row + j, count));
      const auto quantised = hn::Round(hn::Div(v, scale));
      StorePart(hn::DemoteTo(half, hn::Mul(quantised, scale)), half, full.row(i) + j, count);
      if (upper.data == nullptr) continue;
      const auto cut = hn::Mul(hn::Floor(hn::Div(quantised, step)), step);
      StorePart(hn::DemoteTo(half, hn::Mul(cut, scale)), half, upper.row(i) + j, count);
    }
  }
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(ScratchSize);
HWY_EXPORT(AttendPlanned);
HWY_EXPORT(Quantize);

size_t PlannedAttentionScratchSize(int64_t head_dim, int64_t keys) {
  return HWY_DYNAMIC_DISPATCH(ScratchSize)(static_cast<size_t>(head_dim),
                                           static_cast<size_t>(keys));
}

void AttendPlannedHead(const PlannedHeadTask& task, float* scratch, Matrix out,
                       PlannedHeadRecord* record, const PlannedHeadSums& sums) {
  HWY_DYNAMIC_DISPATCH(AttendPlanned)(task, scratch, out, record, sums);
}

void QuantizePlanes(ConstMatrix x, int32_t msb_bits, int32_t lsb_bits, Matrix full, Matrix upper) {
  HWY_DYNAMIC_DISPATCH(Quantize)(x, msb_bits, lsb_bits, full, upper);
}

}  // namespace thresher
#endif  // HWY_ONCE
