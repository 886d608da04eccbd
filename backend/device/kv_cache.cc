#include "backend/device/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/device/cpu/kernels.h"

namespace thresher {
namespace {

size_t RoundUp(size_t size) { return (size + 63) / 64 * 64; }

void StoreElements(DType element, const float* row, int32_t dim, std::byte* to) {
  if (element == DType::kF32) {
    std::memcpy(to, row, static_cast<size_t>(dim) * sizeof(float));
    return;
  }
  ConvertRowsToBF16({row, 1, dim}, dim, reinterpret_cast<uint16_t*>(to));
}

/// What a quantised row is multiplied by: 0 for a row of zeros, NaN where one of it is.
float ScaleOf(const KeyPlanes& planes, const float* row, int32_t dim) {
  float largest = 0.0f;
  for (int32_t d = 0; d < dim; ++d) {
    // A NaN makes the whole row NaN, as it would make every score.
    if (std::isnan(row[d])) return row[d];
    largest = std::max(largest, std::abs(row[d]));
  }
  return largest / static_cast<float>((1 << (planes.msb_bits + planes.lsb_bits - 1)) - 1);
}

/// NaN if one of them is.
float Lesser(float a, float b) { return std::isnan(a) || a <= b ? a : b; }

int32_t Quantize(const KeyPlanes& planes, float value, float scale) {
  if (!(scale > 0.0f) || std::isinf(scale)) return 0;
  const auto limit = static_cast<float>((1 << (planes.msb_bits + planes.lsb_bits - 1)) - 1);
  return static_cast<int32_t>(std::clamp(std::nearbyint(value / scale), -limit, limit));
}

}  // namespace

KvLayout::KvLayout(const KvFormat& format, int32_t layers, int32_t kv_heads, int32_t head_dim)
    : format_(format), layers_(layers), kv_heads_(kv_heads), head_dim_(head_dim) {
  const size_t rows = kKvPageTokens;
  const size_t plain = rows * value_bytes();
  key_block_ = RoundUp(format.planes ? rows * (upper_key_bytes() + lower_key_bytes()) : plain);
  value_block_ = RoundUp(plain);
  if (format.stretch > 0) {
    bound_block_ = RoundUp(static_cast<size_t>(kKvPageTokens / format.stretch) * bound_bytes());
  }
  page_bytes_ = static_cast<size_t>(layers) * kv_heads * (key_block_ + value_block_ + bound_block_);
}

size_t KvLayout::upper_key_bytes() const {
  return format_.planes ? static_cast<size_t>(head_dim_) + sizeof(float) : value_bytes();
}
size_t KvLayout::lower_key_bytes() const {
  return format_.planes ? static_cast<size_t>(head_dim_) : 0;
}

void StoreKeyRow(const KvLayout& layout, const float* row, int32_t slot, std::byte* block) {
  const int32_t dim = layout.head_dim();
  const auto at = static_cast<size_t>(slot);
  if (!layout.format().planes) {
    return StoreElements(layout.format().element, row, dim, block + at * layout.value_bytes());
  }
  const KeyPlanes& planes = *layout.format().planes;
  const float scale = ScaleOf(planes, row, dim);
  std::byte* const upper = block + at * dim;
  std::byte* const lower = block + layout.lower_offset() + at * dim;
  for (int32_t d = 0; d < dim; ++d) {
    const int32_t integer = Quantize(planes, row[d], scale);
    upper[d] = static_cast<std::byte>(integer >> planes.lsb_bits);
    lower[d] = static_cast<std::byte>(integer & ((1 << planes.lsb_bits) - 1));
  }
  std::memcpy(block + layout.scale_offset() + at * sizeof(scale), &scale, sizeof(scale));
}

void StoreValueRow(const KvLayout& layout, const float* row, int32_t slot, std::byte* block) {
  StoreElements(layout.format().element, row, layout.head_dim(),
                block + static_cast<size_t>(slot) * layout.value_bytes());
}

void LoadKeyRow(const KvLayout& layout, const std::byte* block, int32_t slot, bool upper_only,
                float* row) {
  const int32_t dim = layout.head_dim();
  const auto at = static_cast<size_t>(slot);
  if (!layout.format().planes) {
    return ToFloat(layout.format().element, block + at * layout.value_bytes(),
                   static_cast<size_t>(dim), row);
  }
  const int32_t lsb = layout.format().planes->lsb_bits;
  const std::byte* const upper = block + at * dim;
  const std::byte* const lower = block + layout.lower_offset() + at * dim;
  float scale;
  std::memcpy(&scale, block + layout.scale_offset() + at * sizeof(scale), sizeof(scale));
  for (int32_t d = 0; d < dim; ++d) {
    const int32_t high = static_cast<int8_t>(upper[d]) * (1 << lsb);
    const int32_t low = upper_only ? 0 : static_cast<int32_t>(lower[d]);
    row[d] = scale * static_cast<float>(high + low);
  }
}

void LoadValueRow(const KvLayout& layout, const std::byte* block, int32_t slot, float* row) {
  ToFloat(layout.format().element, block + static_cast<size_t>(slot) * layout.value_bytes(),
          static_cast<size_t>(layout.head_dim()), row);
}

void BoundKeys(const KvLayout& layout, const std::byte* key_block, int32_t first, int32_t last,
               std::byte* bound_block) {
  const int32_t dim = layout.head_dim();
  std::vector<float> row(dim), least(dim), greatest(dim);
  for (int32_t slot = first; slot < last;) {
    const int32_t stretch = slot / layout.format().stretch;
    const int32_t begin = stretch * layout.format().stretch;
    if (slot > begin) {
      LoadBounds(layout, bound_block, stretch, least.data(), greatest.data());
    } else {
      LoadKeyRow(layout, key_block, slot++, false, least.data());
      greatest = least;
    }
    for (; slot < std::min(last, begin + layout.format().stretch); ++slot) {
      LoadKeyRow(layout, key_block, slot, false, row.data());
      for (int32_t d = 0; d < dim; ++d) {
        least[d] = Lesser(least[d], row[d]);
        greatest[d] = -Lesser(-greatest[d], -row[d]);
      }
    }
    std::byte* const to = bound_block + static_cast<size_t>(stretch) * layout.bound_bytes();
    StoreElements(layout.format().element, least.data(), dim, to);
    StoreElements(layout.format().element, greatest.data(), dim, to + layout.value_bytes());
  }
}

void LoadBounds(const KvLayout& layout, const std::byte* bound_block, int32_t stretch, float* least,
                float* greatest) {
  const auto dim = static_cast<size_t>(layout.head_dim());
  const std::byte* const from = bound_block + static_cast<size_t>(stretch) * layout.bound_bytes();
  ToFloat(layout.format().element, from, dim, least);
  ToFloat(layout.format().element, from + layout.value_bytes(), dim, greatest);
}

void CopySlot(const KvLayout& layout, int32_t layer, int32_t head, std::byte* from_page,
              int32_t from_slot, std::byte* to_page, int32_t to_slot) {
  const auto copy = [&](const std::byte* from, std::byte* to, size_t bytes) {
    std::memcpy(to + static_cast<size_t>(to_slot) * bytes,
                from + static_cast<size_t>(from_slot) * bytes, bytes);
  };
  const std::byte* const key = layout.keys(from_page, layer, head);
  std::byte* const to_key = layout.keys(to_page, layer, head);
  if (layout.format().planes) {
    const auto dim = static_cast<size_t>(layout.head_dim());
    copy(key, to_key, dim);
    copy(key + layout.lower_offset(), to_key + layout.lower_offset(), dim);
    copy(key + layout.scale_offset(), to_key + layout.scale_offset(), sizeof(float));
  } else {
    copy(key, to_key, layout.value_bytes());
  }
  copy(layout.values(from_page, layer, head), layout.values(to_page, layer, head),
       layout.value_bytes());
}

void RotateRow(const RotaryTable& table, int32_t position, float* row) {
  const int32_t half = table.half;
  const float* const cos = table.cos.data() + static_cast<size_t>(position) * half;
  const float* const sin = table.sin.data() + static_cast<size_t>(position) * half;
  for (int32_t i = 0; i < half; ++i) {
    const float first = row[i];
    const float second = row[i + half];
    row[i] = first * cos[i] - second * sin[i];
    row[i + half] = second * cos[i] + first * sin[i];
  }
}

}  // namespace thresher
