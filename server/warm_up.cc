#include "server/warm_up.h"

#include <algorithm>
#include <span>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Any ids will do, as long as they differ: the tables are read where requests will read them.
Sequence MakeSequence(const ModelInfo& info, int32_t length) {
  Sequence sequence;
  for (int32_t i = 0; i < length; ++i) sequence.ids.push_back((i * 7 + 1) % info.vocab_size);
  sequence.want_logits = info.task != Task::kNone;
  sequence.want_embedding = true;
  sequence.pooling = info.pooling;
  sequence.normalize = info.normalize;
  return sequence;
}

absl::Status RunBatch(Engine& engine, std::span<const Sequence* const> batch) {
  std::vector<SequenceOutput> outputs(batch.size());
  THRESHER_RETURN_IF_ERROR(engine.Run(batch, outputs));
  for (const SequenceOutput& output : outputs) THRESHER_RETURN_IF_ERROR(output.status);
  return absl::OkStatus();
}

}  // namespace

absl::Status WarmUp(LoadedModel& model) {
  std::vector<Sequence> sequences;
  for (const int32_t length : {2, 16, 64}) {
    sequences.push_back(MakeSequence(model.info, std::min(length, model.info.max_tokens)));
  }
  std::vector<const Sequence*> batch;
  for (const Sequence& sequence : sequences) {
    const absl::Status status = model.engine->Validate(sequence);
    THRESHER_RETURN_IF_ERROR(Annotate(status, "warm-up"));
    batch.push_back(&sequence);
    THRESHER_RETURN_IF_ERROR(
        Annotate(RunBatch(*model.engine, std::span(&batch.back(), 1)), "warm-up"));
  }
  return Annotate(RunBatch(*model.engine, batch), "warm-up");
}

}  // namespace thresher
