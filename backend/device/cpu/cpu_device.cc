#include "backend/device/cpu/cpu_device.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <utility>
#include <vector>

#include "backend/device/cpu/cached_attention.h"
#include "backend/device/cpu/dot_product.h"
#include "backend/device/cpu/flow_attention.h"
#include "backend/device/cpu/highway_product.h"
#include "backend/device/cpu/isa.h"
#include "backend/device/cpu/kernels.h"
#include "backend/device/cpu/onednn_product.h"
#include "backend/device/cpu/product.h"
#include "backend/device/cpu/ragged_attention.h"
#include "backend/device/cpu/score_prediction.h"
#include "backend/device/cpu/thread_pool.h"
#include "backend/device/cpu/worker_scratch.h"
#include "backend/device/shape_checks.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

// The most in_features for which a sum of products of int8 can't overflow int32.
constexpr int64_t kMaxInt8Depth = std::numeric_limits<int32_t>::max() / (127 * 127);

/// Runs what may throw (for want of memory) and turns that into a status.
template <typename Result, typename Body>
Result Guard(std::string_view what, const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("{}: out of memory", what);
  } catch (const std::exception& error) {
    return Internal("{}: {}", what, error.what());
  }
}

class CpuLinear final : public PackedLinear {
 public:
  CpuLinear(int64_t in, int64_t out, Precision precision, std::unique_ptr<Product> product,
            std::vector<float> bias, std::vector<float> scales)
      : in_(in),
        out_(out),
        precision_(precision),
        product_(std::move(product)),
        bias_(std::move(bias)),
        scales_(std::move(scales)) {}

  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  Precision precision() const override { return precision_; }
  size_t bytes() const override {
    return product_->bytes() + (bias_.size() + scales_.size()) * sizeof(float);
  }

  const Product& product() const { return *product_; }
  const float* bias() const { return bias_.data(); }
  /// Of each output column; for the quantised precisions only.
  const float* scales() const { return scales_.data(); }

 private:
  int64_t in_;
  int64_t out_;
  Precision precision_;
  std::unique_ptr<Product> product_;
  std::vector<float> bias_;
  std::vector<float> scales_;
};

class CpuDevice final : public Device {
 public:
  CpuDevice(const Isa& isa, int threads, bool onednn_first)
      : isa_(isa),
        onednn_first_(onednn_first),
        pool_(threads),
        scratch_(threads),
        statuses_(static_cast<size_t>(threads)),
        attention_(&isa_, &pool_, &scratch_) {
    description_ = {.name = onednn_first ? "cpu:onednn" : "cpu",
                    .isa = isa.name,
                    .library = OneDnn::Version(),
                    .threads = threads,
                    .default_precision = isa.amx ? Precision::kBF16 : Precision::kF32};
  }

  const DeviceDescription& description() const override { return description_; }

  absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(const StoredMatrix& weight,
                                                     const StoredMatrix& bias,
                                                     Precision precision) override {
    THRESHER_RETURN_IF_ERROR(CheckPack(weight, bias));
    if (QuantizedLimit(precision) > 0 && weight.cols > kMaxInt8Depth) {
      return InvalidArgument("int8 weight has {} inputs, at most {} can be summed", weight.cols,
                             kMaxInt8Depth);
    }
    return Guard<absl::StatusOr<std::unique_ptr<PackedLinear>>>(
        "pack", [&] { return PackChecked(weight, bias, precision); });
  }

