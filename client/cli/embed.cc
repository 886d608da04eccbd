// `thresher embed`: a vector for each text.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <memory>
#include <optional>

#include "client/cli/text_command.h"

namespace thresher::cli {
namespace {

struct Flags : TextFlags {
  v1::EmbedRequest::Pooling pooling = v1::EmbedRequest::POOLING_DEFAULT;
  std::optional<bool> normalize;
};

std::string ToText(const Record& record, const v1::Embedding& result) {
  constexpr int kShown = 6;
  double squares = 0;
  std::string values;
  for (int i = 0; i < result.values_size(); ++i) {
    squares += static_cast<double>(result.values(i)) * result.values(i);
    if (i < kShown) values += fmt::format("{:8.4f}", result.values(i));
  }
  const std::string line =
      fmt::format("{} values, length {:.4f}:{}{}  ", result.values_size(), std::sqrt(squares),
                  values, result.values_size() > kShown ? " ..." : "");
  std::string text = Printable(record.text);
  if (const int terminal = TerminalWidth(); terminal > 0) {
    text = Shorten(text, std::max(20, terminal - Width(line)));
  }
  return line + text + "\n";
}

}  // namespace

Command DefineEmbed(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("embed", "Turn texts into vectors");
  AddTextFlags(*app, *flags);
  AddPairFlag(*app, *flags);
  AddComputeFlags(*app, *flags);
  app->add_option("--pooling", flags->pooling, "cls or mean; default: what the model's files say")
      ->transform(CLI::CheckedTransformer(std::map<std::string, v1::EmbedRequest::Pooling>{
          {"default", v1::EmbedRequest::POOLING_DEFAULT},
          {"cls", v1::EmbedRequest::POOLING_CLS},
          {"mean", v1::EmbedRequest::POOLING_MEAN}}))
      ->option_text("cls|mean");
  app->add_flag_function(
      "--normalize,!--no-normalize", [flags](int64_t count) { flags->normalize = count > 0; },
      "Vectors of length one, or not (default: what the model's files say)");
  app->footer(
      "Examples:\n"
      "  thresher embed 'a sentence' 'another one'\n"
      "  thresher embed --file sentences.txt --json --normalize > vectors.jsonl\n");
  return {app, [flags](std::stop_token stop) {
            TextCommand<v1::EmbedRequest> command;
            *command.prototype.mutable_options() = ToOptions(*flags);
            command.prototype.set_pooling(flags->pooling);
            if (flags->normalize) command.prototype.set_normalize(*flags->normalize);
            command.add = [](const Record& record, v1::EmbedRequest& request) {
              ToInput(record, *request.add_inputs());
            };
            command.json = [](const auto& result, const auto&, Json& json) {
              json["embedding"] = JsonFloats(result.values());
            };
            command.text = [](const auto& record, const auto& result, const auto&) {
              return ToText(record, result);
            };
            return RunTexts(*flags, command, stop);
          }};
}

}  // namespace thresher::cli
