#include "backend/device/simulator/spatial/tile_pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace thresher {
namespace {

using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using Loop = TilePipeline::Loop;
using Program = TilePipeline::Program;

// A makes what B takes.
Program TwoUnits() {
  return {.units = {"x", "y"},
          .steps = {{.name = "A", .unit = 0}, {.name = "B", .unit = 1, .inputs = {0}}}};
}

TEST(TilePipeline, TheSlowerUnitSetsThePace) {
  TilePipeline pipeline(TwoUnits());
  pipeline.Run({.count = 4, .ticks = {3, 5}});
  pipeline.Drain();
  EXPECT_EQ(pipeline.now(), 3 + 4 * 5);
  EXPECT_THAT(pipeline.stalls(),
              UnorderedElementsAre(Pair("x: waits for room", 2 + 2), Pair("y: waits for A", 3)));

  TilePipeline other(TwoUnits());
  other.Run({.count = 4, .ticks = {5, 3}});
  EXPECT_EQ(other.now(), 4 * 5 + 3);
  // Before the first, and two ticks before each of the others.
  EXPECT_THAT(other.stalls(), UnorderedElementsAre(Pair("y: waits for A", 5 + 3 * 2)));
}

TEST(TilePipeline, StepsBehindWorkOnTheTileBefore) {
  // The first unit makes A of one tile, then C of the tile before from its B.
  Program program = {.units = {"x", "y"},
                     .steps = {{.name = "A", .unit = 0},
                               {.name = "C", .unit = 0, .inputs = {2}, .behind = true},
                               {.name = "B", .unit = 1, .inputs = {0}}}};
  TilePipeline pipeline(program);
  pipeline.Run({.count = 2, .ticks = {2, 2, 10}});
  // A1 0-2, B1 2-12, A2 2-4, C1 12-14, B2 12-22.
  EXPECT_EQ(pipeline.now(), 22);
  pipeline.Drain();  // C2.
  EXPECT_EQ(pipeline.now(), 24);
  EXPECT_THAT(pipeline.stalls(), UnorderedElementsAre(Pair("x: waits for B", (12 - 4) + (22 - 14)),
                                                      Pair("y: waits for A", 2)));
}

TEST(TilePipeline, StepsBehindTakeTheLengthOfTheirOwnTile) {
  Program program = {.units = {"x"},
                     .steps = {{.name = "B", .unit = 0, .behind = true}, {.name = "A", .unit = 0}}};
  TilePipeline pipeline(program);
  pipeline.Run({.count = 1, .body = {{.ticks = {100, 1}}, {.ticks = {0, 1}}, {.ticks = {7, 1}}}});
  pipeline.Drain();
  EXPECT_EQ(pipeline.now(), 3 * 1 + 100 + 7);
}

TEST(TilePipeline, InLockstepUnitsWaitForEachOther) {
  Program program = TwoUnits();
  program.steps[1].barrier = true;
  program.steps[1].barrier_ticks = 4;
  program.steps[1].barrier_cause = "settling";
  TilePipeline pipeline(program);
  pipeline.Run({.count = 3, .ticks = {3, 5}});
  EXPECT_EQ(pipeline.now(), 3 * (3 + 5 + 4));
  // Unit x for B and the settling, unit y for the settling.
  EXPECT_THAT(pipeline.stalls(), UnorderedElementsAre(Pair("settling", 3 * (5 + 4 + 4)),
                                                      Pair("y: waits for A", 3 * 3)));
}

TEST(TilePipeline, MemoryRunsAheadAsFarAsThereIsRoom) {
  Program program = {.units = {"memory", "x"},
                     .steps = {{.name = "load", .unit = 0, .ahead = true},
                               {.name = "A", .unit = 1, .inputs = {0}}}};
  for (const auto& [window, load, work, total] :
       {std::tuple(1, 5, 3, 10 * (5 + 3)), std::tuple(2, 5, 3, 10 * 5 + 3),
        std::tuple(2, 3, 5, 3 + 10 * 5), std::tuple(8, 3, 5, 3 + 10 * 5)}) {
    program.window = window;
    TilePipeline pipeline(program);
    pipeline.Run({.count = 10, .ticks = {load, work}});
    EXPECT_EQ(pipeline.now(), total) << window << " " << load << " " << work;
  }
  // A burst for every fourth tile is hidden if it can come early enough.
  for (const auto& [window, total] : {std::pair(2, 9 + 3 * 12 + 2 * 6), std::pair(4, 9 + 3 * 12)}) {
    program.window = window;
    TilePipeline pipeline(program);
    pipeline.Run({.count = 3, .body = {{.ticks = {9, 3}}, {.count = 3, .ticks = {0, 3}}}});
    EXPECT_EQ(pipeline.now(), total) << window;
  }
}

// Programs as machines have them, and loops in loops: what is repeated without being run comes to
// the same as the full run, to the tick.
TEST(TilePipeline, RepetitionIsExact) {
  std::mt19937 random(7);
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  int64_t run = 0;
  int64_t full_run = 0;
  for (int round = 0; round < 300; ++round) {
    Program program = {.units = {"memory", "x", "y"}};
    program.window = draw(1, 8);
    program.steps.push_back({.name = "load", .unit = 0, .ahead = true});
    const int steps = draw(2, 8);
    for (int i = 1; i <= steps; ++i) {
      TilePipeline::Step step = {.name = std::to_string(i), .unit = draw(1, 2), .inputs = {0}};
      step.behind = draw(0, 3) == 0;
      for (int input = 1; input <= steps; ++input) {
        // What is listed later, or is behind, is of an earlier tile.
        if (draw(0, 2) == 0) step.inputs.push_back(input);
      }
      step.barrier = draw(0, 9) == 0;
      step.barrier_ticks = step.barrier ? draw(0, 5) : 0;
      program.steps.push_back(step);
    }
    const auto tile = [&](int64_t count) {
      Loop loop{.count = count};
      for (int i = 0; i <= steps; ++i) loop.ticks.push_back(draw(0, 4) == 0 ? 0 : draw(1, 40));
      return loop;
    };
    const Loop inner{.count = draw(1, 30), .body = {tile(1), tile(draw(1, 60)), tile(1)}};
    const Loop outer{.count = draw(1, 20), .body = {tile(1), inner, tile(2)}};
    TilePipeline pipeline(program);
    TilePipeline full(program);
    full.set_repeat(false);
    const Loop last = tile(1);
    for (TilePipeline* each : {&pipeline, &full}) {
      each->Run(outer);
      each->Run(last);
      each->Drain();
    }
    run += pipeline.tiles_run();
    full_run += full.tiles_run();
    ASSERT_EQ(pipeline.now(), full.now()) << round;
    ASSERT_EQ(pipeline.stalls(), full.stalls()) << round;
  }
  EXPECT_LT(run * 5, full_run);
}

TEST(TilePipeline, ABillionTilesAreAFew) {
  TilePipeline pipeline(TwoUnits());
  pipeline.Run({.count = 1000, .body = {{.count = 1'000'000, .ticks = {3, 5}}}});
  EXPECT_EQ(pipeline.now(), 3 + 5'000'000'000);
  EXPECT_LT(pipeline.tiles_run(), 100);
}

TEST(TilePipeline, StepsBecomeSpans) {
  TilePipeline pipeline(TwoUnits());
  Timeline timeline;
  pipeline.Record(&timeline, 1000, 10);
  pipeline.Run({.count = 1, .ticks = {3, 5}});
  ASSERT_EQ(timeline.spans().size(), 2u);
  EXPECT_EQ(timeline.spans()[1].unit, "y");
  EXPECT_EQ(timeline.spans()[1].what, "B");
  EXPECT_EQ(timeline.spans()[1].begin_ps, 1030);
  EXPECT_EQ(timeline.spans()[1].end_ps, 1080);
}

}  // namespace
}  // namespace thresher
