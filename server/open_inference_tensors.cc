#include "server/open_inference_tensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include "absl/strings/numbers.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

static_assert(std::endian::native == std::endian::little, "raw contents are little-endian");

using inference::InferParameter;
using inference::InferTensorContents;
using inference::ModelInferRequest;
using Tensor = ModelInferRequest::InferInputTensor;

constexpr std::array<std::string_view, 5> kInputNames = {"text", "text_pair", "input_ids",
                                                         "attention_mask", "token_type_ids"};
constexpr std::string_view kSharedMemory = "shared_memory_region";

std::string ShapeText(const Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.shape(), ", "));
}

template <typename... Args>
absl::Status Bad(const Tensor& tensor, fmt::format_string<Args...> format, Args&&... args) {
  return InvalidArgument("tensor '{}': {}", tensor.name(),
                         fmt::format(format, std::forward<Args>(args)...));
}

/// A named input with its blob, if the request is a raw one.
struct Input {
  const Tensor* tensor = nullptr;
  const std::string* raw = nullptr;

  explicit operator bool() const { return tensor != nullptr; }
};

/// How many values the contents hold in all fields together.
int64_t CountAll(const InferTensorContents& contents) {
  return int64_t{0} + contents.bool_contents_size() + contents.int_contents_size() +
         contents.int64_contents_size() + contents.uint_contents_size() +
         contents.uint64_contents_size() + contents.fp32_contents_size() +
         contents.fp64_contents_size() + contents.bytes_contents_size();
}

/// The inputs by kInputNames' order.
absl::StatusOr<std::array<Input, kInputNames.size()>> FindInputs(const ModelInferRequest& request) {
  const int raw = request.raw_input_contents_size();
  if (raw != 0 && raw != request.inputs_size()) {
    return InvalidArgument("{} raw_input_contents for {} inputs; there must be one for each", raw,
                           request.inputs_size());
  }
  std::array<Input, kInputNames.size()> found;
  for (int i = 0; i < request.inputs_size(); ++i) {
    const Tensor& tensor = request.inputs(i);
    const auto name = std::find(kInputNames.begin(), kInputNames.end(), tensor.name());
    if (name == kInputNames.end()) {
      return InvalidArgument("input '{}' is not known; the inputs are: {}", tensor.name(),
                             fmt::join(kInputNames, ", "));
    }
    if (tensor.parameters().contains(std::string(kSharedMemory))) {
      return Unimplemented("tensor '{}': shared memory is not supported; send the contents",
                           tensor.name());
    }
    Input& input = found[static_cast<size_t>(name - kInputNames.begin())];
    if (input) return Bad(tensor, "sent twice");
    if (raw != 0 && CountAll(tensor.contents()) > 0) {
      return Bad(tensor, "both typed contents and raw_input_contents; send one of them");
    }
    input.tensor = &tensor;
    if (raw != 0) input.raw = &request.raw_input_contents(i);
  }
  return found;
}

absl::Status CheckShape(const Tensor& tensor, int64_t max_rows, bool matrix) {
  const int rank = tensor.shape_size();
  const bool fits = matrix ? rank == 2 : rank == 1 || (rank == 2 && tensor.shape(1) == 1);
  if (!fits) {
    return Bad(tensor, "shape {}, expected {}", ShapeText(tensor),
               matrix ? "[rows, tokens]" : "[rows] or [rows, 1]");
  }
  for (const int64_t size : tensor.shape()) {
    if (size < 1) return Bad(tensor, "shape {}: every size must be at least 1", ShapeText(tensor));
  }
  if (tensor.shape(0) > max_rows) {
    return Bad(tensor, "{} rows in one call; this server takes at most {}", tensor.shape(0),
               max_rows);
  }
  return absl::OkStatus();
}

absl::Status CheckCount(const Tensor& tensor, int64_t expected, int64_t count) {
  if (count == expected) return absl::OkStatus();
  return Bad(tensor, "shape {} needs {} values, but there are {}", ShapeText(tensor), expected,
             count);
}

/// Typed contents: `count` values where they belong, and nothing anywhere else.
absl::Status CheckTyped(const Tensor& tensor, int64_t expected, int64_t count) {
  if (CountAll(tensor.contents()) != count) {
    return Bad(tensor, "contents of another type than its datatype, {}", tensor.datatype());
  }
  return CheckCount(tensor, expected, count);
}

