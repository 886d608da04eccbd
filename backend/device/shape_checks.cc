#include "backend/device/shape_checks.h"

#include "backend/tensor/status.h"

namespace thresher {
namespace {

absl::Status CheckShape(std::string_view what, ConstMatrix m, int64_t rows, int64_t cols) {
  if (m.rows != rows || m.cols != cols) {
    return InvalidArgument("{} is [{}, {}], expected [{}, {}]", what, m.rows, m.cols, rows, cols);
  }
  if (m.stride < m.cols) {
    return InvalidArgument("{}: stride {} is less than its {} columns", what, m.stride, m.cols);
  }
  return absl::OkStatus();
}

absl::Status CheckOffsets(std::span<const int32_t> offsets, int64_t rows) {
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != rows) {
    return InvalidArgument("offsets must begin with 0 and end with the number of rows, {}", rows);
  }
  for (size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] < offsets[i - 1]) {
      return InvalidArgument("offsets[{}] = {} is less than the one before, {}", i, offsets[i],
                             offsets[i - 1]);
    }
  }
  return absl::OkStatus();
}

bool IsFloating(DType type) {
  return type == DType::kF64 || type == DType::kF32 || type == DType::kF16 || type == DType::kBF16;
}

}  // namespace

absl::Status CheckPack(const StoredMatrix& weight, const StoredMatrix& bias) {
  if (weight.empty() || weight.rows <= 0 || weight.cols <= 0) {
    return InvalidArgument("weight is empty: [{}, {}]", weight.rows, weight.cols);
  }
  if (!IsFloating(weight.type)) {
    return InvalidArgument("weight is {}, expected a floating type", Name(weight.type));
  }
  if (bias.empty()) return absl::OkStatus();
  if (bias.rows != 1 || bias.cols != weight.rows) {
    return InvalidArgument("bias is [{}, {}], expected [1, {}]", bias.rows, bias.cols, weight.rows);
  }
  if (!IsFloating(bias.type)) {
    return InvalidArgument("bias is {}, expected a floating type", Name(bias.type));
  }
  return absl::OkStatus();
}

absl::Status CheckLinear(const PackedLinear& weights, ConstMatrix x, ConstMatrix y) {
  THRESHER_RETURN_IF_ERROR(CheckShape("linear input", x, x.rows, weights.in_features()));
  return CheckShape("linear output", y, x.rows, weights.out_features());
}

absl::Status CheckColumns(std::span<const ColumnRange> columns, int64_t cols) {
  int64_t next = 0;
  for (const ColumnRange& range : columns) {
    if (range.begin < next || range.end < range.begin || range.end > cols) {
      return InvalidArgument("columns [{}, {}) do not ascend within {} columns", range.begin,
                             range.end, cols);
    }
    next = range.end;
  }
  return absl::OkStatus();
}

absl::Status CheckOutputs(std::span<const uint8_t> wanted, ConstMatrix y) {
  if (static_cast<int64_t>(wanted.size()) == y.rows * y.cols) return absl::OkStatus();
  return InvalidArgument("{} flags for outputs [{}, {}]", wanted.size(), y.rows, y.cols);
}

absl::Status CheckAttention(const AttentionInput& input, ConstMatrix out) {
  const auto [heads, kv_heads, head_dim] = input.shape;
  if (heads <= 0 || kv_heads <= 0 || head_dim <= 0 || heads % kv_heads != 0) {
    return InvalidArgument(
        "attention: {} heads, {} key-value heads, head size {}: all must be positive, and heads a "
        "multiple of key-value heads",
        heads, kv_heads, head_dim);
  }
  const int64_t tokens = input.query.rows;
  const int64_t width = int64_t{heads} * head_dim;
  const int64_t kv_width = int64_t{kv_heads} * head_dim;
  THRESHER_RETURN_IF_ERROR(CheckShape("attention query", input.query, tokens, width));
  THRESHER_RETURN_IF_ERROR(CheckShape("attention key", input.key, tokens, kv_width));
  THRESHER_RETURN_IF_ERROR(CheckShape("attention value", input.value, tokens, kv_width));
  THRESHER_RETURN_IF_ERROR(CheckShape("attention output", out, tokens, width));
  return CheckOffsets(input.offsets, tokens);
}

