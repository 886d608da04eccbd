// A call for work, whatever the transport: find the model, tokenize, check each input, queue the
// good ones together, and answer once when all have ended.
//
// An input that can't be answered fails alone; its Result has the status. The call as a whole fails
//   - before anything is computed: no inputs or too many (INVALID_ARGUMENT), an unknown model
//     (NOT_FOUND), one that is not ready or a server that drains (UNAVAILABLE), a method that the
//     model has no head for (UNIMPLEMENTED), a sparsity policy that the model can't have or a
//     quality bound that it has no profile for, or one measured in another metric than the method's
//     (INVALID_ARGUMENT), a full queue
//     (RESOURCE_EXHAUSTED), a deadline that has passed or can't be met (DEADLINE_EXCEEDED);
//   - afterwards: with its only input's status, or when every input failed with one code that is
//     not the inputs' fault (all cancelled, say), so that callers see the usual status codes.
#ifndef THRESHER_SERVER_INFERENCE_H_
#define THRESHER_SERVER_INFERENCE_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/scheduler/clock.h"
#include "backend/scheduler/scheduler.h"
#include "backend/text/tokenizer.h"
#include "server/inference_statistics.h"
#include "server/metrics.h"
#include "server/model_repository.h"
#include "server/shadow_check.h"
#include "server/worker_threads.h"

namespace thresher {

/// A text, a pair of texts, or token ids. Views, which must live until `done`.
struct InferenceInput {
  std::string_view text;
  std::optional<std::string_view> pair;
  std::span<const int32_t> ids;  // Instead of a text.
  std::span<const int32_t> type_ids;
};

struct InferenceRequest {
  Method method = Method::kClassify;
  std::shared_ptr<const ServedModel> model;  // From Inference::Admit.
  std::vector<InferenceInput> inputs;
  bool all_or_none = false;         // One bad input fails the call, before anything is computed;
  std::string_view noun = "input";  // its status begins with "input 3: ", or so.
  bool truncate = false;
  bool add_special_tokens = true;
  int32_t priority = 0;
  std::string_view policy;                 // Sparsity; empty: dense.
  std::optional<double> max_quality_loss;  // Instead of a policy.
  bool explain = false;                    // Report each layer and each token.
  std::optional<Pooling> pooling;          // Embeddings; unset: the model's.
  std::optional<bool> normalize;
  absl::Time arrival = absl::InfinitePast();  // On Clock::Real(), as is `deadline`.
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<const std::atomic<bool>> cancelled;  // May be null.
};

/// One input's end.
struct InferenceResult {
  absl::Status status;
  Encoding encoding;  // What was run.
  SequenceOutput output;
  RequestTimes times;
  int32_t batch_sequences = 0;
  int32_t batch_tokens = 0;
};

struct InferenceAnswer {
  std::shared_ptr<const ServedModel> model;
  std::vector<InferenceResult> results;  // In input order.
  RequestTimes times;                    // The call's total, and the parts of its slowest input.
};

/// Called once: on one of the answering threads, on the compute executor's when it has nothing else
/// to do, or on the caller's when nothing had to be computed. Must be quick.
using InferenceDone = std::function<void(absl::StatusOr<InferenceAnswer>)>;

/// What a model without a head is for is "embedding".
std::string_view TaskName(Task task);

/// The status of a call of which every input has ended, so or so.
absl::Status WholeCallStatus(std::span<const absl::Status> inputs, bool all_or_none);

/// A call's input, counted with that of all others until it is let go of.
using HeldInput = std::shared_ptr<const void>;

/// Thread-safe.
class Inference {
 public:
  using ModelFinder = std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(
      std::string_view name, std::string_view version)>;

  struct Options {
    int max_inputs = 256;
    /// Input of the calls that have not ended, all together; a call too many is RESOURCE_EXHAUSTED.
    int64_t max_pending_bytes = 256 << 20;
    /// A call that allows a quality loss is served densely while nothing waits, and as the queue
    /// fills with more and more of what it allows: all of it once the queue is half full. Else
    /// always with all of it.
    bool elastic = false;
    /// One in so many pruned sequences is run again densely, to compare (shadow_check.h); 0: none.
    int32_t shadow_every = 0;
    /// Threads that turn results into answers while the compute executor goes on.
    int answer_threads = 2;
  };

  /// `scheduler` and `metrics` must outlive this object.
  Inference(const Options& options, ModelFinder find, Scheduler* scheduler, Metrics* metrics);

  /// The model, if a call of `method` with so many inputs may be made now. A refusal is counted.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Admit(Method method, std::string_view name,
                                                           std::string_view version, size_t inputs);

  /// Counts a refusal for a reason of the transport's own; `model` is empty where it is not known
  /// to be served. Returns `status`.
  absl::Status Refuse(Method method, std::string_view model, size_t inputs,
                      const absl::Status& status);

  /// Counts a call's input against `max_pending_bytes`. RESOURCE_EXHAUSTED when too much is in
  /// hand; a call that is larger than all of that goes alone.
  absl::StatusOr<HeldInput> HoldInput(int64_t bytes);

  /// Tokenizes on the caller's thread; does not wait for the compute.
  void Run(InferenceRequest request, InferenceDone done);

  /// From now on Admit is UNAVAILABLE.
  void RefuseNewWork() { draining_.store(true); }
  bool draining() const { return draining_.load(); }

  /// Runs it on one of the answering threads, soon.
  void RunLater(std::function<void()> work) { answer_threads_.Run(std::move(work)); }

  int max_inputs() const { return options_.max_inputs; }
  /// The share of the allowed quality loss that calls are served with now.
  double ElasticLevel() const;
  Metrics& metrics() const { return *metrics_; }
  InferenceStatistics& statistics() { return statistics_; }

 private:
  class Call;

  const Options options_;
  const ModelFinder find_;
  Scheduler* const scheduler_;
  Metrics* const metrics_;
  InferenceStatistics statistics_;
  ShadowCheck shadow_;
  std::atomic<bool> draining_ = false;
  // Shared with the calls, which may outlive this object by a moment.
  const std::shared_ptr<std::atomic<int64_t>> pending_bytes_ =
      std::make_shared<std::atomic<int64_t>>(0);
  WorkerThreads answer_threads_;  // Last: joined first.
};

}  // namespace thresher

#endif  // THRESHER_SERVER_INFERENCE_H_
