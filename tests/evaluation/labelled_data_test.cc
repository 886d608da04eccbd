#include "backend/evaluation/labelled_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "backend/evaluation/fingerprint.h"
#include "backend/evaluation/tab_separated.h"
#include "backend/tensor/status.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kLabels = {"World", "Sports", "Sci/Tech"};

auto Parse(std::string_view text, const DataColumns& columns = {},
           Measure measure = Measure::kAccuracy) {
  return ParseLabelledData(text, columns, measure, kLabels);
}

std::string ErrorOf(std::string_view text, const DataColumns& columns = {},
                    Measure measure = Measure::kAccuracy) {
  const auto examples = Parse(text, columns, measure);
  EXPECT_EQ(examples.status().code(), absl::StatusCode::kInvalidArgument);
  return examples.ok() ? "" : Message(examples.status());
}

TEST(TabSeparated, EveryTabBeginsACell) {
  EXPECT_THAT(SplitCells(""), ::testing::ElementsAre(""));
  EXPECT_THAT(SplitCells("a b"), ::testing::ElementsAre("a b"));
  EXPECT_THAT(SplitCells("a\t\tb\t"), ::testing::ElementsAre("a", "", "b", ""));
}

TEST(LabelledData, TextAndLabelWithoutHeader) {
  const auto examples = Parse("one film\t1\nanother\tSci/Tech\nthird\tworld\n");
  ASSERT_TRUE(examples.ok()) << examples.status();
  ASSERT_EQ(examples->size(), 3u);
  EXPECT_EQ((*examples)[0].text, "one film");
  EXPECT_FALSE((*examples)[0].pair.has_value());
  EXPECT_EQ((*examples)[0].gold, 1);
  EXPECT_EQ((*examples)[1].gold, 2);
  EXPECT_EQ((*examples)[2].gold, 0);  // In any case.
}

TEST(LabelledData, AHeaderIsKnownByItsNames) {
  const auto examples = Parse("\xEF\xBB\xBFidx\tSentence\tLabel\r\n0\ta film\t2\r\n\r\n");
  ASSERT_TRUE(examples.ok()) << examples.status();
  ASSERT_EQ(examples->size(), 1u);
  EXPECT_EQ((*examples)[0].text, "a film");
  EXPECT_EQ((*examples)[0].gold, 2);
}

TEST(LabelledData, PairsByTheirUsualNames) {
  const auto examples =
      Parse("index\tsource1\tsentence1\tsentence2\tscore\n7\tx\tone\ttwo\t4.750\n", {},
            Measure::kSimilarity);
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_EQ((*examples)[0].text, "one");
  EXPECT_EQ((*examples)[0].pair, "two");
  EXPECT_DOUBLE_EQ((*examples)[0].gold, 4.75);
}

TEST(LabelledData, ThreeColumnsAreAPairAndItsLabel) {
  const auto examples = Parse("one\ttwo\t0\n");
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_EQ((*examples)[0].pair, "two");
}

TEST(LabelledData, ColumnsByNumberAndByName) {
  const auto by_number = Parse("x\t1\ty\tthe text\n", {.text = "4", .label = "2"});
  ASSERT_TRUE(by_number.ok()) << by_number.status();
  EXPECT_EQ((*by_number)[0].text, "the text");
  EXPECT_FALSE((*by_number)[0].pair.has_value());
  const auto by_name = Parse("a\tb\tc\nx\t1\ty\n", {.text = "c", .pair = "a", .label = "b"});
  ASSERT_TRUE(by_name.ok()) << by_name.status();
  EXPECT_EQ((*by_name)[0].text, "y");
  EXPECT_EQ((*by_name)[0].pair, "x");
  // Numbers, but the first line is a header all the same.
  const auto skipped = Parse("what\twhich\nx\t1\n", {.text = "1", .label = "2", .header = true});
  EXPECT_FALSE(skipped.ok() && skipped->size() != 1);
}

TEST(LabelledData, ALabelByNameBeatsANumber) {
  const std::vector<std::string> labels = {"1", "0"};
  const auto examples = ParseLabelledData("a\t1\nb\t0\n", {}, Measure::kAccuracy, labels);
  ASSERT_TRUE(examples.ok());
  EXPECT_EQ((*examples)[0].gold, 0);
  EXPECT_EQ((*examples)[1].gold, 1);
}

