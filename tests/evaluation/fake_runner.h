// A runner whose answers a test decides.
#ifndef THRESHER_TESTS_EVALUATION_FAKE_RUNNER_H_
#define THRESHER_TESTS_EVALUATION_FAKE_RUNNER_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "backend/evaluation/runner.h"

namespace thresher::testing {

class FakeRunner final : public Runner {
 public:
  using Make = std::function<absl::StatusOr<Pass>(const std::string& policy)>;
  explicit FakeRunner(Make make) : make_(std::move(make)) {}

  absl::StatusOr<Pass> Run(std::string_view policy, const PassProgress& progress) override {
    asked.emplace_back(policy);
    auto pass = make_(asked.back());
    if (pass.ok() && progress && !progress(static_cast<int64_t>(pass->answers.size()))) {
      return absl::CancelledError("stopped");
    }
    return pass;
  }

  std::vector<std::string> asked;

 private:
  const Make make_;
};

/// An answer of two classes that is sure of one.
inline Answer Sure(int label, float logit = 2) {
  Answer answer;
  answer.output = {0, 0};
  answer.output[label] = logit;
  answer.pooled = {1, 0};
  return answer;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_EVALUATION_FAKE_RUNNER_H_
