// What the commands over texts have in common: their flags, and the run from inputs to printed
// answers. A command adds how a request is made and how one result looks.
#ifndef THRESHER_CLIENT_CLI_TEXT_COMMAND_H_
#define THRESHER_CLIENT_CLI_TEXT_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "client/cli/command.h"
#include "client/cli/explain.h"
#include "client/cli/format.h"
#include "client/cli/inputs.h"
#include "client/cli/ordered_calls.h"
#include "client/cli/progress.h"
#include "client/cli/server_flags.h"
#include "client/client.h"

namespace thresher::cli {

struct TextFlags {
  ServerFlags server;
  ModelFlags model;
  InputFlags inputs;
  CallLimits limits;
  bool truncate = false;
  std::string sparsity;
  std::optional<double> max_quality_loss;
  bool explain = false;
  ColorMode color = ColorMode::kAuto;
  bool timings = false;
  bool quiet = false;
};

/// `what` names the texts in the help.
void AddTextFlags(CLI::App& app, TextFlags& flags, const std::string& what = "TEXT");
/// --pair, for commands that take text pairs.
void AddPairFlag(CLI::App& app, TextFlags& flags);
/// --sparsity, --max-quality-loss and their kin, for commands that compute.
void AddComputeFlags(CLI::App& app, TextFlags& flags);
v1::RequestOptions ToOptions(const TextFlags& flags);
/// Text or pair, as the record has it.
void ToInput(const Record& record, v1::Input& input);

template <typename Request>
struct TextCommand {
  using Response = typename client::Rpc<Request>::Response;
  using Result = std::decay_t<decltype(std::declval<Response>().results(0))>;

  /// What each call says once: options, but not the model.
  Request prototype;
  /// A record's pair is the first text of its input, as the server sees it.
  bool pair_first = false;
  /// Adds one input to a request.
  std::function<void(const Record&, Request&)> add;
  /// Adds a result to the object that has `index` and the texts.
  std::function<void(const Result&, const Response&, Json&)> json;
  /// A result for people: whole lines.
  std::function<std::string(const Record&, const Result&, const Response&)> text;
};

/// Prints answers and failures, and counts them.
class Reporter {
 public:
  /// `input_size` as InputSource::size().
  Reporter(const TextFlags& flags, int64_t input_size);

  using AddJson = std::function<void(Json&)>;
  using MakeText = std::function<std::string()>;
  /// A failure if `info` says so.
  /// `pair_first` as TextCommand's.
  void Answered(const Record& record, bool pair_first, const v1::ResultInfo& info,
                const AddJson& add_json, const MakeText& make_text);
  void Failed(const Record& record, const absl::Status& status);
  /// Call after each group of inputs. False once nobody reads standard output.
  bool Flush();

  bool any_failed() const { return failed_ > 0; }

 private:
  void Output(const std::string& text);

  const TextFlags& flags_;
  const int64_t input_size_;
  const bool shared_terminal_;  // Standard output and the progress bar draw on one terminal.
  Progress progress_;
  int64_t done_ = 0;
  int64_t failed_ = 0;
  int64_t offset_ = 0;
  bool open_ = true;
};

template <typename Request>
int RunTexts(const TextFlags& flags, const TextCommand<Request>& command, std::stop_token stop) {
  using Response = typename TextCommand<Request>::Response;
  auto source = InputSource::Open(flags.inputs);
  if (!source.ok()) return Fail(source.status(), stop);
  auto client = Connect(flags.server, stop);
  if (!client.ok()) return Fail(client.status(), stop);
  auto model = ChooseModel(**client, flags.model, stop);
  if (!model.ok()) return Fail(model.status(), stop);

  Request prototype = command.prototype;
  *prototype.mutable_model() = *std::move(model);
  Reporter reporter(flags, (*source)->size());
  // Ends the calls in flight on an interrupt, and when the reader of the output has gone.
  std::stop_source end;
  const std::stop_callback end_on_stop(stop, [&end] { end.request_stop(); });

  struct Exchange {
    std::vector<Record> records;
    absl::StatusOr<Response> response = absl::InternalError("no answer");
  };
  const auto show = [&](const Exchange& exchange) {
    const absl::StatusOr<Response>& response = exchange.response;
    int next = 0;
    for (const Record& record : exchange.records) {
      if (!record.status.ok()) {
        reporter.Failed(record, record.status);
      } else if (!response.ok()) {
        reporter.Failed(record, response.status());
      } else if (next >= response->results_size()) {
        reporter.Failed(record, absl::InternalError("the server's answer lacks this input"));
      } else {
        const auto& result = response->results(next++);
        reporter.Answered(
            record, command.pair_first, result.info(),
            [&](Json& json) { command.json(result, *response, json); },
            [&] { return command.text(record, result, *response); });
      }
    }
    if (!reporter.Flush()) end.request_stop();
  };
  const SendCall send = [&](std::vector<Record> records, std::function<void()> done) -> ShowCall {
    auto exchange = std::make_shared<Exchange>();
    exchange->records = std::move(records);
    Request request = prototype;
    bool any = false;
    for (const Record& record : exchange->records) {
      if (!record.status.ok()) continue;
      command.add(record, request);
      any = true;
    }
    if (any) {
      (*client)->template CallAsync<Request>(std::move(request),
                                             [exchange, done](absl::StatusOr<Response> response) {
                                               exchange->response = std::move(response);
                                               done();
                                             },
                                             {.stop = end.get_token()});
    } else {
      done();
    }
    return [&show, exchange] { show(*exchange); };
  };
  const absl::Status status = RunOrdered(**source, flags.limits, send, end.get_token());
  if (const absl::Status output = OutputStatus(); !output.ok()) return Fail(output, {});
  if (stop.stop_requested() || !status.ok()) return Fail(status, stop);
  return reporter.any_failed() ? kSomeFailed : kAllAnswered;
}

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_TEXT_COMMAND_H_
