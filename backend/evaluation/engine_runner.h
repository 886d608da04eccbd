// Runs labelled examples on an engine in this process, batched by the server's own scheduler.
#ifndef THRESHER_BACKEND_EVALUATION_ENGINE_RUNNER_H_
#define THRESHER_BACKEND_EVALUATION_ENGINE_RUNNER_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/engine/loaded_model.h"
#include "backend/evaluation/labelled_data.h"
#include "backend/evaluation/runner.h"
#include "backend/scheduler/scheduler.h"

namespace thresher {

/// What a model can be measured by: classes by accuracy, embeddings and single scores by
/// similarity. UNIMPLEMENTED for heads that answer by token, and for several labels at once.
absl::StatusOr<Measure> MeasureOf(const ModelInfo& info);

class EngineRunner final : public Runner {
 public:
  /// Tokenizes the examples, which need not live longer; texts that are too long are cut.
  /// kAccuracy: a model with classes. kSimilarity: a pair's score is that of a head with a single
  /// output, else the cosine of the two texts' embeddings.
  static absl::StatusOr<std::unique_ptr<EngineRunner>> Create(
      std::shared_ptr<LoadedModel> model, Measure measure,
      std::span<const LabelledExample> examples);

  absl::StatusOr<Pass> Run(std::string_view policy, const PassProgress& progress) override;
  absl::StatusOr<Pass> Run(const std::shared_ptr<const Policy>& policy,
                           const PassProgress& progress);

  /// What is run: one sequence for each example, or two, of a pair that is embedded.
  std::span<const Sequence> sequences() const { return sequences_; }

 private:
  EngineRunner(std::shared_ptr<LoadedModel> model, bool embeds_pairs,
               std::vector<Sequence> sequences);
  struct Outcome;
  /// Runs a few sequences untimed: memory is touched, and weights packed as the policy needs them.
  absl::Status WarmUp(const std::shared_ptr<const Policy>& policy);
  absl::Status Submit(size_t index, const std::shared_ptr<const Policy>& policy, Outcome* outcome);

  const std::shared_ptr<LoadedModel> model_;
  const bool embeds_pairs_;  // Two sequences for each example.
  const std::vector<Sequence> sequences_;
  Scheduler scheduler_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_ENGINE_RUNNER_H_
