#include "backend/evaluation/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/tensor/status.h"
#include "tests/evaluation/fake_runner.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using testing::FakeRunner;
using ::testing::HasSubstr;
using testing::Sure;

const std::vector<LabelledExample> kExamples = {{.text = "a", .gold = 0}, {.text = "b", .gold = 1}};

TEST(WithShare, EveryStarIsTheShare) {
  EXPECT_EQ(WithShare("spatten:final=*,heads=*", 0.25), "spatten:final=0.25,heads=0.25");
  EXPECT_EQ(WithShare("dense", 0.25), "dense");
  EXPECT_TRUE(HasShare("fact:topk=*"));
  EXPECT_TRUE(HasShare("ltp:final=~"));
  EXPECT_FALSE(HasShare("fact:topk=1"));
}

TEST(WithShare, EveryTildeIsAThresholdThatRisesAsTheShareFalls) {
  EXPECT_EQ(WithShare("ltp:final=~", 1), "ltp:final=0");
  EXPECT_EQ(WithShare("ltp:final=~", 0.95), "ltp:final=0.0025");
  EXPECT_EQ(WithShare("spatten:final=*+mnnfast:threshold=~", 0.5),
            "spatten:final=0.5+mnnfast:threshold=0.25");
}

TEST(Sweep, DenseComesFirstAndOnce) {
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    Pass pass;
    pass.answers = {Sure(0), Sure(policy == "dense" ? 1 : 0)};
    pass.policy = policy + ":in=full";
    pass.work.mutable_tokens()->set_dense(8);
    pass.work.mutable_tokens()->set_done(policy == "dense" ? 8 : 4);
    pass.seconds = policy == "dense" ? 2 : 1;
    return pass;
  });
  const std::vector<std::string> policies = {"p", "dense", "q"};
  const auto results = Sweep(runner, Measure::kAccuracy, kExamples, policies, {});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_THAT(runner.asked, ElementsAre("dense", "p", "q"));
  ASSERT_EQ(results->size(), 3u);
  const PolicyResult& dense = (*results)[0];
  const PolicyResult& pruned = (*results)[1];
  EXPECT_EQ(dense.sparsity, "dense");
  EXPECT_EQ(dense.speedup, 1);
  EXPECT_EQ(dense.requests_per_second, 1);
  EXPECT_EQ(*dense.quality.accuracy, 1);
  EXPECT_EQ(pruned.policy, "p:in=full");
  EXPECT_EQ(pruned.speedup, 2);
  EXPECT_EQ(pruned.requests_per_second, 2);
  EXPECT_EQ(*pruned.quality.accuracy, 0.5);
  EXPECT_EQ(pruned.quality.agreement, 0.5);
  EXPECT_EQ(pruned.quality.loss, 0.5);
  EXPECT_EQ(pruned.work.tokens().done(), 4);
}

TEST(Sweep, RoundsTakeTurnsAndTheFastestPassCounts) {
  std::vector<double> times = {4, 3, 2, 5};  // dense, p, dense, p.
  size_t next = 0;
  FakeRunner runner([&](const std::string&) -> absl::StatusOr<Pass> {
    Pass pass;
    pass.answers = {Sure(0), Sure(1)};
    pass.seconds = times[next++];
    return pass;
  });
  const std::vector<std::string> policies = {"p"};
  double last = 0;
  SweepOptions options = {.rounds = 2};
  options.progress = [&](double passes, int64_t total) {
    EXPECT_EQ(total, 4);
    EXPECT_GT(passes, last);
    last = passes;
    return true;
  };
  const auto results = Sweep(runner, Measure::kAccuracy, kExamples, policies, options);
  ASSERT_TRUE(results.ok());
  EXPECT_THAT(runner.asked, ElementsAre("dense", "p", "dense", "p"));
  EXPECT_DOUBLE_EQ((*results)[1].speedup, 2.0 / 3.0);
  EXPECT_DOUBLE_EQ((*results)[0].requests_per_second, 1.0);
  EXPECT_DOUBLE_EQ(last, 4);
}

TEST(Sweep, ErrorsNameThePolicyAndAStopEndsIt) {
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    if (policy == "bad") return InvalidArgument("no such key");
    Pass pass;
    pass.answers = {Sure(0), Sure(1)};
    pass.seconds = 1;
    return pass;
  });
  const std::vector<std::string> policies = {"bad"};
  const auto failed = Sweep(runner, Measure::kAccuracy, kExamples, policies, {});
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(failed.status()), HasSubstr("sparsity 'bad': no such key"));
  SweepOptions options;
  options.progress = [](double, int64_t) { return false; };
  EXPECT_EQ(Sweep(runner, Measure::kAccuracy, kExamples, policies, options).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace thresher
