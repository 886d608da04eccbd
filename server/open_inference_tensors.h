// The Open Inference Protocol's tensors and parameters, read with suspicion and written. Knows
// nothing of models; depends on the wire schema alone.
#ifndef THRESHER_SERVER_OPEN_INFERENCE_TENSORS_H_
#define THRESHER_SERVER_OPEN_INFERENCE_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "inference/open_inference_grpc.pb.h"

namespace thresher {

/// A request's rows, in one of two forms:
///   texts: "text" BYTES [n] or [n, 1], and optionally "text_pair" of the same shape;
///   token ids: "input_ids" INT64 or INT32 [n, length], and optionally of the same shape
///     "attention_mask" (ones, then zeros: a row ends at its first zero, since nothing is padded
///     here) and "token_type_ids".
struct InferRows {
  std::vector<std::string_view> texts;  // Views into the request.
  std::vector<std::string_view> pairs;  // Empty, or one for each text.
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<int32_t>> type_ids;  // Empty, or one for each row of ids.

  size_t size() const { return texts.empty() ? ids.size() : texts.size(); }
};

/// INVALID_ARGUMENT with tensor and place for whatever does not fit; UNIMPLEMENTED for tensors that
/// are said to be in shared memory. Rows are from 1 to `max_rows`.
absl::StatusOr<InferRows> ParseInferRows(const inference::ModelInferRequest& request,
                                         int64_t max_rows);

/// A request's parameters. Numbers are taken as double, int64, uint64 or (in decimal) string, as
/// clients differ; "true", "false" and numbers do for a bool. Names that are not listed are
/// ignored, since the protocol leaves them to each server.
struct InferOptions {
  bool truncate = false;  // `truncate`: cut a text that is too long.
  int32_t priority = 0;   // `priority`: as in thresher.v1, a higher one is served earlier.
  absl::Duration timeout =
      absl::InfiniteDuration();  // `timeout`: microseconds from arrival; 0: none.
  std::string sparsity;          // `sparsity`: a policy, as in thresher.v1.
  /// `max_quality_loss`: as in thresher.v1, instead of `sparsity`.
  std::optional<double> max_quality_loss;
  bool explain = false;  // `explain`: report each layer and each token.
  // Decoders have more: open_inference_texts.h.
};

using InferParameters = google::protobuf::Map<std::string, inference::InferParameter>;

absl::StatusOr<InferOptions> ParseInferOptions(const InferParameters& parameters);

/// A parameter's value as clients send it; INVALID_ARGUMENT names the parameter.
absl::StatusOr<double> ReadNumber(const std::string& name,
                                  const inference::InferParameter& parameter);
absl::StatusOr<bool> ReadBool(const std::string& name, const inference::InferParameter& parameter);
/// A whole number without a fraction, in all its 64 bits, from 0.
absl::StatusOr<uint64_t> ReadUnsigned(const std::string& name,
                                      const inference::InferParameter& parameter);

/// One output: FP32, INT32 or BYTES by the type of its values, row-major.
struct OutputTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::variant<std::vector<float>, std::vector<int32_t>, std::vector<std::string>> values;
};

/// Appends the tensor, in raw_output_contents if `raw`, else with typed contents.
void AddOutput(OutputTensor tensor, bool raw, inference::ModelInferResponse* response);

}  // namespace thresher

#endif  // THRESHER_SERVER_OPEN_INFERENCE_TENSORS_H_
