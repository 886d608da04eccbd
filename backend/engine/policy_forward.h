// A forward pass in which each sequence follows its own policy: between layers it asks the
// policies, drops the rows that they drop and keeps the account of what ran.
//
// Rows of dropped tokens are taken out of the matrices (compacted, never masked), so that every
// later product is smaller. A dropped token keeps its last hidden state, which the result holds at
// its original place, where mean pooling and per-token heads read it.
#ifndef THRESHER_BACKEND_ENGINE_POLICY_FORWARD_H_
#define THRESHER_BACKEND_ENGINE_POLICY_FORWARD_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "backend/engine/engine.h"
#include "backend/engine/layer_pricing.h"
#include "backend/model/encoder.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/matrix.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// What one sequence of the batch asks for.
struct PolicyRequest {
  const Policy* policy = nullptr;  // Null: dense.
  ReportDetail detail;
};

/// Memory of a run, kept for the next one.
struct PolicyWorkspace {
  Encoder::Workspace encoder;
  MatrixBuffer result;
  ScorePredictor::Workspace prediction;
};

/// Runs the whole encoder. Afterwards *hidden [batch.tokens(), hidden_size] is every token's last
/// hidden state (it lives in the workspace), and reports[s] the account of sequence s. All that the
/// policies need must have been prepared in the encoder. `pricing` hears of each layer.
absl::Status ForwardUnderPolicies(const Encoder& encoder, const PolicyShape& shape,
                                  const RaggedBatch& batch, std::span<const PolicyRequest> requests,
                                  LayerPricing& pricing, PolicyWorkspace& workspace,
                                  ConstMatrix* hidden, std::span<v1::PruningReport> reports);

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_POLICY_FORWARD_H_
