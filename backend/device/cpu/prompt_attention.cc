#include "backend/device/cpu/prompt_attention.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "backend/device/cpu/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/cpu/prompt_attention.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/attention-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

struct Layout : ScratchLayout {
  /// For `queries` rows of all heads together.
  Layout(size_t head_dim, size_t queries)
      : stride(PaddedCols(head_dim)), products(*this, head_dim) {
    rows = Take(kKeyBlock * head_dim);
    scores = Take(BlockProducts::kMostRows * kKeyBlock);
    output = Take(queries * stride);
    largest = Take(queries);
    total = Take(queries);
  }
  size_t stride;  // Of a row of output: head_dim padded to whole tiles.
  BlockProducts::Layout products;
  size_t rows;     // [kKeyBlock][head_dim]: K or V as float, before it is packed.
  size_t scores;   // [BlockProducts::kMostRows][kKeyBlock]
  size_t output;   // [queries][stride]: sums of 2^(exponent - largest) * V so far.
  size_t largest;  // [queries]: the largest exponent so far,
  size_t total;    // and the sum of 2^(exponent - largest).
};

size_t ScratchSize(size_t head_dim, size_t queries) { return Layout(head_dim, queries).size; }

class Block {
 public:
  Block(const PromptTask& task, float* memory, Matrix out)
      : input_(*task.input),
        sequence_(*task.sequence),
        kv_head_(task.kv_head),
        dim_(static_cast<size_t>(input_.shape.head_dim)),
        heads_(static_cast<size_t>(input_.shape.heads / input_.shape.kv_heads)),
        rows_(static_cast<size_t>(task.rows)),
        first_(static_cast<size_t>(sequence_.slots - sequence_.rows + task.first_row)),
        summed_from_(static_cast<size_t>(std::max(0, sequence_.sums_from - task.first_row))),
        layout_(dim_, heads_ * rows_),
        memory_(memory),
        products_(task.bf16, layout_.products, dim_, memory) {
    const int64_t row = sequence_.first_row + task.first_row;
    const auto column = static_cast<int64_t>(static_cast<size_t>(kv_head_) * heads_ * dim_);
    const auto cols = static_cast<int64_t>(heads_ * dim_);
    query_ = {input_.query.row(row) + column, task.rows, cols, input_.query.stride};
    out_ = {out.row(row) + column, task.rows, cols, out.stride};
  }

  void Attend() {
    const size_t stride = layout_.stride;
    const size_t queries = heads_ * rows_;
    std::fill_n(output(0), queries * stride, 0.0f);
    std::fill_n(memory_ + layout_.largest, queries, -std::numeric_limits<float>::infinity());
    std::fill_n(memory_ + layout_.total, queries, 0.0f);
    for (size_t begin = 0; begin < keys(); begin += kKeyBlock) {
      const size_t count = std::min(kKeyBlock, keys() - begin);
      LoadKeys(begin, count);
      LoadValues(begin, count);
      ForEachTile(begin, [&](size_t head, size_t q, size_t n) {
        Score(head, q, n, Visible(q + n - 1, begin, count));
        AddValues(head, q, n, begin, count);
      });
    }
    for (size_t head = 0; head < heads_; ++head) {
      for (size_t r = 0; r < rows_; ++r) {
        const size_t i = head * rows_ + r;
        FinishRow(output(i), total(i), dim_, out_.row(static_cast<int64_t>(r)) + head * dim_);
      }
    }
  }

  /// Makes the scores once more, now that the largest and the total of each row are known.
  void Sum(int64_t* sums) {
    if (summed_from_ >= rows_) return;
    for (size_t begin = 0; begin < keys(); begin += kKeyBlock) {
      const size_t count = std::min(kKeyBlock, keys() - begin);
      int64_t block_sums[kKeyBlock] = {};
      LoadKeys(begin, count);
      ForEachTile(begin, [&](size_t head, size_t q, size_t n) {
        if (q + n <= summed_from_) return;
        Score(head, q, n, Visible(q + n - 1, begin, count));
        SumTile(head, q, n, begin, block_sums);
      });
      for (size_t j = 0; j < count; ++j) {
        std::atomic_ref(sums[begin + j]).fetch_add(block_sums[j], std::memory_order_relaxed);
      }
    }
  }

 private:
  /// That the last row sees.
  size_t keys() const { return first_ + rows_; }
  float* output(size_t i) { return memory_ + layout_.output + i * layout_.stride; }
  float& largest(size_t i) { return memory_[layout_.largest + i]; }
  float& total(size_t i) { return memory_[layout_.total + i]; }
  float* scores(size_t row) { return memory_ + layout_.scores + row * kKeyBlock; }
  /// Keys of a block from `begin` that row r sees.
  size_t Visible(size_t r, size_t begin, size_t count) const {
    const size_t end = first_ + r + 1;
    return end <= begin ? 0 : std::min(count, end - begin);
  }

  /// Calls body(head, first row, rows) for the tiles that see keys from `begin` on.
  template <typename Body>
  void ForEachTile(size_t begin, const Body& body) {
    const size_t step = products_.row_step();
    for (size_t head = 0; head < heads_; ++head) {
      for (size_t q = 0; q < rows_; q += step) {
        const size_t n = std::min(step, rows_ - q);
        if (first_ + q + n > begin) body(head, q, n);
      }
    }
  }

