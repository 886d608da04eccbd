#include "client/cli/server_runner.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <utility>

#include "absl/time/clock.h"
#include "backend/sparsity/comparison.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"

namespace thresher::cli {
namespace {

void TakeReport(const v1::ResultInfo& info, Pass* pass) {
  AddWork(info.report().total(), &pass->work);
  pass->attention.Add(info.report());
  pass->policy = info.report().policy();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> LabelsOf(client::Client& client,
                                                  const v1::ModelSpec& model,
                                                  std::stop_token stop) {
  v1::ClassifyRequest request;
  *request.mutable_model() = model;
  request.add_inputs()->set_text("a");
  const auto response = client.Call(request, {.stop = stop});
  if (response.status().code() == absl::StatusCode::kUnimplemented) {
    return std::vector<std::string>();
  }
  if (!response.ok()) return response.status();
  return std::vector<std::string>(response->labels().begin(), response->labels().end());
}

/// Asks for all examples, some calls in flight; take(i, result) is given the result of input i.
/// `texts_apart`: the two texts of an example are inputs 2 i and 2 i + 1.
template <typename Request, typename Take>
absl::Status ServerRunner::CallAll(const Request& prototype, bool texts_apart,
                                   const PassProgress& progress, Take take) {
  using Result = client::Client::Result<Request>;
  struct Call {
    size_t first = 0;
    std::future<Result> result;
  };
  std::deque<Call> calls;
  const auto batch = static_cast<size_t>(std::max(limits_.batch / (texts_apart ? 2 : 1), 1));
  const auto ask = [&](size_t first) {
    Request request = prototype;
    *request.mutable_model() = model_;
    for (size_t i = first; i < std::min(first + batch, examples_.size()); ++i) {
      v1::Input& input = *request.add_inputs();
      input.set_text(examples_[i].text);
      if (!examples_[i].pair) continue;
      if (texts_apart) {
        request.add_inputs()->set_text(*examples_[i].pair);
      } else {
        input.set_pair(*examples_[i].pair);
      }
    }
    calls.push_back({first, client_.CallAsync(std::move(request), {.stop = stop_})});
  };
  absl::Status status;
  size_t next = 0;
  while (status.ok() && (next < examples_.size() || !calls.empty())) {
    while (next < examples_.size() && calls.size() < static_cast<size_t>(limits_.concurrency)) {
      ask(next);
      next += batch;
    }
    const size_t first = calls.front().first;
    const Result response = calls.front().result.get();
    calls.pop_front();
    if (!response.ok()) {
      status = stop_.stop_requested() ? Cancelled("stopped") : response.status();
      break;
    }
    const size_t count = std::min(batch, examples_.size() - first) * (texts_apart ? 2 : 1);
    if (static_cast<size_t>(response->results_size()) != count) {
      status =
          Internal("the server gave {} results for {} inputs", response->results_size(), count);
      break;
    }
    for (int i = 0; i < response->results_size() && status.ok(); ++i) {
      const auto& result = response->results(i);
      const size_t input = first * (texts_apart ? 2 : 1) + i;
      if (result.info().status().code() != 0) {
        status = absl::Status(static_cast<absl::StatusCode>(result.info().status().code()),
                              fmt::format("example {}: {}", (texts_apart ? input / 2 : input) + 1,
                                          result.info().status().message()));
      } else {
        take(input, result);
      }
    }
    if (progress && !progress(static_cast<int64_t>(std::min(first + batch, examples_.size())))) {
      status = Cancelled("stopped");
    }
  }
  for (Call& call : calls) call.result.wait();
  return status;
}

absl::Status ServerRunner::Classify(const v1::RequestOptions& options, const PassProgress& progress,
                                    Pass* pass) {
  v1::ClassifyRequest request;
  *request.mutable_options() = options;
  request.set_raw_scores(true);
  return CallAll(request, false, progress, [&](size_t i, const v1::Classification& result) {
    pass->answers[i].output.assign(result.scores().begin(), result.scores().end());
    TakeReport(result.info(), pass);
  });
}

absl::Status ServerRunner::EmbedPooled(const v1::RequestOptions& options, Pass* pass) {
  v1::EmbedRequest request;
  *request.mutable_options() = options;
  return CallAll(request, false, {}, [&](size_t i, const v1::Embedding& result) {
    pass->answers[i].pooled.assign(result.values().begin(), result.values().end());
  });
}

absl::Status ServerRunner::EmbedPairs(const v1::RequestOptions& options,
                                      const PassProgress& progress, Pass* pass) {
  v1::EmbedRequest request;
  *request.mutable_options() = options;
  return CallAll(request, true, progress, [&](size_t i, const v1::Embedding& result) {
    Answer& answer = pass->answers[i / 2];
    const std::vector<float> values(result.values().begin(), result.values().end());
    if (i % 2 == 1 && values.size() == answer.pooled.size()) {
      answer.output = {static_cast<float>(CosineSimilarity(answer.pooled, values))};
    }
    answer.pooled.insert(answer.pooled.end(), values.begin(), values.end());
    TakeReport(result.info(), pass);
  });
}

absl::StatusOr<Pass> ServerRunner::Run(std::string_view policy, const PassProgress& progress) {
  v1::RequestOptions options;
  options.set_truncate(true);
  options.mutable_sparsity()->set_policy(std::string(policy));
  options.mutable_sparsity()->set_explain(measures_attention());
  // The first call under a policy may pack weights as it needs them: not timed.
  if (!examples_.empty()) {
    v1::EmbedRequest request;
    *request.mutable_model() = model_;
    *request.mutable_options() = options;
    request.add_inputs()->set_text(examples_[0].text);
    if (const auto warm = client_.Call(request, {.stop = stop_}); !warm.ok()) {
      return stop_.stop_requested() ? Cancelled("stopped") : warm.status();
    }
  }
  Pass pass;
  pass.answers.resize(examples_.size());
  const absl::Time begin = absl::Now();
  THRESHER_RETURN_IF_ERROR(classifies_ ? Classify(options, progress, &pass)
                                       : EmbedPairs(options, progress, &pass));
  pass.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  if (classifies_) THRESHER_RETURN_IF_ERROR(EmbedPooled(options, &pass));
  return pass;
}

}  // namespace thresher::cli
