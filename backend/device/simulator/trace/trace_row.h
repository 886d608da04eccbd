// The text of a workload trace (trace.h), line by line: its columns, one softmax row, and the shape
// of the model in the last line. No state, no files.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_TRACE_TRACE_ROW_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_TRACE_TRACE_ROW_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"

namespace thresher {

enum TraceColumn {
  kIteration,
  kLayer,
  kHead,
  kWidth,
  kSentence,
  kKeys,
  kKeyBits,
  kQueryBits,
  kThreshold,
  kRefetch,
  kRefetchBits,
  kValues,
  kValueBits,
  kAccumulate,
  kRescale,
  kRank,
  kTopK,
  kTraceColumns,
};
/// By column; in the order in which the public traces have them.
extern const std::array<std::string_view, kTraceColumns> kTraceNames;
using TraceFields = std::array<std::string_view, kTraceColumns>;

inline constexpr int64_t kMaxTraceFeedForward = 1 << 24;

/// A query of a head.
struct TraceRow {
  int64_t iteration = 0;
  int32_t layer = 0;
  int32_t head = 0;
  int32_t width = 0;
  int32_t sentence = 0;
  int32_t keys = 0;
  int32_t values = 0;
  OperandBits bits;
  double threshold = 0;
  bool refetch = false;
  bool accumulate = false;
  bool rescale = false;
  std::optional<int32_t> top_k;
};

/// Fields by column. INVALID_ARGUMENT naming the field.
absl::StatusOr<TraceRow> ParseTraceRow(const TraceFields& fields);
/// The line, in the order of kTraceNames, with its end.
std::string FormatTraceRow(const TraceRow& row);

/// What separates the configuration's name from the shape.
inline constexpr std::string_view kTraceShapeMark = ";shape:";
/// What follows the mark. INVALID_ARGUMENT naming the part.
absl::StatusOr<LayerShape> ParseTraceShape(std::string_view text);
std::string FormatTraceShape(const LayerShape& shape);

/// For messages: what a field holds, cut short.
std::string ShownField(std::string_view text);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_TRACE_TRACE_ROW_H_
