#include "backend/evaluation/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {

std::string WithShare(std::string_view policy, double share) {
  std::string text;
  for (const char c : policy) {
    if (c == '*') {
      text += fmt::format("{}", share);
    } else if (c == '~') {
      text += fmt::format("{:.6g}", (1 - share) * (1 - share));
    } else {
      text += c;
    }
  }
  return text;
}

absl::StatusOr<std::vector<PolicyResult>> Sweep(Runner& runner, Measure measure,
                                                std::span<const LabelledExample> examples,
                                                std::span<const std::string> policies,
                                                const SweepOptions& options) {
  std::vector<PolicyResult> results(1);
  results[0].sparsity = "dense";
  for (const std::string& policy : policies) {
    if (policy != "dense") results.emplace_back().sparsity = policy;
  }
  std::vector<double> seconds(results.size(), std::numeric_limits<double>::infinity());
  const int rounds = std::max(options.rounds, 1);
  const auto total = static_cast<int64_t>(results.size()) * rounds;
  const auto n = static_cast<double>(examples.size());
  std::vector<Answer> dense;
  int64_t done = 0;
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < results.size(); ++i, ++done) {
      PolicyResult& result = results[i];
      const auto progress = [&](int64_t answered) {
        return !options.progress ||
               options.progress(static_cast<double>(done) + static_cast<double>(answered) / n,
                                total);
      };
      auto pass = runner.Run(result.sparsity, progress);
      if (!pass.ok()) {
        if (absl::IsCancelled(pass.status())) return pass.status();
        return Annotate(pass.status(), fmt::format("sparsity '{}'", result.sparsity));
      }
      seconds[i] = std::min(seconds[i], pass->seconds);
      if (round > 0) continue;  // The same policy gives the same answers.
      result.policy = pass->policy;
      result.work = std::move(pass->work);
      result.attention = pass->attention;
      const std::vector<Answer>& base = i == 0 ? pass->answers : dense;
      THRESHER_ASSIGN_OR_RETURN(result.quality, MeasureQuality(measure, examples, base,
                                                               pass->answers, options.confidence));
      if (i == 0) dense = std::move(pass->answers);
    }
  }
  for (size_t i = 0; i < results.size(); ++i) {
    results[i].requests_per_second = n / seconds[i];
    results[i].speedup = seconds[0] / seconds[i];
  }
  return results;
}

}  // namespace thresher
