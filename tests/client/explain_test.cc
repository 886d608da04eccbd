#include "client/cli/explain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>
#include <vector>

namespace thresher::cli {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

struct Piece {
  std::string text;
  int sequence, begin, end, layers;
};

/// An answer of `layers` layers whose tokens went through so many.
v1::ResultInfo Explained(int layers, const std::vector<Piece>& pieces) {
  v1::ResultInfo info;
  v1::PruningReport& report = *info.mutable_report();
  report.set_policy("spatten:final=0.5");
  for (const Piece& piece : pieces) {
    v1::Token& token = *info.add_pieces();
    token.set_text(piece.text);
    token.set_sequence(piece.sequence);
    token.set_begin(piece.begin);
    token.set_end(piece.end);
    report.add_token_layers(piece.layers);
  }
  for (int l = 0; l < layers; ++l) {
    auto* tokens = report.add_layers()->mutable_tokens();
    tokens->set_dense(static_cast<int64_t>(pieces.size()));
    for (const Piece& piece : pieces) tokens->set_done(tokens->done() + (piece.layers > l));
  }
  return info;
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

TEST(ExplainText, ShowsTheTextAsItWasSentWithTheLayerOfEachDrop) {
  const std::string text = "An  unhappy film";
  const v1::ResultInfo info = Explained(3, {{"[CLS]", -1, 0, 0, 3},
                                            {"an", 0, 0, 2, 1},
                                            {"un", 0, 4, 6, 3},
                                            {"##happy", 0, 6, 11, 2},
                                            {"film", 0, 12, 16, 3},
                                            {"[SEP]", -1, 0, 0, 2}});
  const std::string shown = ExplainText(text, "", info, false);
  EXPECT_THAT(shown, StartsWith("    [CLS] {An|1}  un{happy|2} film {[SEP]|2}\n"
                                "    ({word|N}: dropped after layer N of 3; the others stayed)\n"));
  EXPECT_THAT(shown, HasSubstr("    layer  tokens"));
  EXPECT_THAT(shown, HasSubstr("    3      3/6 "));
  EXPECT_THAT(shown, HasSubstr("    policy spatten:final=0.5\n"));
  EXPECT_THAT(shown, Not(HasSubstr("\x1b")));
}

TEST(ExplainText, ColoursWhatStayedBoldAndTheRestPalerTheEarlierItWent) {
  const v1::ResultInfo info =
      Explained(3, {{"a", 0, 0, 1, 1}, {"b", 0, 2, 3, 2}, {"c", 0, 4, 5, 3}});
  EXPECT_THAT(FirstLine(ExplainText("a b c", "", info, true)),
              ::testing::MatchesRegex("    .\\[38;5;238ma.*.\\[0m .\\[38;5;250mb.*.\\[0m "
                                      ".\\[1mc.\\[0m"));
}

TEST(ExplainText, PiecesOfOneCharacterShowItOnce) {
  // A byte-level tokenizer cuts the euro sign into three.
  const v1::ResultInfo info = Explained(
      4, {{"5", 0, 0, 1, 4}, {"\xE2", 0, 1, 4, 1}, {"\x82", 0, 1, 4, 3}, {"\xAC", 0, 1, 4, 2}});
  EXPECT_EQ(FirstLine(ExplainText("5\xE2\x82\xAC", "", info, false)), "    5{\xE2\x82\xAC|3}");
}

TEST(ExplainText, PiecesOfAWordThatWentTogetherAreOne) {
  const v1::ResultInfo info = Explained(
      3, {{"un", 0, 0, 2, 2}, {"##ha", 0, 2, 4, 2}, {"##ppy", 0, 4, 7, 3}, {"so", 0, 8, 10, 3}});
  EXPECT_EQ(FirstLine(ExplainText("unhappy so", "", info, false)), "    {unha|2}ppy so");
}

TEST(ExplainText, PairsFollowEachOther) {
  const v1::ResultInfo info = Explained(
      2, {{"[CLS]", -1, 0, 0, 2}, {"who", 0, 0, 3, 2}, {"[SEP]", -1, 0, 0, 2}, {"me", 1, 1, 3, 1}});
  EXPECT_EQ(FirstLine(ExplainText("who", " me", info, false)), "    [CLS] who [SEP]  {me|1}");
}

TEST(ExplainText, NothingDroppedIsSaid) {
  EXPECT_THAT(ExplainText("a", "", Explained(2, {{"a", 0, 0, 1, 2}}), false),
              StartsWith("    a\n    (every token stayed)\n"));
}

TEST(ExplainText, DrivesNoTerminalAndSurvivesNonsense) {
  const std::string text = "a\x1b[31m\nb";
  const v1::ResultInfo odd = Explained(2, {{"x", 0, 0, 7, 2},
                                           {"y", 0, -5, 100000, 2},
                                           {"z", 7, 3, 1, 1},
                                           {"\x1b]0;t\x07", -1, 0, 0, 1}});
  const std::string shown = ExplainText(text, "", odd, false);
  EXPECT_THAT(shown, Not(HasSubstr("\x1b")));
  EXPECT_THAT(shown, Not(HasSubstr("\x07")));

  v1::ResultInfo info = Explained(2, {{"a", 0, 0, 1, 2}});
  info.clear_pieces();  // An older server.
  EXPECT_THAT(ExplainText("a", "", info, false), StartsWith("    layer"));
  EXPECT_EQ(ExplainText("a", "", {}, false), "");
}

TEST(ExplainText, SaysWhatAPredictionAddedWhereThereWasOne) {
  v1::ResultInfo info = Explained(1, {{"a", 0, 0, 1, 1}});
  EXPECT_THAT(ExplainText("a", "", info, false), Not(HasSubstr("predicted")));
  info.mutable_report()->mutable_total()->set_predicted_rows(84);
  info.mutable_report()->mutable_total()->set_predicted_scores(294);
  EXPECT_THAT(ExplainText("a", "", info, false),
              EndsWith("\n    predicted besides: 84 rows of Q and K, 294 scores\n"));
}

TEST(ExplainText, TheSinkIsShownOnlyWhereItWasMeasured) {
  v1::ResultInfo info = Explained(1, {{"a", 0, 0, 1, 1}});
  info.mutable_report()->set_attention_entropy(0.5);
  EXPECT_THAT(ExplainText("a", "", info, false), EndsWith("; entropy 0.50 nats\n"));
  info.mutable_report()->set_collapsed_heads(0.25);
  info.mutable_report()->set_overloaded_heads(0.5);
  EXPECT_THAT(ExplainText("a", "", info, false),
              EndsWith("; entropy 0.50 nats, 25 % of the heads collapsed, 50 % overloaded\n"));
  info.mutable_report()->clear_collapsed_heads();
  info.mutable_report()->set_sink_share(0.25);
  info.mutable_report()->set_sink_heads(0.5);
  EXPECT_THAT(ExplainText("a", "", info, false),
              EndsWith("; entropy 0.50 nats; 25.0 % on the first token, the sink of 50 % of the "
                       "heads\n"));
}

TEST(UseColor, FollowsTheFlagThenTheEnvironment) {
  setenv("NO_COLOR", "1", 1);
  EXPECT_TRUE(UseColor(ColorMode::kAlways));
  EXPECT_FALSE(UseColor(ColorMode::kAuto));
  EXPECT_FALSE(UseColor(ColorMode::kNever));
  unsetenv("NO_COLOR");
  EXPECT_FALSE(UseColor(ColorMode::kNever));
}

}  // namespace
}  // namespace thresher::cli
