// `thresher generate`: text that goes on from a prompt, shown as it is made.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/sparsity/policy_text.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/explain.h"
#include "client/cli/format.h"
#include "client/cli/inputs.h"
#include "client/cli/server_flags.h"

namespace thresher::cli {
namespace {

struct Flags {
  ServerFlags server{.deadline = absl::InfiniteDuration()};
  ModelFlags model;
  std::optional<std::string> prompt;
  std::string file;
  std::optional<int32_t> max_tokens;
  double temperature = 0;
  int32_t top_k = 0;
  std::optional<double> top_p;
  double min_p = 0;
  std::optional<double> repetition_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool echo = false;
  bool truncate = false;
  int32_t priority = 0;
  std::string sparsity;
  bool explain = false;
  int resume = 0;
  bool quiet = false;
};

/// All of a file, or of standard input, without the end of its last line.
absl::StatusOr<std::string> ReadPrompt(const std::string& path) {
  constexpr size_t kLargest = size_t{16} << 20;
  std::ifstream file;
  if (path != "-") {
    file.open(path, std::ios::binary);
    if (!file) return InvalidArgument("{}: can't open: {}", path, std::strerror(errno));
  }
  std::istream& stream = path == "-" ? std::cin : file;
  std::string text;
  std::vector<char> block(1 << 16);
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())) ||
         stream.gcount() > 0) {
    text.append(block.data(), static_cast<size_t>(stream.gcount()));
    if (text.size() > kLargest) {
      return InvalidArgument("the prompt is longer than {} bytes", kLargest);
    }
  }
  if (stream.bad() || (path != "-" && !stream.eof())) {
    return InvalidArgument("{}: can't read: {}", path, std::strerror(errno));
  }
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

absl::StatusOr<std::string> PromptOf(const Flags& flags) {
  if (flags.prompt && *flags.prompt != "-") {
    if (!flags.file.empty()) return InvalidArgument("give a prompt or --file, not both");
    return *flags.prompt;
  }
  return ReadPrompt(flags.file.empty() ? "-" : flags.file);
}

v1::GenerateRequest ToRequest(const Flags& flags) {
  v1::GenerateRequest request;
  if (flags.max_tokens) request.set_max_tokens(*flags.max_tokens);
  v1::SamplingOptions& sampling = *request.mutable_sampling();
  sampling.set_temperature(flags.temperature);
  sampling.set_top_k(flags.top_k);
  if (flags.top_p) sampling.set_top_p(*flags.top_p);
  sampling.set_min_p(flags.min_p);
  if (flags.repetition_penalty) sampling.set_repetition_penalty(*flags.repetition_penalty);
  if (flags.seed) sampling.set_seed(*flags.seed);
  for (const std::string& stop : flags.stop) request.add_stop(stop);
  request.set_ignore_eos(flags.ignore_eos);
  request.set_logprobs(flags.logprobs);
  request.set_top_logprobs(flags.top_logprobs);
  request.set_echo(flags.echo);
  request.mutable_options()->set_truncate(flags.truncate);
  request.mutable_options()->set_priority(flags.priority);
  v1::SparsityOptions& sparsity = *request.mutable_options()->mutable_sparsity();
  if (!flags.sparsity.empty()) sparsity.set_policy(flags.sparsity);
  sparsity.set_explain(flags.explain);
  return request;
}

/// The text for a terminal: what could drive it is replaced, lines and tabs stay.
std::string ForTerminal(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t plain = std::min(text.find_first_of("\n\t"), text.size());
    out += Printable(text.substr(0, plain));
    if (plain < text.size()) out += text[plain];
    text.remove_prefix(std::min(plain + 1, text.size()));
  }
  return out;
}

Json TokenJson(const v1::GeneratedToken& token) {
  Json json = {{"token", token.id()}, {"text", token.text()}};
  if (token.prompt()) json["prompt"] = true;
  if (token.has_logprob()) json["logprob"] = JsonFloat(token.logprob());
  for (const v1::TokenLogprob& other : token.top()) {
    json["top"].push_back(
        {{"token", other.id()}, {"piece", other.token()}, {"logprob", JsonFloat(other.logprob())}});
  }
  return json;
}

