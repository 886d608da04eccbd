#include "backend/device/cpu/cpu_device.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "backend/device/cpu/attention.h"
#include "backend/device/cpu/highway_product.h"
#include "backend/device/cpu/isa.h"
#include "backend/device/cpu/kernels.h"
#include "backend/device/cpu/onednn_product.h"
#include "backend/device/cpu/planned_attention.h"
#include "backend/device/cpu/product.h"
#include "backend/device/cpu/score_prediction.h"
#include "backend/device/cpu/thread_pool.h"
#include "backend/device/plan_rows.h"
#include "backend/device/shape_checks.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

// Work (in multiply-adds, or as many element operations) below which waking a worker costs more
// than it gives: some microseconds on one thread.
constexpr int64_t kWorthSharing = 200'000;
// Elements one task of a row-wise operation should have.
constexpr int64_t kRowTaskElements = 16'384;
// The most in_features for which a sum of products of int8 can't overflow int32.
constexpr int64_t kMaxInt8Depth = std::numeric_limits<int32_t>::max() / (127 * 127);

int64_t DivideUp(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

template <typename T>
MatrixView<T> Columns(MatrixView<T> m, int64_t first, int64_t count) {
  return {m.data + first, m.rows, count, m.stride};
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
  CpuDevice(const Isa& isa, int threads) : pool_(threads), workers_(static_cast<size_t>(threads)) {
    description_ = {.name = "cpu",
                    .isa = isa.name,
                    .library = OneDnn::Version(),
                    .threads = threads,
                    .default_precision = isa.amx ? Precision::kBF16 : Precision::kF32};
    for (Worker& worker : workers_) worker.accumulators.Resize(kMaxChunkRows * kMaxPanelCols);
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
    return Guard<absl::Status>("attention", [&] { return AttentionChecked(input, out); });
  }

  absl::Status PlannedAttention(const AttentionInput& input,
                                std::span<const SequencePlan* const> plans, Matrix out,
                                std::span<AttentionRecord> records) override {
    THRESHER_RETURN_IF_ERROR(CheckPlannedAttention(input, plans, out, records));
    return Guard<absl::Status>("attention under plans",
                               [&] { return PlannedAttentionChecked(input, plans, out, records); });
  }

  absl::Status EncodeLeadingOne(const LeadingOneInput& input, int32_t bits, int64_t group,
                                Matrix codes, Matrix scales) override {
    THRESHER_RETURN_IF_ERROR(CheckEncoding(input, bits, group, codes, scales));
    ForRows(input.x.rows, input.x.cols, [&](int64_t first, int64_t count) {
      EncodeLeadingOneRows(input, bits, group, first, count, codes, scales);
    });
    return absl::OkStatus();
  }

  absl::Status PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                             ScoreBlockBody body) override {
    THRESHER_RETURN_IF_ERROR(CheckPrediction(operands, heads));
    return Guard<absl::Status>("prediction",
                               [&] { return PredictScoresChecked(operands, heads, body); });
  }

  absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                         std::span<const float> beta, float epsilon, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckLayerNorm(x, residual, gamma, beta, y));
    ForRows(y.rows, y.cols, [&](int64_t first, int64_t count) {
      LayerNormRows(x.Rows(first, count),
                    residual.data != nullptr ? residual.Rows(first, count) : ConstMatrix(),
                    gamma.data(), beta.data(), epsilon, y.Rows(first, count));
    });
    return absl::OkStatus();
  }

  absl::Status Embed(std::span<const Lookup> lookups, Matrix y) override {
    THRESHER_RETURN_IF_ERROR(CheckEmbed(lookups, y));
    return Guard<absl::Status>("embedding", [&] {
      // Rows of the second and later tables pass through here, one for each task.
      const int64_t tasks = DivideUp(y.rows, kEmbedRows);
      MatrixBuffer converted(tasks, y.cols);
      const Matrix rows = converted.view();
      ForTasks(tasks, y.rows * y.cols, [&](int64_t task, int) {
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
    ForTasks(y.rows, x.rows * x.cols, [&](int64_t s, int) {
      std::fill_n(y.row(s), cols, 0.0f);
      for (int64_t r = offsets[s]; r < offsets[s + 1]; ++r) AddRow(x.row(r), cols, y.row(s));
      const auto count = static_cast<float>(std::max(1, offsets[s + 1] - offsets[s]));
      ScaleRow(1.0f / count, cols, y.row(s));
    });
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kEmbedRows = 32;

  /// What each thread of the pool works in.
  struct Worker {
    AlignedBuffer<float> accumulators;  // One chunk of one panel; int32_t if quantised.
    AlignedBuffer<float> attention;
    absl::Status status;  // The first error of its tasks.
  };

  /// Queries [first, first + kQueryBlock) of a sequence, or as many as there are.
  struct QueryBlock {
    size_t sequence;
    int64_t first;
  };

  /// Runs what may throw (for want of memory) and turns that into a status.
  template <typename Result, typename Body>
  static Result Guard(std::string_view what, const Body& body) {
    try {
      return body();
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("{}: out of memory", what);
    } catch (const std::exception& error) {
      return Internal("{}: {}", what, error.what());
    }
  }

  /// Over all threads if there is enough work, else here. Results do not depend on it.
  void ForTasks(int64_t tasks, int64_t work, ThreadPool::Body body) {
    if (work >= kWorthSharing) {
      pool_.ParallelFor(tasks, body);
    } else {
      for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    }
  }

  /// For operations row by row: body(first, count).
  void ForRows(int64_t rows, int64_t cols, absl::FunctionRef<void(int64_t, int64_t)> body) {
    const int64_t count = std::max<int64_t>(1, kRowTaskElements / std::max<int64_t>(cols, 1));
    // A row of a norm or a conversion costs about ten operations for each element.
    ForTasks(DivideUp(rows, count), rows * cols * 10,
             [&](int64_t task, int) { body(task * count, std::min(count, rows - task * count)); });
  }

  absl::StatusOr<std::unique_ptr<PackedLinear>> PackChecked(const StoredMatrix& weight,
                                                            const StoredMatrix& bias,
                                                            Precision precision) {
    WeightRows rows(weight, precision);
    std::vector<float> scales;
    THRESHER_ASSIGN_OR_RETURN(std::unique_ptr<Product> product, onednn_.Pack(rows, scales));
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
    ForRows(x.rows, stride, [&](int64_t first, int64_t count) {
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
    // Products of pairs of columns begin and end with a pair; x is padded to whole ones.
    columns_.clear();
    int64_t width = 0;
    for (const ColumnRange& range : columns) {
      const int64_t begin = columns_.empty() ? range.begin / 2 * 2
                                             : std::max(range.begin / 2 * 2, columns_.back().end);
      const int64_t end = range.end == x.cols ? product.source_cols() : (range.end + 1) / 2 * 2;
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
    // oneDNN's narrow kernels do several times the work in the same time.
    const bool narrow =
        product.source_form() == SourceForm::kBF16 || product.source_form() == SourceForm::kS8;
    const int64_t work = x.rows * width * y.cols / (narrow ? 8 : 1);

    for (Worker& worker : workers_) worker.status = absl::OkStatus();
    ForTasks(chunks * panels, work, [&](int64_t task, int index) {
      Worker& worker = workers_[static_cast<size_t>(index)];
      const int64_t panel = task / chunks;  // Neighbouring tasks share a panel of weights.
      const int64_t first_row = task % chunks * chunk_rows;
      const int64_t rows = std::min(chunk_rows, x.rows - first_row);
      const int64_t first_col = panel * panel_cols;
      const absl::Status status = product.Multiply(source + first_row * row_bytes, stride, rows,
                                                   columns_, panel, worker.accumulators.data());
      if (!status.ok()) {
        worker.status = status;
        return;
      }
      const Matrix out(y.row(first_row) + first_col, rows, std::min(panel_cols, y.cols - first_col),
                       y.stride);
      const float* bias = weights.bias() + first_col;
      if (QuantizedLimit(weights.precision()) > 0) {
        FinishQuantizedRows(reinterpret_cast<const int32_t*>(worker.accumulators.data()),
                            kMaxPanelCols, row_scales_.data() + first_row,
                            weights.scales() + first_col, bias, activation, out);
      } else {
        FinishRows(worker.accumulators.data(), kMaxPanelCols, bias, activation, out);
      }
    });
    for (const Worker& worker : workers_) THRESHER_RETURN_IF_ERROR(worker.status);
    return absl::OkStatus();
  }

  /// Cuts the sequences into blocks of queries; returns the work of their attention.
  int64_t FindBlocks(std::span<const int32_t> offsets, int64_t cols) {
    blocks_.clear();
    int64_t work = 0;
    for (size_t s = 0; s + 1 < offsets.size(); ++s) {
      const int64_t length = offsets[s + 1] - offsets[s];
      for (int64_t first = 0; first < length; first += kQueryBlock) {
        blocks_.push_back({.sequence = s, .first = first});
      }
      work += 2 * length * length * cols;
    }
    return work;
  }

  /// The task of one head of a block, and the part of `out` that is its own.
  static HeadTask TaskOf(const AttentionInput& input, const QueryBlock& block, int64_t head,
                         Matrix out, Matrix* part) {
    const int64_t dim = input.shape.head_dim;
    const int64_t group = input.shape.heads / input.shape.kv_heads;  // Heads that share K and V.
    const int64_t begin = input.offsets[block.sequence];
    const int64_t keys = input.offsets[block.sequence + 1] - begin;
    const int64_t first = begin + block.first;
    const int64_t queries = std::min(kQueryBlock, keys - block.first);
    *part = Columns(out, head * dim, dim).Rows(first, queries);
    return {.query = Columns(input.query, head * dim, dim).Rows(first, queries),
            .key = Columns(input.key, head / group * dim, dim).Rows(begin, keys),
            .value = Columns(input.value, head / group * dim, dim).Rows(begin, keys),
            .first_query = block.first,
            .scale = input.scale,
            .causal = input.causal};
  }

  absl::Status AttentionChecked(const AttentionInput& input, Matrix out) {
    const int64_t heads = input.shape.heads;
    const int64_t work = FindBlocks(input.offsets, out.cols);
    for (Worker& worker : workers_) {
      worker.attention.Resize(AttentionScratchSize(input.shape.head_dim));
    }
    ForTasks(static_cast<int64_t>(blocks_.size()) * heads, work, [&](int64_t task, int index) {
      Matrix part;
      const HeadTask head =
          TaskOf(input, blocks_[static_cast<size_t>(task / heads)], task % heads, out, &part);
      AttendHead(head, workers_[static_cast<size_t>(index)].attention.data(), part);
    });
    return absl::OkStatus();
  }

  absl::Status PlannedAttentionChecked(const AttentionInput& input,
                                       std::span<const SequencePlan* const> plans, Matrix out,
                                       std::span<AttentionRecord> records) {
    const int32_t heads = input.shape.heads;
    const int64_t dim = input.shape.head_dim;
    int64_t longest = 0;
    for (size_t s = 0; s < plans.size(); ++s) {
      const int32_t rows = input.offsets[s + 1] - input.offsets[s];
      longest = std::max<int64_t>(longest, rows);
      if (plans[s] == nullptr) continue;
      THRESHER_RETURN_IF_ERROR(CheckPlan(*plans[s], {.heads = heads,
                                                     .kv_heads = input.shape.kv_heads,
                                                     .queries = rows,
                                                     .keys = rows,
                                                     .causal = input.causal}));
    }
    // What the first scores of quantised sequences read, and what their refetched rows read.
    AttentionInput upper = input, full = input;
    const auto is_quantized = [](const SequencePlan* plan) { return plan && plan->quantization; };
    if (std::ranges::any_of(plans, is_quantized)) {
      Quantize(input, plans);
      upper.query = quantized_query_.view();
      upper.key = upper_key_.view();
      full.key = full_key_.view();
    }
    const int64_t work = FindBlocks(input.offsets, out.cols);
    const auto tasks = static_cast<int64_t>(blocks_.size()) * heads;
    for (Worker& worker : workers_) {
      worker.attention.Resize(
          std::max(AttentionScratchSize(dim), PlannedAttentionScratchSize(dim, longest)));
    }
    // Each task has its own part of the statistics, so that they are summed in one order.
    block_records_.assign(static_cast<size_t>(tasks), {});
    block_sums_.Resize(static_cast<size_t>(tasks * longest));
    ForTasks(tasks, work, [&](int64_t task, int index) {
      const QueryBlock& block = blocks_[static_cast<size_t>(task / heads)];
      const int64_t head = task % heads;
      const SequencePlan* const plan = plans[block.sequence];
      float* const scratch = workers_[static_cast<size_t>(index)].attention.data();
      Matrix part;
      PlannedHeadTask planned{.head = TaskOf(input, block, head, out, &part)};
      if (plan == nullptr) return AttendHead(planned.head, scratch, part);
      if (!Runs(*plan, head)) {
        for (int64_t i = 0; i < part.rows; ++i) std::fill_n(part.row(i), part.cols, 0.0f);
        return;
      }
      if (plan->quantization) {
        planned.head = TaskOf(upper, block, head, out, &part);
        planned.full_key = TaskOf(full, block, head, out, &part).key;
        planned.refetch_threshold = plan->quantization->threshold;
      }
      if (plan->candidates) {
        planned.candidates =
            plan->candidates->row(static_cast<int32_t>(head), static_cast<int32_t>(block.first));
        planned.candidate_words = plan->candidates->words();
      }
      if (!plan->one_hot.empty()) {
        planned.one_hot = plan->one_hot.data() + head * planned.head.key.rows + block.first;
      }
      planned.value_keep = plan->value_keep;
      planned.wanted = plan->wanted;
      AttendPlannedHead(planned, scratch, part, &block_records_[static_cast<size_t>(task)],
                        block_sums_.data() + task * longest);
    });
    for (size_t s = 0; s < plans.size(); ++s) {
      const int32_t rows = input.offsets[s + 1] - input.offsets[s];
      records[s] =
          plans[s] == nullptr ? DenseRecord(input.shape, rows, input.causal) : AttentionRecord();
      if (plans[s] == nullptr) continue;
      if (plans[s]->wanted.column_sums) records[s].column_sums.assign(rows, 0.0);
      if (plans[s]->wanted.head_l1) records[s].head_l1.assign(heads, 0.0);
      if (plans[s]->wanted.distribution) records[s].sink_sums.assign(heads, 0.0);
    }
    for (int64_t task = 0; task < tasks; ++task) {
      const size_t s = blocks_[static_cast<size_t>(task / heads)].sequence;
      if (plans[s] == nullptr || !Runs(*plans[s], task % heads)) continue;
      AddRecord(block_records_[static_cast<size_t>(task)], block_sums_.data() + task * longest,
                task % heads, &records[s]);
    }
    return absl::OkStatus();
  }

  static bool Runs(const SequencePlan& plan, int64_t head) {
    return !plan.heads || std::ranges::binary_search(*plan.heads, head);
  }

  /// Adds what a block of `head` did to its sequence's record.
  static void AddRecord(const PlannedHeadRecord& block, const float* column_sums, int64_t head,
                        AttentionRecord* record) {
    for (size_t j = 0; j < record->column_sums.size(); ++j) {
      record->column_sums[j] += double{column_sums[j]};
    }
    if (!record->head_l1.empty()) record->head_l1[static_cast<size_t>(head)] += block.head_l1;
    record->entropy_sum += block.entropy;
    if (!record->sink_sums.empty()) record->sink_sums[static_cast<size_t>(head)] += block.sink;
    record->rows += block.rows;
    record->refetched_rows += block.refetched_rows;
    record->scores += block.scores;
    record->refetched_scores += block.refetched_scores;
    record->values += block.values;
  }

  /// Quantises Q and K of the sequences whose plans ask for it, head by head.
  void Quantize(const AttentionInput& input, std::span<const SequencePlan* const> plans) {
    const int64_t dim = input.shape.head_dim;
    quantized_query_.Resize(input.query.rows, input.query.cols);
    full_key_.Resize(input.key.rows, input.key.cols);
    upper_key_.Resize(input.key.rows, input.key.cols);
    for (size_t s = 0; s < plans.size(); ++s) {
      if (plans[s] == nullptr || !plans[s]->quantization) continue;
      const int32_t msb = plans[s]->quantization->msb_bits;
      const int32_t lsb = plans[s]->quantization->lsb_bits;
      const int64_t begin = input.offsets[s];
      ForRows(input.offsets[s + 1] - begin, input.query.cols, [&](int64_t first, int64_t count) {
        const auto part = [&](auto m, int64_t head) {
          return Columns(m, head * dim, dim).Rows(begin + first, count);
        };
        for (int64_t h = 0; h < input.shape.heads; ++h) {
          QuantizePlanes(part(input.query, h), msb, lsb, part(quantized_query_.view(), h), {});
        }
        for (int64_t h = 0; h < input.shape.kv_heads; ++h) {
          QuantizePlanes(part(input.key, h), msb, lsb, part(full_key_.view(), h),
                         part(upper_key_.view(), h));
        }
      });
    }
  }

  absl::Status PredictScoresChecked(const ScoreOperands& operands, std::span<const int32_t> heads,
                                    ScoreBlockBody body) {
    const int64_t rows = operands.query_codes.rows;
    const int64_t dim = operands.head_dim;
    const int64_t group = operands.query_scales.cols / operands.key_scales.cols;
    const int64_t blocks = DivideUp(rows, kQueryBlock);
    const int64_t stride = PredictionStride(rows);
    const size_t scores_size = static_cast<size_t>(std::min(kQueryBlock, rows) * stride);
    for (Worker& worker : workers_) {
      worker.attention.Resize(scores_size + PredictionScratchSize(dim));
    }
    const auto tasks = static_cast<int64_t>(heads.size()) * blocks;
    ForTasks(tasks, tasks * kQueryBlock * rows * (dim + 32), [&](int64_t task, int index) {
      float* const scores = workers_[static_cast<size_t>(index)].attention.data();
      const int32_t head = heads[static_cast<size_t>(task / blocks)];
      const int64_t kv_head = head / group;
      const int64_t first = task % blocks * kQueryBlock;
      const int64_t count = std::min(kQueryBlock, rows - first);
      PredictBlock({.query = Columns(operands.query_codes, head * dim, dim).Rows(first, count),
                    .key = Columns(operands.key_codes, kv_head * dim, dim),
                    .query_scales = operands.query_scales.row(first) + head,
                    .query_stride = operands.query_scales.stride,
                    .key_scales = operands.key_scales.data + kv_head,
                    .key_stride = operands.key_scales.stride,
                    .factor = kMantissaCorrection * operands.scale},
                   scores + scores_size, scores);
      body(head, first, ConstMatrix(scores, count, rows, stride));
    });
    return absl::OkStatus();
  }

  DeviceDescription description_;
  OneDnn onednn_;
  ThreadPool pool_;
  std::vector<Worker> workers_;
  AlignedBuffer<std::byte> source_;   // Converted activations of the current Linear,
  AlignedBuffer<float> row_scales_;   // and their scales, if quantised.
  std::vector<ColumnRange> columns_;  // Its columns that may be other than zero.
  std::vector<QueryBlock> blocks_;    // Of the current attention.
  // Of the current attention under plans, by task; and its quantised operands.
  std::vector<PlannedHeadRecord> block_records_;
  AlignedBuffer<float> block_sums_;
  MatrixBuffer quantized_query_, full_key_, upper_key_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(int threads) {
  try {
    // Before oneDNN or Highway is used for the first time.
    THRESHER_RETURN_IF_ERROR(DetectedIsa().status());
    return std::make_unique<CpuDevice>(*DetectedIsa(), threads);
  } catch (const std::exception& error) {
    return Internal("device cpu with {} threads: {}", threads, error.what());
  }
}

}  // namespace thresher
