// `thresher policies`: all that may stand in --sparsity. Asks no server.
#include <fmt/format.h>

#include <memory>

#include "backend/sparsity/policy_text.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/server_flags.h"

namespace thresher::cli {
namespace {

/// What the table leaves open is null.
Json Text(std::string_view text) {
  return text.empty() || text == "-" ? Json(nullptr) : Json(std::string(text));
}

Json PoliciesJson() {
  Json policies = Json::array();
  for (const PolicySpec& spec : PolicySpecs()) {
    Json keys = Json::array();
    for (const PolicyKey& key : spec.keys) {
      keys.push_back({{"name", key.name},
                      {"range", key.Range()},
                      {"default", Text(key.fallback)},
                      {"unit", Text(key.measure)},
                      {"source", key.source},
                      {"help", key.help}});
    }
    policies.push_back({{"name", spec.name},
                        {"title", spec.title},
                        {"encoders", spec.encoders},
                        {"decoders", spec.decoders},
                        {"keys", std::move(keys)}});
  }
  return policies;
}

}  // namespace

Command DefinePolicies(CLI::App& root) {
  auto json = std::make_shared<bool>(false);
  CLI::App* app = root.add_subcommand("policies", "List what --sparsity can say");
  app->add_flag("--json", *json, "As a JSON list");
  app->footer(
      "Examples:\n"
      "  thresher policies\n"
      "  thresher policies --json\n");
  return {app, [json](std::stop_token) {
            Print(*json ? Dump(PoliciesJson()) + "\n" : PolicyHelpText());
            const absl::Status output = OutputStatus();
            return output.ok() ? kAllAnswered : Fail(output, {});
          }};
}

}  // namespace thresher::cli
