// `thresher classify`: a label for each text or text pair.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "client/cli/text_command.h"

namespace thresher::cli {
namespace {

struct Flags : TextFlags {
  bool raw_scores = false;
  int top = 1;
};

void AddScores(const v1::Classification& result, const v1::ClassifyResponse& response, Json& json) {
  json["label"] = result.label();
  Json& scores = json["scores"] = Json::object();
  for (int i = 0; i < std::min(result.scores_size(), response.labels_size()); ++i) {
    scores[response.labels(i)] = JsonFloat(result.scores(i));
  }
}

std::string ToText(const Flags& flags, const Record& record, const v1::Classification& result,
                   const v1::ClassifyResponse& response) {
  constexpr int kBar = 10;
  int width = 0;
  for (const std::string& label : response.labels())
    width = std::max(width, Width(Printable(label)));
  std::vector<int> order(std::min(result.scores_size(), response.labels_size()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return result.scores(a) > result.scores(b); });
  order.resize(std::min<size_t>(order.size(), flags.top));
  std::string text = Printable(record.text);
  if (record.pair) text += " | " + Printable(*record.pair);
  std::string out;
  for (size_t i = 0; i < order.size(); ++i) {
    std::string line = Pad(Printable(response.labels(order[i])), width);
    const float score = result.scores(order[i]);
    line += flags.raw_scores ? fmt::format("  {:8.4f}  ", score)
                             : fmt::format("  {:.4f}  {}  ", score, Bar(score, kBar));
    if (const int terminal = TerminalWidth(); terminal > 0) {
      text = Shorten(text, std::max(20, terminal - Width(line)));
    }
    // The text stands beside its best label only.
    if (i == 0) line += text;
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace

Command DefineClassify(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("classify", "Label texts or text pairs");
  AddTextFlags(*app, *flags);
  AddPairFlag(*app, *flags);
  AddComputeFlags(*app, *flags);
  app->add_flag("--raw-scores", flags->raw_scores, "Logits instead of probabilities");
  app->add_option("--top", flags->top, "Labels to show for each text (default 1; --json has all)")
      ->check(CLI::PositiveNumber)
      ->option_text("N");
  app->footer(
      "Examples:\n"
      "  thresher classify 'a gripping, moving film'\n"
      "  thresher classify --file reviews.txt --json > answers.jsonl\n"
      "  thresher classify --file pairs.tsv --column premise --pair-column hypothesis --top 3\n"
      "  tail -f comments.log | thresher classify --model sst2-mini\n");
  return {app, [flags](std::stop_token stop) {
            TextCommand<v1::ClassifyRequest> command;
            *command.prototype.mutable_options() = ToOptions(*flags);
            command.prototype.set_raw_scores(flags->raw_scores);
            command.add = [](const Record& record, v1::ClassifyRequest& request) {
              ToInput(record, *request.add_inputs());
            };
            command.json = &AddScores;
            command.text = [&](const auto& record, const auto& result, const auto& response) {
              return ToText(*flags, record, result, response);
            };
            return RunTexts(*flags, command, stop);
          }};
}

}  // namespace thresher::cli
