#include "client/load/load_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace thresher::load {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(RangeTest, OneNumberDoublesOrSteps) {
  EXPECT_THAT(Range::Parse("8")->Values(), ElementsAre(8));
  EXPECT_THAT(Range::Parse("1:8")->Values(), ElementsAre(1, 2, 4, 8));
  EXPECT_THAT(Range::Parse("1:6")->Values(), ElementsAre(1, 2, 4, 6));
  EXPECT_THAT(Range::Parse("10:50:20")->Values(), ElementsAre(10, 30, 50));
  EXPECT_THAT(Range::Parse("10:45:20")->Values(), ElementsAre(10, 30));
  EXPECT_THAT(Range::Parse("8:1")->Values(), ElementsAre(8, 4, 2, 1));
  EXPECT_THAT(Range::Parse("5:1:2")->Values(), ElementsAre(5, 3, 1));
}

TEST(RangeTest, RefusesWhatIsNone) {
  for (const char* text : {"", ":", "1:", "0", "-1", "1:2:3:4", "x", "1:2:0", "nan", "inf", "1e99",
                           "1:1000000:1", "1 ", "1e-300:1"}) {
    EXPECT_FALSE(Range::Parse(text).ok()) << text;
  }
}

TEST(ModeTest, NamesAreReadBack) {
  for (const std::string& name : ModeNames()) EXPECT_EQ(Name(*ParseMode(name)), name);
  EXPECT_FALSE(ParseMode("server"));
}

std::string Error(const std::function<void(Plan&)>& change) {
  Plan plan;
  change(plan);
  return std::string(Check(plan).message());
}

const Bound kBound = {.limit = absl::Milliseconds(50)};

TEST(PlanTest, WhatAModeNeedsAndWhatItCantHave) {
  EXPECT_EQ(Error([](Plan&) {}), "");
  EXPECT_THAT(Error([](Plan& plan) { plan.mode = Mode::kPoisson; }), HasSubstr("needs --rate"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.rate = Range{5, 5};
              }),
              HasSubstr("--rate goes with --mode constant"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kPoisson;
                plan.rate = Range{5, 5};
                plan.concurrency = Range{5, 5};
              }),
              HasSubstr("--max-in-flight limits an open loop"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.concurrency = Range{1.5, 1.5};
              }),
              HasSubstr("whole numbers"));
  EXPECT_THAT(Error([](Plan& plan) { plan.mode = Mode::kSchedule; }), HasSubstr("--schedule FILE"));
  EXPECT_THAT(Error([](Plan& plan) { plan.times = {absl::ZeroDuration()}; }),
              HasSubstr("--mode schedule"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kRamp;
                plan.rate = Range{5, 5};
              }),
              HasSubstr("FROM:TO"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kStep;
                plan.rate = Range{5, 10};
              }),
              HasSubstr("FROM:TO:STEP"));
  EXPECT_THAT(Error([](Plan& plan) { plan.mode = Mode::kPeak; }), HasSubstr("needs --bound"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kServer;
                plan.rate = Range{5, 5};
              }),
              HasSubstr("needs --bound"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kOffline;
                plan.duration = absl::Seconds(1);
              }),
              HasSubstr("ends by itself"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kMultiStream;
                plan.batch = 4;
              }),
              HasSubstr("8 samples"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kSingleStream;
                plan.batch = 2;
              }),
              HasSubstr("one sample"));
  EXPECT_THAT(Error([](Plan& plan) {
                plan.mode = Mode::kConstant;
                plan.rate = Range{1e8, 1e8};
              }),
              HasSubstr("more than"));
}

TEST(PlanTest, ARangeIsALevelEach) {
  Plan plan = {.concurrency = Range{1, 4}};
  const auto levels = LevelsOf(plan);
  ASSERT_EQ(levels.size(), 3u);
  EXPECT_EQ(levels[2].name, "concurrency 4");
  EXPECT_EQ(levels[2].concurrency, 4);
  plan = {.mode = Mode::kPoisson, .rate = Range{10, 30, 10}};
  EXPECT_EQ(LevelsOf(plan).size(), 3u);
  EXPECT_EQ(LevelsOf(plan)[1].rate, 20);
  plan.mode = Mode::kStep;
  EXPECT_EQ(LevelsOf(plan).size(), 1u);
}