  absl::Status Linear(const PackedLinear& packed, ConstMatrix x, Activation activation,
                      Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckLinear(packed, x, y));
    const auto* weights = dynamic_cast<const CpuLinear*>(&packed);
    if (weights == nullptr) return InvalidArgument("linear: weights packed by another device");
    const ColumnRange all[] = {{0, x.cols}};
    return Guard<absl::Status>("linear",
                               [&] { return LinearChecked(*weights, x, all, activation, y); });
  }

  absl::Status LinearOfColumns(const PackedLinear& packed, ConstMatrix x,
                               std::span<const ColumnRange> columns, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckLinear(packed, x, y));
    THRESHER_RETURN_IF_ERROR(CheckColumns(columns, x.cols));
    const auto* weights = dynamic_cast<const CpuLinear*>(&packed);
    if (weights == nullptr) return InvalidArgument("linear: weights packed by another device");
    if (!weights->product().skips_columns()) return Linear(packed, x, Activation::kNone, y);
    return Guard<absl::Status>(
        "linear", [&] { return LinearChecked(*weights, x, columns, Activation::kNone, y); });
  }

  absl::Status Attention(const AttentionInput& input, Matrix out) override {
    THRESHER_RETURN_IF_ERROR(CheckAttention(input, out));
    return Guard<absl::Status>("attention", [&] {
      attention_.Dense(input, out);
      return absl::OkStatus();
    });
  }

  absl::Status PlannedAttention(const AttentionInput& input,
                                std::span<const SequencePlan* const> plans, Matrix out,
                                std::span<AttentionRecord> records) override {
    THRESHER_RETURN_IF_ERROR(CheckPlannedAttention(input, plans, out, records));
    return Guard<absl::Status>("attention under plans",
                               [&] { return attention_.Planned(input, plans, out, records); });
  }

  absl::Status FlowAttention(const AttentionInput& input, Matrix out) override {
    THRESHER_RETURN_IF_ERROR(CheckAttention(input, out));
    return Guard<absl::Status>("flow-attention", [&] {
      LinearFlowAttention(input, out, &pool_);
      return absl::OkStatus();
    });
  }

  absl::Status EncodeLeadingOne(const LeadingOneInput& input, int32_t bits, int64_t group,
                                Matrix codes, Matrix scales) override {
    THRESHER_RETURN_IF_ERROR(CheckEncoding(input, bits, group, codes, scales));
    pool_.ForRows(input.x.rows, input.x.cols, [&](int64_t first, int64_t count) {
      EncodeLeadingOneRows(input, bits, group, first, count, codes, scales);
    });
    return absl::OkStatus();
  }

  absl::Status EncodeVectors(const VectorCodes& encoder, ConstMatrix x,
                             std::span<const float> center, Matrix codes, Matrix scales) override {
    THRESHER_RETURN_IF_ERROR(CheckVectorCodes(encoder, x, center, codes, scales));
    pool_.ForRows(x.rows, x.cols * encoder.width(), [&](int64_t first, int64_t count) {
      encoder.Encode(x, center, first, count, codes, scales);
    });
    return absl::OkStatus();
  }

  absl::Status PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                             ScoreBlockBody body) override {
    THRESHER_RETURN_IF_ERROR(CheckPrediction(operands, heads));
    return Guard<absl::Status>("prediction", [&] {
      thresher::PredictScores(operands, heads, body, &pool_, &scratch_);
      return absl::OkStatus();
    });
  }

  absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                         std::span<const float> beta, float epsilon, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckLayerNorm(x, residual, gamma, beta, y));
    pool_.ForRows(y.rows, y.cols, [&](int64_t first, int64_t count) {
      LayerNormRows(x.Rows(first, count),
                    residual.data != nullptr ? residual.Rows(first, count) : ConstMatrix(),
                    gamma.data(), beta.data(), epsilon, y.Rows(first, count));
    });
    return absl::OkStatus();
  }

  absl::Status RmsNorm(ConstMatrix x, std::span<const float> gamma, float epsilon,
                       Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckRmsNorm(x, gamma, y));
    pool_.ForRows(y.rows, y.cols, [&](int64_t first, int64_t count) {
      RmsNormRows(x.Rows(first, count), gamma.data(), epsilon, y.Rows(first, count));
    });
    return absl::OkStatus();
  }

  absl::Status Add(ConstMatrix x, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckElementwise(x, y));
    ForEachRow(y, [&](int64_t r) { AddRow(x.row(r), static_cast<size_t>(x.cols), y.row(r)); });
    return absl::OkStatus();
  }

  absl::Status Multiply(ConstMatrix x, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckElementwise(x, y));
    ForEachRow(y, [&](int64_t r) { MultiplyRow(x.row(r), static_cast<size_t>(x.cols), y.row(r)); });
    return absl::OkStatus();
  }

  absl::Status Rotate(const RotaryTable& table, std::span<const int32_t> positions, int32_t heads,
                      Matrix x) override {
    THRESHER_RETURN_IF_ERROR(CheckRotate(table, positions, heads, x));
    ForEachRow(x, [&](int64_t r) {
      for (int64_t h = 0; h < heads; ++h) {
        RotateRow(table, positions[static_cast<size_t>(r)], x.row(r) + h * (x.cols / heads));
      }
    });
    return absl::OkStatus();
  }

  absl::Status StoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                               ConstMatrix value,
                               std::span<const CachedSequence> sequences) override {
    THRESHER_RETURN_IF_ERROR(CheckStoreKeysValues(layout, layer, key, value, sequences));
    return Guard<absl::Status>("storing keys and values", [&] {
      StoreInCaches(layout, layer, key, value, sequences, &pool_);
      return absl::OkStatus();
    });
  }

  absl::Status CachedAttention(const CachedAttentionInput& input, Matrix out,
                               std::span<CachedRecord> records) override {
    THRESHER_RETURN_IF_ERROR(CheckCachedAttention(input, out, records));
    return Guard<absl::Status>("attention over caches", [&] {
      AttendCaches(input, out, records, isa_, &pool_, &scratch_);
      return absl::OkStatus();
    });
  }

  absl::Status Embed(std::span<const Lookup> lookups, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckEmbed(lookups, y));
    return Guard<absl::Status>("embedding", [&] {
      // Rows of the second and later tables pass through here, one for each task.
      const int64_t tasks = DivideUp(y.rows, kEmbedRows);
      MatrixBuffer converted(tasks, y.cols);
      const Matrix rows = converted.view();
      pool_.ForTasks(tasks, y.rows * y.cols, [&](int64_t task, int) {
        const int64_t end = std::min(y.rows, (task + 1) * kEmbedRows);
        for (int64_t r = task * kEmbedRows; r < end; ++r) {
          lookups[0].table.RowToFloat(lookups[0].ids[r], y.row(r));
          for (const Lookup& lookup : lookups.subspan(1)) {
            lookup.table.RowToFloat(lookup.ids[r], rows.row(task));
            AddRow(rows.row(task), static_cast<size_t>(y.cols), y.row(r));
          }
        }
      });
      return absl::OkStatus();
    });
  }

  absl::Status MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckMeanPool(x, offsets, y));
    const auto cols = static_cast<size_t>(x.cols);
    pool_.ForTasks(y.rows, x.rows * x.cols, [&](int64_t s, int) {
      std::fill_n(y.row(s), cols, 0.0f);
      for (int64_t r = offsets[s]; r < offsets[s + 1]; ++r) AddRow(x.row(r), cols, y.row(s));
      const auto count = static_cast<float>(std::max(1, offsets[s + 1] - offsets[s]));
      ScaleRow(1.0f / count, cols, y.row(s));
    });
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kEmbedRows = 32;
  /// Every kernel takes in columns of the source by a divisor of this.
  static constexpr int64_t kColumnGroup = 4;

  /// For operations of rows that need nothing of their neighbours.
  void ForEachRow(ConstMatrix m, absl::FunctionRef<void(int64_t row)> body) {
    pool_.ForRows(m.rows, m.cols, [&](int64_t first, int64_t count) {
      for (int64_t r = first; r < first + count; ++r) body(r);
    });
  }

  absl::StatusOr<std::unique_ptr<PackedLinear>> PackChecked(const StoredMatrix& weight,
                                                            const StoredMatrix& bias,
                                                            Precision precision) {
    WeightRows rows(weight, precision);
    std::vector<float> scales;
    const DotUnit* const unit = rows.precision() == Precision::kInt8   ? Int8DotUnit(isa_)
                                : rows.precision() == Precision::kBF16 ? BFloat16DotUnit(isa_)
                                                                       : nullptr;
    std::unique_ptr<Product> product;
    if (onednn_first_) {
      THRESHER_ASSIGN_OR_RETURN(product, onednn_.Pack(rows, scales));
    }
    if (product == nullptr && unit != nullptr) product = PackDotProduct(*unit, rows, scales);
    if (product == nullptr) product = PackHighwayProduct(rows, scales);
    if (QuantizedLimit(precision) == 0) scales = {};
    std::vector<float> bias_row(static_cast<size_t>(weight.rows), 0.0f);
    if (!bias.empty()) bias.RowToFloat(0, bias_row.data());
    return std::make_unique<CpuLinear>(weight.cols, weight.rows, precision, std::move(product),
                                       std::move(bias_row), std::move(scales));
  }

  /// Brings x to the form that `product` reads (`limit`: of quantised values). Returns the first
  /// row and sets the stride.
  const void* PrepareSource(const Product& product, float limit, ConstMatrix x, int64_t& stride) {
    const SourceForm form = product.source_form();
    if (form == SourceForm::kF32 && product.source_cols() == x.cols) {
      stride = x.stride;
      return x.data;
    }
    stride = product.source_cols();
    source_.Resize(static_cast<size_t>(x.rows * stride) * SourceElementSize(form));
    row_scales_.Resize(static_cast<size_t>(x.rows));
    pool_.ForRows(x.rows, stride, [&](int64_t first, int64_t count) {
      const ConstMatrix rows = x.Rows(first, count);
      std::byte* out =
          source_.data() + static_cast<size_t>(first * stride) * SourceElementSize(form);
      float* scales = row_scales_.data() + first;
      switch (form) {
        case SourceForm::kF32:
          return CopyRows(rows, stride, reinterpret_cast<float*>(out));
        case SourceForm::kF32AsBF16:
          return RoundRowsToBF16(rows, stride, reinterpret_cast<float*>(out));
        case SourceForm::kBF16:
          return ConvertRowsToBF16(rows, stride, reinterpret_cast<uint16_t*>(out));
        case SourceForm::kS8:
          return QuantizeRows(rows, limit, stride, reinterpret_cast<int8_t*>(out), scales);
        case SourceForm::kU8:
          return QuantizeRows(rows, limit, stride, reinterpret_cast<uint8_t*>(out), scales);
        case SourceForm::kS8AsS16:
          return QuantizeRows(rows, limit, stride, reinterpret_cast<int16_t*>(out), scales);
      }
    });
    return source_.data();
  }

  absl::Status LinearChecked(const CpuLinear& weights, ConstMatrix x,
                             std::span<const ColumnRange> columns, Activation activation,
                             Matrix y) {
    if (x.rows == 0) return absl::OkStatus();
    const Product& product = weights.product();
    // Products of groups of columns begin and end with a group; x is padded to whole ones.
    columns_.clear();
    int64_t width = 0;
    for (const ColumnRange& range : columns) {
      const int64_t from = range.begin / kColumnGroup * kColumnGroup;
      const int64_t begin = columns_.empty() ? from : std::max(from, columns_.back().end);
      const int64_t end =
          std::min(DivideUp(range.end, kColumnGroup) * kColumnGroup, product.source_cols());
      if (begin < end) columns_.push_back({begin, end});
      width += std::max<int64_t>(0, end - begin);
    }
    if (columns_.empty()) columns_.push_back({0, product.source_cols()});
    int64_t stride = 0;
    const auto* source = static_cast<const std::byte*>(
        PrepareSource(product, static_cast<float>(QuantizedLimit(weights.precision())), x, stride));
    const size_t row_bytes = static_cast<size_t>(stride) * SourceElementSize(product.source_form());

    // About three tasks for each thread, where there are rows enough for chunks of two steps.
    const int64_t panel_cols = product.panel_cols();
    const int64_t panels = DivideUp(y.cols, panel_cols);
    const int64_t step = product.row_step();
    const int64_t wanted =
        std::min(DivideUp(3 * pool_.threads(), panels), DivideUp(x.rows, 2 * step));
    const int64_t least = DivideUp(x.rows, kMaxChunkRows / step * step);
    const int64_t chunk_rows = DivideUp(DivideUp(x.rows, std::max(wanted, least)), step) * step;
    const int64_t chunks = DivideUp(x.rows, chunk_rows);
    // Kernels of narrow elements do several times the work in the same time.
    const SourceForm form = product.source_form();
    const bool narrow =
        form == SourceForm::kBF16 || form == SourceForm::kS8 || form == SourceForm::kU8;
    const int64_t work = x.rows * width * y.cols / (narrow ? 8 : 1);

    // One chunk of one panel for each worker; int32_t if quantised.
    scratch_.Resize(kMaxChunkRows * kMaxPanelCols);
    std::ranges::fill(statuses_, absl::OkStatus());
    pool_.ForTasks(chunks * panels, work, [&](int64_t task, int worker) {
      float* const sums = scratch_.of(worker);
      const int64_t panel = task / chunks;  // Neighbouring tasks share a panel of weights.
      const int64_t first_row = task % chunks * chunk_rows;
      const int64_t rows = std::min(chunk_rows, x.rows - first_row);
      const int64_t first_col = panel * panel_cols;
      const absl::Status status =
          product.Multiply(source + first_row * row_bytes, stride, rows, columns_, panel, sums);
      if (!status.ok()) {
        statuses_[static_cast<size_t>(worker)] = status;
        return;
      }
      const Matrix out(y.row(first_row) + first_col, rows, std::min(panel_cols, y.cols - first_col),
                       y.stride);
      const float* bias = weights.bias() + first_col;
      const auto sum_stride = static_cast<size_t>(product.accumulator_stride(panel));
      if (QuantizedLimit(weights.precision()) > 0) {
        FinishQuantizedRows(reinterpret_cast<const int32_t*>(sums), sum_stride,
                            row_scales_.data() + first_row, weights.scales() + first_col, bias,
                            activation, out);
      } else {
        FinishRows(sums, sum_stride, bias, activation, out);
      }
    });
    for (const absl::Status& status : statuses_) THRESHER_RETURN_IF_ERROR(status);
    return absl::OkStatus();
  }

  const Isa isa_;
  const bool onednn_first_;
  DeviceDescription description_;
  OneDnn onednn_;
  ThreadPool pool_;
  WorkerScratch scratch_;
  std::vector<absl::Status> statuses_;  // The last error of each worker in the current Linear.
  AlignedBuffer<std::byte> source_;     // Its converted activations,
  AlignedBuffer<float> row_scales_;     // their scales, if quantised,
  std::vector<ColumnRange> columns_;    // and its columns that may be other than zero.
  RaggedAttention attention_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(int threads, bool onednn_first) {
  try {
    // Before oneDNN or Highway is used for the first time.
    THRESHER_RETURN_IF_ERROR(DetectedIsa().status());
    return std::make_unique<CpuDevice>(*DetectedIsa(), threads, onednn_first);
  } catch (const std::exception& error) {
    return Internal("device cpu with {} threads: {}", threads, error.what());
  }
}

}  // namespace thresher
