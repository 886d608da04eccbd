#include "server/inference_statistics.h"

#include "absl/time/clock.h"

namespace thresher {
namespace {

void Set(uint64_t count, absl::Duration time, inference::StatisticDuration* out) {
  out->set_count(count);
  out->set_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(time)));
}

}  // namespace

void InferenceStatistics::Sum::Add(absl::Duration duration) {
  ++count;
  time += duration;
}

void InferenceStatistics::OnSuccess(const std::string& model, const std::string& version,
                                    const RequestTimes& times, std::span<const BatchShare> inputs) {
  MutexLock lock(&mutex_);
  Version& entry = versions_[{model, version}];
  entry.success.Add(times.total);
  entry.queue.Add(times.queue);
  entry.tokenize.Add(times.tokenize);
  entry.compute.Add(times.compute);
  entry.last = absl::Now();
  for (const BatchShare& input : inputs) {
    if (input.batch_sequences <= 0) continue;
    ++entry.inputs;
    entry.batches[input.batch_sequences].Add(input.compute);
  }
}

void InferenceStatistics::OnFailure(const std::string& model, const std::string& version,
                                    absl::Duration total) {
  MutexLock lock(&mutex_);
  versions_[{model, version}].fail.Add(total);
}

inference::ModelStatistics InferenceStatistics::Get(const std::string& model,
                                                    const std::string& version) const {
  inference::ModelStatistics out;
  out.set_name(model);
  out.set_version(version);
  MutexLock lock(&mutex_);
  const auto found = versions_.find({model, version});
  if (found == versions_.end()) return out;
  const Version& entry = found->second;
  if (entry.success.count > 0) {
    out.set_last_inference(static_cast<uint64_t>(absl::ToUnixMillis(entry.last)));
  }
  out.set_inference_count(entry.inputs);
  inference::InferStatistics* stats = out.mutable_inference_stats();
  Set(entry.success.count, entry.success.time, stats->mutable_success());
  Set(entry.fail.count, entry.fail.time, stats->mutable_fail());
  Set(entry.queue.count, entry.queue.time, stats->mutable_queue());
  Set(entry.tokenize.count, entry.tokenize.time, stats->mutable_compute_input());
  Set(entry.compute.count, entry.compute.time, stats->mutable_compute_infer());
  uint64_t executions = 0;
  for (const auto& [size, sum] : entry.batches) {
    // Rounded up: a batch counts when its first input has been answered.
    const uint64_t batches = (sum.count + static_cast<uint64_t>(size) - 1) / size;
    executions += batches;
    inference::InferBatchStatistics* batch = out.add_batch_stats();
    batch->set_batch_size(static_cast<uint64_t>(size));
    Set(batches, sum.time / size, batch->mutable_compute_infer());
  }
  out.set_execution_count(executions);
  return out;
}

}  // namespace thresher
