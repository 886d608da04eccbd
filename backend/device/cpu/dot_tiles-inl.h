// The inner loops of dot_unit.cc, for one instruction: included once for each, with
// THRESHER_DOT_NAMESPACE, THRESHER_DOT_TARGET and THRESHER_DOT(sum, b, a), in vectors of sixteen
// sums, where `b` and `a` hold a group of K for each sum.
//
// C[rows, tiles] = A[rows, groups] B[groups, tiles]: every sum is one chain over ascending groups,
// whatever the rows beside. A long K may be done in pieces without changing a bit, since C is as
// wide as the sums.

HWY_PUSH_ATTRIBUTES(THRESHER_DOT_TARGET)
namespace thresher {
namespace {
namespace THRESHER_DOT_NAMESPACE {

/// Groups [range) of `kTiles` neighbouring tiles from `tile` on, of `kRows` rows from `row` on.
template <size_t kRows, size_t kTiles>
HWY_NOINLINE void DotTiles(const DotTask& task, GroupRange range, size_t row, size_t tile,
                           bool accumulate) {
  const size_t tile_stride = task.groups * kDotTileStep;
  const size_t a_stride = task.a_stride;
  const size_t c_stride = task.c_stride;
  const std::byte* HWY_RESTRICT a = task.a + row * a_stride;
  const std::byte* HWY_RESTRICT b = task.b + tile * tile_stride;
  std::byte* HWY_RESTRICT c = task.c + row * c_stride + tile * kDotTileStep;
  __m512i sum[kRows][kTiles][2];
#pragma GCC unroll 16
  for (size_t t = 0; t < kTiles; ++t) {
    __m512i begin0 = _mm512_setzero_si512(), begin1 = begin0;
    if (task.col_begin != nullptr) {
      const int32_t* const begin = task.col_begin + (tile + t) * kDotTileCols;
      begin0 = _mm512_loadu_si512(begin);
      begin1 = _mm512_loadu_si512(begin + kDotTileCols / 2);
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r) {
      const std::byte* from = c + r * c_stride + t * kDotTileStep;
      sum[r][t][0] = accumulate ? _mm512_loadu_si512(from) : begin0;
      sum[r][t][1] = accumulate ? _mm512_loadu_si512(from + kVectorBytes) : begin1;
    }
  }
  for (size_t g = range.begin; g < range.end; ++g) {
#pragma GCC unroll 16
    for (size_t t = 0; t < kTiles; ++t) {
      const std::byte* from = b + t * tile_stride + g * kDotTileStep;
      __builtin_prefetch(from + kAheadBytes);
      __builtin_prefetch(from + kAheadBytes + kVectorBytes);
      const __m512i b0 = _mm512_loadu_si512(from);
      const __m512i b1 = _mm512_loadu_si512(from + kVectorBytes);
#pragma GCC unroll 16
      for (size_t r = 0; r < kRows; ++r) {
        const __m512i ar = _mm512_set1_epi32(LoadGroup(a + r * a_stride + g * kDotGroupBytes));
        sum[r][t][0] = THRESHER_DOT(sum[r][t][0], b0, ar);
        sum[r][t][1] = THRESHER_DOT(sum[r][t][1], b1, ar);
      }
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (size_t t = 0; t < kTiles; ++t) {
      std::byte* to = c + r * c_stride + t * kDotTileStep;
      _mm512_storeu_si512(to, sum[r][t][0]);
      _mm512_storeu_si512(to + kVectorBytes, sum[r][t][1]);
    }
  }
}

/// DotTiles of one tile for `rows` <= kTileRows known at run time.
template <size_t kRows = kTileRows>
HWY_INLINE void TileOfRows(size_t rows, const DotTask& task, GroupRange range, size_t row,
                           size_t tile, bool accumulate) {
  if (rows == kRows) {
    DotTiles<kRows, 1>(task, range, row, tile, accumulate);
  } else if constexpr (kRows > 1) {
    TileOfRows<kRows - 1>(rows, task, range, row, tile, accumulate);
  }
}

/// All rows (kRows of them) and as many tiles as make whole groups of kTiles; returns how many.
template <size_t kRows, size_t kTiles>
HWY_INLINE size_t FewRows(const DotTask& task, std::span<const GroupRange> ranges) {
  size_t tile = 0;
  for (; tile + kTiles <= task.tiles; tile += kTiles) {
    bool begun = task.accumulate;
    for (const GroupRange& range : ranges) {
      DotTiles<kRows, kTiles>(task, range, 0, tile, begun);
      begun = true;
    }
  }
  return tile;
}

void Multiply(const DotTask& task, std::span<const GroupRange> ranges) {
  size_t first = 0;
  // One tile of so few rows would mostly wait for its own few chains of additions.
  if (task.rows == 1) first = FewRows<1, 6>(task, ranges);
  if (task.rows == 2) first = FewRows<2, 3>(task, ranges);
  if (task.rows == 3) first = FewRows<3, 3>(task, ranges);
  if (task.rows == 4) first = FewRows<4, 3>(task, ranges);
  // Few rows read B once, from its beginning to its end; many pass by a slice of all tiles.
  const bool few = task.rows <= kTileRows;
  for (size_t step = few ? 1 : task.tiles; first < task.tiles; first += step) {
    bool begun = task.accumulate;
    for (const GroupRange& range : ranges) {
      const size_t depth = few ? range.end - range.begin : kBlockGroups;
      for (size_t g = range.begin; g < range.end; g += depth) {
        const GroupRange block = {.begin = g, .end = std::min(range.end, g + depth)};
        for (size_t tile = first; tile < first + step; ++tile) {
          for (size_t row = 0; row < task.rows;) {
            const size_t height = NextTileRows(task.rows - row);
            TileOfRows(height, task, block, row, tile, begun);
            row += height;
          }
        }
        begun = true;
      }
    }
  }
}

#ifdef THRESHER_DOT_SUMS_COLUMNS
/// -128 times the sum of the int8 of each column.
void SumColumns(const DotTask& task, std::span<const GroupRange> ranges, int32_t* sums) {
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(128));
  for (size_t half = 0; half < 2 * task.tiles; ++half) {
    const std::byte* const b =
        task.b + half / 2 * task.groups * kDotTileStep + half % 2 * kVectorBytes;
    __m512i sum = _mm512_setzero_si512();
    for (const GroupRange& range : ranges) {
      for (size_t g = range.begin; g < range.end; ++g) {
        sum = _mm512_dpbusd_epi32(sum, offset, _mm512_loadu_si512(b + g * kDotTileStep));
      }
    }
    _mm512_storeu_si512(sums + half * kDotTileCols / 2,
                        _mm512_sub_epi32(_mm512_setzero_si512(), sum));
  }
}
#endif

}  // namespace THRESHER_DOT_NAMESPACE
}  // namespace
}  // namespace thresher
HWY_POP_ATTRIBUTES
#undef THRESHER_DOT_NAMESPACE
#undef THRESHER_DOT_TARGET
#undef THRESHER_DOT
#undef THRESHER_DOT_SUMS_COLUMNS