TEST(PlanTest, ScenariosAreMlperfs) {
  Plan plan = {.mode = Mode::kSingleStream};
  PreparedLevel level = Prepare(plan, LevelsOf(plan)[0]);
  EXPECT_EQ(level.schedule, nullptr);
  EXPECT_EQ(level.options.concurrency, 1);
  EXPECT_EQ(BatchOf(plan), 1);

  plan.mode = Mode::kMultiStream;
  level = Prepare(plan, LevelsOf(plan)[0]);
  EXPECT_EQ(level.options.concurrency, 1);
  EXPECT_EQ(BatchOf(plan), 8);

  plan = {.mode = Mode::kServer, .rate = Range{100, 100}, .bound = kBound};
  level = Prepare(plan, LevelsOf(plan)[0]);
  ASSERT_NE(level.schedule, nullptr);
  EXPECT_EQ(level.options.concurrency, 8192);

  plan = {.mode = Mode::kOffline};
  level = Prepare(plan, LevelsOf(plan)[0]);
  EXPECT_TRUE(level.options.due_at_begin);
  EXPECT_EQ(level.options.max_calls * BatchOf(plan), 24'576);
  EXPECT_GT(level.separate_warmup, absl::ZeroDuration());
}

TEST(PlanTest, ARampWarmsUpAtItsFirstRate) {
  Plan plan = {.mode = Mode::kRamp,
               .rate = Range{10, 20},
               .duration = absl::Seconds(2),
               .warmup = absl::Seconds(1),
               .even = true};
  PreparedLevel level = Prepare(plan, LevelsOf(plan)[0]);
  int before = 0;
  int after = 0;
  while (const auto time = level.schedule->Next()) {
    ++(*time < absl::Seconds(1) ? before : after);
  }
  EXPECT_EQ(before, 10);
  EXPECT_EQ(after, 30);
}

RunResult Answered(int64_t n, absl::Duration latency) {
  RunResult run;
  run.due = run.sent = n;
  for (int64_t i = 0; i < n; ++i) {
    run.all.Add({.received = latency}, absl::ZeroDuration(), std::nullopt);
  }
  return run;
}

TEST(ScenarioTest, SingleStreamNeedsItsSixtyFourQueries) {
  const Plan plan = {.mode = Mode::kSingleStream};
  const auto enough = ScenarioOf(plan, {}, Answered(64, absl::Milliseconds(3)));
  ASSERT_TRUE(enough);
  EXPECT_TRUE(enough->valid);
  EXPECT_EQ(enough->value, 0.003);
  const auto few = ScenarioOf(plan, {}, Answered(63, absl::Milliseconds(3)));
  EXPECT_FALSE(few->valid);
  EXPECT_FALSE(few->value);
  EXPECT_THAT(few->why, HasSubstr("needs 64"));
}

TEST(ScenarioTest, ServerIsValidWhenTheRuleAcceptsTheLateOnes) {
  const Plan plan = {.mode = Mode::kServer, .rate = Range{100, 100}, .bound = kBound};
  RunResult run = Answered(459, absl::Milliseconds(3));
  run.verdict = Judge(kBound, 459, 0);
  EXPECT_TRUE(ScenarioOf(plan, {.rate = 100}, run)->valid);
  EXPECT_EQ(ScenarioOf(plan, {.rate = 100}, run)->value, 100);
  run.verdict = Judge(kBound, 458, 0);
  EXPECT_FALSE(ScenarioOf(plan, {.rate = 100}, run)->valid);
  run.verdict = Judge(kBound, 459, 50);
  EXPECT_THAT(ScenarioOf(plan, {.rate = 100}, run)->why, HasSubstr("50 of 459 queries were late"));
}

TEST(ScenarioTest, OfflineNeedsAllItsSamples) {
  const Plan plan = {.mode = Mode::kOffline};
  EXPECT_TRUE(ScenarioOf(plan, {}, Answered(24'576, absl::Seconds(1)))->valid);
  EXPECT_FALSE(ScenarioOf(plan, {}, Answered(24'575, absl::Seconds(1)))->valid);
  EXPECT_FALSE(ScenarioOf({.mode = Mode::kClosed}, {}, Answered(1, absl::Seconds(1))));
}

}  // namespace
}  // namespace thresher::load
