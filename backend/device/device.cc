#include "backend/device/device.h"

#include <cmath>
#include <utility>

#include "backend/device/cpu/cpu_device.h"
#include "backend/device/reference/cached_attention.h"
#include "backend/device/reference/flow_attention.h"
#include "backend/device/reference/planned_attention.h"
#include "backend/device/reference/reference_device.h"
#include "backend/device/shape_checks.h"
#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/simulated_device.h"
#include "backend/tensor/status.h"

namespace thresher {

std::string_view Name(Precision precision) {
  switch (precision) {
    case Precision::kF32:
      return "f32";
    case Precision::kBF16:
      return "bf16";
    case Precision::kInt8:
      return "int8";
    case Precision::kInt4:
      return "int4";
  }
  return "unknown";
}

absl::StatusOr<Precision> ParsePrecision(std::string_view name) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kInt8}) {
    if (name == Name(precision)) return precision;
  }
  return InvalidArgument("unknown precision '{}': f32, bf16 or int8", name);
}

absl::Status Device::LinearOfOutputs(const PackedLinear& weights, ConstMatrix x,
                                     std::span<const uint8_t> wanted, Activation activation,
                                     Matrix y) {
  THRESHER_RETURN_IF_ERROR(CheckOutputs(wanted, y));
  THRESHER_RETURN_IF_ERROR(Linear(weights, x, activation, y));
  const uint8_t* flags = wanted.data();
  for (int64_t r = 0; r < y.rows; ++r, flags += y.cols) {
    float* const row = y.row(r);
    for (int64_t c = 0; c < y.cols; ++c) row[c] = flags[c] != 0 ? row[c] : 0.0f;
  }
  return absl::OkStatus();
}

absl::Status Device::PlannedAttention(const AttentionInput& input,
                                      std::span<const SequencePlan* const> plans, Matrix out,
                                      std::span<AttentionRecord> records) {
  THRESHER_RETURN_IF_ERROR(CheckPlannedAttention(input, plans, out, records));
  for (size_t s = 0; s < plans.size(); ++s) {
    const int64_t first = input.offsets[s];
    const int64_t rows = input.offsets[s + 1] - first;
    AttentionInput one = input;
    one.query = input.query.Rows(first, rows);
    one.key = input.key.Rows(first, rows);
    one.value = input.value.Rows(first, rows);
    const int32_t offsets[] = {0, static_cast<int32_t>(rows)};
    one.offsets = offsets;
    if (plans[s] == nullptr) {
      THRESHER_RETURN_IF_ERROR(Attention(one, out.Rows(first, rows)));
      records[s] = DenseRecord(input.shape, static_cast<int32_t>(rows), input.causal);
      continue;
    }
    THRESHER_RETURN_IF_ERROR(thresher::PlannedAttention({.shape = one.shape,
                                                         .query = one.query,
                                                         .key = one.key,
                                                         .value = one.value,
                                                         .scale = one.scale,
                                                         .causal = one.causal},
                                                        *plans[s], out.Rows(first, rows),
                                                        &records[s]));
  }
  return absl::OkStatus();
}

absl::Status Device::FlowAttention(const AttentionInput& input, Matrix out) {
  THRESHER_RETURN_IF_ERROR(CheckAttention(input, out));
  ReferenceFlowAttention(input, out);
  return absl::OkStatus();
}

absl::Status Device::EncodeLeadingOne(const LeadingOneInput& input, int32_t bits, int64_t group,
                                      Matrix codes, Matrix scales) {
  THRESHER_RETURN_IF_ERROR(CheckEncoding(input, bits, group, codes, scales));
  EncodeLeadingOneRows(input, bits, group, 0, input.x.rows, codes, scales);
  return absl::OkStatus();
}

absl::Status Device::EncodeVectors(const VectorCodes& encoder, ConstMatrix x,
                                   std::span<const float> center, Matrix codes, Matrix scales) {
  THRESHER_RETURN_IF_ERROR(CheckVectorCodes(encoder, x, center, codes, scales));
  encoder.Encode(x, center, 0, x.rows, codes, scales);
  return absl::OkStatus();
}

absl::Status Device::PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                                   ScoreBlockBody body) {
  THRESHER_RETURN_IF_ERROR(CheckPrediction(operands, heads));
  const int64_t rows = operands.query_codes.rows;
  const int64_t group = operands.query_scales.cols / operands.key_scales.cols;
  MatrixBuffer scores(rows, rows);
  for (const int32_t head : heads) {
    const int64_t kv_head = head / group;
    for (int64_t i = 0; i < rows; ++i) {
      const float* const q = operands.query_codes.row(i) + int64_t{head} * operands.width;
      for (int64_t j = 0; j < rows; ++j) {
        const float* const k = operands.key_codes.row(j) + kv_head * operands.width;
        float sum = 0.0f;
        for (int32_t d = 0; d < operands.width; ++d) sum += q[d] * k[d];
        scores.view().row(i)[j] = sum * (operands.factor * operands.query_scales.row(i)[head] *
                                         operands.key_scales.row(j)[kv_head]);
      }
    }
    body(head, 0, scores.view());
  }
  return absl::OkStatus();
}

absl::Status Device::RmsNorm(ConstMatrix x, std::span<const float> gamma, float epsilon, Matrix y) {
  THRESHER_RETURN_IF_ERROR(CheckRmsNorm(x, gamma, y));
  for (int64_t r = 0; r < x.rows; ++r) {
    double squares = 0.0;
    for (const float value : x.row_span(r)) squares += double{value} * value;
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + epsilon);
    for (int64_t c = 0; c < x.cols; ++c) {
      y.row(r)[c] = static_cast<float>(x.row(r)[c] * factor * gamma[static_cast<size_t>(c)]);
    }
  }
  return absl::OkStatus();
}

