#include "backend/device/reference/planned_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/device/plan_rows.h"
#include "backend/device/top_k.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// A row of one head as `bits`-wide integers (kept in double, where they and their products are
/// exact) and the scale that turns them back.
struct QuantisedRow {
  std::vector<double> values;
  double scale = 0.0;
};

QuantisedRow Quantise(std::span<const float> row, int32_t bits) {
  QuantisedRow out{.values = std::vector<double>(row.size())};
  double largest = 0.0;
  for (const float value : row) {
    // A NaN makes the whole row NaN, as it would make every score.
    largest = std::isnan(value) ? double{value} : std::max(largest, std::abs(double{value}));
  }
  if (largest == 0.0) return out;
  out.scale = largest / ((1 << (bits - 1)) - 1);
  for (size_t d = 0; d < row.size(); ++d) out.values[d] = std::nearbyint(row[d] / out.scale);
  return out;
}

double Dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0.0;
  for (size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

double Dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0.0;
  for (size_t d = 0; d < a.size(); ++d) sum += double{a[d]} * b[d];
  return sum;
}

/// One head of the sequence: scores a query, and reads the values that the plan leaves.
class Head {
 public:
  Head(const PlannedAttentionInput& input, const SequencePlan& plan, int32_t head, Matrix out,
       AttentionRecord* record)
      : input_(input), plan_(plan), head_(head), out_(out), record_(record) {
    const auto [heads, kv_heads, head_dim] = input.shape;
    kv_column_ = int64_t{head / (heads / kv_heads)} * head_dim;
    column_ = int64_t{head} * head_dim;
    if (plan.quantization) {
      full_.resize(input.key.rows);
      upper_.resize(input.key.rows);
    }
  }

  void Attend(const AttentionExtent& extent) {
    if (plan_.calibration && std::ranges::binary_search(plan_.calibration->heads, head_)) {
      FindSinks(extent);
    }
    for (int32_t i = 0; i < extent.queries; ++i) Attend(i, extent.visible(i));
  }

 private:
  /// -1 where the query runs.
  int32_t OneHot(int64_t query) const {
    return plan_.one_hot.empty() ? -1 : plan_.one_hot[head_ * input_.query.rows + query];
  }
  /// The key that is the query's own row.
  int64_t OwnKey(int64_t query) const { return input_.key.rows - input_.query.rows + query; }

  void Attend(int64_t query, int32_t visible) {
    if (const int32_t one_hot = OneHot(query); one_hot >= 0) {
      std::ranges::copy(Slice(input_.value, one_hot, kv_column_), out_.row(query) + column_);
      if (plan_.wanted.column_sums) record_->column_sums[one_hot] += 1.0;
      if (plan_.wanted.self_sums && one_hot == OwnKey(query)) record_->self_sums[query] += 1.0;
      record_->values += 1;
    } else {
      FindKeys(query, visible);
      const bool refetched = Softmax(query);
      Calibrate();
      Record(query, refetched);
      ReadValues(query, visible);
    }
    if (plan_.wanted.head_l1) {
      for (const float x : Slice(out_, query, column_)) record_->head_l1[head_] += std::abs(x);
    }
  }

  /// Finds the sinks of the whole map, but for the first one.
  void FindSinks(const AttentionExtent& extent) {
    std::vector<double> sums(extent.keys, 0.0);
    std::vector<int32_t> seen(extent.keys, 0);
    for (int32_t i = 0; i < extent.queries; ++i) {
      for (int32_t j = 0; j < extent.visible(i); ++j) ++seen[j];
      if (const int32_t one_hot = OneHot(i); one_hot >= 0) {
        sums[one_hot] += 1.0;
        continue;
      }
      FindKeys(i, extent.visible(i));
      Softmax(i);
      for (size_t n = 0; n < keys_.size(); ++n) sums[keys_[n]] += weights_[n] / total_;
    }
    const double threshold =
        plan_.calibration->threshold / (plan_.calibration->relative ? extent.keys : 1);
    is_sink_.assign(extent.keys, 0);
    bool first = true;
    for (int32_t j = 0; j < extent.keys; ++j) {
      if (!(sums[j] > threshold * seen[j])) continue;
      is_sink_[j] = !first;
      first = false;
    }
  }

