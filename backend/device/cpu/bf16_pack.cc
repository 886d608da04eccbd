#include "backend/device/cpu/bf16_pack.h"

#include "hwy/base.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 says it of its own undefined vectors, in the header.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>

#include "backend/device/cpu/dot_unit.h"

static_assert(thresher::kBF16Step == thresher::kDotTileCols);

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace thresher {
namespace {

/// Sixteen groups: of two vectors of floats, one after the other.
HWY_INLINE __m512i Round(__m512 low, __m512 high) {
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);  // NOLINT: the types differ by compiler.
}

/// Of sixteen rows of sixteen groups, the columns.
HWY_INLINE void Transpose(__m512i (&row)[16]) {
  __m512i pair[16];
#pragma GCC unroll 8
  for (size_t i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  // In each 128 bits of four[4 i + j]: column 4 lane + j of rows 4 i to 4 i + 3.
  __m512i four[16];
#pragma GCC unroll 4
  for (size_t i = 0; i < 16; i += 4) {
    four[i] = _mm512_unpacklo_epi64(pair[i], pair[i + 2]);
    four[i + 1] = _mm512_unpackhi_epi64(pair[i], pair[i + 2]);
    four[i + 2] = _mm512_unpacklo_epi64(pair[i + 1], pair[i + 3]);
    four[i + 3] = _mm512_unpackhi_epi64(pair[i + 1], pair[i + 3]);
  }
#pragma GCC unroll 4
  for (size_t j = 0; j < 4; ++j) {
    const __m512i low01 = _mm512_shuffle_i32x4(four[j], four[4 + j], 0x88);   // Lanes 0, 2
    const __m512i high01 = _mm512_shuffle_i32x4(four[j], four[4 + j], 0xdd);  // and 1, 3.
    const __m512i low23 = _mm512_shuffle_i32x4(four[8 + j], four[12 + j], 0x88);
    const __m512i high23 = _mm512_shuffle_i32x4(four[8 + j], four[12 + j], 0xdd);
    row[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    row[8 + j] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    row[4 + j] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    row[12 + j] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
}

void PackRows(const float* rows, size_t stride, size_t count, size_t cols, uint16_t* out) {
  for (size_t r = 0; r < count; ++r, rows += stride) {
    for (size_t i = 0; i < cols; i += kBF16Step, out += kBF16Step) {
      _mm512_storeu_si512(out, Round(_mm512_loadu_ps(rows + i), _mm512_loadu_ps(rows + i + 16)));
    }
  }
}

void PackKeys(ConstMatrix key, uint16_t* out) {
  const auto keys = static_cast<size_t>(key.rows), dim = static_cast<size_t>(key.cols);
  for (size_t first = 0; first < keys; first += kBF16Step, out += kBF16Step * dim) {
    for (size_t half = 0; half < kBF16Step; half += 16) {
      const size_t from = first + half;
      const size_t count = from < keys ? std::min<size_t>(16, keys - from) : 0;
      for (size_t i = 0; i < dim; i += kBF16Step) {
        __m512i columns[16];
#pragma GCC unroll 16
        for (size_t j = 0; j < 16; ++j) {
          columns[j] = _mm512_setzero_si512();
          if (j < count) {
            const float* row = key.row(static_cast<int64_t>(from + j)) + i;
            columns[j] = Round(_mm512_loadu_ps(row), _mm512_loadu_ps(row + 16));
          }
        }
        Transpose(columns);
        // A group is two dimensions, and a row of the tile is of two halves.
        uint16_t* to = out + i / 2 * kBF16Step * 2 + half * 2;
#pragma GCC unroll 16
        for (size_t g = 0; g < 16; ++g) _mm512_storeu_si512(to + g * kBF16Step * 2, columns[g]);
      }
    }
  }
}

void PackValues(ConstMatrix value, const uint64_t* wanted, uint16_t* out) {
  const auto keys = static_cast<size_t>(value.rows), dim = static_cast<size_t>(value.cols);
  const size_t padded = (keys + kBF16Step - 1) / kBF16Step * kBF16Step;
  // Of two rows rounded one after the other, the elements in turn.
  const __m512i in_turn =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const auto read = [&](size_t j) {
    return j < keys && (wanted == nullptr || ((wanted[j / 64] >> (j % 64)) & 1) != 0);
  };
  for (size_t first = 0; first < dim; first += kBF16Step) {
    for (size_t j = 0; j < padded; j += 2) {
      const bool has_even = read(j), has_odd = read(j + 1);
      for (size_t i = first; i < first + kBF16Step; i += 16, out += 32) {
        __m512 even = _mm512_setzero_ps(), odd = even;
        if (has_even) even = _mm512_loadu_ps(value.row(static_cast<int64_t>(j)) + i);
        if (has_odd) odd = _mm512_loadu_ps(value.row(static_cast<int64_t>(j + 1)) + i);
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(in_turn, Round(even, odd)));
      }
    }
  }
}

}  // namespace
}  // namespace thresher
HWY_POP_ATTRIBUTES

namespace thresher {

void PackRowsBF16(const float* rows, size_t stride, size_t count, size_t cols, uint16_t* out) {
  PackRows(rows, stride, count, cols, out);
}
void PackKeysBF16(ConstMatrix key, uint16_t* out) { PackKeys(key, out); }
void PackValuesBF16(ConstMatrix value, const uint64_t* wanted, uint16_t* out) {
  PackValues(value, wanted, out);
}

}  // namespace thresher

#else

namespace thresher {

void PackRowsBF16(const float*, size_t, size_t, size_t, uint16_t*) {}
void PackKeysBF16(ConstMatrix, uint16_t*) {}
void PackValuesBF16(ConstMatrix, const uint64_t*, uint16_t*) {}

}  // namespace thresher

#endif
