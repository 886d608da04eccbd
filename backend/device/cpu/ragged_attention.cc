#include "backend/device/cpu/ragged_attention.h"

#include <algorithm>
#include <cmath>

#include "backend/device/cpu/attention.h"
#include "backend/device/plan_rows.h"
#include "backend/device/shape_checks.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Floats of the widest vector that a kernel reads at once.
constexpr int64_t kWidestVector = 16;

bool Runs(const SequencePlan& plan, int64_t head) {
  return !plan.heads || std::ranges::binary_search(*plan.heads, head);
}

bool Calibrates(const SequencePlan& plan, int64_t head) {
  return plan.calibration && std::ranges::binary_search(plan.calibration->heads, head);
}

absl::Status CheckPlans(const AttentionInput& input, std::span<const SequencePlan* const> plans) {
  for (size_t s = 0; s < plans.size(); ++s) {
    if (plans[s] == nullptr) continue;
    const int32_t rows = input.offsets[s + 1] - input.offsets[s];
    THRESHER_RETURN_IF_ERROR(CheckPlan(*plans[s], {.heads = input.shape.heads,
                                                   .kv_heads = input.shape.kv_heads,
                                                   .queries = rows,
                                                   .keys = rows,
                                                   .causal = input.causal}));
  }
  return absl::OkStatus();
}

/// The record of a sequence before its tasks are added; of a dense one, all of it.
AttentionRecord EmptyRecord(const AttentionShape& shape, const SequencePlan* plan, int32_t rows,
                            bool causal) {
  if (plan == nullptr) return DenseRecord(shape, rows, causal);
  AttentionRecord record;
  if (plan->wanted.column_sums) record.column_sums.assign(rows, 0.0);
  if (plan->wanted.self_sums) record.self_sums.assign(rows, 0.0);
  if (plan->wanted.head_l1) record.head_l1.assign(shape.heads, 0.0);
  if (plan->wanted.distribution) {
    record.sink_sums.assign(shape.heads, 0.0);
    record.entropy_sums.assign(shape.heads, 0.0);
  }
  return record;
}

/// Adds what a task of `head`, queries [first, first + queries), did to its sequence's record.
void AddRecord(const PlannedHeadRecord& task, const PlannedHeadSums& sums, int64_t head,
               int64_t first, int64_t queries, AttentionRecord* record) {
  for (size_t j = 0; j < record->column_sums.size(); ++j) {
    record->column_sums[j] += double{sums.column[j]};
  }
  for (int64_t i = 0; !record->self_sums.empty() && i < queries; ++i) {
    record->self_sums[static_cast<size_t>(first + i)] += double{sums.self[i]};
  }
  if (!record->head_l1.empty()) record->head_l1[static_cast<size_t>(head)] += task.head_l1;
  if (!record->sink_sums.empty()) {
    record->sink_sums[static_cast<size_t>(head)] += task.sink;
    record->entropy_sums[static_cast<size_t>(head)] += task.entropy;
  }
  record->rows += task.rows;
  record->refetched_rows += task.refetched_rows;
  record->scores += task.scores;
  record->refetched_scores += task.refetched_scores;
  record->values += task.values;
}

}  // namespace

