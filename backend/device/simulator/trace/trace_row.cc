#include "backend/device/simulator/trace/trace_row.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "backend/tensor/status.h"

namespace thresher {

const std::array<std::string_view, kTraceColumns> kTraceNames = {
    "iteration_id",
    "layer_id",
    "head_id",
    "embedding_length_D",
    "sentence_length_L",
    "key_fetch_num",
    "quant_key_bit",
    "quant_query_bit",
    "auto_requant_thres",
    "if_requant",
    "auto_requant_incre",
    "value_fetch_num",
    "quant_value_bit",
    "if_accumulate_importance",
    "if_rescale_previous_importance",
    "if_topk",
    "topk",
};

namespace {

// Far above any model, far below what would make a head's array or a product of counts large.
constexpr int64_t kMostLayers = 1 << 16;
constexpr int64_t kMostTokens = 1 << 24;
constexpr int32_t kWidestElement = 32;

template <typename Number>
bool Parse(std::string_view text, Number* number) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *number);
  return error == std::errc() && stop == end && !text.empty();
}

/// Parses the fields of one line; the first error stays.
class RowParser {
 public:
  explicit RowParser(const TraceFields& fields) : fields_(fields) {}

  int64_t Count(TraceColumn column, int64_t least, int64_t most) {
    int64_t value = 0;
    if (!Parse(fields_[column], &value)) {
      Fail(column, "is not a whole number");
    } else if (value < least || value > most) {
      Fail(column, fmt::format("must lie within {} and {}", least, most));
    }
    return value;
  }
  /// A count that is written as a float, such as 64.0.
  int32_t FloatCount(TraceColumn column, double least, double most) {
    double value = 0;
    if (!Parse(fields_[column], &value) || value != std::floor(value)) {
      Fail(column, "is not a whole number");
    } else if (value < least || value > most) {
      Fail(column, fmt::format("must lie within {} and {}", least, most));
    }
    return ok() ? static_cast<int32_t>(value) : 0;
  }
  /// 0 for what the format writes as -1.
  int32_t Bits(TraceColumn column) {
    if (fields_[column] == "-1") return 0;
    return static_cast<int32_t>(Count(column, 1, kWidestElement));
  }
  double Threshold(TraceColumn column) {
    double value = 0;
    if (fields_[column] == "-1") return 0;
    if (!Parse(fields_[column], &value) || !(value >= 0 && value <= 1)) {
      Fail(column, "must be a probability, or -1 for none");
    }
    return value;
  }
  bool Flag(TraceColumn column) {
    if (fields_[column] != "True" && fields_[column] != "False") {
      Fail(column, "must be True or False");
    }
    return fields_[column] == "True";
  }
  void Fail(TraceColumn column, std::string_view what) {
    if (!ok()) return;
    status_ = InvalidArgument("field '{}': '{}' {}", kTraceNames[column],
                              ShownField(fields_[column]), what);
  }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  const TraceFields& fields_;
  absl::Status status_;
};

struct ShapeField {
  std::string_view name;
  int32_t LayerShape::*member;
  int64_t most;
};
constexpr ShapeField kShapeFields[] = {
    {"layers", &LayerShape::layers, kMostLayers},
    {"heads", &LayerShape::heads, kMostLayers},
    {"kv_heads", &LayerShape::kv_heads, kMostLayers},
    {"head_dim", &LayerShape::head_dim, 1 << 16},
    {"hidden_size", &LayerShape::hidden_size, kMaxTraceFeedForward},
    {"ffn_size", &LayerShape::ffn_size, kMaxTraceFeedForward},
    {"ffn_matrices", &LayerShape::ffn_matrices, 3},
};

std::string_view Python(bool flag) { return flag ? "True" : "False"; }

/// -1 for what is not there.
int32_t OrNone(int32_t bits) { return bits > 0 ? bits : -1; }

}  // namespace

