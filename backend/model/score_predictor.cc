#include "backend/model/score_predictor.h"

#include <algorithm>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

// Of the random projections; of no meaning.
constexpr uint32_t kInputSeed = 2;
constexpr uint32_t kHeadSeed = 3;

/// a [rows, inner] times b [inner, cols], in doubles.
MatrixBuffer Product(ConstMatrix a, std::span<const float> b, int64_t cols) {
  MatrixBuffer y(a.rows, cols);
  std::vector<double> sums(static_cast<size_t>(cols));
  for (int64_t i = 0; i < a.rows; ++i) {
    std::ranges::fill(sums, 0.0);
    for (int64_t k = 0; k < a.cols; ++k) {
      const double x = a.row(i)[k];
      const float* const row = b.data() + k * cols;
      for (int64_t j = 0; j < cols; ++j) sums[static_cast<size_t>(j)] += x * row[j];
    }
    std::ranges::copy(sums, y.view().row(i));
  }
  return y;
}

/// Adds (rows [first, first + dim) of w) times their transpose over its trace, and first of all the
/// bias' outer product, unless empty, to `sum` [dim, dim].
void AddGram(ConstMatrix w, std::span<const float> bias, int64_t first, int64_t dim,
             std::vector<double>& sum) {
  std::vector<double> gram(static_cast<size_t>(dim * dim), 0.0);
  double trace = 0.0;
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = bias.empty() ? 0.0 : double{bias[first + i]} * bias[first + j];
      for (int64_t c = 0; c < w.cols; ++c) dot += double{w.row(first + i)[c]} * w.row(first + j)[c];
      gram[static_cast<size_t>(i * dim + j)] = gram[static_cast<size_t>(j * dim + i)] = dot;
      if (i == j) trace += dot;
    }
  }
  if (!(trace > 0.0)) return;
  for (size_t i = 0; i < gram.size(); ++i) sum[i] += gram[i] / trace;
}

}  // namespace

ScorePredictor::Floats ScorePredictor::Read(const StoredLinear& stored, bool bias) const {
  const int64_t out = stored.weight.rows;
  const int64_t in = stored.weight.cols;
  Floats floats{.weight = MatrixBuffer(out, in)};
  for (int64_t o = 0; o < out; ++o) stored.weight.RowToFloat(o, floats.weight.view().row(o));
  if (bias && !stored.bias.empty()) {
    floats.bias.resize(static_cast<size_t>(out));
    stored.bias.RowToFloat(0, floats.bias.data());
  }
  if (request_.kind != PredictionKind::kInputProjection) return floats;
  if (request_.rank > 0) {
    floats.weight = Product(floats.weight.view(), TernaryProjection(in, request_.rank, kInputSeed),
                            request_.rank);
  }
  if (projection_.empty()) return floats;
  // R^T times each head's rows.
  const int64_t heads = out / shape_.head_dim;
  const ConstMatrix wide = floats.weight.view();
  Floats narrow{.weight = MatrixBuffer(heads * width_, wide.cols),
                .bias = std::vector<float>(floats.bias.empty() ? 0 : heads * width_, 0.0f)};
  std::fill_n(narrow.weight.view().data, heads * width_ * wide.cols, 0.0f);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t d = 0; d < shape_.head_dim; ++d) {
      for (int64_t w = 0; w < width_; ++w) {
        const float r = projection_[static_cast<size_t>(d * width_ + w)];
        if (r == 0.0f) continue;
        const float* const from = wide.row(h * shape_.head_dim + d);
        float* const to = narrow.weight.view().row(h * width_ + w);
        for (int64_t c = 0; c < wide.cols; ++c) to[c] += r * from[c];
        if (!floats.bias.empty()) {
          narrow.bias[static_cast<size_t>(h * width_ + w)] +=
              r * floats.bias[static_cast<size_t>(h * shape_.head_dim + d)];
        }
      }
    }
  }
  return narrow;
}

absl::StatusOr<ScorePredictor::Codes> ScorePredictor::PackCodes(Device& device,
                                                                Floats floats) const {
  const Matrix weight = floats.weight.view();
  Codes codes{.bias = std::move(floats.bias)};
  if (request_.kind == PredictionKind::kInputProjection) {
    codes.scales.resize(static_cast<size_t>(weight.rows));
    VectorCodes::Integers(static_cast<int32_t>(weight.cols), request_.bits)
        .Encode(weight, {}, 0, weight.rows, weight, Matrix(codes.scales.data(), weight.rows, 1));
  } else {
    const LeadingOneMatrix encoded = EncodeLeadingOne(weight, request_.bits, weight.cols);
    std::copy(encoded.codes.begin(), encoded.codes.end(), weight.data);
    codes.scales = encoded.scales;
  }
  // Codes and their products are exact in either precision: take the device's faster one.
  THRESHER_ASSIGN_OR_RETURN(codes.packed,
                            device.Pack({DType::kF32, weight.data, weight.rows, weight.cols}, {},
                                        device.description().default_precision));
  return codes;
}