/// A line for each token: its log-probability, its text, and the others in its place.
std::string TokenLine(const v1::GeneratedToken& token) {
  std::string line = token.has_logprob() ? fmt::format("{:>9.4f}", token.logprob())
                                         : fmt::format("{:>9}", token.prompt() ? "prompt" : "");
  line += fmt::format("  '{}'", Printable(token.text()));
  for (const v1::TokenLogprob& other : token.top()) {
    line += fmt::format("  {} {:.4f}", Printable(other.token()), other.logprob());
  }
  return line + "\n";
}

std::string Summary(const v1::GenerateEnd& end) {
  const v1::GenerateUsage& usage = end.usage();
  const v1::GenerateTimings& timings = end.timings();
  std::string out = fmt::format("{} tokens of prompt", usage.prompt_tokens());
  if (usage.cached_prompt_tokens() > 0) {
    out += fmt::format(" ({} cached)", usage.cached_prompt_tokens());
  }
  out +=
      fmt::format(", {} generated ({})", usage.generated_tokens(), Printable(end.finish_reason()));
  out += fmt::format("; first token {:.1f} ms", timings.first_token() * 1e3);
  const double rest = timings.total() - timings.first_token();
  if (usage.generated_tokens() > 1 && rest > 0) {
    out += fmt::format(", then {:.1f} tokens/s", (usage.generated_tokens() - 1) / rest);
  }
  out += fmt::format(", total {:.1f} ms", timings.total() * 1e3);
  if (end.seed() != 0) out += fmt::format("; seed {}", end.seed());
  const v1::PruningReport& report = end.report();
  if (report.policy() != "dense" && !report.policy().empty()) {
    out += fmt::format("; {}: KV read {:.1f} %, held {:.1f} %", Printable(report.policy()),
                       100 * KeepRatio(report.decode().bytes()), 100 * KeepRatio(report.kv_held()));
  }
  return out;
}

/// Shows one text. Standard output has the text, or objects; standard error the rest.
class Show {
 public:
  explicit Show(const Flags& flags)
      : flags_(flags), terminal_(!flags.server.json && isatty(STDOUT_FILENO) != 0) {}

  /// False once nobody reads.
  bool Take(const v1::GenerateResponse& message) {
    for (const v1::GeneratedToken& token : message.tokens()) Token(token);
    if (message.has_end()) End(message.end());
    return Flush();
  }

  bool ended() const { return ended_; }

  void Failed(const absl::Status& status) {
    if (flags_.server.json) {
      Print(Dump({{"error", ToJson(status)}}) + "\n");
    } else {
      EndLine();
    }
    Flush();
  }

  bool Flush() { return OutputStatus().ok() && Print(""); }

 private:
  void Token(const v1::GeneratedToken& token) {
    if (flags_.server.json) {
      text_ += token.text();
      Print(Dump(TokenJson(token)) + "\n");
    } else if (flags_.logprobs) {
      Print(TokenLine(token));
    } else {
      Text(token.text());
    }
  }

  void Text(const std::string& text) {
    if (text.empty()) return;
    open_line_ = text.back() != '\n';
    Print(terminal_ ? ForTerminal(text) : text);
  }

  void EndLine() {
    if (open_line_) Print("\n");
    open_line_ = false;
  }

  void End(const v1::GenerateEnd& end) {
    ended_ = true;
    if (flags_.server.json) {
      text_ += end.text();
      Json json = {{"text", text_}, {"finish_reason", end.finish_reason()}};
      json["usage"] = ToJson(end.usage());
      json["timings"] = ToJson(end.timings());
      json["report"] = ReportJson(end.report());
      json["seed"] = end.seed();
      Print(Dump(json) + "\n");
      return;
    }
    Text(end.text());
    EndLine();
    if (flags_.explain) {
      v1::ResultInfo info;
      *info.mutable_report() = end.report();
      Print(ExplainText("", "", info, /*color=*/false));
    }
    Flush();  // The text comes before what is said of it.
    if (!flags_.quiet) fmt::print(stderr, "thresher: {}\n", Summary(end));
  }