absl::StatusOr<std::vector<std::string_view>> ReadBytes(const Input& input, int64_t max_rows) {
  const Tensor& tensor = *input.tensor;
  if (tensor.datatype() != "BYTES") {
    return Bad(tensor, "datatype '{}', expected BYTES", tensor.datatype());
  }
  THRESHER_RETURN_IF_ERROR(CheckShape(tensor, max_rows, /*matrix=*/false));
  const int64_t rows = tensor.shape(0);
  std::vector<std::string_view> values;
  if (input.raw == nullptr) {
    const auto& contents = tensor.contents().bytes_contents();
    THRESHER_RETURN_IF_ERROR(CheckTyped(tensor, rows, contents.size()));
    values.assign(contents.begin(), contents.end());
    return values;
  }
  std::string_view rest = *input.raw;
  while (!rest.empty()) {
    uint32_t length;
    if (rest.size() < sizeof(length)) {
      return Bad(tensor, "raw contents end inside the length of value {}", values.size());
    }
    std::memcpy(&length, rest.data(), sizeof(length));
    rest.remove_prefix(sizeof(length));
    if (length > rest.size()) {
      return Bad(tensor, "value {} of the raw contents has {} bytes, but {} are left",
                 values.size(), length, rest.size());
    }
    values.push_back(rest.substr(0, length));
    rest.remove_prefix(length);
    if (static_cast<int64_t>(values.size()) > rows) break;  // Too many, however many more.
  }
  THRESHER_RETURN_IF_ERROR(CheckCount(tensor, rows, static_cast<int64_t>(values.size())));
  return values;
}

/// A matrix of integers. Its memory is bounded by the message's: the values are counted first.
struct Integers {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<int32_t> values;

  std::span<const int32_t> row(int64_t i) const {
    return std::span(values).subspan(static_cast<size_t>(i * columns),
                                     static_cast<size_t>(columns));
  }
};

/// Appends `count` values of type From, which may be unaligned.
template <typename From>
absl::Status Append(const Tensor& tensor, int64_t columns, const void* from, int64_t count,
                    std::vector<int32_t>* to) {
  to->reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, static_cast<const char*>(from) + i * sizeof(value), sizeof(value));
    if (!std::in_range<int32_t>(value)) {
      return Bad(tensor, "row {}, column {}: {} is out of range", i / columns, i % columns, value);
    }
    to->push_back(static_cast<int32_t>(value));
  }
  return absl::OkStatus();
}

absl::StatusOr<Integers> ReadIntegers(const Input& input, int64_t max_rows) {
  const Tensor& tensor = *input.tensor;
  const bool wide = tensor.datatype() == "INT64";
  if (!wide && tensor.datatype() != "INT32") {
    return Bad(tensor, "datatype '{}', expected INT64 or INT32", tensor.datatype());
  }
  THRESHER_RETURN_IF_ERROR(CheckShape(tensor, max_rows, /*matrix=*/true));
  Integers matrix{tensor.shape(0), tensor.shape(1), {}};
  int64_t count;
  if (__builtin_mul_overflow(matrix.rows, matrix.columns, &count)) {
    return Bad(tensor, "shape {} is too large", ShapeText(tensor));
  }
  const void* from = nullptr;
  if (input.raw != nullptr) {
    const int64_t width = wide ? sizeof(int64_t) : sizeof(int32_t);
    const auto bytes = static_cast<int64_t>(input.raw->size());
    if (bytes % width != 0) {
      return Bad(tensor, "{} bytes of raw contents are no whole number of {} values", bytes,
                 tensor.datatype());
    }
    THRESHER_RETURN_IF_ERROR(CheckCount(tensor, count, bytes / width));
    from = input.raw->data();
  } else if (wide) {
    const auto& contents = tensor.contents().int64_contents();
    THRESHER_RETURN_IF_ERROR(CheckTyped(tensor, count, contents.size()));
    from = contents.data();
  } else {
    const auto& contents = tensor.contents().int_contents();
    THRESHER_RETURN_IF_ERROR(CheckTyped(tensor, count, contents.size()));
    from = contents.data();
  }
  THRESHER_RETURN_IF_ERROR(
      wide ? Append<int64_t>(tensor, matrix.columns, from, count, &matrix.values)
           : Append<int32_t>(tensor, matrix.columns, from, count, &matrix.values));
  return matrix;
}