std::vector<float> ScorePredictor::Components(const StoredLinear& query,
                                              const StoredLinear& key) const {
  const auto [heads, kv_heads, dim] = shape_;
  const Floats q = Read(query, true);
  const Floats k = Read(key, false);
  std::vector<float> all;
  for (int32_t h = 0; h < kv_heads; ++h) {
    std::vector<double> sum(static_cast<size_t>(dim) * dim, 0.0);
    AddGram(q.weight.view(), q.bias, int64_t{h} * dim, dim, sum);
    AddGram(k.weight.view(), {}, int64_t{h} * dim, dim, sum);
    const std::vector<float> components = PrincipalComponents(sum, dim);
    for (int32_t d = 0; d < dim; ++d) {
      const auto row = components.begin() + int64_t{d} * dim;
      all.insert(all.end(), row, row + width_);
    }
  }
  return all;
}

absl::StatusOr<ScorePredictor> ScorePredictor::Pack(Device& device, const StoredLinear& query,
                                                    const StoredLinear& key,
                                                    const PackedLinear& real_query,
                                                    const AttentionShape& shape,
                                                    const PredictionRequest& request) {
  ScorePredictor predictor;
  predictor.shape_ = shape;
  predictor.request_ = request;
  predictor.real_query_ = &real_query;
  const int32_t dim = shape.head_dim;
  const int32_t bits = request.bits;
  const int32_t width = request.width == 0 ? dim : request.width;
  if (width < 1 || width > dim) {
    return InvalidArgument("prediction: codes of {} elements; heads have {}", width, dim);
  }
  predictor.width_ = width;
  switch (request.kind) {
    case PredictionKind::kNone:
      return Internal("prediction: none is asked for");
    case PredictionKind::kEager:
      break;
    case PredictionKind::kOneOperandLog:
      predictor.input_ = VectorCodes::Integers(static_cast<int32_t>(key.weight.cols), bits);
      predictor.vectors_ = VectorCodes::Integers(dim, bits);
      break;
    case PredictionKind::kInputProjection: {
      const auto in = static_cast<int32_t>(key.weight.cols);
      predictor.input_ = request.rank > 0 ? VectorCodes::Projection(
                                                in, request.rank, bits,
                                                TernaryProjection(in, request.rank, kInputSeed))
                                          : VectorCodes::Integers(in, bits);
      predictor.vectors_ = VectorCodes::Integers(width, bits);
      if (width < dim) predictor.projection_ = TernaryProjection(dim, width, kHeadSeed);
      break;
    }
    case PredictionKind::kInteger:
      predictor.vectors_ = VectorCodes::Integers(dim, bits);
      return predictor;
    case PredictionKind::kSignHash:
      predictor.vectors_ = VectorCodes::Signs(dim, width);
      return predictor;
    case PredictionKind::kProjection:
      predictor.vectors_ =
          VectorCodes::Projection(dim, width, bits, TernaryProjection(dim, width, kHeadSeed));
      return predictor;
    case PredictionKind::kPrincipal:
      predictor.vectors_ =
          VectorCodes::Projection(dim, width, bits, predictor.Components(query, key));
      return predictor;
  }
  if (request.kind != PredictionKind::kOneOperandLog) {
    THRESHER_ASSIGN_OR_RETURN(predictor.query_,
                              predictor.PackCodes(device, predictor.Read(query, true)));
  }
  THRESHER_ASSIGN_OR_RETURN(predictor.key_,
                            predictor.PackCodes(device, predictor.Read(key, false)));
  return predictor;
}

absl::Status ScorePredictor::ProjectOne(Device& device, const Codes& weight, Workspace& workspace,
                                        MatrixBuffer& codes, MatrixBuffer& scales) const {
  const int64_t rows = workspace.input_codes_.view().rows;
  const int64_t out = weight.packed->out_features();
  workspace.projected_.Resize(rows, out);
  codes.Resize(rows, out);
  scales.Resize(rows, out / width_);
  const Matrix projected = workspace.projected_.view();
  THRESHER_RETURN_IF_ERROR(
      device.Linear(*weight.packed, workspace.input_codes_.view(), Activation::kNone, projected));
  if (request_.kind == PredictionKind::kEager) {
    const LeadingOneInput projection = {
        .x = projected,
        .row_scales = {workspace.input_scales_.view().data, static_cast<size_t>(rows)},
        .col_scales = weight.scales,
        .bias = weight.bias};
    return device.EncodeLeadingOne(projection, request_.bits, width_, codes.view(), scales.view());
  }
  const float factor =
      request_.kind == PredictionKind::kOneOperandLog ? kOneMantissaCorrection : 1.0f;
  for (int64_t i = 0; i < rows; ++i) {
    const float row_scale = factor * workspace.input_scales_.view().row(i)[0];
    float* const row = projected.row(i);
    for (int64_t o = 0; o < out; ++o) row[o] *= row_scale * weight.scales[static_cast<size_t>(o)];
    for (size_t o = 0; o < weight.bias.size(); ++o) row[o] += weight.bias[o];
  }
  return device.EncodeVectors(vectors_, projected, {}, codes.view(), scales.view());
}