TEST(LabelledData, ErrorsNameLineAndColumn) {
  EXPECT_THAT(ErrorOf("a\t1\nb\t3\n"), HasSubstr("line 2, column 2: '3' is no label"));
  EXPECT_THAT(ErrorOf("a\t1\nb\t3\n"), HasSubstr("0 to 2, or World, Sports, Sci/Tech"));
  EXPECT_THAT(ErrorOf("a\t1\nb\t-1\n"), HasSubstr("line 2, column 2"));
  EXPECT_THAT(ErrorOf("a\t1\n\nb\n"), HasSubstr("line 3: has 1 columns, column 2 is needed"));
  EXPECT_THAT(ErrorOf("a\t1\n \t1\n"), HasSubstr("line 2, column 1: the text is empty"));
  EXPECT_THAT(ErrorOf("a\t1\nx\xFFy\t1\n"), HasSubstr("line 2, column 1: byte 1"));
  EXPECT_THAT(ErrorOf("a\tb\tnan\n", {}, Measure::kSimilarity), HasSubstr("line 1, column 3"));
  EXPECT_THAT(ErrorOf("a\tb\t1e999\n", {}, Measure::kSimilarity), HasSubstr("column 3"));
}

TEST(LabelledData, WhatCanNotBeGuessedIsAsked) {
  EXPECT_THAT(ErrorOf("a\tb\tc\td\n"), HasSubstr("which is the label?"));
  EXPECT_THAT(ErrorOf("a\tb\tlabel\n1\t2\t0\n", {.label = "label"}),
              HasSubstr("which column is the text?"));
  EXPECT_THAT(ErrorOf("sentence\tlabel\nx\t0\n", {.label = "gold"}), HasSubstr("no column 'gold'"));
  EXPECT_THAT(ErrorOf("a\t0\n", {.label = "5"}), HasSubstr("column 5"));
  EXPECT_THAT(ErrorOf("a\t0\n", {.label = "0"}), HasSubstr("counted from 1"));
  EXPECT_THAT(ErrorOf("a\t0\n", {.text = "2", .label = "2"}), HasSubstr("different columns"));
  EXPECT_THAT(ErrorOf("a\t0\n", {.label = "label", .header = false}), HasSubstr("by name"));
  EXPECT_THAT(ErrorOf("a\t0\n", {}, Measure::kSimilarity), HasSubstr("second text"));
}

TEST(LabelledData, NothingInItIsAnError) {
  for (const std::string_view text : {"", "\n\n", "sentence\tlabel\n", "\xEF\xBB\xBF"}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("no example")) << text;
  }
}

TEST(LabelledData, AccuracyNeedsClasses) {
  EXPECT_FALSE(ParseLabelledData("a\t0\n", {}, Measure::kAccuracy, {}).ok());
}

TEST(LabelledData, MessagesAreShortAndHarmless) {
  const std::string message = ErrorOf("a\t" + std::string(5000, 'x') + "\x1b[2J\n");
  EXPECT_LT(message.size(), 400u);
  EXPECT_THAT(ErrorOf("a\t\x1b[2J\n"), ::testing::Not(HasSubstr("\x1b")));
}

TEST(LabelledData, ALimitTakesExamplesEvenly) {
  LabelledData data;
  for (int i = 0; i < 10; ++i) data.examples.push_back({.text = std::to_string(i)});
  LabelledData same = data;
  same.Limit(0);
  EXPECT_EQ(same.examples.size(), 10u);
  same.Limit(100);
  EXPECT_EQ(same.examples.size(), 10u);
  data.Limit(4);
  std::string taken;
  for (const LabelledExample& example : data.examples) taken += example.text;
  EXPECT_EQ(taken, "0257");
}

TEST(LabelledData, FilesAreNamedInErrorsAndFingerprinted) {
  const testing::TempDir dir;
  const std::string path = (dir.path() / "d.tsv").string();
  std::ofstream(path) << "a\t0\n";
  const auto data = ReadLabelledData(path, {}, Measure::kAccuracy, kLabels);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->name, "d.tsv");
  EXPECT_EQ(data->sha256, Sha256("a\t0\n"));
  std::ofstream(path) << "a\tx\n";
  const auto broken = ReadLabelledData(path, {}, Measure::kAccuracy, kLabels);
  EXPECT_THAT(Message(broken.status()), HasSubstr(path + ": line 1, column 2"));
  EXPECT_EQ(ReadLabelledData(path + "x", {}, Measure::kAccuracy, kLabels).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace thresher
