// The Open Inference Protocol's requests and answers between JSON (its REST form, with the binary
// tensor data extension) and its messages. Knows nothing of models and transports.
//
// A tensor's values are JSON ("data", flat or nested) or, where its parameter `binary_data_size`
// says so, bytes that follow the JSON, one tensor's after the other's, as in raw_input_contents.
// Inside all values are raw contents. An output is sent as bytes where its parameter `binary_data`
// or else the request's parameter `binary_data_output` is true.
#ifndef THRESHER_SERVER_OPEN_INFERENCE_JSON_H_
#define THRESHER_SERVER_OPEN_INFERENCE_JSON_H_

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "inference/open_inference_grpc.pb.h"

namespace thresher {

/// How the answer's outputs are to be sent.
struct OutputForms {
  bool binary = false;                               // Those that are not named below.
  std::map<std::string, bool, std::less<>> by_name;  // Whether as bytes.

  bool IsBinary(std::string_view name) const;
};

struct InferJson {
  inference::ModelInferRequest request;  // Without the model's name and version.
  OutputForms outputs;
};

/// `json_bytes`: how much of the body is JSON (header Inference-Header-Content-Length); unset: all.
/// INVALID_ARGUMENT says what is wrong and where. Names that the protocol does not have are passed
/// over, as its servers do.
absl::StatusOr<InferJson> ReadInferJson(std::string_view body, std::optional<size_t> json_bytes);

struct InferBody {
  std::string bytes;
  std::optional<size_t> json_bytes;  // Set where binary tensors follow.
};

/// A response with raw contents. A number that JSON has not (NaN) becomes null.
InferBody WriteInferJson(const inference::ModelInferResponse& response, const OutputForms& outputs);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_JSON_H_
