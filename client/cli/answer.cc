// `thresher answer`: the span of a context that answers a question.
#include <fmt/format.h>

#include <memory>
#include <optional>

#include "client/cli/text_command.h"

namespace thresher::cli {
namespace {

struct Flags : TextFlags {
  std::optional<std::string> context;
  std::optional<std::string> question;
  int top = 1;
  int max_tokens = 30;
};

void AddAnswers(const v1::AnswerResult& result, Json& json) {
  Json& answers = json["answers"] = Json::array();
  for (const v1::AnswerSpan& span : result.answers()) {
    answers.push_back({{"text", span.text()},
                       {"score", JsonFloat(span.score())},
                       {"begin", span.begin()},
                       {"end", span.end()}});
  }
}

std::string ToText(const std::string& question, const v1::AnswerResult& result) {
  std::string out = Printable(question) + "\n";
  if (result.answers().empty()) return out + "  (no answer)\n";
  for (const v1::AnswerSpan& span : result.answers()) {
    out += fmt::format("  {:.4f}  {}  {}\n", span.score(), Bar(span.score(), 10),
                       Printable(span.text()));
  }
  return out;
}

}  // namespace

Command DefineAnswer(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("answer", "Find the answer to a question in a context");
  AddTextFlags(*app, *flags, "QUESTION");
  AddComputeFlags(*app, *flags);
  auto* context = app->add_option("--context", flags->context, "The context of all questions")
                      ->option_text("TEXT")
                      ->group("Input");
  app->add_option("--question", flags->question, "One question; then the texts are contexts")
      ->option_text("TEXT")
      ->group("Input")
      ->excludes(context);
  app->add_option("--top", flags->top, "Answers to each question (default 1)")
      ->check(CLI::PositiveNumber)
      ->option_text("N");
  app->add_option("--max-answer-tokens", flags->max_tokens, "The longest answer (default 30)")
      ->check(CLI::PositiveNumber)
      ->option_text("N");
  app->footer(
      "Examples:\n"
      "  thresher answer --context 'It was built in 1889 in Paris.' 'When?' 'Where?'\n"
      "  thresher answer --question 'Who won?' --file articles.txt --json\n"
      "  thresher answer --file squad.tsv --column question --pair-column context\n");
  return {app, [flags](std::stop_token stop) {
            if (!flags->context && !flags->question && flags->inputs.pair_column.empty()) {
              return Fail(absl::InvalidArgumentError(
                              "a question needs its context: give --context or --question, or "
                              "--column and --pair-column"),
                          {});
            }
            flags->inputs.pair = flags->context ? flags->context : flags->question;
            const bool texts_are_contexts = flags->question.has_value();
            TextCommand<v1::AnswerRequest> command;
            *command.prototype.mutable_options() = ToOptions(*flags);
            command.prototype.set_top(flags->top);
            command.prototype.set_max_answer_tokens(flags->max_tokens);
            command.add = [=](const Record& record, v1::AnswerRequest& request) {
              v1::Question& question = *request.add_questions();
              question.set_question(record.text);
              question.set_context(record.pair.value_or(""));
              if (texts_are_contexts)
                question.mutable_question()->swap(*question.mutable_context());
            };
            command.pair_first = texts_are_contexts;
            command.json = [](const auto& result, const auto&, Json& json) {
              AddAnswers(result, json);
            };
            command.text = [=](const auto& record, const auto& result, const auto&) {
              return ToText(texts_are_contexts ? *record.pair : record.text, result);
            };
            return RunTexts(*flags, command, stop);
          }};
}

}  // namespace thresher::cli