absl::Status CheckPlannedAttention(const AttentionInput& input,
                                   std::span<const SequencePlan* const> plans, ConstMatrix out,
                                   std::span<const AttentionRecord> records) {
  THRESHER_RETURN_IF_ERROR(CheckAttention(input, out));
  const size_t sequences = input.offsets.size() - 1;
  if (plans.size() != sequences || records.size() != sequences) {
    return InvalidArgument("attention: {} plans and {} records for {} sequences", plans.size(),
                           records.size(), sequences);
  }
  return absl::OkStatus();
}

AttentionRecord DenseRecord(const AttentionShape& shape, int32_t rows, bool causal) {
  const int64_t n = rows;
  AttentionRecord record;
  record.rows = shape.heads * n;
  record.scores = shape.heads * (causal ? n * (n + 1) / 2 : n * n);
  record.values = record.scores;
  return record;
}

absl::Status CheckEncoding(const LeadingOneInput& input, int32_t bits, int64_t group,
                           ConstMatrix codes, ConstMatrix scales) {
  const ConstMatrix x = input.x;
  if (bits < 2 || bits > 8) return InvalidArgument("encode: {} bits, expected 2 to 8", bits);
  if (group <= 0 || x.cols % group != 0 || codes.rows != x.rows || codes.cols != x.cols ||
      scales.rows != x.rows || scales.cols != x.cols / group) {
    return InvalidArgument("encode: x {}x{} in groups of {}, codes {}x{}, scales {}x{}", x.rows,
                           x.cols, group, codes.rows, codes.cols, scales.rows, scales.cols);
  }
  const auto fits = [](std::span<const float> values, int64_t size) {
    return values.empty() || static_cast<int64_t>(values.size()) == size;
  };
  if (input.row_scales.empty() != input.col_scales.empty() || !fits(input.row_scales, x.rows) ||
      !fits(input.col_scales, x.cols) || !fits(input.bias, x.cols)) {
    return InvalidArgument("encode: x {}x{} with {} row scales, {} column scales, {} biases",
                           x.rows, x.cols, input.row_scales.size(), input.col_scales.size(),
                           input.bias.size());
  }
  return absl::OkStatus();
}

absl::Status CheckVectorCodes(const VectorCodes& encoder, ConstMatrix x,
                              std::span<const float> center, ConstMatrix codes,
                              ConstMatrix scales) {
  const int64_t heads = scales.cols;
  if (encoder.width() <= 0 || encoder.width() > encoder.head_dim()) {
    return InvalidArgument("encode: codes of {} elements from {}", encoder.width(),
                           encoder.head_dim());
  }
  if (x.cols != heads * encoder.head_dim() || codes.rows != x.rows || scales.rows != x.rows ||
      codes.cols != heads * encoder.width() || (encoder.heads() > 0 && encoder.heads() != heads) ||
      (!center.empty() && static_cast<int64_t>(center.size()) != x.cols)) {
    return InvalidArgument(
        "encode: x {}x{}, center of {}, codes {}x{}, scales {}x{}, heads of {} coded by {}", x.rows,
        x.cols, center.size(), codes.rows, codes.cols, scales.rows, scales.cols, encoder.head_dim(),
        encoder.width());
  }
  return absl::OkStatus();
}

