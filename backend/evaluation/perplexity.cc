#include "backend/evaluation/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "backend/device/simulator/simulation.h"
#include "backend/engine/sampler.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// One window on its way.
struct Window {
  std::span<const int32_t> ids;
  CachedTextPtr text;
  size_t next = 0;  // The first token that has not been run.
  double loss = 0;
};

/// The documents of a text, without the white space at their ends.
std::vector<std::string_view> Documents(std::string_view text, const std::string& beginning) {
  std::vector<size_t> begins;
  if (text.starts_with(beginning)) begins.push_back(0);
  const std::string at_line = "\n" + beginning;
  for (size_t at = text.find(at_line); at != text.npos; at = text.find(at_line, at + 1)) {
    begins.push_back(at + 1);
  }
  std::vector<std::string_view> documents;
  for (size_t i = 0; i < begins.size(); ++i) {
    const size_t end = i + 1 < begins.size() ? begins[i + 1] : text.size();
    const std::string_view document = text.substr(begins[i], end - begins[i]);
    documents.push_back(document.substr(0, document.find_last_not_of(" \t\r\n") + 1));
  }
  return documents;
}

/// Runs windows together, from their prompts to their ends.
class Group {
 public:
  /// `first`: the number of the first window.
  Group(DecoderEngine& engine, const PerplexityOptions& options, size_t first, int64_t* scored)
      : engine_(engine), options_(options), first_(first), scored_(scored) {}

  absl::Status Start(std::shared_ptr<const Policy> policy,
                     std::span<const std::vector<int32_t>> windows) {
    for (const std::vector<int32_t>& ids : windows) {
      const auto tokens = static_cast<int32_t>(ids.size());
      const size_t bytes = engine_.CacheBytes(policy.get(), options_.prompt, tokens);
      Window window{.ids = ids};
      THRESHER_ASSIGN_OR_RETURN(window.text, engine_.Start(policy, {}, bytes));
      windows_.push_back(std::move(window));
    }
    return absl::OkStatus();
  }

  absl::Status Run() {
    while (true) {
      parts_.clear();
      stepping_.clear();
      for (Window& window : windows_) {
        // The last token predicts nothing that is known.
        if (window.next + 1 >= window.ids.size()) continue;
        const bool prompt = window.next == 0;
        const size_t count = prompt ? static_cast<size_t>(options_.prompt) : 1;
        parts_.push_back({.text = window.text.get(),
                          .ids = window.ids.subspan(window.next, count),
                          .prompt_tokens = prompt ? options_.prompt : 0,
                          .logits = StepPart::Logits::kLast});
        stepping_.push_back(&window);
        window.next += count;
      }
      if (parts_.empty()) return absl::OkStatus();
      bool finite = true;
      THRESHER_RETURN_IF_ERROR(
          engine_.Step(parts_, [&](size_t part, int32_t, std::span<const float> logits) {
            Window& window = *stepping_[part];
            const double log_p = LogProbability(logits, window.ids[window.next]);
            finite &= std::isfinite(log_p);
            window.loss -= log_p;
            ++*scored_;
            if (options_.on_logits != nullptr) {
              options_.on_logits(first_ + static_cast<size_t>(&window - windows_.data()),
                                 window.next, logits);
            }
          }));
      if (!finite) return Internal("the model's answer is not finite");
      if (options_.progress != nullptr && !options_.progress(*scored_)) {
        return Cancelled("stopped after {} tokens", *scored_);
      }
    }
  }

  std::span<const Window> windows() const { return windows_; }

