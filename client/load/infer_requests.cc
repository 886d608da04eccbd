#include "client/load/infer_requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <utility>

namespace thresher::load {
namespace {

using inference::InferTensorContents;
using inference::ModelInferRequest;

constexpr int64_t kMostElements = int64_t{1} << 24;

enum class Fill { kText, kReal, kId, kOne, kZero, kBool };

bool Half(std::string_view datatype) { return datatype == "FP16" || datatype == "BF16"; }

Fill FillOf(std::string_view name, std::string_view datatype) {
  if (datatype == "BYTES") return Fill::kText;
  if (datatype == "BOOL") return Fill::kBool;
  if (Half(datatype) || datatype.starts_with("FP")) return Fill::kReal;
  if (name.find("mask") != std::string_view::npos) return Fill::kOne;
  if (name.find("type") != std::string_view::npos ||
      name.find("segment") != std::string_view::npos) {
    return Fill::kZero;
  }
  return Fill::kId;
}

bool Known(std::string_view datatype) {
  for (const std::string_view known :
       {"BYTES", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
        "FP16", "BF16", "FP32", "FP64"}) {
    if (datatype == known) return true;
  }
  return false;
}

double Number(Fill fill, int64_t largest_id, Random& random) {
  switch (fill) {
    case Fill::kReal:
      return random.Uniform();
    case Fill::kId:
      return 1 + static_cast<double>(random.Below(largest_id));
    case Fill::kBool:
      return static_cast<double>(random.Below(2));
    case Fill::kOne:
      return 1;
    case Fill::kZero:
    case Fill::kText:
      break;
  }
  return 0;
}

void AddTyped(std::string_view datatype, double value, InferTensorContents* out) {
  if (datatype == "BOOL") {
    out->add_bool_contents(value != 0);
  } else if (datatype == "INT64") {
    out->add_int64_contents(static_cast<int64_t>(value));
  } else if (datatype == "UINT64") {
    out->add_uint64_contents(static_cast<uint64_t>(value));
  } else if (datatype.starts_with("INT")) {
    out->add_int_contents(static_cast<int32_t>(value));
  } else if (datatype.starts_with("UINT")) {
    out->add_uint_contents(static_cast<uint32_t>(value));
  } else if (datatype == "FP64") {
    out->add_fp64_contents(value);
  } else {
    out->add_fp32_contents(static_cast<float>(value));
  }
}

/// Little-endian, as the protocol wants it and all our machines have it.
template <typename T>
void AppendBytes(T value, std::string* out) {
  static_assert(std::endian::native == std::endian::little);
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out->append(bytes, sizeof value);
}

void AddRaw(std::string_view datatype, double value, std::string* out) {
  const auto whole = static_cast<int64_t>(value);
  if (datatype == "BOOL" || datatype.ends_with("INT8")) {
    AppendBytes(static_cast<int8_t>(whole), out);
  } else if (datatype.ends_with("INT16")) {
    AppendBytes(static_cast<int16_t>(whole), out);
  } else if (datatype.ends_with("INT32")) {
    AppendBytes(static_cast<int32_t>(whole), out);
  } else if (datatype.ends_with("INT64")) {
    AppendBytes(whole, out);
  } else if (datatype == "BF16") {
    // The upper half of a float, cut.
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
    AppendBytes(static_cast<uint16_t>(bits >> 16), out);
  } else if (datatype == "FP16") {
    // (1 + value) / 2: from 0.5 to 1 all halves have one exponent.
    AppendBytes(static_cast<uint16_t>(0x3800 | static_cast<uint16_t>(value * 1024)), out);
  } else if (datatype == "FP32") {
    AppendBytes(static_cast<float>(value), out);
  } else {
    AppendBytes(value, out);
  }
}

int64_t LargestOf(std::string_view datatype) {
  if (datatype == "INT8") return 127;
  if (datatype == "UINT8") return 255;
  if (datatype == "INT16") return 32767;
  return INT32_MAX;
}

}  // namespace

absl::StatusOr<InferRequests> InferRequests::Create(
    const inference::ModelMetadataResponse& metadata, const std::string& version, Options options) {
  InferRequests requests;
  requests.model_ = metadata.name();
  requests.version_ = version;
  std::set<std::string> missing = options.inputs;
  std::string known;
  for (const auto& tensor : metadata.inputs()) {
    known += (known.empty() ? "" : ", ") + tensor.name();
    missing.erase(tensor.name());
    const bool wanted = options.inputs.empty() ? !options.optional.contains(tensor.name())
                                               : options.inputs.contains(tensor.name());
    if (!wanted) continue;
    Input input = {.name = tensor.name(), .datatype = tensor.datatype()};
    if (!Known(input.datatype)) {
      return absl::UnimplementedError(
          fmt::format("input '{}' of model '{}': datatype {} is unknown", input.name,
                      requests.model_, input.datatype));
    }
    int64_t elements = 1;
    for (const int64_t size : tensor.shape()) {
      if (size == 0 || size < -1 || (size > 0 && size > kMostElements / elements)) {
        return absl::UnimplementedError(
            fmt::format("input '{}' of model '{}': a size of {} in its shape can't be filled",
                        input.name, requests.model_, size));
      }
      if (size > 0) elements *= size;
      input.shape.push_back(size);
    }
    input.lead_is_batch = !input.shape.empty() && input.shape[0] == -1;
    requests.raw_ |= Half(input.datatype);
    requests.inputs_.push_back(std::move(input));
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(fmt::format("model '{}' has no input '{}'; it has: {}",
                                                  requests.model_, *missing.begin(), known));
  }
  if (requests.inputs_.empty()) {
    return absl::UnimplementedError(
        fmt::format("the metadata of model '{}' names no input to send", requests.model_));
  }
  requests.options_ = std::move(options);
  return requests;
}

bool InferRequests::takes_batches() const {
  return std::any_of(inputs_.begin(), inputs_.end(),
                     [](const Input& input) { return input.lead_is_batch; });
}

ModelInferRequest InferRequests::Make(int batch, Texts& texts, Random& random) const {
  ModelInferRequest request;
  request.set_model_name(model_);
  request.set_model_version(version_);
  const int64_t length = options_.lengths.Draw(random);
  for (const Input& input : inputs_) {
    auto& tensor = *request.add_inputs();
    tensor.set_name(input.name);
    tensor.set_datatype(input.datatype);
    int64_t elements = 1;
    for (size_t i = 0; i < input.shape.size(); ++i) {
      int64_t size = input.shape[i];
      if (size == -1) size = i == 0 && input.lead_is_batch ? batch : length;
      // A long drawn length in several places: what fits.
      size = std::max<int64_t>(1, std::min(size, kMostElements / elements));
      tensor.add_shape(size);
      elements *= size;
    }
    std::string* raw = raw_ ? request.add_raw_input_contents() : nullptr;
    const Fill fill = FillOf(input.name, input.datatype);
    const int64_t largest = std::min(options_.largest_id, LargestOf(input.datatype));
    for (int64_t i = 0; i < elements; ++i) {
      if (fill == Fill::kText) {
        std::string text = texts.Next().text;
        if (raw != nullptr) {
          AppendBytes(static_cast<uint32_t>(text.size()), raw);
          raw->append(text);
        } else {
          tensor.mutable_contents()->add_bytes_contents(std::move(text));
        }
        continue;
      }
      const double value = Number(fill, largest, random);
      if (raw != nullptr) {
        AddRaw(input.datatype, value, raw);
      } else {
        AddTyped(input.datatype, value, tensor.mutable_contents());
      }
    }
  }
  return request;
}

}  // namespace thresher::load
