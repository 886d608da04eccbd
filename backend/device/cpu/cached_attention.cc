#include "backend/device/cpu/cached_attention.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "backend/device/cpu/attention.h"
#include "backend/device/cpu/decode_attention.h"
#include "backend/device/cpu/prompt_attention.h"

namespace thresher {
namespace {

struct Task {
  size_t sequence;
  int32_t kv_head;
  int32_t first_row;
  int32_t rows;
  int64_t work;  // In rows of K or V per query.
  DecodeRecord did;
};

/// The largest first, so that no thread is left with one at the end.
std::vector<Task> Cut(const CachedAttentionInput& input) {
  const int32_t heads = input.shape.heads / input.shape.kv_heads;
  const int32_t block = PromptBlockRows(input.shape);
  std::vector<Task> tasks;
  for (size_t s = 0; s < input.sequences.size(); ++s) {
    const CachedSequence& sequence = input.sequences[s];
    for (int32_t first = 0; first < sequence.rows; first += block) {
      const int32_t rows = std::min(block, sequence.rows - first);
      const int64_t keys = sequence.decode ? sequence.SlotsRead(*input.layout)
                                           : sequence.slots - sequence.rows + first + rows;
      for (int32_t h = 0; h < input.shape.kv_heads; ++h) {
        tasks.push_back({s, h, first, rows, 2 * keys * rows * heads, {}});
      }
    }
  }
  std::ranges::stable_sort(tasks, std::greater(), &Task::work);
  return tasks;
}

/// The record of a sequence, but for what its decode tasks found out. Sums take the memory of those
/// that were there: of long caches it is large.
CachedRecord StartRecord(const CachedAttentionInput& input, const CachedSequence& sequence,
                         CachedRecord&& before) {
  CachedRecord record;
  const int64_t read = sequence.SlotsRead(*input.layout);
  record.sums = std::move(before.sums);
  record.sums.assign(sequence.want_sums ? static_cast<size_t>(input.shape.kv_heads * read) : 0, 0);
  record.stretches = std::move(before.stretches);
  record.stretches.resize(sequence.ChoosesStretches(*input.layout)
                              ? static_cast<size_t>(input.shape.kv_heads) * sequence.read_stretches
                              : 0);
  record.rows = int64_t{sequence.rows} * input.shape.heads;
  if (sequence.decode) {
    record.scores = read * input.shape.heads;
    return record;
  }
  // Row r sees the slots before the chunk, and 1 to `rows` of its own.
  const int64_t rows = sequence.rows;
  const int64_t seen = rows * (sequence.slots - rows) + rows * (rows + 1) / 2;
  record.scores = record.values = seen * input.shape.heads;
  record.bytes =
      seen * input.shape.kv_heads *
      static_cast<int64_t>(input.layout->upper_key_bytes() + input.layout->lower_key_bytes() +
                           input.layout->value_bytes());
  return record;
}

/// Makes the bounds of the keys that were just stored.
void BoundStored(const KvLayout& layout, int32_t layer, int64_t width,
                 std::span<const CachedSequence> sequences, ThreadPool* pool) {
  struct Stored {
    std::byte* page;
    int32_t first, last;  // Slots within it.
  };
  std::vector<Stored> pages;  // Each once, so that threads share none.
  for (const CachedSequence& sequence : sequences) {
    for (int32_t slot = sequence.slots - sequence.rows; slot < sequence.slots;) {
      const int32_t first = slot % kKvPageTokens;
      const int32_t count = std::min(kKvPageTokens - first, sequence.slots - slot);
      pages.push_back(
          {sequence.pages[static_cast<size_t>(slot / kKvPageTokens)], first, first + count});
      slot += count;
    }
  }
  pool->ForRows(static_cast<int64_t>(pages.size()), width, [&](int64_t begin, int64_t count) {
    for (int64_t i = begin; i < begin + count; ++i) {
      const auto [page, first, last] = pages[static_cast<size_t>(i)];
      for (int32_t h = 0; h < layout.kv_heads(); ++h) {
        BoundKeys(layout, layout.keys(page, layer, h), first, last, layout.bounds(page, layer, h));
      }
    }
  });
}

}  // namespace

void StoreInCaches(const KvLayout& layout, int32_t layer, ConstMatrix key, ConstMatrix value,
                   std::span<const CachedSequence> sequences, ThreadPool* pool) {
  struct Row {
    const CachedSequence* sequence;
    int32_t row;
  };
  std::vector<Row> rows;
  for (const CachedSequence& sequence : sequences) {
    for (int32_t r = 0; r < sequence.rows; ++r) rows.push_back({&sequence, r});
  }
  const int32_t dim = layout.head_dim();
  pool->ForRows(static_cast<int64_t>(rows.size()), key.cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const auto [sequence, row] = rows[static_cast<size_t>(i)];
      const int64_t from = int64_t{sequence->first_row} + row;
      for (int32_t h = 0; h < layout.kv_heads(); ++h) {
        const int32_t slot = sequence->SlotOf(layout, layer, h, row);
        std::byte* const page = sequence->pages[static_cast<size_t>(slot / kKvPageTokens)];
        const int32_t at = slot % kKvPageTokens;
        StoreKeyRow(layout, key.row(from) + int64_t{h} * dim, at, layout.keys(page, layer, h));
        StoreValueRow(layout, value.row(from) + int64_t{h} * dim, at,
                      layout.values(page, layer, h));
      }
    }
  });
  if (layout.format().stretch > 0) BoundStored(layout, layer, key.cols, sequences, pool);
}

