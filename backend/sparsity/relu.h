// Speculation on zeros of a ReLU: a stated reading of the implicit redundancy speculation of VLSI
// 2021 (a training processor of 276.55 TFLOPS/W, "Trainer"). Only its abstract is public: that a
// unit speculates which work is redundant, and 1.46 times the throughput for it. How it predicts is
// not known. The reading, for inference: the zeros that a ReLU will make of the feed-forward
// network's first product are redundant; that product is predicted in few bits, and outputs that
// are predicted below zero are neither computed nor multiplied by the second product's weights.
// ZeroSpeculation (plan.h) is the rule.
//
// Every layer and row obeys it: of an encoder, and of a decoder in its prompt and in each generated
// token. It needs a network of two products with a ReLU between them, such as OPT's.
//
// Not taken over: the processor's one-pass batch normalization, which is of training, and of which
// a transformer's inference has none.
//
// Verified: by hand, and cpu against reference; that a prediction as good as the product changes no
// bit. Not: the paper's method or numbers.
#ifndef THRESHER_BACKEND_SPARSITY_RELU_H_
#define THRESHER_BACKEND_SPARSITY_RELU_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

/// INVALID_ARGUMENT where shape.relu is false.
absl::StatusOr<std::shared_ptr<const Policy>> MakeRelu(const PolicyValues& values,
                                                       const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_RELU_H_