absl::Status CheckSameShape(const Tensor& tensor, const Tensor& as) {
  if (std::equal(tensor.shape().begin(), tensor.shape().end(), as.shape().begin(),
                 as.shape().end())) {
    return absl::OkStatus();
  }
  return Bad(tensor, "shape {}, expected that of '{}', {}", ShapeText(tensor), as.name(),
             ShapeText(as));
}

/// How many tokens of each row the mask keeps.
absl::StatusOr<std::vector<int64_t>> RowLengths(const Tensor& tensor, const Integers& mask) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < mask.rows; ++i) {
    const auto row = mask.row(i);
    const auto first_zero = std::find(row.begin(), row.end(), 0);
    if (!std::all_of(row.begin(), first_zero, [](int32_t value) { return value == 1; }) ||
        !std::all_of(first_zero, row.end(), [](int32_t value) { return value == 0; })) {
      return Bad(tensor, "row {} is not ones followed by zeros; only padding can be masked", i);
    }
    if (first_zero == row.begin()) return Bad(tensor, "row {} masks every token", i);
    lengths.push_back(first_zero - row.begin());
  }
  return lengths;
}

std::vector<std::vector<int32_t>> Cut(const Integers& matrix, const std::vector<int64_t>& lengths) {
  std::vector<std::vector<int32_t>> rows;
  for (int64_t i = 0; i < matrix.rows; ++i) {
    const auto row = matrix.row(i).first(static_cast<size_t>(lengths[static_cast<size_t>(i)]));
    rows.emplace_back(row.begin(), row.end());
  }
  return rows;
}

template <typename T>
void AppendRaw(const std::vector<T>& values, std::string* raw) {
  raw->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

void AppendRaw(const std::vector<std::string>& values, std::string* raw) {
  for (const std::string& value : values) {
    const auto length = static_cast<uint32_t>(value.size());
    raw->append(reinterpret_cast<const char*>(&length), sizeof(length));
    raw->append(value);
  }
}

void SetTyped(const std::vector<float>& values, InferTensorContents* contents) {
  contents->mutable_fp32_contents()->Add(values.begin(), values.end());
}
void SetTyped(const std::vector<int32_t>& values, InferTensorContents* contents) {
  contents->mutable_int_contents()->Add(values.begin(), values.end());
}
void SetTyped(const std::vector<std::string>& values, InferTensorContents* contents) {
  contents->mutable_bytes_contents()->Add(values.begin(), values.end());
}

}  // namespace

absl::StatusOr<double> ReadNumber(const std::string& name, const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kDoubleParam:
      return parameter.double_param();
    case InferParameter::kInt64Param:
      return static_cast<double>(parameter.int64_param());
    case InferParameter::kUint64Param:
      return static_cast<double>(parameter.uint64_param());
    case InferParameter::kStringParam:
      if (double value; absl::SimpleAtod(parameter.string_param(), &value)) return value;
      break;
    case InferParameter::kBoolParam:
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return InvalidArgument("parameter '{}' must be a number", name);
}

absl::StatusOr<bool> ReadBool(const std::string& name, const InferParameter& parameter) {
  if (parameter.parameter_choice_case() == InferParameter::kBoolParam) {
    return parameter.bool_param();
  }
  if (parameter.string_param() == "true") return true;
  if (parameter.string_param() == "false") return false;
  const auto number = ReadNumber(name, parameter);
  if (!number.ok()) return InvalidArgument("parameter '{}' must be true or false", name);
  return *number != 0;
}

absl::StatusOr<uint64_t> ReadUnsigned(const std::string& name, const InferParameter& parameter) {
  uint64_t value = 0;
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kUint64Param:
      return parameter.uint64_param();
    case InferParameter::kInt64Param:
      if (parameter.int64_param() >= 0) return static_cast<uint64_t>(parameter.int64_param());
      break;
    case InferParameter::kDoubleParam:
      // Written so that NaN fails too; beyond 2^53 a double is no exact number.
      if (const double number = parameter.double_param();
          number >= 0 && number <= 9007199254740992.0 && number == std::floor(number)) {
        return static_cast<uint64_t>(number);
      }
      break;
    case InferParameter::kStringParam:
      if (absl::SimpleAtoi(parameter.string_param(), &value)) return value;
      break;
    case InferParameter::kBoolParam:
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return InvalidArgument("parameter '{}' must be a whole number, not below 0", name);
}