void AttendCaches(const CachedAttentionInput& input, Matrix out, std::span<CachedRecord> records,
                  const Isa& isa, ThreadPool* pool, WorkerScratch* scratch) {
  const KvLayout& layout = *input.layout;
  const DotUnit* const bf16 = AttentionUnit(isa, input.precision, input.shape.head_dim);
  std::vector<Task> tasks = Cut(input);
  size_t floats = 0;
  for (size_t s = 0; s < records.size(); ++s) {
    const CachedSequence& sequence = input.sequences[s];
    records[s] = StartRecord(input, sequence, std::move(records[s]));
    floats = std::max(floats, sequence.decode ? DecodeScratchSize(input, sequence)
                                              : PromptScratchSize(input.shape));
  }
  scratch->Resize(floats);
  int64_t work = 0;
  for (const Task& task : tasks) work += task.work * input.shape.head_dim;

  pool->ForTasks(static_cast<int64_t>(tasks.size()), work, [&](int64_t t, int worker) {
    Task& task = tasks[static_cast<size_t>(t)];
    const CachedSequence& sequence = input.sequences[task.sequence];
    CachedRecord& record = records[task.sequence];
    int64_t* const sums =
        sequence.want_sums
            ? record.sums.data() + static_cast<size_t>(task.kv_head) * sequence.SlotsRead(layout)
            : nullptr;
    if (sequence.decode) {
      int32_t* const stretches = record.stretches.empty()
                                     ? nullptr
                                     : record.stretches.data() + static_cast<size_t>(task.kv_head) *
                                                                     sequence.read_stretches;
      AttendDecode({&input, &sequence, task.kv_head}, scratch->of(worker), out, sums, stretches,
                   &task.did);
    } else {
      AttendPrompt({&input, &sequence, task.kv_head, task.first_row, task.rows, bf16},
                   scratch->of(worker), out, sums);
    }
  });

  for (const Task& task : tasks) {
    CachedRecord& record = records[task.sequence];
    record.refetched_rows += task.did.refetched_rows;
    record.refetched_scores +=
        task.did.refetched_rows * input.sequences[task.sequence].SlotsRead(layout);
    record.bounds += task.did.bounds;
    record.values += task.did.values;
    record.bytes += task.did.bytes;
  }
}

}  // namespace thresher
