// Requests that any server of the Open Inference Protocol answers: of the tensors that a model's
// metadata names, filled with texts and numbers.
//
//   BYTES                  texts
//   FP16, BF16, FP32, FP64 numbers in [0, 1)
//   integers               token ids from 1 to `largest_id`; but ones where the name holds "mask",
//                          and zeros where it holds "type" or "segment"
//   BOOL                   true and false
// A size of -1 that comes first is the batch; any other is one length for all tensors of a request,
// drawn from `lengths`.
#ifndef THRESHER_CLIENT_LOAD_INFER_REQUESTS_H_
#define THRESHER_CLIENT_LOAD_INFER_REQUESTS_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/load/random.h"
#include "client/load/texts.h"
#include "inference/open_inference_grpc.pb.h"

namespace thresher::load {

class InferRequests {
 public:
  struct Options {
    /// Which inputs to send; empty: all that are not in `optional`.
    std::set<std::string> inputs;
    std::set<std::string> optional;
    Lengths lengths;
    int64_t largest_id = 999;
  };

  /// INVALID_ARGUMENT for an input that the model does not have; UNIMPLEMENTED for a datatype or a
  /// shape that can't be filled.
  static absl::StatusOr<InferRequests> Create(const inference::ModelMetadataResponse& metadata,
                                              const std::string& version, Options options);

  inference::ModelInferRequest Make(int batch, Texts& texts, Random& random) const;

  /// Whether any input has room for a batch; else a request is one sample, whatever `batch` is.
  bool takes_batches() const;

 private:
  struct Input {
    std::string name;
    std::string datatype;
    std::vector<int64_t> shape;
    bool lead_is_batch = false;
  };
  InferRequests() = default;

  std::string model_, version_;
  std::vector<Input> inputs_;
  Options options_;
  bool raw_ = false;  // Half-precision floats have no typed contents.
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_INFER_REQUESTS_H_