  /// Takes all but beta of the sinks' probability and gives it to the other keys.
  void Calibrate() {
    if (is_sink_.empty()) return;
    double sinks = 0.0, others = 0.0;
    for (size_t n = 0; n < keys_.size(); ++n) (is_sink_[keys_[n]] ? sinks : others) += weights_[n];
    if (others == 0.0) return;
    const double beta = plan_.calibration->beta;
    const double gain = 1.0 + (1.0 - beta) * sinks / others;
    for (size_t n = 0; n < keys_.size(); ++n) weights_[n] *= is_sink_[keys_[n]] ? beta : gain;
  }

  std::span<const float> Slice(ConstMatrix m, int64_t row, int64_t column) const {
    return {m.row(row) + column, static_cast<size_t>(input_.shape.head_dim)};
  }

  void FindKeys(int64_t query, int32_t visible) {
    keys_.clear();
    for (int32_t j = 0; j < visible; ++j) {
      if (!plan_.candidates || plan_.candidates->test(head_, static_cast<int32_t>(query), j)) {
        keys_.push_back(j);
      }
    }
  }

  /// Fills weights_ with exp(score - largest) by key of keys_, and total_ with their sum. Returns
  /// whether the scores had to be made again.
  bool Softmax(int64_t query) {
    const std::span<const float> q = Slice(input_.query, query, column_);
    if (!plan_.quantization) {
      Exponentiate([&](int32_t j) { return Dot(q, Slice(input_.key, j, kv_column_)); });
      return false;
    }
    const auto [msb_bits, lsb_bits, threshold] = *plan_.quantization;
    const QuantisedRow quantised = Quantise(q, msb_bits + lsb_bits);
    const auto score = [&](const QuantisedRow& key) {
      return Dot(quantised.values, key.values) * quantised.scale * key.scale;
    };
    for (const int32_t j : keys_) Fetch(j);
    Exponentiate([&](int32_t j) { return score(upper_[j]); });
    // The largest weight is exp(0) = 1.
    if (!(1.0 / total_ < threshold)) return false;
    Exponentiate([&](int32_t j) { return score(full_[j]); });
    return true;
  }

  /// Quantises K row j of this head, once.
  void Fetch(int32_t j) {
    if (!full_[j].values.empty()) return;
    const auto [msb_bits, lsb_bits, threshold] = *plan_.quantization;
    full_[j] = Quantise(Slice(input_.key, j, kv_column_), msb_bits + lsb_bits);
    upper_[j] = full_[j];
    const double step = 1 << lsb_bits;
    for (double& value : upper_[j].values) value = std::floor(value / step) * step;
  }

