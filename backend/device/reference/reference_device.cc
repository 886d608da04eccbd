#include "backend/device/reference/reference_device.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "backend/device/shape_checks.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Symmetric quantization and back: each value becomes the nearest whole multiple (ties to even) of
/// the largest magnitude / limit. Limit 0 leaves the row as it is.
void RoundToIntegers(int32_t limit, std::span<float> row) {
  float largest = 0.0f;
  for (const float value : row) largest = std::max(largest, std::abs(value));
  if (limit == 0 || largest == 0.0f) return;
  const float scale = largest / static_cast<float>(limit);
  for (float& value : row) value = std::nearbyint(value / scale) * scale;
}

class ReferenceLinear final : public PackedLinear {
 public:
  ReferenceLinear(const StoredMatrix& weight, const StoredMatrix& bias, Precision precision)
      : in_(weight.cols), out_(weight.rows), precision_(precision) {
    std::vector<float> row(in_);
    weight_.resize(static_cast<size_t>(in_) * out_);
    for (int64_t o = 0; o < out_; ++o) {
      weight.RowToFloat(o, row.data());
      RoundToIntegers(QuantizedLimit(precision), row);
      for (int64_t i = 0; i < in_; ++i) weight_[i * out_ + o] = row[i];
    }
    bias_.assign(out_, 0.0f);
    if (!bias.empty()) bias.RowToFloat(0, bias_.data());
  }

  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  Precision precision() const override { return precision_; }
  size_t bytes() const override { return (weight_.size() + bias_.size()) * sizeof(float); }

  /// Column i of W: the weights of input feature i for every output feature.
  const float* input_weights(int64_t i) const { return weight_.data() + i * out_; }
  const std::vector<float>& bias() const { return bias_; }

 private:
  int64_t in_;
  int64_t out_;
  Precision precision_;
  std::vector<float> weight_;  // [in, out]: the transpose of the checkpoint's.
  std::vector<float> bias_;
};

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Activation::kGeluTanh:
      return 0.5 * x *
             (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
  }
  return x;
}

/// One query of one head over the keys [0, keys) of its sequence.
void AttendOne(const float* query, ConstMatrix key, ConstMatrix value, float scale,
               std::vector<double>& scores, float* out) {
  scores.resize(key.rows);
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < key.rows; ++j) {
    double dot = 0.0;
    for (int64_t d = 0; d < key.cols; ++d) dot += double{query[d]} * key.row(j)[d];
    scores[j] = dot * scale;
    largest = std::max(largest, scores[j]);
  }
  double total = 0.0;
  for (double& score : scores) total += score = std::exp(score - largest);
  for (int64_t d = 0; d < value.cols; ++d) {
    double sum = 0.0;
    for (int64_t j = 0; j < value.rows; ++j) sum += scores[j] * value.row(j)[d];
    out[d] = static_cast<float>(sum / total);
  }
}

class ReferenceDevice final : public Device {
 public:
  const DeviceDescription& description() const override { return description_; }

  absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(const StoredMatrix& weight,
                                                     const StoredMatrix& bias,
                                                     Precision precision) override {
    THRESHER_RETURN_IF_ERROR(CheckPack(weight, bias));
    return std::make_unique<ReferenceLinear>(weight, bias, precision);
  }

