#include "backend/device/simulator/shapes.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

struct NamedShape {
  std::string_view name;
  LayerShape shape;
};

constexpr LayerShape Shape(int32_t layers, int32_t heads, int32_t head_dim, int32_t ffn,
                           bool causal = false) {
  return {.layers = layers,
          .heads = heads,
          .kv_heads = heads,
          .head_dim = head_dim,
          .hidden_size = heads * head_dim,
          .ffn_size = ffn,
          .causal = causal};
}

// The four of the FuseMax study (MICRO 2024), then the others of the SpAtten study (HPCA 2021).
constexpr NamedShape kShapes[] = {
    {"bert-base", Shape(12, 12, 64, 3072)},
    {"trxl", Shape(18, 16, 64, 4096)},
    {"t5-small", Shape(6, 8, 64, 2048)},
    {"xlm", Shape(12, 16, 128, 8192)},
    {"bert-large", Shape(24, 16, 64, 4096)},
    {"gpt2-small", Shape(12, 12, 64, 3072, /*causal=*/true)},
    {"gpt2-medium", Shape(24, 16, 64, 4096, /*causal=*/true)},
};

struct Key {
  std::string_view name;
  int32_t low;
  int32_t high;
  bool required;
};

enum { kHeads, kHeadDim, kLayers, kFfn, kHidden, kKvHeads, kFfnMatrices, kCausal, kNumKeys };

constexpr std::array<Key, kNumKeys> kKeys = {{
    {"heads", 1, 512, true},
    {"head_dim", 1, 4096, true},
    {"layers", 1, 4096, true},
    {"ffn", 1, 1 << 22, true},
    {"hidden", 1, 1 << 21, false},
    {"kv_heads", 1, 512, false},
    {"ffn_matrices", 2, 3, false},
    {"causal", 0, 1, false},
}};

std::string NamesOfKeys() {
  std::string names;
  for (const Key& key : kKeys) {
    names += fmt::format("{}{}={}..{}", names.empty() ? "" : ", ", key.name, key.low, key.high);
  }
  return names;
}

// Errors repeat no more of a hostile text than this.
std::string_view Quoted(std::string_view text) { return text.substr(0, 64); }

absl::StatusOr<int32_t> ParseNumber(const Key& key, std::string_view text) {
  int32_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < key.low || value > key.high) {
    return InvalidArgument("shape: {}='{}' is not a whole number from {} to {}", key.name,
                           Quoted(text), key.low, key.high);
  }
  return value;
}

}  // namespace

std::string NamesOfShapes() {
  std::string names;
  for (const NamedShape& named : kShapes) {
    if (!names.empty()) names += ", ";
    names += named.name;
  }
  return names;
}

absl::StatusOr<LayerShape> ParseShape(std::string_view text) {
  for (const NamedShape& named : kShapes) {
    if (text == named.name) return named.shape;
  }
  if (text.find('=') == std::string_view::npos) {
    return InvalidArgument("shape '{}' is not known: give one of {}, or {}", Quoted(text),
                           NamesOfShapes(), NamesOfKeys());
  }
  std::array<int32_t, kNumKeys> values{};
  std::array<bool, kNumKeys> given{};
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view item = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = item.find('=');
    const std::string_view name = item.substr(0, equals);
    size_t k = 0;
    while (k < kNumKeys && kKeys[k].name != name) ++k;
    if (k == kNumKeys || equals == std::string_view::npos) {
      return InvalidArgument("shape: '{}' is none of {}", Quoted(item), NamesOfKeys());
    }
    if (given[k]) return InvalidArgument("shape: {} is given twice", kKeys[k].name);
    given[k] = true;
    THRESHER_ASSIGN_OR_RETURN(values[k], ParseNumber(kKeys[k], item.substr(equals + 1)));
  }
  for (size_t k = 0; k < kNumKeys; ++k) {
    if (kKeys[k].required && !given[k]) {
      return InvalidArgument("shape: {} is missing", kKeys[k].name);
    }
  }
  LayerShape shape = Shape(values[kLayers], values[kHeads], values[kHeadDim], values[kFfn],
                           /*causal=*/values[kCausal] == 1);
  if (given[kHidden]) shape.hidden_size = values[kHidden];
  if (given[kKvHeads]) shape.kv_heads = values[kKvHeads];
  if (given[kFfnMatrices]) shape.ffn_matrices = values[kFfnMatrices];
  if (shape.heads % shape.kv_heads != 0) {
    return InvalidArgument("shape: heads={} is not a multiple of kv_heads={}", shape.heads,
                           shape.kv_heads);
  }
  return shape;
}

LayerRecord DenseRecordOf(const LayerShape& shape, int64_t tokens, int32_t batch) {
  const int64_t scores = shape.causal ? tokens * (tokens + 1) / 2 : tokens * tokens;
  SequenceRecord sequence;
  sequence.rows = sequence.keys = static_cast<int32_t>(tokens);
  sequence.dense_rows = sequence.dense_keys = sequence.rows;
  sequence.query_rows = tokens * shape.heads;
  sequence.key_rows = sequence.value_rows = tokens * shape.kv_heads;
  for (int32_t head = 0; head < shape.heads; ++head) {
    sequence.heads.push_back(
        {.head = head, .queries = tokens, .keys = tokens, .scores = scores, .values = scores});
  }
  return {.layer = 0,
          .shape = shape,
          .sequences = std::vector<SequenceRecord>(static_cast<size_t>(batch), sequence)};
}

}  // namespace thresher