  /// The scratch rows as a matrix, filled by load(page, slot in page, row).
  template <typename Load>
  ConstMatrix LoadRows(size_t begin, size_t count, const Load& load) {
    float* const rows = memory_ + layout_.rows;
    for (size_t j = 0; j < count; ++j) {
      const auto slot = static_cast<int32_t>(begin + j);
      load(sequence_.pages[static_cast<size_t>(slot / kKvPageTokens)], slot, rows + j * dim_);
    }
    return {rows, static_cast<int64_t>(count), static_cast<int64_t>(dim_)};
  }

  void LoadKeys(size_t begin, size_t count) {
    const KvLayout& cache = *input_.layout;
    const bool rotate = cache.format().rotate_on_read;
    products_.TakeKeys(LoadRows(begin, count, [&](std::byte* page, int32_t slot, float* row) {
      LoadKeyRow(cache, cache.keys(page, input_.layer, kv_head_), slot % kKvPageTokens, false, row);
      if (rotate) RotateRow(*input_.rotary, sequence_.positions[slot], row);
    }));
  }

  void LoadValues(size_t begin, size_t count) {
    const KvLayout& cache = *input_.layout;
    const auto load = [&](std::byte* page, int32_t slot, float* row) {
      LoadValueRow(cache, cache.values(page, input_.layer, kv_head_), slot % kKvPageTokens, row);
    };
    products_.TakeValues(LoadRows(begin, count, load), nullptr);
  }

  void Score(size_t head, size_t q, size_t n, size_t count) {
    products_.Score(query_.row(static_cast<int64_t>(q)) + head * dim_,
                    static_cast<size_t>(query_.stride), n, count, scores(0));
  }

  void AddValues(size_t head, size_t q, size_t n, size_t begin, size_t count) {
    const size_t tile = TileCols();
    const size_t width = (count + tile - 1) / tile * tile;
    for (size_t r = 0; r < n; ++r) {
      const size_t valid = Visible(q + r, begin, count);
      if (valid == 0) {
        std::fill_n(scores(r), width, 0.0f);
        continue;
      }
      const size_t i = head * rows_ + q + r;
      const float correction = SoftmaxRow(scores(r), nullptr, valid, width, BaseTwo(input_.scale),
                                          largest(i), total(i), scores(r));
      if (begin > 0 && correction != 1.0f) ScaleInPlace(correction, layout_.stride, output(i));
    }
    // Rows of a tile that see less have weights of zero, which add nothing.
    const size_t seen = Visible(q + n - 1, begin, count);
    products_.AddValues(scores(0), kKeyBlock, n, seen, output(head * rows_ + q), layout_.stride);
  }

  void SumTile(size_t head, size_t q, size_t n, size_t begin, int64_t* block_sums) {
    const F32 d;
    const hn::RebindToSigned<F32> di;
    const size_t lanes = hn::Lanes(d);
    const auto scale = hn::Set(d, BaseTwo(input_.scale));
    int32_t whole[HWY_MAX_BYTES / sizeof(int32_t)];
    for (size_t j = 0; j < kKeyBlock && begin + j < first_ + q + n; j += lanes) {
      auto sum = hn::Zero(di);  // Of at most kMostRows times 2^24.
      for (size_t r = 0; r < n; ++r) {
        const size_t visible = Visible(q + r, begin, kKeyBlock);
        if (visible <= j || q + r < summed_from_) continue;
        const size_t i = head * rows_ + q + r;
        const auto e =
            Exp2Of(hn::Sub(hn::Mul(hn::Load(d, scores(r) + j), scale), hn::Set(d, largest(i))));
        auto units = hn::Mul(e, hn::Set(d, static_cast<float>(1.0 / kProbabilityUnit) / total(i)));
        units = hn::IfThenZeroElse(hn::IsNaN(units), units);
        if (visible < j + lanes) units = hn::IfThenElseZero(hn::FirstN(d, visible - j), units);
        sum = hn::Add(sum, hn::NearestInt(units));
      }
      hn::StoreU(sum, di, whole);
      for (size_t k = 0; k < lanes; ++k) block_sums[j + k] += whole[k];
    }
  }

  const CachedAttentionInput& input_;
  const CachedSequence& sequence_;
  const int32_t kv_head_;
  const size_t dim_;
  const size_t heads_;  // That share the KV head. Queries are numbered [heads_][rows_].
  const size_t rows_;
  const size_t first_;        // The slot of the first row.
  const size_t summed_from_;  // The first row that sums are of.
  const Layout layout_;
  float* const memory_;
  BlockProducts products_;
  ConstMatrix query_;  // [rows_, heads_ * dim_]
  Matrix out_;
};

void Attend(const PromptTask& task, float* memory, Matrix out, int64_t* sums) {
  Block block(task, memory, out);
  block.Attend();
  if (sums != nullptr) block.Sum(sums);
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(ScratchSize);
HWY_EXPORT(Attend);

int32_t PromptBlockRows(const AttentionShape& shape) {
  constexpr int32_t kLeast = 24;  // Whole tiles of every target.
  return std::max(kLeast, static_cast<int32_t>(kQueryBlock) / (shape.heads / shape.kv_heads));
}

size_t PromptScratchSize(const AttentionShape& shape) {
  const int32_t queries = shape.heads / shape.kv_heads * PromptBlockRows(shape);
  return HWY_DYNAMIC_DISPATCH(ScratchSize)(static_cast<size_t>(shape.head_dim),
                                           static_cast<size_t>(queries));
}

void AttendPrompt(const PromptTask& task, float* scratch, Matrix out, int64_t* sums) {
  HWY_DYNAMIC_DISPATCH(Attend)(task, scratch, out, sums);
}

}  // namespace thresher
#endif  // HWY_ONCE