  const Flags& flags_;
  const bool terminal_;
  bool open_line_ = false;
  bool ended_ = false;
  std::string text_;  // The whole, where it is told at the end.
};

/// A text that may break off half way, and then goes on from its tokens.
class Continuation {
 public:
  /// Makes the request one whose answer tells the prompt's tokens too.
  Continuation(bool echo, v1::GenerateRequest* request) : echo_(echo) {
    constexpr int32_t kServersDefault = 256;
    if (!request->has_max_tokens()) request->set_max_tokens(kServersDefault);
    limit_ = request->max_tokens();
    request->set_echo(true);
  }

  /// Notes the tokens, and leaves those that are to be shown.
  void Take(v1::GenerateResponse* message) {
    for (const v1::GeneratedToken& token : message->tokens()) {
      ids_.push_back(token.id());
      if (!token.prompt()) ++generated_;
      // A token whose text is held back, since more may belong to it, is made once more.
      if (token.prompt() || !token.text().empty()) kept_ = {ids_.size(), generated_};
    }
    if (echo_) return;
    auto& tokens = *message->mutable_tokens();
    const auto prompt = std::remove_if(tokens.begin(), tokens.end(),
                                       [](const v1::GeneratedToken& t) { return t.prompt(); });
    tokens.erase(prompt, tokens.end());
  }

  /// Makes the request one for what is missing. False if that is nothing.
  bool GoOn(v1::GenerateRequest* request) {
    ids_.resize(kept_.first);
    generated_ = kept_.second;
    if (ids_.empty()) return true;  // It never began.
    request->mutable_prompt()->Clear();
    request->mutable_prompt()->mutable_token_ids()->Add(ids_.begin(), ids_.end());
    request->set_echo(false);
    request->set_max_tokens(limit_ - generated_);
    return request->max_tokens() > 0;
  }

  int32_t generated() const { return generated_; }

 private:
  const bool echo_;
  int32_t limit_ = 0;
  std::vector<int32_t> ids_;  // Of the prompt and of the text.
  int32_t generated_ = 0;
  std::pair<size_t, int32_t> kept_ = {0, 0};  // How many of both a continuation begins with.
};

/// As a server's death shows in a stream, with and without a proxy between.
bool BrokeOff(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsInternal(status) || absl::IsCancelled(status) ||
         absl::IsUnknown(status);
}

int Run(const Flags& flags, std::stop_token stop) {
  auto prompt = PromptOf(flags);
  if (!prompt.ok()) return Fail(prompt.status(), stop);
  if (absl::Status status = CheckUtf8(*prompt); !status.ok()) {
    return Fail(Annotate(status, "the prompt"), stop);
  }
  ServerFlags hello = flags.server;
  hello.deadline = std::min(hello.deadline, ServerFlags().deadline);
  auto client = Connect(hello, stop);
  if (!client.ok()) return Fail(client.status(), stop);
  auto model = ChooseModel(**client, flags.model, stop);
  if (!model.ok()) return Fail(model.status(), stop);

  v1::GenerateRequest request = ToRequest(flags);
  *request.mutable_model() = *std::move(model);
  request.mutable_prompt()->set_text(*std::move(prompt));
  Show show(flags);
  std::optional<Continuation> continuation;
  if (flags.resume > 0) continuation.emplace(flags.echo, &request);
  bool gone = false;
  bool begun = false;
  const auto take = [&](const v1::GenerateResponse& message) {
    begun = begun || message.tokens_size() > 0;
    v1::GenerateResponse shown = message;
    if (continuation) continuation->Take(&shown);
    gone = !show.Take(shown);
    return !gone;
  };
  absl::Status status;
  for (int left = flags.resume;; --left) {
    status = (*client)->Generate(request, take, {.deadline = flags.server.deadline, .stop = stop});
    if (left == 0 || gone || stop.stop_requested() || !BrokeOff(status)) break;
    if (!continuation->GoOn(&request)) break;
    fmt::print(stderr, "thresher: {}; going on after {} tokens\n", Describe(status),
               continuation->generated());
  }
  if (status.ok() && !show.ended()) status = Internal("the server's answer has no end");
  if (!status.ok() && !gone) show.Failed(status);
  if (const absl::Status output = OutputStatus(); !output.ok()) return Fail(output, {});
  if (stop.stop_requested()) return Fail(status, stop);
  if (status.ok() || gone) return kAllAnswered;
  fmt::print(stderr, "thresher: {}{}\n", Describe(status),
             begun && BrokeOff(status) && flags.resume == 0
                 ? "; the text broke off (--resume N goes on from its tokens)"
                 : "");
  return kSomeFailed;
}

}  // namespace