absl::StatusOr<TraceRow> ParseTraceRow(const TraceFields& fields) {
  RowParser parser(fields);
  TraceRow row;
  row.iteration = parser.Count(kIteration, 0, std::numeric_limits<int64_t>::max());
  row.layer = static_cast<int32_t>(parser.Count(kLayer, 0, kMostLayers - 1));
  row.head = static_cast<int32_t>(parser.Count(kHead, 0, kMostLayers - 1));
  row.width = parser.FloatCount(kWidth, 1, 1 << 16);
  row.sentence = static_cast<int32_t>(parser.Count(kSentence, 1, kMostTokens));
  row.keys = static_cast<int32_t>(parser.Count(kKeys, 0, kMostTokens));
  row.bits.key = parser.Bits(kKeyBits);
  row.bits.query = parser.Bits(kQueryBits);
  row.threshold = parser.Threshold(kThreshold);
  row.refetch = parser.Flag(kRefetch);
  row.bits.key_refetch = parser.Bits(kRefetchBits);
  row.values = static_cast<int32_t>(parser.Count(kValues, 0, kMostTokens));
  row.bits.value = parser.Bits(kValueBits);
  row.accumulate = parser.Flag(kAccumulate);
  row.rescale = parser.Flag(kRescale);
  const bool rank = parser.Flag(kRank);
  if (rank) {
    row.top_k = static_cast<int32_t>(parser.Count(kTopK, 1, kMostTokens));
  } else if (parser.Count(kTopK, -1, kMostTokens) != -1) {
    parser.Fail(kTopK, "must be -1 where if_topk is False");
  }
  if (row.keys > row.sentence) parser.Fail(kKeys, "is more than sentence_length_L");
  if (row.values > row.keys) parser.Fail(kValues, "is more than key_fetch_num");
  if (rank && *row.top_k > row.sentence) parser.Fail(kTopK, "is more than sentence_length_L");
  if (row.bits.key + row.bits.key_refetch > kWidestElement) {
    parser.Fail(kRefetchBits, fmt::format("and quant_key_bit are more than {}", kWidestElement));
  }
  if (row.refetch && (row.bits.key == 0 || row.bits.key_refetch == 0)) {
    parser.Fail(kRefetch, "needs quant_key_bit and auto_requant_incre");
  }
  if (!parser.ok()) return parser.status();
  return row;
}

std::string FormatTraceRow(const TraceRow& row) {
  return fmt::format(
      "{},{},{},{}.0,{},{},{},{},{},{},{},{},{},{},{},{},{}\n", row.iteration, row.layer, row.head,
      row.width, row.sentence, row.keys, OrNone(row.bits.key), OrNone(row.bits.query),
      row.threshold > 0 ? fmt::format("{}", row.threshold) : "-1", Python(row.refetch),
      OrNone(row.bits.key_refetch), row.values, OrNone(row.bits.value), Python(row.accumulate),
      Python(row.rescale), Python(row.top_k.has_value()), row.top_k.value_or(-1));
}

std::string FormatTraceShape(const LayerShape& shape) {
  std::string text;
  for (const ShapeField& field : kShapeFields) {
    text += fmt::format("{}={}:", field.name, shape.*field.member);
  }
  return text + fmt::format("causal={}", shape.causal ? 1 : 0);
}

absl::StatusOr<LayerShape> ParseTraceShape(std::string_view text) {
  LayerShape shape;
  for (const ShapeField& field : kShapeFields) {
    const std::string_view part = text.substr(0, text.find(':'));
    int64_t value = 0;
    if (part.size() == text.size() || part.substr(0, field.name.size()) != field.name ||
        part.substr(field.name.size(), 1) != "=" ||
        !Parse(part.substr(field.name.size() + 1), &value) || value < 1 || value > field.most) {
      return InvalidArgument("shape: '{}' is not {}=N with N of at most {}", ShownField(part),
                             field.name, field.most);
    }
    shape.*field.member = static_cast<int32_t>(value);
    text.remove_prefix(part.size() + 1);
  }
  if (text != "causal=0" && text != "causal=1") {
    return InvalidArgument("shape: '{}' is not causal=0 or causal=1", ShownField(text));
  }
  if (shape.heads % shape.kv_heads != 0) {
    return InvalidArgument("shape: kv_heads={} does not divide heads={}", shape.kv_heads,
                           shape.heads);
  }
  shape.causal = text == "causal=1";
  return shape;
}

std::string ShownField(std::string_view text) {
  return text.size() <= 40 ? std::string(text) : std::string(text.substr(0, 40)) + "...";
}

}  // namespace thresher
