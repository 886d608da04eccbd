#include "backend/model/score_predictor.h"

#include <algorithm>
#include <utility>

#include "backend/device/eager_prediction.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<ScorePredictor::Codes> ScorePredictor::PackCodes(Device& device,
                                                                const StoredLinear& stored,
                                                                bool bias, int32_t bits) {
  const int64_t out = stored.weight.rows;
  const int64_t in = stored.weight.cols;
  MatrixBuffer weight(out, in);
  for (int64_t o = 0; o < out; ++o) stored.weight.RowToFloat(o, weight.view().row(o));
  const LeadingOneMatrix encoded = EncodeLeadingOne(weight.view(), bits, in);
  std::copy(encoded.codes.begin(), encoded.codes.end(), weight.view().data);
  Codes codes{.scales = encoded.scales};
  // Codes and their products are exact in either precision: take the device's faster one.
  THRESHER_ASSIGN_OR_RETURN(codes.packed, device.Pack({DType::kF32, weight.view().data, out, in},
                                                      {}, device.description().default_precision));
  if (bias && !stored.bias.empty()) {
    codes.bias.resize(static_cast<size_t>(out));
    stored.bias.RowToFloat(0, codes.bias.data());
  }
  return codes;
}

absl::StatusOr<ScorePredictor> ScorePredictor::Pack(Device& device, const StoredLinear& query,
                                                    const StoredLinear& key,
                                                    const AttentionShape& shape, int32_t bits) {
  ScorePredictor predictor;
  predictor.shape_ = shape;
  predictor.bits_ = bits;
  THRESHER_ASSIGN_OR_RETURN(predictor.query_, PackCodes(device, query, true, bits));
  THRESHER_ASSIGN_OR_RETURN(predictor.key_, PackCodes(device, key, false, bits));
  return predictor;
}

absl::Status ScorePredictor::Project(Device& device, ConstMatrix codes,
                                     std::span<const float> row_scales, const Codes& weight,
                                     Matrix y) {
  THRESHER_RETURN_IF_ERROR(device.Linear(*weight.packed, codes, Activation::kNone, y));
  for (int64_t i = 0; i < y.rows; ++i) {
    const float row_scale = kMantissaCorrection * row_scales[i];
    float* row = y.row(i);
    for (int64_t o = 0; o < y.cols; ++o) {
      row[o] =
          row[o] * (row_scale * weight.scales[o]) + (weight.bias.empty() ? 0.0f : weight.bias[o]);
    }
  }
  return absl::OkStatus();
}

absl::Status ScorePredictor::Predict(Device& device, ConstMatrix x, float scale,
                                     std::vector<MatrixBuffer>& scores) const {
  const LeadingOneMatrix encoded = EncodeLeadingOne(x, bits_, x.cols);
  MatrixBuffer codes(x.rows, x.cols);
  std::copy(encoded.codes.begin(), encoded.codes.end(), codes.view().data);
  MatrixBuffer query(x.rows, query_.packed->out_features());
  MatrixBuffer key(x.rows, key_.packed->out_features());
  THRESHER_RETURN_IF_ERROR(Project(device, codes.view(), encoded.scales, query_, query.view()));
  THRESHER_RETURN_IF_ERROR(Project(device, codes.view(), encoded.scales, key_, key.view()));

  const LeadingOneMatrix q = EncodeLeadingOne(query.view(), bits_, shape_.head_dim);
  const LeadingOneMatrix k = EncodeLeadingOne(key.view(), bits_, shape_.head_dim);
  scores.resize(static_cast<size_t>(shape_.heads));
  for (int32_t h = 0; h < shape_.heads; ++h) {
    scores[h].Resize(x.rows, x.rows);
    PredictScores(q, h, k, h / (shape_.heads / shape_.kv_heads), scale, scores[h].view());
  }
  return absl::OkStatus();
}

}  // namespace thresher
