// What a caller asks of a decoder, checked and made ready for its generator.
#ifndef THRESHER_SERVER_TEXT_REQUEST_H_
#define THRESHER_SERVER_TEXT_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/scheduler/generation.h"
#include "server/model_repository.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

inline constexpr int32_t kDefaultMaxTokens = 256;
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 256;
inline constexpr int32_t kMaxTopLogprobs = 20;

struct TextRequest {
  /// Prompt, limits, sampling with the seed that is really used, policy and priority.
  GenerationRequest generation;
  bool truncated = false;
  bool greedy = true;
};

/// Everything of the request but what the model's generator checks itself. `model` is a decoder.
/// INVALID_ARGUMENT names the option.
absl::StatusOr<TextRequest> MakeTextRequest(const ServedModel& model,
                                            const v1::GenerateRequest& request);

/// The policy that the options ask for; null: dense.
absl::StatusOr<std::shared_ptr<const Policy>> TextPolicy(const ServedModel& model,
                                                         const v1::SparsityOptions& options);

/// A text to be scored.
absl::StatusOr<TextRequest> MakeScoreRequest(const ServedModel& model, const v1::Input& input,
                                             bool truncate);

}  // namespace thresher

#endif  // THRESHER_SERVER_TEXT_REQUEST_H_