absl::Status CheckPrediction(const ScoreOperands& operands, std::span<const int32_t> heads) {
  const auto& [query_codes, query_scales, key_codes, key_scales, width, factor] = operands;
  const int64_t rows = query_codes.rows;
  if (width <= 0 || query_scales.rows != rows || key_codes.rows != rows ||
      key_scales.rows != rows || query_codes.cols != query_scales.cols * width ||
      key_codes.cols != key_scales.cols * width || key_scales.cols <= 0 ||
      query_scales.cols % key_scales.cols != 0) {
    return InvalidArgument(
        "predict: query {}x{} (scales {}x{}), key {}x{} (scales {}x{}), width {}", rows,
        query_codes.cols, query_scales.rows, query_scales.cols, key_codes.rows, key_codes.cols,
        key_scales.rows, key_scales.cols, width);
  }
  for (const int32_t head : heads) {
    if (head < 0 || head >= query_scales.cols) {
      return InvalidArgument("predict: head {} of {}", head, query_scales.cols);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                            std::span<const float> beta, ConstMatrix y) {
  THRESHER_RETURN_IF_ERROR(CheckShape("layer norm input", x, x.rows, x.cols));
  if (residual.data != nullptr) {
    THRESHER_RETURN_IF_ERROR(CheckShape("layer norm residual", residual, x.rows, x.cols));
  }
  THRESHER_RETURN_IF_ERROR(CheckShape("layer norm output", y, x.rows, x.cols));
  if (static_cast<int64_t>(gamma.size()) != x.cols || static_cast<int64_t>(beta.size()) != x.cols) {
    return InvalidArgument("layer norm: gamma has {} and beta {} values, expected {}", gamma.size(),
                           beta.size(), x.cols);
  }
  return absl::OkStatus();
}

absl::Status CheckEmbed(std::span<const Device::Lookup> lookups, ConstMatrix y) {
  THRESHER_RETURN_IF_ERROR(CheckShape("embedding output", y, y.rows, y.cols));
  if (lookups.empty()) return InvalidArgument("embedding: no table");
  for (size_t t = 0; t < lookups.size(); ++t) {
    const auto& [table, ids] = lookups[t];
    if (!IsFloating(table.type)) {
      return InvalidArgument("embedding table {} is {}, expected a floating type", t,
                             Name(table.type));
    }
    if (table.cols != y.cols || static_cast<int64_t>(ids.size()) != y.rows) {
      return InvalidArgument("embedding table {}: {} columns and {} ids, expected {} and {}", t,
                             table.cols, ids.size(), y.cols, y.rows);
    }
    for (const int32_t id : ids) {
      if (id < 0 || id >= table.rows) {
        return InvalidArgument("embedding table {}: id {} is outside its {} rows", t, id,
                               table.rows);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRmsNorm(ConstMatrix x, std::span<const float> gamma, ConstMatrix y) {
  THRESHER_RETURN_IF_ERROR(CheckShape("RMS norm input", x, x.rows, x.cols));
  THRESHER_RETURN_IF_ERROR(CheckShape("RMS norm output", y, x.rows, x.cols));
  if (static_cast<int64_t>(gamma.size()) != x.cols) {
    return InvalidArgument("RMS norm: gamma has {} values, expected {}", gamma.size(), x.cols);
  }
  return absl::OkStatus();
}

absl::Status CheckElementwise(ConstMatrix x, ConstMatrix y) {
  THRESHER_RETURN_IF_ERROR(CheckShape("elementwise input", x, x.rows, x.cols));
  return CheckShape("elementwise output", y, x.rows, x.cols);
}

absl::Status CheckRotate(const RotaryTable& table, std::span<const int32_t> positions,
                         int32_t heads, ConstMatrix x) {
  THRESHER_RETURN_IF_ERROR(CheckShape("rotation", x, x.rows, x.cols));
  if (heads <= 0 || x.cols % heads != 0 || x.cols / heads < 2 * int64_t{table.half} ||
      static_cast<int64_t>(positions.size()) != x.rows) {
    return InvalidArgument("rotation: {} positions and {} heads for {}x{}, {} dimensions turn",
                           positions.size(), heads, x.rows, x.cols, 2 * table.half);
  }
  for (const int32_t position : positions) {
    if (position < 0 || position >= table.positions()) {
      return InvalidArgument("rotation: position {} of {}", position, table.positions());
    }
  }
  return absl::OkStatus();
}

namespace {

/// What both operations on caches ask of the rows and slots of their sequences.
absl::Status CheckCaches(const KvLayout& layout, int32_t layer, int64_t rows,
                         std::span<const CachedSequence> sequences) {
  if (layer < 0 || layer >= layout.layers()) {
    return InvalidArgument("cache: layer {} of {}", layer, layout.layers());
  }
  const KvFormat& format = layout.format();
  if (format.stretch < 0 || (format.stretch > 0 && (kKvPageTokens % format.stretch != 0 ||
                                                    format.planes || format.rotate_on_read))) {
    return InvalidArgument(
        "cache: bounds of {} keys each; expected a divisor of {}, and keys that are elements and "
        "kept rotated",
        format.stretch, kKvPageTokens);
  }
  const size_t places = static_cast<size_t>(layout.layers()) * layout.kv_heads();
  for (size_t s = 0; s < sequences.size(); ++s) {
    const CachedSequence& sequence = sequences[s];
    const auto room = static_cast<int64_t>(sequence.pages.size()) * kKvPageTokens;
    if (sequence.first_row < 0 || sequence.rows < 0 ||
        int64_t{sequence.first_row} + sequence.rows > rows || sequence.slots < sequence.rows ||
        sequence.slots > room || (sequence.decode && sequence.rows != 1)) {
      return InvalidArgument("cache {}: rows {} + {} of {}, {} slots in {} pages", s,
                             sequence.first_row, sequence.rows, rows, sequence.slots,
                             sequence.pages.size());
    }
    const bool placed = !sequence.new_slots.empty();
    if (placed && format.stretch > 0) {
      return InvalidArgument("cache {}: a key of a stretch that has bounds can't be replaced", s);
    }
    if (placed && (!sequence.decode || sequence.new_slots.size() != places)) {
      return InvalidArgument("cache {}: {} places for a new token, expected {} of a decode row", s,
                             sequence.new_slots.size(), places);
    }
    for (const int32_t slot : sequence.new_slots) {
      if (slot < 0 || slot >= sequence.slots) {
        return InvalidArgument("cache {}: slot {} of {}", s, slot, sequence.slots);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckStoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                                  ConstMatrix value, std::span<const CachedSequence> sequences) {
  const int64_t cols = int64_t{layout.kv_heads()} * layout.head_dim();
  THRESHER_RETURN_IF_ERROR(CheckShape("keys", key, key.rows, cols));
  THRESHER_RETURN_IF_ERROR(CheckShape("values", value, key.rows, cols));
  return CheckCaches(layout, layer, key.rows, sequences);
}

absl::Status CheckCachedAttention(const CachedAttentionInput& input, ConstMatrix out,
                                  std::span<const CachedRecord> records) {
  const auto [heads, kv_heads, head_dim] = input.shape;
  if (input.layout == nullptr || heads <= 0 || kv_heads <= 0 || heads % kv_heads != 0 ||
      kv_heads != input.layout->kv_heads() || head_dim != input.layout->head_dim()) {
    return InvalidArgument("cached attention: {} heads of {} on {} key-value heads", heads,
                           head_dim, kv_heads);
  }
  const int64_t cols = int64_t{heads} * head_dim;
  THRESHER_RETURN_IF_ERROR(CheckShape("cached attention query", input.query, out.rows, cols));
  THRESHER_RETURN_IF_ERROR(CheckShape("cached attention output", out, out.rows, cols));
  THRESHER_RETURN_IF_ERROR(CheckCaches(*input.layout, input.layer, out.rows, input.sequences));
  if (records.size() != input.sequences.size()) {
    return InvalidArgument("cached attention: {} records for {} sequences", records.size(),
                           input.sequences.size());
  }
  const bool rotates = input.layout->format().rotate_on_read;
  if (rotates &&
      (input.rotary == nullptr || input.rotary->empty() || 2 * input.rotary->half > head_dim)) {
    return InvalidArgument("cached attention: keys are to be rotated, but there is no table");
  }
  for (size_t s = 0; s < input.sequences.size(); ++s) {
    const CachedSequence& sequence = input.sequences[s];
    for (size_t i = 0; i < sequence.reads.size(); ++i) {
      if (sequence.reads[i] < 0 || sequence.reads[i] >= sequence.slots ||
          (i > 0 && sequence.reads[i] <= sequence.reads[i - 1])) {
        return InvalidArgument("cache {}: the slots to read must ascend within 0 .. {}", s,
                               sequence.slots - 1);
      }
    }
    const bool chooses = sequence.read_stretches != 0;
    if (sequence.read_stretches < 0 ||
        (chooses && (!sequence.decode || input.layout->format().stretch == 0 ||
                     !sequence.reads.empty() || sequence.want_sums))) {
      return InvalidArgument(
          "cache {}: {} stretches to read; only a decode row of keys with bounds chooses them, "
          "without a list and without sums",
          s, sequence.read_stretches);
    }
    if (sequence.sums_from < 0 || sequence.sums_from > sequence.rows) {
      return InvalidArgument("cache {}: sums from row {} of {}", s, sequence.sums_from,
                             sequence.rows);
    }
    if (!rotates) continue;
    if (sequence.positions.size() != static_cast<size_t>(sequence.slots)) {
      return InvalidArgument("cache {}: {} positions for {} slots", s, sequence.positions.size(),
                             sequence.slots);
    }
    for (const int32_t position : sequence.positions) {
      if (position < 0 || position >= input.rotary->positions()) {
        return InvalidArgument("cache {}: position {} of {}", s, position,
                               input.rotary->positions());
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMeanPool(ConstMatrix x, std::span<const int32_t> offsets, ConstMatrix y) {
  THRESHER_RETURN_IF_ERROR(CheckShape("mean pool input", x, x.rows, x.cols));
  THRESHER_RETURN_IF_ERROR(CheckOffsets(offsets, x.rows));
  return CheckShape("mean pool output", y, static_cast<int64_t>(offsets.size()) - 1, x.cols);
}

}  // namespace thresher