absl::StatusOr<InferRows> ParseInferRows(const ModelInferRequest& request, int64_t max_rows) {
  THRESHER_ASSIGN_OR_RETURN(const auto inputs, FindInputs(request));
  const auto& [text, pair, ids, mask, types] = inputs;
  if (static_cast<bool>(text) == static_cast<bool>(ids)) {
    return InvalidArgument("{} the inputs 'text' and 'input_ids'; send one of them",
                           text ? "both of" : "neither of");
  }
  InferRows rows;
  if (text) {
    if (mask || types) {
      return Bad(*(mask ? mask : types).tensor, "goes with 'input_ids', not with 'text'");
    }
    THRESHER_ASSIGN_OR_RETURN(rows.texts, ReadBytes(text, max_rows));
    if (pair) {
      THRESHER_ASSIGN_OR_RETURN(rows.pairs, ReadBytes(pair, max_rows));
      if (rows.pairs.size() != rows.texts.size()) return CheckSameShape(*pair.tensor, *text.tensor);
    }
    return rows;
  }
  if (pair) return Bad(*pair.tensor, "goes with 'text', not with 'input_ids'");
  THRESHER_ASSIGN_OR_RETURN(const Integers matrix, ReadIntegers(ids, max_rows));
  std::vector<int64_t> lengths(static_cast<size_t>(matrix.rows), matrix.columns);
  if (mask) {
    THRESHER_RETURN_IF_ERROR(CheckSameShape(*mask.tensor, *ids.tensor));
    THRESHER_ASSIGN_OR_RETURN(const Integers mask_matrix, ReadIntegers(mask, max_rows));
    THRESHER_ASSIGN_OR_RETURN(lengths, RowLengths(*mask.tensor, mask_matrix));
  }
  rows.ids = Cut(matrix, lengths);
  if (types) {
    THRESHER_RETURN_IF_ERROR(CheckSameShape(*types.tensor, *ids.tensor));
    THRESHER_ASSIGN_OR_RETURN(const Integers type_matrix, ReadIntegers(types, max_rows));
    rows.type_ids = Cut(type_matrix, lengths);
  }
  return rows;
}

absl::StatusOr<InferOptions> ParseInferOptions(const InferParameters& parameters) {
  InferOptions options;
  for (const auto& [name, parameter] : parameters) {
    if (name == "truncate") {
      THRESHER_ASSIGN_OR_RETURN(options.truncate, ReadBool(name, parameter));
    } else if (name == "priority") {
      THRESHER_ASSIGN_OR_RETURN(const double value, ReadNumber(name, parameter));
      // Written so that NaN fails too.
      if (!(std::abs(value) <= std::numeric_limits<int32_t>::max())) {
        return InvalidArgument("parameter 'priority': {} is out of range", value);
      }
      options.priority = static_cast<int32_t>(value);
    } else if (name == "timeout") {
      THRESHER_ASSIGN_OR_RETURN(const double value, ReadNumber(name, parameter));
      if (!(value >= 0)) return InvalidArgument("parameter 'timeout': {} is negative", value);
      if (value > 0) options.timeout = absl::Microseconds(value);
    } else if (name == "sparsity") {
      if (parameter.parameter_choice_case() != InferParameter::kStringParam) {
        return InvalidArgument("parameter 'sparsity' must be a string");
      }
      options.sparsity = parameter.string_param();
    } else if (name == "max_quality_loss") {
      THRESHER_ASSIGN_OR_RETURN(options.max_quality_loss, ReadNumber(name, parameter));
    } else if (name == "explain") {
      THRESHER_ASSIGN_OR_RETURN(options.explain, ReadBool(name, parameter));
    }
  }
  if (options.max_quality_loss && parameters.contains("sparsity")) {
    return InvalidArgument(
        "parameters 'sparsity' and 'max_quality_loss' contradict each other; send one of them");
  }
  return options;
}

void AddOutput(OutputTensor tensor, bool raw, inference::ModelInferResponse* response) {
  auto* output = response->add_outputs();
  output->set_name(std::move(tensor.name));
  output->mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
  constexpr std::array<const char*, 3> kDatatypes = {"FP32", "INT32", "BYTES"};
  output->set_datatype(kDatatypes[tensor.values.index()]);
  std::visit(
      [&](const auto& values) {
        if (raw) {
          AppendRaw(values, response->add_raw_output_contents());
        } else {
          SetTyped(values, output->mutable_contents());
        }
      },
      tensor.values);
}

}  // namespace thresher