 private:
  DecoderEngine& engine_;
  const PerplexityOptions& options_;
  const size_t first_;
  int64_t* const scored_;
  std::vector<Window> windows_;
  std::vector<StepPart> parts_;
  std::vector<Window*> stepping_;
};

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(const Tokenizer& tokenizer,
                                                             const DecoderEngine& engine,
                                                             std::string_view text,
                                                             const WindowOptions& options) {
  const int32_t length = options.tokens > 0 ? options.tokens : engine.max_tokens();
  if (length < 2 || length > engine.max_tokens()) {
    return InvalidArgument("windows of {} tokens; expected 2 to {}, the model's context", length,
                           engine.max_tokens());
  }
  const std::optional<int32_t> bos = engine.config().bos;
  const size_t fresh = static_cast<size_t>(length) - (bos ? 1 : 0);
  std::vector<std::vector<int32_t>> windows;
  const auto add = [&](std::span<const EncodedToken> tokens) {
    std::vector<int32_t>& window = windows.emplace_back();
    if (bos) window.push_back(*bos);
    for (const EncodedToken& token : tokens) window.push_back(token.id);
  };
  if (options.document.empty()) {
    THRESHER_ASSIGN_OR_RETURN(const Encoding encoding,
                              tokenizer.Encode(text, {.add_special_tokens = false}));
    const std::span<const EncodedToken> tokens = encoding.tokens;
    for (size_t begin = 0; begin + fresh <= tokens.size(); begin += fresh) {
      add(tokens.subspan(begin, fresh));
    }
    if (windows.empty()) {
      return InvalidArgument("the text has {} tokens, not a whole window of {}", tokens.size(),
                             length);
    }
  } else {
    for (const std::string_view document : Documents(text, options.document)) {
      THRESHER_ASSIGN_OR_RETURN(const Encoding encoding,
                                tokenizer.Encode(document, {.add_special_tokens = false}));
      const std::span<const EncodedToken> tokens = encoding.tokens;
      add(tokens.first(std::min(fresh, tokens.size())));
      if (windows.back().size() < 2) windows.pop_back();  // It predicts nothing.
    }
    if (windows.empty()) return InvalidArgument("no line begins with '{}'", options.document);
  }
  const auto all = static_cast<int64_t>(windows.size());
  if (options.limit > 0 && options.limit < all) {
    for (int64_t i = 0; i < options.limit; ++i) {
      std::swap(windows[static_cast<size_t>(i)],
                windows[static_cast<size_t>(i * all / options.limit)]);
    }
    windows.resize(static_cast<size_t>(options.limit));
  }
  return windows;
}

absl::StatusOr<PerplexityResult> MeasurePerplexity(DecoderEngine& engine,
                                                   std::span<const std::vector<int32_t>> windows,
                                                   std::string_view sparsity,
                                                   const PerplexityOptions& options) {
  THRESHER_ASSIGN_OR_RETURN(std::shared_ptr<const Policy> policy, engine.ParsePolicy(sparsity));
  for (const std::vector<int32_t>& window : windows) {
    THRESHER_RETURN_IF_ERROR(engine.ValidatePrompt(window));
    if (options.prompt < 1 || static_cast<size_t>(options.prompt) >= window.size()) {
      return InvalidArgument("a prompt of {} tokens in a window of {}; expected 1 to {}",
                             options.prompt, window.size(), window.size() - 1);
    }
  }
  PerplexityResult result{.sparsity = std::string(sparsity), .policy = policy->text()};
  std::vector<std::pair<double, double>> sums;  // Of each window: its loss, its scored tokens.
  const auto start = std::chrono::steady_clock::now();
  const auto batch = static_cast<size_t>(std::max(options.batch, 1));
  for (size_t first = 0; first < windows.size(); first += batch) {
    Group group(engine, options, first, &result.tokens);
    THRESHER_RETURN_IF_ERROR(
        group.Start(policy, windows.subspan(first, std::min(batch, windows.size() - first))));
    THRESHER_RETURN_IF_ERROR(group.Run());
    for (const Window& window : group.windows()) {
      const v1::PruningReport report = DecoderEngine::Report(*window.text);
      AddWork(report.decode(), &result.decode);
      if (report.has_simulation()) AddSimulation(report.simulation(), &result.simulation);
      result.held.set_dense(result.held.dense() + report.kv_held().dense());
      result.held.set_done(result.held.done() + report.kv_held().done());
      const auto scored = static_cast<double>(window.ids.size()) - options.prompt;
      result.steps += static_cast<int64_t>(scored) - 1;
      result.loss += window.loss;
      sums.emplace_back(window.loss, scored);
      ++result.windows;
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.loss /= static_cast<double>(std::max<int64_t>(result.tokens, 1));
  if (const auto n = static_cast<double>(sums.size()); n > 1) {
    // Tokens of a window belong together; windows are independent (the ratio's linearised error).
    double squares = 0.0;
    for (const auto& [loss, scored] : sums) {
      squares += (loss - result.loss * scored) * (loss - result.loss * scored);
    }
    result.standard_error =
        std::sqrt(squares * n / (n - 1)) / static_cast<double>(std::max<int64_t>(result.tokens, 1));
  }
  return result;
}

}  // namespace thresher