absl::Status Device::Add(ConstMatrix x, Matrix y) {
  THRESHER_RETURN_IF_ERROR(CheckElementwise(x, y));
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) y.row(r)[c] += x.row(r)[c];
  }
  return absl::OkStatus();
}

absl::Status Device::Multiply(ConstMatrix x, Matrix y) {
  THRESHER_RETURN_IF_ERROR(CheckElementwise(x, y));
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) y.row(r)[c] *= x.row(r)[c];
  }
  return absl::OkStatus();
}

absl::Status Device::Rotate(const RotaryTable& table, std::span<const int32_t> positions,
                            int32_t heads, Matrix x) {
  THRESHER_RETURN_IF_ERROR(CheckRotate(table, positions, heads, x));
  const int64_t dim = x.cols / heads;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int32_t h = 0; h < heads; ++h) {
      RotateRow(table, positions[static_cast<size_t>(r)], x.row(r) + h * dim);
    }
  }
  return absl::OkStatus();
}

absl::Status Device::StoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                                     ConstMatrix value, std::span<const CachedSequence> sequences) {
  THRESHER_RETURN_IF_ERROR(CheckStoreKeysValues(layout, layer, key, value, sequences));
  for (const CachedSequence& sequence : sequences) {
    for (int32_t r = 0; r < sequence.rows; ++r) {
      for (int32_t h = 0; h < layout.kv_heads(); ++h) {
        const int32_t slot = sequence.SlotOf(layout, layer, h, r);
        std::byte* const page = sequence.pages[static_cast<size_t>(slot / kKvPageTokens)];
        const int64_t row = sequence.first_row + r;
        const int64_t column = int64_t{h} * layout.head_dim();
        StoreKeyRow(layout, key.row(row) + column, slot % kKvPageTokens,
                    layout.keys(page, layer, h));
        StoreValueRow(layout, value.row(row) + column, slot % kKvPageTokens,
                      layout.values(page, layer, h));
        if (layout.format().stretch > 0) {
          BoundKeys(layout, layout.keys(page, layer, h), slot % kKvPageTokens,
                    slot % kKvPageTokens + 1, layout.bounds(page, layer, h));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Device::CachedAttention(const CachedAttentionInput& input, Matrix out,
                                     std::span<CachedRecord> records) {
  THRESHER_RETURN_IF_ERROR(CheckCachedAttention(input, out, records));
  ReferenceCachedAttention(input, out, records);
  return absl::OkStatus();
}

namespace {

/// "sim:PRESET@INNER" in its parts.
struct SimulatedName {
  std::string_view preset, inner = "cpu";
};

constexpr std::string_view kSimulated = "sim:";

SimulatedName ParseSimulated(std::string_view name) {
  SimulatedName parts;
  parts.preset = name.substr(kSimulated.size());
  if (const size_t at = parts.preset.rfind('@'); at != std::string_view::npos) {
    parts.inner = parts.preset.substr(at + 1);
    parts.preset = parts.preset.substr(0, at);
  }
  return parts;
}

absl::StatusOr<std::unique_ptr<Accelerator>> AcceleratorOf(const SimulatedName& name) {
  THRESHER_ASSIGN_OR_RETURN(const v1::Preset preset, FindPreset(name.preset));
  THRESHER_ASSIGN_OR_RETURN(auto accelerator, CreateAccelerator(preset));
  THRESHER_RETURN_IF_ERROR(accelerator->CheckScope({}));  // Whole layers run.
  return accelerator;
}

constexpr std::string_view kCpuOneDnn = "cpu:onednn";

bool IsPlain(std::string_view name) {
  return name == "cpu" || name == kCpuOneDnn || name == "reference";
}

absl::Status UnknownDevice(std::string_view name) {
  return NotFound(
      "unknown device '{}': cpu, cpu:onednn, reference or sim:PRESET[@INNER], INNER one of these",
      name);
}

}  // namespace

absl::Status CheckDeviceName(std::string_view name) {
  if (IsPlain(name)) return absl::OkStatus();
  if (!name.starts_with(kSimulated)) return UnknownDevice(name);
  const SimulatedName simulated = ParseSimulated(name);
  if (!IsPlain(simulated.inner)) return UnknownDevice(name);
  return AcceleratorOf(simulated).status();
}

absl::StatusOr<std::unique_ptr<Device>> CreateDevice(std::string_view name,
                                                     const DeviceOptions& options) {
  constexpr int kMostThreads = 4096;
  if (options.threads < 1 || options.threads > kMostThreads) {
    return InvalidArgument("device '{}': {} threads, expected 1 to {}", name, options.threads,
                           kMostThreads);
  }
  if (name == "reference") return CreateReferenceDevice();
  if (IsPlain(name)) return CreateCpuDevice(options.threads, name == kCpuOneDnn);
  if (!name.starts_with(kSimulated)) return UnknownDevice(name);
  const SimulatedName simulated = ParseSimulated(name);
  if (!IsPlain(simulated.inner)) return UnknownDevice(name);
  THRESHER_ASSIGN_OR_RETURN(auto accelerator, AcceleratorOf(simulated));
  THRESHER_ASSIGN_OR_RETURN(auto inner, CreateDevice(simulated.inner, options));
  return CreateSimulatedDevice(std::string(name), std::move(inner),
                               {.accelerator = std::move(accelerator), .pace = options.pace});
}

}  // namespace thresher