void RaggedAttention::Dense(const AttentionInput& input, Matrix out) {
  const int64_t heads = input.shape.heads;
  const int64_t dim = input.shape.head_dim;
  const int64_t work = Cut(input.offsets, out.cols);
  scratch_->Resize(AttentionScratchSize(dim));
  const auto tasks = static_cast<int64_t>(blocks_.size()) * heads;
  pool_->ForTasks(tasks, work, [&](int64_t task, int worker) {
    const Block& block = blocks_[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    AttendHead(TaskOf(input, block, head), scratch_->of(worker),
               HeadColumns(out, head, dim).Rows(block.begin + block.first, block.queries));
  });
}

absl::Status RaggedAttention::Planned(const AttentionInput& input,
                                      std::span<const SequencePlan* const> plans, Matrix out,
                                      std::span<AttentionRecord> records) {
  THRESHER_RETURN_IF_ERROR(CheckPlans(input, plans));
  const int64_t heads = input.shape.heads;
  const int64_t dim = input.shape.head_dim;
  if (std::ranges::any_of(plans, [](const auto* plan) { return plan && plan->quantization; })) {
    Quantize(input, plans);
  }
  TakeLogarithms(input, plans);

  work_ = Cut(input.offsets, out.cols);
  longest_ = 0;
  for (const Block& block : blocks_) longest_ = std::max(longest_, block.keys);
  const auto tasks = static_cast<int64_t>(blocks_.size()) * heads;
  scratch_->Resize(std::max(AttentionScratchSize(dim), PlannedAttentionScratchSize(dim, longest_)));
  task_records_.assign(static_cast<size_t>(tasks), {});
  task_sums_.Resize(static_cast<size_t>(tasks * (longest_ + kQueryBlock)));
  FindSinks(input, plans);
  pool_->ForTasks(tasks, work_, [&](int64_t task, int worker) {
    const Block& block = blocks_[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    const SequencePlan* const plan = plans[block.sequence];
    float* const scratch = scratch_->of(worker);
    const Matrix part = HeadColumns(out, head, dim).Rows(block.begin + block.first, block.queries);
    if (plan == nullptr) return AttendHead(TaskOf(input, block, head), scratch, part);
    if (!Runs(*plan, head)) {
      for (int64_t i = 0; i < part.rows; ++i) std::fill_n(part.row(i), part.cols, 0.0f);
      return;
    }
    AttendPlannedHead(PlannedTaskOf(input, *plan, block, head), scratch, part,
                      &task_records_[static_cast<size_t>(task)], SumsOf(task));
  });

  for (size_t s = 0; s < plans.size(); ++s) {
    records[s] =
        EmptyRecord(input.shape, plans[s], input.offsets[s + 1] - input.offsets[s], input.causal);
  }
  for (int64_t task = 0; task < tasks; ++task) {
    const Block& block = blocks_[static_cast<size_t>(task / heads)];
    const SequencePlan* const plan = plans[block.sequence];
    if (plan == nullptr || !Runs(*plan, task % heads)) continue;
    AddRecord(task_records_[static_cast<size_t>(task)], SumsOf(task), task % heads, block.first,
              block.queries, &records[block.sequence]);
  }
  return absl::OkStatus();
}

PlannedHeadSums RaggedAttention::SumsOf(int64_t task) {
  float* const sums = task_sums_.data() + task * (longest_ + kQueryBlock);
  return {.column = sums, .self = sums + longest_};
}

PlannedHeadTask RaggedAttention::PlannedTaskOf(const AttentionInput& input,
                                               const SequencePlan& plan, const Block& block,
                                               int64_t head) {
  PlannedHeadTask task{.head = TaskOf(input, block, head)};
  if (plan.quantization) {
    // What the first scores read, and what rows that refetch read.
    AttentionInput quantized = input;
    quantized.query = quantized_query_.view();
    quantized.key = full_key_.view();
    task.full_key = TaskOf(quantized, block, head).key;
    quantized.key = upper_key_.view();
    task.head = TaskOf(quantized, block, head);
    task.head.bf16 = nullptr;  // The scores of integers are told apart by less.
    task.refetch_threshold = plan.quantization->threshold;
  }
  if (plan.candidates) {
    task.candidates =
        plan.candidates->row(static_cast<int32_t>(head), static_cast<int32_t>(block.first));
    task.candidate_words = plan.candidates->words();
  }
  if (!plan.one_hot.empty()) task.one_hot = plan.one_hot.data() + head * block.keys + block.first;
  if (!plan.token_sizes.empty()) task.key_bias = key_bias_.data() + block.begin;
  if (Calibrates(plan, head)) {
    task.sinks = sinks_[block.sequence].row(static_cast<int32_t>(head), 0);
    task.beta = plan.calibration->beta;
  }
  task.value_keep = plan.value_keep;
  task.value_threshold = plan.value_threshold;
  task.wanted = plan.wanted;
  return task;
}

void RaggedAttention::TakeLogarithms(const AttentionInput& input,
                                     std::span<const SequencePlan* const> plans) {
  const auto has_sizes = [](const auto* plan) { return plan && !plan->token_sizes.empty(); };
  if (std::ranges::none_of(plans, has_sizes)) return;
  // Whole vectors are read at its end.
  key_bias_.Resize(static_cast<size_t>(input.key.rows + kWidestVector));
  std::fill_n(key_bias_.data(), input.key.rows + kWidestVector, 0.0f);
  for (size_t s = 0; s < plans.size(); ++s) {
    if (!has_sizes(plans[s])) continue;
    std::ranges::transform(plans[s]->token_sizes, key_bias_.data() + input.offsets[s],
                           [](float size) { return std::log2(size); });
  }
}

void RaggedAttention::FindSinks(const AttentionInput& input,
                                std::span<const SequencePlan* const> plans) {
  const auto calibrates = [](const auto* plan) { return plan && plan->calibration; };
  if (std::ranges::none_of(plans, calibrates)) return;
  const int64_t heads = input.shape.heads;
  const auto tasks = static_cast<int64_t>(blocks_.size()) * heads;
  const auto wanted = [&](int64_t task) {
    const SequencePlan* const plan = plans[blocks_[static_cast<size_t>(task / heads)].sequence];
    return plan != nullptr && Runs(*plan, task % heads) && Calibrates(*plan, task % heads);
  };
  sinks_.assign(plans.size(), {});
  for (size_t s = 0; s < plans.size(); ++s) {
    if (!calibrates(plans[s])) continue;
    sinks_[s] = CandidateMask(input.shape.heads, 1, input.offsets[s + 1] - input.offsets[s]);
  }
  pool_->ForTasks(tasks, work_ / 2, [&](int64_t task, int worker) {
    if (!wanted(task)) return;
    const Block& block = blocks_[static_cast<size_t>(task / heads)];
    PlannedHeadTask planned = PlannedTaskOf(input, *plans[block.sequence], block, task % heads);
    planned.sinks = nullptr;
    planned.wanted = {.column_sums = true};
    planned.only_sums = true;
    PlannedHeadRecord unused;
    AttendPlannedHead(planned, scratch_->of(worker), {}, &unused, SumsOf(task));
  });

  std::vector<double> sums;
  for (size_t s = 0, first_block = 0; s < plans.size(); ++s) {
    const int32_t keys = input.offsets[s + 1] - input.offsets[s];
    size_t end_block = first_block;
    while (end_block < blocks_.size() && blocks_[end_block].sequence == s) ++end_block;
    if (calibrates(plans[s])) {
      const AttentionCalibration& calibration = *plans[s]->calibration;
      const double threshold = calibration.threshold / (calibration.relative ? keys : 1);
      for (const int32_t head : calibration.heads) {
        if (!Runs(*plans[s], head)) continue;
        sums.assign(static_cast<size_t>(keys), 0.0);
        for (size_t b = first_block; b < end_block; ++b) {
          const float* const column = SumsOf(static_cast<int64_t>(b) * heads + head).column;
          for (size_t j = 0; j < sums.size(); ++j) sums[j] += double{column[j]};
        }
        bool first = true;  // Which is left as it is.
        for (int32_t j = 0; j < keys; ++j) {
          const double seen = input.causal ? keys - j : keys;
          if (!(sums[static_cast<size_t>(j)] > threshold * seen)) continue;
          if (!first) sinks_[s].set(head, 0, j);
          first = false;
        }
      }
    }
    first_block = end_block;
  }
}

int64_t RaggedAttention::Cut(std::span<const int32_t> offsets, int64_t cols) {
  blocks_.clear();
  int64_t work = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t begin = offsets[s];
    const int64_t length = offsets[s + 1] - begin;
    for (int64_t first = 0; first < length; first += kQueryBlock) {
      blocks_.push_back({.sequence = s,
                         .begin = begin,
                         .keys = length,
                         .first = first,
                         .queries = std::min(kQueryBlock, length - first)});
    }
    work += 2 * length * length * cols;
  }
  return work;
}

HeadTask RaggedAttention::TaskOf(const AttentionInput& input, const Block& block,
                                 int64_t head) const {
  const int64_t dim = input.shape.head_dim;
  const int64_t kv_head = head / (input.shape.heads / input.shape.kv_heads);
  return {
      .query = HeadColumns(input.query, head, dim).Rows(block.begin + block.first, block.queries),
      .key = HeadColumns(input.key, kv_head, dim).Rows(block.begin, block.keys),
      .value = HeadColumns(input.value, kv_head, dim).Rows(block.begin, block.keys),
      .first_query = block.first,
      .scale = input.scale,
      .causal = input.causal,
      .bf16 = AttentionUnit(*isa_, input.precision, dim)};
}

void RaggedAttention::Quantize(const AttentionInput& input,
                               std::span<const SequencePlan* const> plans) {
  const int64_t dim = input.shape.head_dim;
  quantized_query_.Resize(input.query.rows, input.query.cols);
  upper_key_.Resize(input.key.rows, input.key.cols);
  full_key_.Resize(input.key.rows, input.key.cols);
  for (size_t s = 0; s < plans.size(); ++s) {
    if (plans[s] == nullptr || !plans[s]->quantization) continue;
    const int32_t msb = plans[s]->quantization->msb_bits;
    const int32_t lsb = plans[s]->quantization->lsb_bits;
    const int64_t begin = input.offsets[s];
    const int64_t rows = input.offsets[s + 1] - begin;
    pool_->ForRows(rows, input.query.cols, [&](int64_t first, int64_t count) {
      const auto part = [&](auto m, int64_t head) {
        return HeadColumns(m, head, dim).Rows(begin + first, count);
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

}  // namespace thresher
