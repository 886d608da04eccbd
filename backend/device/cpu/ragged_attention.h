// Attention of a ragged batch on the cpu device: cuts each sequence into blocks of queries, makes a
// task of every head of every block (AttendHead, AttendPlannedHead) and adds up what they did.
#ifndef THRESHER_BACKEND_DEVICE_CPU_RAGGED_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_RAGGED_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "backend/device/cpu/isa.h"
#include "backend/device/cpu/planned_attention.h"
#include "backend/device/cpu/thread_pool.h"
#include "backend/device/cpu/worker_scratch.h"
#include "backend/device/device.h"
#include "backend/device/plan.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Holds the memory that attention needs between its steps. Called by one thread at a time, with
/// input whose shapes are checked. Throws std::bad_alloc.
class RaggedAttention {
 public:
  /// All outlive it.
  RaggedAttention(const Isa* isa, ThreadPool* pool, WorkerScratch* scratch)
      : isa_(isa), pool_(pool), scratch_(scratch) {}

  /// Device::Attention.
  void Dense(const AttentionInput& input, Matrix out);

  /// Device::PlannedAttention. Checks the plans.
  absl::Status Planned(const AttentionInput& input, std::span<const SequencePlan* const> plans,
                       Matrix out, std::span<AttentionRecord> records);

 private:
  /// `queries` of a sequence from its row `first` on: kQueryBlock, or as many as there are.
  struct Block {
    size_t sequence;
    int64_t begin;  // The sequence's first row in the batch,
    int64_t keys;   // and how many it has.
    int64_t first;
    int64_t queries;
  };

  /// Finds the blocks; returns the work of their attention.
  int64_t Cut(std::span<const int32_t> offsets, int64_t cols);

  HeadTask TaskOf(const AttentionInput& input, const Block& block, int64_t head) const;

  /// Of a head that runs.
  PlannedHeadTask PlannedTaskOf(const AttentionInput& input, const SequencePlan& plan,
                                const Block& block, int64_t head);
  /// Where the sums of a task go; `task` is block * heads + head.
  PlannedHeadSums SumsOf(int64_t task);

  /// key_bias_ from token sizes.
  void TakeLogarithms(const AttentionInput& input, std::span<const SequencePlan* const> plans);

  /// Attends once for the column sums of calibrated heads, and finds sinks_.
  void FindSinks(const AttentionInput& input, std::span<const SequencePlan* const> plans);

  /// Quantises Q and K of the sequences whose plans ask for it, head by head.
  void Quantize(const AttentionInput& input, std::span<const SequencePlan* const> plans);

  const Isa* const isa_;
  ThreadPool* const pool_;
  WorkerScratch* const scratch_;
  std::vector<Block> blocks_;
  int64_t work_ = 0;     // Of the blocks' attention,
  int64_t longest_ = 0;  // and the most keys that one of them has.
  // Under plans. By task, so that the statistics are summed in one order:
  std::vector<PlannedHeadRecord> task_records_;
  AlignedBuffer<float> task_sums_;    // [tasks][longest_ + kQueryBlock]
  AlignedBuffer<float> key_bias_;     // By row of the batch: logarithms, to base 2, of token sizes.
  std::vector<CandidateMask> sinks_;  // By sequence: [heads][1][keys].
  // And what the first scores of quantised sequences read, and the keys of rows that refetch.
  MatrixBuffer quantized_query_, upper_key_, full_key_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_RAGGED_ATTENTION_H_
