#include "backend/model/inner_layer.h"

#include <algorithm>
#include <cmath>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Flags the outputs of a row that are not skipped; returns how many are.
int64_t ChooseOutputs(std::span<const float> predicted, double margin, uint8_t* wanted) {
  double squares = 0.0;
  for (const float p : predicted) squares += double{p} * p;
  const double bound = -margin * std::sqrt(squares / static_cast<double>(predicted.size()));
  int64_t skipped = 0;
  for (size_t o = 0; o < predicted.size(); ++o) {
    // What overflowed is computed, so that it shows.
    const bool skip = predicted[o] < bound;
    wanted[o] = skip ? 0 : 1;
    skipped += skip ? 1 : 0;
  }
  return skipped;
}

int64_t CountWrong(ConstMatrix inner, const uint8_t* wanted) {
  int64_t wrong = 0;
  for (int64_t r = 0; r < inner.rows; ++r, wanted += inner.cols) {
    for (int64_t o = 0; o < inner.cols; ++o) {
      if (wanted[o] == 0 && inner.row(r)[o] > 0.0f) ++wrong;
    }
  }
  return wrong;
}

/// Parts that follow one another and are predicted in the same precision.
absl::Status Speculate(Device& device, const PackedLinear& weights, const PackedLinear& predictor,
                       Activation activation, ConstMatrix x, std::span<const SpeculatedRows> parts,
                       InnerLayerWorkspace& workspace, Matrix inner) {
  std::vector<uint8_t>& wanted = workspace.wanted;
  wanted.resize(static_cast<size_t>(inner.rows * inner.cols));
  const auto flags_of = [&](int64_t row) {
    return wanted.data() + (row - parts.front().first) * inner.cols;
  };
  THRESHER_RETURN_IF_ERROR(device.Linear(predictor, x, Activation::kNone, inner));
  for (const SpeculatedRows& part : parts) {
    for (int64_t row = part.first; row < part.first + part.rows; ++row) {
      part.record->skipped += ChooseOutputs(ConstMatrix(inner).row_span(row - parts.front().first),
                                            part.rule.margin, flags_of(row));
    }
    part.record->predicted += part.rows * inner.cols;
  }
  if (std::ranges::any_of(parts, &SpeculatedRows::measure)) {
    THRESHER_RETURN_IF_ERROR(device.Linear(weights, x, activation, inner));
    for (const SpeculatedRows& part : parts) {
      if (!part.measure) continue;
      const Matrix rows = inner.Rows(part.first - parts.front().first, part.rows);
      part.record->wrong = part.record->wrong.value_or(0) + CountWrong(rows, flags_of(part.first));
    }
  }
  return device.LinearOfOutputs(weights, x, wanted, activation, inner);
}

}  // namespace

Precision PrecisionOfBits(int32_t bits) { return bits == 4 ? Precision::kInt4 : Precision::kInt8; }

absl::Status RunInnerLayer(Device& device, const PackedLinear& weights,
                           const LowPrecisionWeights& predictors, Activation activation,
                           ConstMatrix x, std::span<const SpeculatedRows> speculated,
                           InnerLayerWorkspace& workspace, Matrix inner) {
  int64_t next = 0;  // The first row that has not run.
  const auto run_dense = [&](int64_t end) {
    return device.Linear(weights, x.Rows(next, end - next), activation,
                         inner.Rows(next, end - next));
  };
  for (size_t begin = 0, end = 0; begin < speculated.size(); begin = end) {
    // Neighbours share products: many decode steps are one row each.
    const int32_t bits = speculated[begin].rule.bits;
    const int64_t first = speculated[begin].first;
    int64_t last = first;
    for (; end < speculated.size() && speculated[end].first == last &&
           speculated[end].rule.bits == bits;
         ++end) {
      last += speculated[end].rows;
    }
    const auto predictor = predictors.find(bits);
    if (predictor == predictors.end()) return Internal("weights of {} bits are not prepared", bits);
    if (activation != Activation::kRelu) return Internal("speculation on zeros without a ReLU");
    THRESHER_RETURN_IF_ERROR(run_dense(first));
    THRESHER_RETURN_IF_ERROR(Speculate(
        device, weights, *predictor->second, activation, x.Rows(first, last - first),
        speculated.subspan(begin, end - begin), workspace, inner.Rows(first, last - first)));
    next = last;
  }
  return run_dense(x.rows);
}

}  // namespace thresher
