#include "backend/model/score_predictor.h"

#include <algorithm>
#include <utility>

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

absl::Status ScorePredictor::ProjectOne(Device& device, const Codes& weight, Workspace& workspace,
                                        MatrixBuffer& codes, MatrixBuffer& scales) const {
  const int64_t rows = workspace.input_codes_.view().rows;
  const int64_t out = weight.packed->out_features();
  workspace.projected_.Resize(rows, out);
  codes.Resize(rows, out);
  scales.Resize(rows, out / shape_.head_dim);
  THRESHER_RETURN_IF_ERROR(device.Linear(*weight.packed, workspace.input_codes_.view(),
                                         Activation::kNone, workspace.projected_.view()));
  const LeadingOneInput projection = {
      .x = workspace.projected_.view(),
      .row_scales = {workspace.input_scales_.view().data, static_cast<size_t>(rows)},
      .col_scales = weight.scales,
      .bias = weight.bias};
  return device.EncodeLeadingOne(projection, bits_, shape_.head_dim, codes.view(), scales.view());
}

absl::Status ScorePredictor::Project(Device& device, ConstMatrix x, Workspace& workspace) const {
  workspace.input_codes_.Resize(x.rows, x.cols);
  workspace.input_scales_.Resize(x.rows, 1);
  THRESHER_RETURN_IF_ERROR(device.EncodeLeadingOne(
      {.x = x}, bits_, x.cols, workspace.input_codes_.view(), workspace.input_scales_.view()));
  THRESHER_RETURN_IF_ERROR(
      ProjectOne(device, query_, workspace, workspace.query_codes_, workspace.query_scales_));
  return ProjectOne(device, key_, workspace, workspace.key_codes_, workspace.key_scales_);
}

absl::Status ScorePredictor::Predict(Device& device, const Workspace& workspace, int64_t first,
                                     int64_t rows, std::span<const int32_t> heads, float scale,
                                     ScoreBlockBody body) const {
  return device.PredictScores({.query_codes = workspace.query_codes_.view().Rows(first, rows),
                               .query_scales = workspace.query_scales_.view().Rows(first, rows),
                               .key_codes = workspace.key_codes_.view().Rows(first, rows),
                               .key_scales = workspace.key_scales_.view().Rows(first, rows),
                               .head_dim = shape_.head_dim,
                               .scale = scale},
                              heads, body);
}

}  // namespace thresher
