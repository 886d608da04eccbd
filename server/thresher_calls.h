// thresher.v1.Thresher's encoder calls without a transport: a request in, an answer or a status
// out. (Generate and Score are TextGeneration's.)
#ifndef THRESHER_SERVER_THRESHER_CALLS_H_
#define THRESHER_SERVER_THRESHER_CALLS_H_

#include <atomic>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/inference.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// Thread-safe.
class ThresherCalls {
 public:
  /// `inference` must outlive this object and all that it began.
  explicit ThresherCalls(Inference* inference) : inference_(inference) {}

  /// What a caller's transport knows of a call.
  struct Context {
    absl::Time arrival = absl::InfinitePast();  // On Clock::Real(), as is `deadline`.
    absl::Time deadline = absl::InfiniteFuture();
    std::shared_ptr<const std::atomic<bool>> cancelled;  // May be null.
    /// One bad input fails the call, before anything is computed; its status names the input.
    bool all_or_none = false;
  };
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;

  /// Each calls `done` once, as Inference does; the request must live until then.
  void Classify(const v1::ClassifyRequest& request, const Context& context,
                Done<v1::ClassifyResponse> done);
  void Embed(const v1::EmbedRequest& request, const Context& context, Done<v1::EmbedResponse> done);
  void TokenClassify(const v1::TokenClassifyRequest& request, const Context& context,
                     Done<v1::TokenClassifyResponse> done);
  void Answer(const v1::AnswerRequest& request, const Context& context,
              Done<v1::AnswerResponse> done);
  void Tokenize(const v1::TokenizeRequest& request, const Context& context,
                Done<v1::TokenizeResponse> done);

 private:
  Inference* const inference_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_THRESHER_CALLS_H_