  template <typename Score>
  void Exponentiate(const Score& score) {
    weights_.resize(keys_.size());
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t n = 0; n < keys_.size(); ++n) {
      weights_[n] = score(keys_[n]) * input_.scale;
      if (!plan_.token_sizes.empty()) weights_[n] += std::log(double{plan_.token_sizes[keys_[n]]});
      largest = std::max(largest, weights_[n]);
    }
    total_ = 0.0;
    for (double& weight : weights_) total_ += weight = std::exp(weight - largest);
  }

  void Record(int64_t query, bool refetched) {
    const auto scored = static_cast<int64_t>(keys_.size());
    record_->rows += 1;
    record_->scores += scored;
    if (refetched) {
      record_->refetched_rows += 1;
      record_->refetched_scores += scored;
    }
    for (size_t n = 0; n < keys_.size(); ++n) {
      const double p = weights_[n] / total_;
      if (plan_.wanted.column_sums) record_->column_sums[keys_[n]] += p;
      if (plan_.wanted.self_sums && keys_[n] == OwnKey(query)) record_->self_sums[query] += p;
      if (plan_.wanted.distribution) {
        if (p > 0.0) record_->entropy_sums[head_] -= p * std::log(p);
        if (keys_[n] == 0) record_->sink_sums[head_] += p;
      }
    }
  }

  void ReadValues(int64_t query, int32_t visible) {
    const auto largest = top_k_(weights_, KeepCount(visible, plan_.value_keep));
    std::vector<int32_t> read(largest.begin(), largest.end());
    if (plan_.value_threshold > 0.0) {
      std::erase_if(read,
                    [&](int32_t n) { return !(weights_[n] / total_ >= plan_.value_threshold); });
    }
    record_->values += static_cast<int64_t>(read.size());
    for (int64_t d = 0; d < input_.shape.head_dim; ++d) {
      double sum = 0.0;
      for (const int32_t n : read) {
        sum += weights_[n] * input_.value.row(keys_[n])[kv_column_ + d];
      }
      out_.row(query)[column_ + d] = static_cast<float>(sum / total_);
    }
  }

  const PlannedAttentionInput& input_;
  const SequencePlan& plan_;
  const int32_t head_;
  const Matrix out_;
  AttentionRecord* const record_;
  int64_t kv_column_ = 0;
  int64_t column_ = 0;
  std::vector<QuantisedRow> full_;   // K by key, all bits; empty until fetched.
  std::vector<QuantisedRow> upper_;  // K by key, the most significant plane.
  std::vector<uint8_t> is_sink_;     // By key; empty: this head is not calibrated.
  std::vector<int32_t> keys_;
  std::vector<double> weights_;
  double total_ = 0.0;
  TopK<double> top_k_;
};

absl::Status CheckShapes(const PlannedAttentionInput& input, ConstMatrix out) {
  const auto [heads, kv_heads, head_dim] = input.shape;
  if (heads <= 0 || kv_heads <= 0 || head_dim <= 0 || heads % kv_heads != 0) {
    return InvalidArgument("attention: {} heads of {} on {} key-value heads", heads, head_dim,
                           kv_heads);
  }
  if (input.query.cols != int64_t{heads} * head_dim || out.cols != input.query.cols ||
      out.rows != input.query.rows || input.key.cols != int64_t{kv_heads} * head_dim ||
      input.value.cols != input.key.cols || input.value.rows != input.key.rows ||
      input.query.rows > input.key.rows) {
    return InvalidArgument("attention: query {}x{}, key {}x{}, value {}x{}, out {}x{} do not fit",
                           input.query.rows, input.query.cols, input.key.rows, input.key.cols,
                           input.value.rows, input.value.cols, out.rows, out.cols);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PlannedAttention(const PlannedAttentionInput& input, const SequencePlan& plan,
                              Matrix out, AttentionRecord* record) {
  THRESHER_RETURN_IF_ERROR(CheckShapes(input, out));
  const AttentionExtent extent{.heads = input.shape.heads,
                               .kv_heads = input.shape.kv_heads,
                               .queries = static_cast<int32_t>(input.query.rows),
                               .keys = static_cast<int32_t>(input.key.rows),
                               .causal = input.causal};
  THRESHER_RETURN_IF_ERROR(CheckPlan(plan, extent));
  *record = {};
  if (plan.wanted.column_sums) record->column_sums.assign(extent.keys, 0.0);
  if (plan.wanted.self_sums) record->self_sums.assign(extent.queries, 0.0);
  if (plan.wanted.head_l1) record->head_l1.assign(extent.heads, 0.0);
  if (plan.wanted.distribution) {
    record->sink_sums.assign(extent.heads, 0.0);
    record->entropy_sums.assign(extent.heads, 0.0);
  }
  for (int64_t i = 0; i < out.rows; ++i) std::fill_n(out.row(i), out.cols, 0.0f);

  std::vector<int32_t> heads(extent.heads);
  std::iota(heads.begin(), heads.end(), 0);
  if (plan.heads) heads = *plan.heads;
  for (const int32_t h : heads) {
    Head(input, plan, h, out, record).Attend(extent);
  }
  return absl::OkStatus();
}

}  // namespace thresher