  absl::Status Linear(const PackedLinear& packed, ConstMatrix x, Activation activation,
                      Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckLinear(packed, x, y));
    const auto* weights = dynamic_cast<const ReferenceLinear*>(&packed);
    if (weights == nullptr) return InvalidArgument("linear: weights packed by another device");
    std::vector<double> sums(y.cols);
    std::vector<float> input(x.cols);
    for (int64_t m = 0; m < x.rows; ++m) {
      std::copy_n(x.row(m), x.cols, input.begin());
      RoundToIntegers(QuantizedLimit(weights->precision()), input);
      std::copy(weights->bias().begin(), weights->bias().end(), sums.begin());
      for (int64_t i = 0; i < x.cols; ++i) {
        const double xi = input[i];
        const float* w = weights->input_weights(i);
        for (int64_t o = 0; o < y.cols; ++o) sums[o] += xi * w[o];
      }
      for (int64_t o = 0; o < y.cols; ++o) {
        y.row(m)[o] = static_cast<float>(Activate(activation, sums[o]));
      }
    }
    return absl::OkStatus();
  }

  absl::Status LinearOfOutputs(const PackedLinear& packed, ConstMatrix x,
                               std::span<const uint8_t> wanted, Activation activation,
                               Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckLinear(packed, x, y));
    THRESHER_RETURN_IF_ERROR(CheckOutputs(wanted, y));
    const auto* weights = dynamic_cast<const ReferenceLinear*>(&packed);
    if (weights == nullptr) return InvalidArgument("linear: weights packed by another device");
    std::vector<float> input(x.cols);
    for (int64_t m = 0; m < x.rows; ++m) {
      std::copy_n(x.row(m), x.cols, input.begin());
      RoundToIntegers(QuantizedLimit(weights->precision()), input);
      for (int64_t o = 0; o < y.cols; ++o) {
        y.row(m)[o] = 0.0f;
        if (wanted[static_cast<size_t>(m * y.cols + o)] == 0) continue;
        double sum = weights->bias()[static_cast<size_t>(o)];
        for (int64_t i = 0; i < x.cols; ++i) sum += double{input[i]} * weights->input_weights(i)[o];
        y.row(m)[o] = static_cast<float>(Activate(activation, sum));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Attention(const AttentionInput& input, Matrix out) override {
    THRESHER_RETURN_IF_ERROR(CheckAttention(input, out));
    const auto [heads, kv_heads, head_dim] = input.shape;
    std::vector<double> scores;
    for (size_t s = 0; s + 1 < input.offsets.size(); ++s) {
      const int64_t begin = input.offsets[s];
      const int64_t end = input.offsets[s + 1];
      for (int64_t i = begin; i < end; ++i) {
        const int64_t keys = (input.causal ? i + 1 : end) - begin;
        for (int32_t h = 0; h < heads; ++h) {
          const int64_t kv_column = int64_t{h / (heads / kv_heads)} * head_dim;
          const int64_t column = int64_t{h} * head_dim;
          const ConstMatrix key(input.key.row(begin) + kv_column, keys, head_dim, input.key.stride);
          const ConstMatrix value(input.value.row(begin) + kv_column, keys, head_dim,
                                  input.value.stride);
          AttendOne(input.query.row(i) + column, key, value, input.scale, scores,
                    out.row(i) + column);
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                         std::span<const float> beta, float epsilon, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckLayerNorm(x, residual, gamma, beta, y));
    std::vector<double> z(x.cols);
    for (int64_t m = 0; m < x.rows; ++m) {
      double sum = 0.0;
      for (int64_t i = 0; i < x.cols; ++i) {
        z[i] = x.row(m)[i];
        if (residual.data != nullptr) z[i] += residual.row(m)[i];
        sum += z[i];
      }
      const double mean = sum / static_cast<double>(x.cols);
      double squares = 0.0;
      for (const double value : z) squares += (value - mean) * (value - mean);
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + epsilon);
      for (int64_t i = 0; i < x.cols; ++i) {
        y.row(m)[i] = static_cast<float>(gamma[i] * ((z[i] - mean) * scale) + beta[i]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Embed(std::span<const Lookup> lookups, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckEmbed(lookups, y));
    std::vector<float> row(y.cols);
    for (int64_t m = 0; m < y.rows; ++m) {
      std::fill_n(y.row(m), y.cols, 0.0f);
      for (const Lookup& lookup : lookups) {
        lookup.table.RowToFloat(lookup.ids[m], row.data());
        for (int64_t i = 0; i < y.cols; ++i) y.row(m)[i] += row[i];
      }
    }
    return absl::OkStatus();
  }

  absl::Status MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckMeanPool(x, offsets, y));
    for (int64_t s = 0; s < y.rows; ++s) {
      for (int64_t i = 0; i < x.cols; ++i) {
        double sum = 0.0;
        for (int64_t m = offsets[s]; m < offsets[s + 1]; ++m) sum += x.row(m)[i];
        const int64_t rows = std::max(offsets[s + 1] - offsets[s], 1);
        y.row(s)[i] = static_cast<float>(sum / static_cast<double>(rows));
      }
    }
    return absl::OkStatus();
  }

 private:
  DeviceDescription description_{.name = "reference",
                                 .isa = "portable",
                                 .library = "none",
                                 .threads = 1,
                                 .default_precision = Precision::kF32};
};

}  // namespace

std::unique_ptr<Device> CreateReferenceDevice() { return std::make_unique<ReferenceDevice>(); }

}  // namespace thresher