Command DefineGenerate(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app =
      root.add_subcommand("generate", "Go on from a prompt, token by token (decoder models)");
  AddServerFlags(*app, flags->server);
  AddModelFlags(*app, flags->model);
  app->add_option("PROMPT", flags->prompt,
                  "Without one: --file, else standard input (as '-'); '' starts from nothing")
      ->option_text(" ");
  app->add_option("--file", flags->file, "Read the prompt from a file; '-' is standard input")
      ->option_text("PATH")
      ->group("Input");
  app->add_flag("--truncate", flags->truncate,
                "Cut the beginning of a prompt that is too long instead of failing")
      ->group("Input");

  const auto option = [&](const char* name, auto& value, const char* help, const char* text) {
    return app->add_option(name, value, help)->option_text(text)->group("Text");
  };
  option("--max-tokens", flags->max_tokens,
         "Tokens to generate at most (default: what the context takes, up to 256)", "N");
  option("--temperature", flags->temperature,
         "0 (the default): always the most probable token; higher: more varied", "T");
  option("--top-k", flags->top_k, "Draw from the K most probable tokens", "K");
  option("--top-p", flags->top_p, "Draw from the fewest tokens that have this probability", "P");
  option("--min-p", flags->min_p, "Draw from tokens of this share of the largest probability", "P");
  option("--repetition-penalty", flags->repetition_penalty,
         "Above 1: tokens that were there already become less probable", "R");
  option("--seed", flags->seed, "The same seed gives the same text (default: a random one, told)",
         "S")
      ->check(CLI::NonNegativeNumber);
  option("--stop", flags->stop, "End before this text; may be repeated", "TEXT")
      ->allow_extra_args(false);
  app->add_flag("--ignore-eos", flags->ignore_eos, "Go on after an end-of-text token")
      ->group("Text");
  app->add_flag("--echo", flags->echo, "Begin with the prompt")->group("Text");
  app->add_flag("--logprobs", flags->logprobs, "Show each token with its log-probability")
      ->group("Text");
  option("--top-logprobs", flags->top_logprobs, "With --logprobs: and the N most probable tokens",
         "N");

  app->add_option("--priority", flags->priority, "A higher one is served earlier (default 0)")
      ->option_text("N")
      ->group("Calls");
  app->add_option("--sparsity", flags->sparsity,
                  "What of the cache may be left out, NAME[:key=value,...] (default: nothing)")
      ->option_text("POLICY")
      ->group("Calls");
  app->add_option("--resume", flags->resume,
                  "When the text breaks off, since a server went away, go on from its tokens, N "
                  "times at most (default 0)")
      ->check(CLI::Range(0, 100))
      ->option_text("N")
      ->group("Calls");
  app->add_flag("--explain", flags->explain, "Show what each layer read and did")->group("Calls");
  app->add_flag("--quiet", flags->quiet, "No summary on standard error");
  app->footer(&PolicyKeysText);  // Above the examples.
  app->footer(
      "Examples:\n"
      "  thresher generate --model stories 'Once upon a time'\n"
      "  thresher generate '' --temperature 0.8 --top-p 0.95 --seed 7 --max-tokens 200\n"
      "  thresher generate --file question.txt --stop 'Q:' --json | jq -r 'select(.usage).text'\n");
  return {app, [flags](std::stop_token stop) { return Run(*flags, stop); }};
}

}  // namespace thresher::cli