absl::Status ScorePredictor::Project(Device& device, ConstMatrix x, Workspace& workspace) const {
  const bool eager = request_.kind == PredictionKind::kEager;
  workspace.input_codes_.Resize(x.rows, eager ? x.cols : input_.width());
  workspace.input_scales_.Resize(x.rows, 1);
  const Matrix codes = workspace.input_codes_.view();
  const Matrix scales = workspace.input_scales_.view();
  THRESHER_RETURN_IF_ERROR(
      eager ? device.EncodeLeadingOne({.x = x}, request_.bits, x.cols, codes, scales)
            : device.EncodeVectors(input_, x, {}, codes, scales));
  THRESHER_RETURN_IF_ERROR(
      ProjectOne(device, key_, workspace, workspace.key_codes_, workspace.key_scales_));
  if (request_.kind != PredictionKind::kOneOperandLog) {
    return ProjectOne(device, query_, workspace, workspace.query_codes_, workspace.query_scales_);
  }
  const int64_t out = real_query_->out_features();
  workspace.projected_.Resize(x.rows, out);
  workspace.query_codes_.Resize(x.rows, out);
  workspace.query_scales_.Resize(x.rows, out / width_);
  THRESHER_RETURN_IF_ERROR(
      device.Linear(*real_query_, x, Activation::kNone, workspace.projected_.view()));
  return device.EncodeLeadingOne({.x = workspace.projected_.view()}, request_.bits, width_,
                                 workspace.query_codes_.view(), workspace.query_scales_.view());
}

absl::Status ScorePredictor::Encode(Device& device, ConstMatrix query, ConstMatrix key,
                                    Workspace& workspace) const {
  workspace.query_codes_.Resize(query.rows, int64_t{shape_.heads} * width_);
  workspace.query_scales_.Resize(query.rows, shape_.heads);
  workspace.key_codes_.Resize(key.rows, int64_t{shape_.kv_heads} * width_);
  workspace.key_scales_.Resize(key.rows, shape_.kv_heads);
  THRESHER_RETURN_IF_ERROR(device.EncodeVectors(vectors_, query, {}, workspace.query_codes_.view(),
                                                workspace.query_scales_.view()));
  workspace.center_.clear();
  if (request_.center) {
    std::vector<double> sums(static_cast<size_t>(key.cols), 0.0);
    for (int64_t j = 0; j < key.rows; ++j) {
      for (int64_t c = 0; c < key.cols; ++c) sums[static_cast<size_t>(c)] += key.row(j)[c];
    }
    for (const double sum : sums) {
      workspace.center_.push_back(static_cast<float>(sum / static_cast<double>(key.rows)));
    }
  }
  return device.EncodeVectors(vectors_, key, workspace.center_, workspace.key_codes_.view(),
                              workspace.key_scales_.view());
}

absl::Status ScorePredictor::Predict(Device& device, const Workspace& workspace, int64_t first,
                                     int64_t rows, std::span<const int32_t> heads, float scale,
                                     ScoreBlockBody body) const {
  float factor = scale;
  if (request_.kind == PredictionKind::kEager) factor *= kMantissaCorrection;
  if (request_.kind == PredictionKind::kOneOperandLog) factor *= kOneMantissaCorrection;
  if (request_.kind == PredictionKind::kSignHash) factor = 1.0f;
  return device.PredictScores({.query_codes = workspace.query_codes_.view().Rows(first, rows),
                               .query_scales = workspace.query_scales_.view().Rows(first, rows),
                               .key_codes = workspace.key_codes_.view().Rows(first, rows),
                               .key_scales = workspace.key_scales_.view().Rows(first, rows),
                               .width = width_,
                               .factor = factor},
                              heads, body);
}

size_t ScorePredictor::bytes() const {
  size_t sum = 0;
  for (const Codes* codes : {&query_, &key_}) {
    if (codes->packed != nullptr) sum += codes->packed->bytes();
  }
  return sum;
}

}  // namespace thresher
