// `thresher evaluate` on a decoder: perplexity of a text under KV policies, and the bytes of keys
// and values that it took.
#ifndef THRESHER_CLIENT_CLI_EVALUATE_TEXT_H_
#define THRESHER_CLIENT_CLI_EVALUATE_TEXT_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "backend/engine/loaded_model.h"
#include "backend/evaluation/perplexity.h"
#include "client/cli/format.h"
#include "client/cli/plot.h"

namespace thresher::cli {

struct WindowFlags {
  int32_t window = 0;  // Tokens; 0: the model's context.
  std::string document;
  int32_t prompt = 1;
};

/// `prompt`: its default, for people.
void AddWindowFlags(CLI::App& app, WindowFlags& flags, const std::string& prompt);

/// What comes of it: a table, or an object a line, and files where a path is given.
struct TextOutput {
  bool json = false;
  bool quiet = false;
  std::string csv;
  PlotOptions plot;
};

/// Measures each policy, once, after dense.
absl::Status EvaluateText(LoadedModel& model, const std::string& path, int64_t limit,
                          const WindowFlags& flags, std::span<const Sweep> sweeps,
                          const TextOutput& output, std::stop_token stop);

/// {"sparsity", "policy", "perplexity", "loss", "standard_error", "loss_over_dense", "tokens",
/// "windows", "keep": {"kv_read", "kv_held", "score", "value"}, "kv_bytes_per_token": {"dense",
/// "done"}, "kv_bytes_held": {"dense", "done"}, "refetch_share", "tokens_per_second"}.
Json ToJson(const PerplexityResult& result, const PerplexityResult& dense);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_EVALUATE_TEXT_H_
