#include "backend/device/cpu/attention.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/cpu/attention.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/attention-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

struct Layout : ScratchLayout {
  explicit Layout(size_t head_dim) : stride(PaddedCols(head_dim)), products(*this, head_dim) {
    scores = Take(BlockProducts::kMostRows * kKeyBlock);
    output = Take(kQueryBlock * stride);
    largest = Take(kQueryBlock);
    total = Take(kQueryBlock);
  }
  size_t stride;  // Of a row of output: head_dim padded to whole tiles.
  BlockProducts::Layout products;
  size_t scores;   // [BlockProducts::kMostRows][kKeyBlock]
  size_t output;   // [kQueryBlock][stride]: sums of 2^(exponent - largest) * V so far.
  size_t largest;  // [kQueryBlock]: the largest exponent so far,
  size_t total;    // and the sum of 2^(exponent - largest).
};

size_t ScratchSize(size_t head_dim) { return Layout(head_dim).size; }

void Attend(const HeadTask& task, float* memory, Matrix out) {
  const auto dim = static_cast<size_t>(task.query.cols);
  const auto queries = static_cast<size_t>(task.query.rows);
  const auto first_query = static_cast<size_t>(task.first_query);
  const size_t tile = TileCols();
  const float scale = BaseTwo(task.scale);
  const Layout layout(dim);
  const size_t stride = layout.stride;
  BlockProducts products(task.bf16, layout.products, dim, memory);
  const size_t step = products.row_step();
  float* const block_scores = memory + layout.scores;
  float* const output = memory + layout.output;
  float* const largest = memory + layout.largest;
  float* const total = memory + layout.total;
  std::fill_n(output, queries * stride, 0.0f);
  std::fill_n(largest, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(total, queries, 0.0f);

  const size_t keys = task.causal ? first_query + queries : static_cast<size_t>(task.key.rows);
  for (size_t begin = 0; begin < keys; begin += kKeyBlock) {
    const size_t count = std::min(kKeyBlock, keys - begin);
    const size_t width = (count + tile - 1) / tile * tile;
    const auto from = static_cast<int64_t>(begin), rows = static_cast<int64_t>(count);
    products.TakeKeys(task.key.Rows(from, rows));
    products.TakeValues(task.value.Rows(from, rows), nullptr);
    for (size_t q = 0; q < queries; q += step) {
      const size_t n = std::min(step, queries - q);
      if (task.causal && first_query + q + n <= begin) continue;  // All these keys are later.
      // A causal tile sees the keys up to its last row's.
      const size_t seen = task.causal ? std::min(count, first_query + q + n - begin) : count;
      products.Score(task.query.row(static_cast<int64_t>(q)),
                     static_cast<size_t>(task.query.stride), n, seen, block_scores);
      for (size_t r = q; r < q + n; ++r) {
        float* scores = block_scores + (r - q) * kKeyBlock;
        const size_t last = first_query + r + 1;  // Keys that a causal row sees.
        if (task.causal && last <= begin) {
          std::fill_n(scores, width, 0.0f);
          continue;
        }
        const size_t valid = task.causal ? std::min(count, last - begin) : count;
        const float correction =
            SoftmaxRow(scores, nullptr, valid, width, scale, largest[r], total[r], scores);
        if (begin > 0 && correction != 1.0f) {
          ScaleInPlace(correction, stride, output + r * stride);
        }
      }
      products.AddValues(block_scores, kKeyBlock, n, seen, output + q * stride, stride);
    }
  }
  for (size_t r = 0; r < queries; ++r) {
    FinishRow(output + r * stride, total[r], dim, out.row(static_cast<int64_t>(r)));
  }
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(ScratchSize);
HWY_EXPORT(Attend);

size_t AttentionScratchSize(int64_t head_dim) {
  return HWY_DYNAMIC_DISPATCH(ScratchSize)(static_cast<size_t>(head_dim));
}

const DotUnit* AttentionUnit(const Isa& isa, Precision precision, int64_t head_dim) {
  if (precision == Precision::kF32 || head_dim % static_cast<int64_t>(kBF16Step) != 0) {
    return nullptr;
  }
#if defined(__x86_64__)
  // Intel's vdpbf16ps does half of what its float multiply-adds do.
  if (!isa.amx && !__builtin_cpu_is("amd")) return nullptr;
#endif
  return BFloat16DotUnit(isa);
}

void AttendHead(const HeadTask& task, float* scratch, Matrix out) {
  HWY_DYNAMIC_DISPATCH(Attend)(task, scratch, out);
}

}  // namespace thresher
#endif  // HWY_ONCE
