#include "backend/device/cpu/score_prediction.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "backend/device/cpu/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/device/cpu/score_prediction.cc"
#include "hwy/foreach_target.h"  // Compiles this file once for each target.
// After foreach_target.h:
#include "backend/device/cpu/attention-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thresher::HWY_NAMESPACE {
namespace {

struct Layout : ScratchLayout {
  Layout(size_t head_dim, size_t keys) : stride((keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock) {
    scores = Take(std::min(static_cast<size_t>(kQueryBlock), keys) * stride);
    key = Take(kKeyBlock * head_dim);
    scales = Take(kKeyBlock);
  }
  size_t stride;  // Of a row of scores: whole blocks of keys.
  size_t scores;  // [kQueryBlock][stride], or fewer rows where there are fewer queries.
  size_t key;     // [kKeyBlock / TileCols()] tiles of [head_dim][TileCols()]: K^T.
  size_t scales;  // [kKeyBlock]
};

size_t ScratchSize(size_t head_dim, size_t keys) { return Layout(head_dim, keys).size; }

/// The scores of a head's queries [first, first + rows) (at most kQueryBlock) and all keys:
/// scores(i, j) = query(i) . key(j) * (factor * query_scale(i) * key_scale(j)). They lie in
/// `memory`.
ConstMatrix Predict(const ScoreOperands& operands, int32_t head, int64_t first, int64_t rows,
                    float* memory) {
  const F32 d;
  const size_t tile = TileCols();
  const int64_t kv_head = head / (operands.query_scales.cols / operands.key_scales.cols);
  const ConstMatrix query =
      HeadColumns(operands.query_codes, head, operands.width).Rows(first, rows);
  const ConstMatrix key = HeadColumns(operands.key_codes, kv_head, operands.width);
  const auto dim = static_cast<size_t>(query.cols);
  const auto queries = static_cast<size_t>(query.rows);
  const auto keys = static_cast<size_t>(key.rows);
  const Layout layout(dim, keys);
  const size_t stride = layout.stride;
  float* const scores = memory + layout.scores;
  float* const packed = memory + layout.key;
  float* const scales = memory + layout.scales;
  for (size_t begin = 0; begin < keys; begin += kKeyBlock) {
    const size_t count = std::min(kKeyBlock, keys - begin);
    PackKeys(key.Rows(static_cast<int64_t>(begin), static_cast<int64_t>(count)), packed);
    std::fill_n(scales, kKeyBlock, 0.0f);
    for (size_t j = 0; j < count; ++j) {
      scales[j] = operands.key_scales.row(static_cast<int64_t>(begin + j))[kv_head];
    }
    for (size_t q = 0; q < queries; q += kTileRows) {
      const size_t n = std::min(kTileRows, queries - q);
      float* const to = scores + q * stride + begin;
      for (size_t j = 0; j < count; j += tile) {
        TileOfRows(n, query.row(static_cast<int64_t>(q)), query.stride, packed + j * dim, dim,
                   false, to + j, stride);
      }
      for (size_t r = 0; r < n; ++r) {
        const auto factor =
            hn::Set(d, operands.factor *
                           operands.query_scales.row(first + static_cast<int64_t>(q + r))[head]);
        float* const row = to + r * stride;
        for (size_t j = 0; j < count; j += hn::Lanes(d)) {
          const auto scale = hn::Mul(factor, hn::Load(d, scales + j));
          hn::Store(hn::Mul(hn::Load(d, row + j), scale), d, row + j);
        }
      }
    }
  }
  return {scores, rows, key.rows, static_cast<int64_t>(stride)};
}

/// Encodes `count` values of one group; returns its scale.
float EncodeGroup(const float* values, size_t count, float limit, float* codes) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  const size_t lanes = hn::Lanes(d);
  // Magnitudes compare as their bits do, and what is not finite is above all that is.
  auto highest = hn::Zero(di);
  for (size_t i = 0; i < count; i += lanes) {
    highest = hn::Max(highest, hn::BitCast(di, hn::Abs(LoadPart(d, values + i, count - i))));
  }
  const int32_t bits = hn::GetLane(hn::MaxOfLanes(di, highest));
  constexpr int32_t kInfinite = 0x7f800000;
  if (bits == 0 || bits >= kInfinite) {
    std::fill_n(codes, count, 0.0f);
    return 0.0f;
  }
  const float largest = std::bit_cast<float>(bits);
  // Sign and exponent of a whole number are its sign and leading one.
  const auto leading = hn::BitCast(d, hn::Set(di, static_cast<int32_t>(0xff800000u)));
  for (size_t i = 0; i < count; i += lanes) {
    const auto v = LoadPart(d, values + i, count - i);
    const auto quantised = hn::Round(hn::Mul(hn::Div(v, hn::Set(d, largest)), hn::Set(d, limit)));
    StorePart(hn::And(quantised, leading), d, codes + i, std::min(lanes, count - i));
  }
  return largest / limit;
}

void Encode(const LeadingOneInput& input, int32_t bits, int64_t group, int64_t first, int64_t count,
            Matrix codes, Matrix scales) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  const auto limit = static_cast<float>((1 << (bits - 1)) - 1);
  const auto cols = static_cast<size_t>(input.x.cols);
  for (int64_t i = first; i < first + count; ++i) {
    const float* values = input.x.row(i);
    float* const out = codes.row(i);
    if (!input.row_scales.empty()) {
      // The finished projection stands where its codes will.
      const auto row_scale = hn::Set(d, kMantissaCorrection * input.row_scales[i]);
      for (size_t o = 0; o < cols; o += lanes) {
        const size_t n = std::min(lanes, cols - o);
        const auto scale = hn::Mul(row_scale, LoadPart(d, input.col_scales.data() + o, n));
        auto y = hn::Mul(LoadPart(d, values + o, n), scale);
        if (!input.bias.empty()) y = hn::Add(y, LoadPart(d, input.bias.data() + o, n));
        StorePart(y, d, out + o, n);
      }
      values = out;
    }
    for (int64_t g = 0; g < scales.cols; ++g) {
      scales.row(i)[g] =
          EncodeGroup(values + g * group, static_cast<size_t>(group), limit, out + g * group);
    }
  }
}

}  // namespace
}  // namespace thresher::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thresher {

HWY_EXPORT(ScratchSize);
HWY_EXPORT(Predict);
HWY_EXPORT(Encode);

void PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                   ScoreBlockBody body, ThreadPool* pool, WorkerScratch* scratch) {
  const int64_t rows = operands.query_codes.rows;
  const int64_t dim = operands.width;
  const int64_t blocks = DivideUp(rows, kQueryBlock);
  scratch->Resize(
      HWY_DYNAMIC_DISPATCH(ScratchSize)(static_cast<size_t>(dim), static_cast<size_t>(rows)));
  const auto tasks = static_cast<int64_t>(heads.size()) * blocks;
  pool->ForTasks(tasks, tasks * kQueryBlock * rows * (dim + 32), [&](int64_t task, int worker) {
    const int32_t head = heads[static_cast<size_t>(task / blocks)];
    const int64_t first = task % blocks * kQueryBlock;
    body(head, first,
         HWY_DYNAMIC_DISPATCH(Predict)(operands, head, first, std::min(kQueryBlock, rows - first),
                                       scratch->of(worker)));
  });
}

void EncodeLeadingOneRows(const LeadingOneInput& input, int32_t bits, int64_t group, int64_t first,
                          int64_t count, Matrix codes, Matrix scales) {
  HWY_DYNAMIC_DISPATCH(Encode)(input, bits, group, first, count, codes, scales);
}

}  // namespace thresher
#endif  // HWY_ONCE
