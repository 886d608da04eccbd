// `thresher tokenize`: what a model sees of a text.
#include <fmt/format.h>

#include <memory>

#include "client/cli/text_command.h"

namespace thresher::cli {
namespace {

struct Flags : TextFlags {
  bool special = true;
};

void AddTokens(const v1::Tokenization& result, Json& json) {
  Json ids = Json::array(), tokens = Json::array(), types = Json::array(), offsets = Json::array();
  for (const v1::Token& token : result.tokens()) {
    ids.push_back(token.id());
    tokens.push_back(token.text());
    types.push_back(token.type_id());
    offsets.push_back({token.begin(), token.end()});
  }
  json["ids"] = std::move(ids);
  json["tokens"] = std::move(tokens);
  json["type_ids"] = std::move(types);
  json["offsets"] = std::move(offsets);
}

/// The pieces, and each one's id below it.
std::string ToText(const v1::Tokenization& result) {
  std::vector<std::vector<std::string>> rows(2);
  for (const v1::Token& token : result.tokens()) {
    rows[0].push_back(Printable(token.text()));
    rows[1].push_back(fmt::format("{}", token.id()));
  }
  return Table(rows);
}

}  // namespace

Command DefineTokenize(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("tokenize", "Show the tokens and ids of texts");
  AddTextFlags(*app, *flags);
  AddPairFlag(*app, *flags);
  app->add_flag("!--no-special", flags->special, "Without [CLS], [SEP] and the like");
  app->footer(
      "Examples:\n"
      "  thresher tokenize 'unflinchingly bleak'\n"
      "  thresher tokenize --file corpus.txt --json --batch 256 > ids.jsonl\n");
  return {
      app, [flags](std::stop_token stop) {
        TextCommand<v1::TokenizeRequest> command;
        command.prototype.set_truncate(flags->truncate);
        command.prototype.set_add_special_tokens(flags->special);
        command.add = [](const Record& record, v1::TokenizeRequest& request) {
          ToInput(record, *request.add_inputs());
        };
        command.json = [](const auto& result, const auto&, Json& json) { AddTokens(result, json); };
        command.text = [](const auto&, const auto& result, const auto&) { return ToText(result); };
        return RunTexts(*flags, command, stop);
      }};
}

}  // namespace thresher::cli
