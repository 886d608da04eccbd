#include "client/cli/load_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/load_report_html.h"

namespace thresher::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr absl::Duration Ms(int64_t n) { return absl::Milliseconds(n); }

/// A hundred answers of 1 to 100 ms, of which the server says nothing, and four refusals.
load::LoadReport Report() {
  load::LoadReport report;
  report.server = "127.0.0.1:8001";
  report.parts = {"classify m"};
  report.bound = load::Bound{.percentile = 0.9, .limit = Ms(50)};
  load::LevelReport level = {.level = {.name = "concurrency 3", .concurrency = 3}};
  load::RunResult& run = level.run;
  for (int i = 1; i <= 100; ++i) run.all.Add({.received = Ms(i)}, Ms(0), report.bound);
  for (int i = 0; i < 4; ++i) {
    run.all.Add(
        {.code = absl::StatusCode::kResourceExhausted, .message = "full", .received = Ms(3)}, Ms(0),
        report.bound);
  }
  run.due = run.sent = 104;
  run.throughput = 50;
  run.goodput = 25;
  run.offered_rate = 52;
  run.verdict = Judge(*report.bound, 104, 54);
  level.split = run.all.MeanSplit();
  report.levels.push_back(std::move(level));
  return report;
}

TEST(LoadFormatTest, TimesHaveAUnitAndThreeDigits) {
  EXPECT_EQ(TimeText(absl::ZeroDuration()), "0 us");
  EXPECT_EQ(TimeText(absl::Microseconds(12)), "12 us");
  EXPECT_EQ(TimeText(absl::Microseconds(3456)), "3.46 ms");
  EXPECT_EQ(TimeText(Ms(34)), "34.0 ms");
  EXPECT_EQ(TimeText(Ms(345)), "345 ms");
  EXPECT_EQ(TimeText(absl::Seconds(3.456)), "3.46 s");
}

TEST(LoadFormatTest, WhatTheServerDoesNotTellIsNull) {
  const load::LoadReport report = Report();
  const Json json = ToJson(report, report.levels[0]);
  EXPECT_EQ(json["split"]["queue"], nullptr);
  EXPECT_EQ(json["split"]["network"], nullptr);
  EXPECT_EQ(json["split"]["client"], 0);
  EXPECT_FALSE(json.contains("first_token"));
  EXPECT_FALSE(json.contains("accuracy"));
}

TEST(LoadFormatTest, NumbersAreThoseByHand) {
  const load::LoadReport report = Report();
  const Json json = ToJson(report, report.levels[0]);
  EXPECT_NEAR(json["latency"]["p50"], 0.051, 0.051 * 0.008);
  EXPECT_EQ(json["latency"]["max"], 0.1);
  EXPECT_DOUBLE_EQ(json["latency"]["mean"], 0.0505);
  EXPECT_EQ(json["outcomes"]["ok"], 100);
  EXPECT_EQ(json["outcomes"]["resource_exhausted"], 4);
  EXPECT_EQ(json["errors"]["resource_exhausted"], "full");
  EXPECT_EQ(json["refusal_latency"]["max"], 0.003);
  EXPECT_EQ(json["bound"]["late"], 54);
  EXPECT_EQ(json["bound"]["kept"], false);
  EXPECT_EQ(json["generator_limited"], false);
  // Of 104 with 4 endless ones p95 can't be promised, p50 can.
  EXPECT_EQ(json["confidence"]["p95"]["at_most"], nullptr);
  EXPECT_GT(json["confidence"]["p50"]["at_most"], 0.051);
}

TEST(LoadFormatTest, TheTableAndItsNotesSayTheSame) {
  load::LoadReport report = Report();
  report.levels[0].limits = {"it was tired"};
  const std::string text = ToText(report);
  EXPECT_THAT(text, AllOf(StartsWith("LOAD"), HasSubstr("concurrency 3  52.0       50.0"),
                          HasSubstr("bound p90 <= 50.0 ms: broken, 54 of 104 late"),
                          HasSubstr("4 RESOURCE_EXHAUSTED (p50 3.0"),
                          HasSubstr("what this server does not tell"),
                          HasSubstr("GENERATOR LIMITED: it was tired")));
}

TEST(LoadFormatTest, AccuracyHasItsExactInterval) {
  load::RunResult run;
  EXPECT_FALSE(AccuracyOf(run));
  run.all.labelled = 10;
  run.all.right = 10;
  const auto accuracy = AccuracyOf(run);
  EXPECT_EQ(accuracy->value, 1);
  EXPECT_EQ(accuracy->high, 1);
  EXPECT_NEAR(accuracy->low, 0.6915, 1e-4);  // 0.025^(1/10).
}

TEST(LoadFormatTest, APeakSaysWhatEndedIt) {
  load::LoadReport report = Report();
  report.levels[0].level = load::LevelOfRate(120);
  EXPECT_EQ(PeakText(report, {.level = 0, .ended_by = "server"}), "peak: 120.0/s");
  EXPECT_THAT(PeakText(report, {.level = 0, .ended_by = "generator"}), HasSubstr("or more"));
  EXPECT_THAT(PeakText(report, {.sparsity = "dense"}), HasSubstr("no peak of dense"));
  EXPECT_EQ(ToJson(report, {.level = 0, .ended_by = "server"})["peak"]["rate"], 120);
}

TEST(LoadFormatTest, NothingAHostileServerSaysIsMarkup) {
  load::LoadReport report = Report();
  report.server_version = "<script>alert(1)</script>";
  report.parts = {"classify <img src=x>"};
  report.command = "thresher load '</pre>'";
  report.levels[0].run.all.messages[absl::StatusCode::kResourceExhausted] = "<b>\x1b[2J";
  const std::string html = ToHtml(report);
  for (const char* part : {"<script", "<img", "</pre>'", "<b>", "\x1b"}) {
    EXPECT_THAT(html, Not(HasSubstr(part)));
  }
  EXPECT_THAT(ToText(report), Not(HasSubstr("\x1b")));
}

TEST(LoadFormatTest, APageOfNothingIsAPage) {
  load::LoadReport report;
  report.levels.emplace_back();
  EXPECT_THAT(ToHtml(report), HasSubstr("</html>"));
  EXPECT_THAT(ToText(report), StartsWith("LOAD"));
  EXPECT_EQ(ToJson(report, report.levels[0])["latency"]["p50"], nullptr);
}

TEST(LoadFormatTest, TheLiveLineSaysHowItGoes) {
  load::LiveView view = {.elapsed = Ms(12'340), .total = absl::Seconds(35), .rate = 812};
  view.p50 = Ms(3);
  view.failed = 2;
  EXPECT_EQ(LiveLine("x", view),
            "x  12.3 of 35 s  812.0/s  p50 3.00 ms  p99 0 us  0 in flight  2 failed");
  view.warming_up = true;
  view.total = absl::InfiniteDuration();
  EXPECT_EQ(LiveLine("x", view), "x  12.3 s  812.0/s  warming up");
}

}  // namespace
}  // namespace thresher::cli
