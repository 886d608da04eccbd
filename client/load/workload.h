// What the calls ask: methods and models in some mix, with texts or tensors.
#ifndef THRESHER_CLIENT_LOAD_WORKLOAD_H_
#define THRESHER_CLIENT_LOAD_WORKLOAD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "client/load/infer_requests.h"
#include "client/load/random.h"
#include "client/load/texts.h"
#include "inference/open_inference_grpc.pb.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher::load {

enum class Method { kClassify, kEmbed, kGenerate, kInfer };

/// "classify", ...
std::string_view Name(Method method);
std::optional<Method> ParseMethod(std::string_view name);

/// A part of the mix.
struct PartOptions {
  Method method = Method::kClassify;
  v1::ModelSpec model;
  double weight = 1;                   // Its share of the calls, before they are made to add up.
  std::optional<InferRequests> infer;  // Of kInfer.
};

/// Reads "METHOD[:MODEL][=WEIGHT],...", such as "classify:sst2-mini=3,embed:minilm=1"; a part
/// without a model has an empty one. INVALID_ARGUMENT names the part.
absl::StatusOr<std::vector<PartOptions>> ParseMix(std::string_view text);

struct WorkloadOptions {
  std::vector<PartOptions> parts;     // At least one.
  int batch = 1;                      // Inputs of a call; a generate call always has one prompt.
  v1::RequestOptions options;         // Of each request.
  std::optional<int32_t> max_tokens;  // Of generated texts.
  bool ignore_eos = false;
  uint64_t seed = 1;
};

/// One call to be made.
struct Query {
  using Request = std::variant<v1::ClassifyRequest, v1::EmbedRequest, v1::GenerateRequest,
                               inference::ModelInferRequest>;
  int part = 0;
  Request request;
  int inputs = 1;                          // Texts or samples in it.
  std::vector<std::optional<int>> labels;  // Of classify's inputs: the class that is right.
};

/// A sequence of calls that is the same for the same seed.
class Workload {
 public:
  Workload(WorkloadOptions options, std::unique_ptr<Texts> texts);
  Query Next();
  int parts() const { return static_cast<int>(options_.parts.size()); }

 private:
  int DrawPart();

  const WorkloadOptions options_;
  const std::unique_ptr<Texts> texts_;
  Random random_;
  double weights_ = 0;
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_WORKLOAD_H_
