// The inner layer of a feed-forward network, act(x W1^T + b1), of which rows may speculate on zeros
// (ZeroSpeculation in plan.h).
#ifndef THRESHER_BACKEND_MODEL_INNER_LAYER_H_
#define THRESHER_BACKEND_MODEL_INNER_LAYER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "backend/device/device.h"
#include "backend/device/plan.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Neighbouring rows of a batch that speculate under one rule.
struct SpeculatedRows {
  int64_t first = 0;
  int64_t rows = 0;
  ZeroSpeculation rule;
  bool measure = false;                 // How many are skipped wrongly, which takes dense work.
  SpeculationRecord* record = nullptr;  // What they did is added to it.
};

/// The weights of W1 in low precision, by bits.
using LowPrecisionWeights = std::map<int32_t, std::unique_ptr<PackedLinear>>;

/// What `bits` of low precision (8 or 4) are packed in.
Precision PrecisionOfBits(int32_t bits);

/// Memory of a run, kept for the next one.
struct InnerLayerWorkspace {
  std::vector<uint8_t> wanted;  // [rows][outputs], of rows that speculate.
};

/// `speculated` ascend and do not overlap; their activation is ReLU, and their bits are among
/// `predictors`, else INTERNAL. x [rows, in], inner [rows, out].
absl::Status RunInnerLayer(Device& device, const PackedLinear& weights,
                           const LowPrecisionWeights& predictors, Activation activation,
                           ConstMatrix x, std::span<const SpeculatedRows> speculated,
                           InnerLayerWorkspace& workspace, Matrix inner);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_INNER_LAYER_H_
