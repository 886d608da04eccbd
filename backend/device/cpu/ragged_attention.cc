#include "backend/device/cpu/ragged_attention.h"

#include <algorithm>

#include "backend/device/cpu/attention.h"
#include "backend/device/plan_rows.h"
#include "backend/device/shape_checks.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

bool Runs(const SequencePlan& plan, int64_t head) {
  return !plan.heads || std::ranges::binary_search(*plan.heads, head);
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
  if (plan->wanted.head_l1) record.head_l1.assign(shape.heads, 0.0);
  if (plan->wanted.distribution) record.sink_sums.assign(shape.heads, 0.0);
  return record;
}

/// Adds what a task of `head` did to its sequence's record.
void AddRecord(const PlannedHeadRecord& task, const float* column_sums, int64_t head,
               AttentionRecord* record) {
  for (size_t j = 0; j < record->column_sums.size(); ++j) {
    record->column_sums[j] += double{column_sums[j]};
  }
  if (!record->head_l1.empty()) record->head_l1[static_cast<size_t>(head)] += task.head_l1;
  record->entropy_sum += task.entropy;
  if (!record->sink_sums.empty()) record->sink_sums[static_cast<size_t>(head)] += task.sink;
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
  // What the first scores of quantised sequences read, and what their refetched rows read.
  AttentionInput upper = input, full = input;
  const auto is_quantized = [](const SequencePlan* plan) { return plan && plan->quantization; };
  if (std::ranges::any_of(plans, is_quantized)) {
    Quantize(input, plans);
    upper.query = quantized_query_.view();
    upper.key = upper_key_.view();
    full.key = full_key_.view();
  }

  const int64_t work = Cut(input.offsets, out.cols);
  int64_t longest = 0;
  for (const Block& block : blocks_) longest = std::max(longest, block.keys);
  const auto tasks = static_cast<int64_t>(blocks_.size()) * heads;
  scratch_->Resize(std::max(AttentionScratchSize(dim), PlannedAttentionScratchSize(dim, longest)));
  task_records_.assign(static_cast<size_t>(tasks), {});
  task_sums_.Resize(static_cast<size_t>(tasks * longest));
  pool_->ForTasks(tasks, work, [&](int64_t task, int worker) {
    const Block& block = blocks_[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    const SequencePlan* const plan = plans[block.sequence];
    float* const scratch = scratch_->of(worker);
    const Matrix part = HeadColumns(out, head, dim).Rows(block.begin + block.first, block.queries);
    PlannedHeadTask planned{.head = TaskOf(input, block, head)};
    if (plan == nullptr) return AttendHead(planned.head, scratch, part);
    if (!Runs(*plan, head)) {
      for (int64_t i = 0; i < part.rows; ++i) std::fill_n(part.row(i), part.cols, 0.0f);
      return;
    }
    if (plan->quantization) {
      planned.head = TaskOf(upper, block, head);
      planned.full_key = TaskOf(full, block, head).key;
      planned.refetch_threshold = plan->quantization->threshold;
    }
    if (plan->candidates) {
      planned.candidates =
          plan->candidates->row(static_cast<int32_t>(head), static_cast<int32_t>(block.first));
      planned.candidate_words = plan->candidates->words();
    }
    if (!plan->one_hot.empty()) {
      planned.one_hot = plan->one_hot.data() + head * block.keys + block.first;
    }
    planned.value_keep = plan->value_keep;
    planned.wanted = plan->wanted;
    AttendPlannedHead(planned, scratch, part, &task_records_[static_cast<size_t>(task)],
                      task_sums_.data() + task * longest);
  });

  for (size_t s = 0; s < plans.size(); ++s) {
    records[s] =
        EmptyRecord(input.shape, plans[s], input.offsets[s + 1] - input.offsets[s], input.causal);
  }
  for (int64_t task = 0; task < tasks; ++task) {
    const size_t s = blocks_[static_cast<size_t>(task / heads)].sequence;
    if (plans[s] == nullptr || !Runs(*plans[s], task % heads)) continue;
    AddRecord(task_records_[static_cast<size_t>(task)], task_sums_.data() + task * longest,
              task % heads, &records[s]);
  }
  return absl::OkStatus();
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

HeadTask RaggedAttention::TaskOf(const AttentionInput& input, const Block& block, int64_t head) {
  const int64_t dim = input.shape.head_dim;
  const int64_t kv_head = head / (input.shape.heads / input.shape.kv_heads);
  return {
      .query = HeadColumns(input.query, head, dim).Rows(block.begin + block.first, block.queries),
      .key = HeadColumns(input.key, kv_head, dim).Rows(block.begin, block.keys),
      .value = HeadColumns(input.value, kv_head, dim).Rows(block.begin, block.keys),
      .first_query = block.first,
      .scale = input.scale,
      .causal = input.causal};
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
