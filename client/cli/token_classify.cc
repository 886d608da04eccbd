// `thresher token-classify`: a label for each token of a text.
#include <fmt/format.h>

#include <memory>

#include "client/cli/text_command.h"

namespace thresher::cli {
namespace {

struct Flags : TextFlags {
  bool special = false;
};

void AddTokens(const v1::TokenClassification& result, Json& json) {
  Json& tokens = json["tokens"] = Json::array();
  for (const v1::TokenLabel& token : result.tokens()) {
    tokens.push_back({{"token", token.token()},
                      {"id", token.token_id()},
                      {"label", token.label()},
                      {"score", JsonFloat(token.score())},
                      {"begin", token.begin()},
                      {"end", token.end()},
                      {"sequence", token.sequence()}});
  }
}

std::string ToText(const Record& record, const v1::TokenClassification& result) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::TokenLabel& token : result.tokens()) {
    rows.push_back({"  " + Printable(token.token()), Printable(token.label()),
                    fmt::format("{:.4f}", token.score()), Bar(token.score(), 10)});
  }
  return Printable(record.text) + "\n" + Table(rows);
}

}  // namespace

Command DefineTokenClassify(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("token-classify", "Label each token (named entities, ...)");
  AddTextFlags(*app, *flags);
  AddPairFlag(*app, *flags);
  AddComputeFlags(*app, *flags);
  app->add_flag("--special", flags->special, "Show [CLS], [SEP] and the like too");
  app->footer(
      "Examples:\n"
      "  thresher token-classify --model ner 'Ada Lovelace wrote it in London.'\n"
      "  thresher token-classify --model ner --file articles.txt --json\n");
  return {app, [flags](std::stop_token stop) {
            TextCommand<v1::TokenClassifyRequest> command;
            *command.prototype.mutable_options() = ToOptions(*flags);
            command.prototype.set_include_special_tokens(flags->special);
            command.add = [](const Record& record, v1::TokenClassifyRequest& request) {
              ToInput(record, *request.add_inputs());
            };
            command.json = [](const auto& result, const auto&, Json& json) {
              AddTokens(result, json);
            };
            command.text = [](const auto& record, const auto& result, const auto&) {
              return ToText(record, result);
            };
            return RunTexts(*flags, command, stop);
          }};
}

}  // namespace thresher::cli
