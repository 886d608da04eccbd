#include "backend/evaluation/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <random>

#include "backend/evaluation/profile.h"
#include "backend/sparsity/confidence.h"
#include "backend/tensor/status.h"
#include "tests/evaluation/fake_runner.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using testing::FakeRunner;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Sure;

/// Examples of class 0, which dense answers rightly.
LabelledData Data(int n) {
  LabelledData data{.name = "dev.tsv", .sha256 = "5a"};
  data.examples.assign(n, {.text = "t"});
  return data;
}

/// A policy that errs on the first `wrong` examples; `logit` is how sure it is of the others.
Pass MakePass(int n, int wrong, double seconds, float logit = 2) {
  Pass pass;
  for (int i = 0; i < n; ++i) pass.answers.push_back(i < wrong ? Sure(1, 0.1f) : Sure(0, logit));
  pass.seconds = seconds;
  return pass;
}

double ShareOf(const std::string& policy) {
  const size_t equals = policy.rfind('=');
  double share = 1;
  if (equals != std::string::npos) {
    std::from_chars(policy.data() + equals + 1, policy.data() + policy.size(), share);
  }
  return share;
}

CalibrationOptions Options(std::vector<std::string> ladders, std::vector<double> bounds) {
  CalibrationOptions options;
  options.ladders = std::move(ladders);
  options.bounds = std::move(bounds);
  options.max_kl = 10;
  options.rounds = 1;
  return options;
}

TEST(Calibrate, TakesTheLastRungThatKeepsTheBound) {
  constexpr int kN = 10000;
  // Below a share of 0.5 the policy loses 5 points.
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    const double share = ShareOf(policy);
    return MakePass(kN, share < 0.5 ? kN / 20 : 0, share);
  });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(kN), Options({"p:a=*"}, {0.1, 0.01}));
  ASSERT_TRUE(calibration.ok()) << calibration.status();
  const v1::SparsityProfile& profile = calibration->profile;
  ASSERT_EQ(profile.entries_size(), 2);
  // Bounds rise, whatever their order was.
  EXPECT_EQ(profile.entries(0).max_loss(), 0.01);
  EXPECT_EQ(profile.entries(0).policy(), "p:a=0.5");
  EXPECT_DOUBLE_EQ(profile.entries(0).speedup(), 2);
  EXPECT_EQ(profile.entries(0).loss(), 0);
  EXPECT_EQ(profile.entries(1).max_loss(), 0.1);
  EXPECT_EQ(profile.entries(1).policy(), "p:a=0.05");
  EXPECT_DOUBLE_EQ(profile.entries(1).loss(), 0.05);
  EXPECT_EQ(profile.n(), kN);
  EXPECT_EQ(profile.metric(), "accuracy");
  EXPECT_EQ(profile.data(), "dev.tsv");
  EXPECT_EQ(profile.data_sha256(), "5a");
  EXPECT_EQ(profile.confidence(), 0.95);
  for (const auto& entry : profile.entries()) EXPECT_LE(entry.loss_upper(), entry.max_loss());
}

TEST(Calibrate, ABoundWalksNoFurtherThanItsFirstFailure) {
  constexpr int kN = 10000;
  // Bad at 0.9 alone: what comes after it must not be chosen, however well it does.
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    const double share = ShareOf(policy);
    return MakePass(kN, share == 0.9 ? kN / 10 : 0, share);
  });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(kN), Options({"p:a=*"}, {0.01}));
  ASSERT_TRUE(calibration.ok());
  ASSERT_EQ(calibration->profile.entries_size(), 1);
  EXPECT_EQ(calibration->profile.entries(0).policy(), "p:a=0.95");
  EXPECT_EQ(calibration->steps.size(), 2u);
}

TEST(Calibrate, DriftIsBoundedToo) {
  constexpr int kN = 10000;
  // Every class stays right, but below 0.7 the output is far from dense.
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    const double share = ShareOf(policy);
    return MakePass(kN, 0, share, share < 0.7 ? 0.1f : 2.0f);
  });
  CalibrationOptions options = Options({"p:a=*"}, {0.05});
  options.max_kl = 0.05;
  const auto calibration = Calibrate(runner, Measure::kAccuracy, Data(kN), options);
  ASSERT_TRUE(calibration.ok());
  EXPECT_EQ(calibration->profile.entries(0).policy(), "p:a=0.7");
  EXPECT_EQ(calibration->profile.max_kl(), 0.05);
  EXPECT_LE(calibration->profile.entries(0).kl_upper(), 0.05);
}

TEST(Calibrate, DriftOfEmbeddingsIsBoundedWhereSimilarityIsMeasured) {
  constexpr int kN = 500;
  LabelledData data = Data(kN);
  for (int i = 0; i < kN; ++i) data.examples[i].gold = i;
  // The order of the similarities never changes, but below 0.7 the embeddings turn by 60 degrees.
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    const double share = ShareOf(policy);
    Pass pass;
    for (int i = 0; i < kN; ++i) {
      const float turn = share < 0.7 ? std::sqrt(3.0f) : 0.0f;
      pass.answers.push_back({.output = {static_cast<float>(i)}, .pooled = {1, turn}});
    }
    pass.seconds = share;
    return pass;
  });
  const auto calibration =
      Calibrate(runner, Measure::kSimilarity, data, Options({"p:a=*"}, {0.05}));
  ASSERT_TRUE(calibration.ok()) << calibration.status();
  const v1::SparsityProfile& profile = calibration->profile;
  EXPECT_EQ(profile.metric(), "spearman");
  EXPECT_EQ(profile.max_cosine_drift(), 0.05);
  EXPECT_FALSE(profile.has_max_kl());
  EXPECT_EQ(profile.entries(0).policy(), "p:a=0.7");
  EXPECT_FALSE(profile.entries(0).has_kl());
  EXPECT_TRUE(profile.entries(0).has_cosine_drift());
  EXPECT_LE(profile.entries(0).cosine_drift_upper(), 0.05);
  ASSERT_EQ(calibration->steps.back().policy, "p:a=0.65");
  EXPECT_NEAR(calibration->steps.back().quality.cosine, 0.5, 1e-6);
}

TEST(Calibrate, OfAllRungsThatPassedTheFastestIsTaken) {
  constexpr int kN = 10000;
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    const double share = ShareOf(policy);
    return MakePass(kN, 0, share == 0.5 ? 0.01 : share);
  });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(kN), Options({"p:a=*"}, {0.01}));
  ASSERT_TRUE(calibration.ok());
  EXPECT_EQ(calibration->profile.entries(0).policy(), "p:a=0.5");
}

TEST(Calibrate, SaysHowManyExamplesAPointTakes) {
  FakeRunner runner([](const std::string&) -> absl::StatusOr<Pass> { return MakePass(50, 0, 1); });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(50), Options({"p:a=*"}, {0.01, 0.001}));
  ASSERT_TRUE(calibration.ok());
  ASSERT_EQ(calibration->too_few.size(), 2u);
  EXPECT_EQ(calibration->too_few[0].needed, 2995);
  EXPECT_EQ(calibration->too_few[1].needed, 299);
}

TEST(Calibrate, FewExamplesPromiseNothingAndSaySo) {
  FakeRunner runner([](const std::string&) -> absl::StatusOr<Pass> { return MakePass(50, 0, 1); });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(50), Options({"p:a=*"}, {0.001}));
  ASSERT_TRUE(calibration.ok());
  EXPECT_EQ(calibration->profile.entries_size(), 0);
  EXPECT_THAT(runner.asked, IsEmpty());  // Nothing needs to be run to know it.
  ASSERT_EQ(calibration->too_few.size(), 1u);
  const Calibration::TooFew& too_few = calibration->too_few[0];
  EXPECT_EQ(too_few.bound, 0.001);
  EXPECT_GT(too_few.least, 0.05);
  // Exactly so many are needed.
  EXPECT_LE(LeastLossUpperBound(Measure::kAccuracy, too_few.needed, 0.95), 0.001);
  EXPECT_GT(LeastLossUpperBound(Measure::kAccuracy, too_few.needed - 1, 0.95), 0.001);
}

TEST(Calibrate, BoundsThatCanBePromisedArePromisedAllTheSame) {
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    return MakePass(50, 0, ShareOf(policy));
  });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(50), Options({"p:a=*"}, {0.001, 0.2}));
  ASSERT_TRUE(calibration.ok());
  ASSERT_EQ(calibration->profile.entries_size(), 1);
  EXPECT_EQ(calibration->profile.entries(0).max_loss(), 0.2);
  EXPECT_EQ(calibration->too_few.size(), 1u);
}

TEST(Calibrate, LaddersShareTheErrorAndTheFastestWins) {
  constexpr int kN = 10000;
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    return MakePass(kN, 0, policy.starts_with("quick") ? 0.1 : 0.5);
  });
  runner.asked.clear();
  FakeRunner dense_slow([&](const std::string& policy) -> absl::StatusOr<Pass> {
    if (policy == "dense") return MakePass(kN, 0, 1);
    return runner.Run(policy, {});
  });
  const auto calibration = Calibrate(dense_slow, Measure::kAccuracy, Data(kN),
                                     Options({"slow:a=*", "quick:a=*"}, {0.01}));
  ASSERT_TRUE(calibration.ok());
  const auto& entry = calibration->profile.entries(0);
  EXPECT_EQ(entry.policy(), "quick:a=0.95");  // Of equally fast ones, the gentlest.
  EXPECT_DOUBLE_EQ(entry.speedup(), 10);
  EXPECT_DOUBLE_EQ(entry.loss_upper(), LeastLossUpperBound(Measure::kAccuracy, kN, 0.975));
}

TEST(Calibrate, WhatIsNoFasterThanDenseIsDense) {
  constexpr int kN = 10000;
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    return MakePass(kN, 0, policy == "dense" ? 1 : 1.2);
  });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(kN), Options({"p:a=*"}, {0.01}));
  ASSERT_TRUE(calibration.ok());
  ASSERT_EQ(calibration->profile.entries_size(), 1);
  EXPECT_EQ(calibration->profile.entries(0).policy(), "dense");
  EXPECT_EQ(calibration->profile.entries(0).speedup(), 1);
}

TEST(Calibrate, ALadderEndsWhereTheModelCanNotFollow) {
  constexpr int kN = 10000;
  FakeRunner runner([](const std::string& policy) -> absl::StatusOr<Pass> {
    if (ShareOf(policy) < 0.6) return InvalidArgument("unreachable");
    return MakePass(kN, 0, ShareOf(policy));
  });
  const auto calibration =
      Calibrate(runner, Measure::kAccuracy, Data(kN), Options({"p:keep=*"}, {0.01}));
  ASSERT_TRUE(calibration.ok()) << calibration.status();
  EXPECT_EQ(calibration->profile.entries(0).policy(), "p:keep=0.6");

  FakeRunner never([](const std::string& policy) -> absl::StatusOr<Pass> {
    if (policy != "dense") return InvalidArgument("unknown key");
    return MakePass(kN, 0, 1);
  });
  EXPECT_THAT(
      Message(Calibrate(never, Measure::kAccuracy, Data(kN), Options({"p:x=*"}, {0.01})).status()),
      HasSubstr("sparsity 'p:x=0.95': unknown key"));
}

TEST(Calibrate, OptionsAreChecked) {
  FakeRunner runner([](const std::string&) -> absl::StatusOr<Pass> { return MakePass(9, 0, 1); });
  const auto code = [&](const CalibrationOptions& options) {
    return Calibrate(runner, Measure::kAccuracy, Data(9), options).status().code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(Options({"p:a=*"}, {})), kInvalid);
  EXPECT_EQ(code(Options({"p:a=*"}, {0})), kInvalid);
  EXPECT_EQ(code(Options({"p:a=*"}, {1.5})), kInvalid);
  EXPECT_EQ(code(Options({"p:a=*"}, {NAN})), kInvalid);
  EXPECT_EQ(code(Options({}, {0.1})), kInvalid);
  CalibrationOptions options = Options({"p:a=*"}, {0.1});
  options.confidence = 1;
  EXPECT_EQ(code(options), kInvalid);
  options = Options({"p:a=*"}, {0.1});
  options.max_kl = 0;
  EXPECT_EQ(code(options), kInvalid);
  options = Options({"p:a=*"}, {0.1});
  options.max_cosine_drift = NAN;
  EXPECT_EQ(code(options), kInvalid);
}

TEST(Calibrate, AStopEndsIt) {
  FakeRunner runner([](const std::string&) -> absl::StatusOr<Pass> { return MakePass(99, 0, 1); });
  CalibrationOptions options = Options({"p:a=*"}, {0.5});
  options.progress = [](std::string_view, double share) {
    EXPECT_GE(share, 0);
    EXPECT_LE(share, 1);
    return false;
  };
  EXPECT_EQ(Calibrate(runner, Measure::kAccuracy, Data(99), options).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(Calibrate, BreaksItsPromiseNoMoreOftenThanItSays) {
  // On two ladders, a rung's true loss grows as the share falls. A calibration errs if it promises
  // 2 points with a policy that truly loses more.
  constexpr int kN = 800;
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> uniform;
  const auto true_loss = [](const std::string& policy) {
    return policy == "dense" ? 0.0 : 0.04 * (1 - ShareOf(policy));
  };
  int broken = 0;
  constexpr int kTrials = 200;
  for (int trial = 0; trial < kTrials; ++trial) {
    // Rungs of one ladder err on much the same examples.
    std::map<char, std::vector<double>> draws;
    for (const char ladder : {'a', 'b'}) {
      for (int i = 0; i < kN; ++i) draws[ladder].push_back(uniform(random));
    }
    FakeRunner runner([&](const std::string& policy) -> absl::StatusOr<Pass> {
      Pass pass;
      const double loss = true_loss(policy);
      const std::vector<double>& draw = draws.at(policy[0] == 'b' ? 'b' : 'a');
      for (int i = 0; i < kN; ++i) {
        // A hundredth is gained, and so much more is lost.
        const bool wrong = policy == "dense" ? draw[i] > 0.9 : draw[i] < loss || draw[i] > 0.9;
        pass.answers.push_back(Sure(wrong ? 1 : 0));
      }
      pass.seconds = policy == "dense" ? 2 : ShareOf(policy);
      return pass;
    });
    const auto calibration =
        Calibrate(runner, Measure::kAccuracy, Data(kN), Options({"a:s=*", "b:s=*"}, {0.02}));
    ASSERT_TRUE(calibration.ok());
    broken += true_loss(calibration->profile.entries(0).policy()) > 0.02 ? 1 : 0;
  }
  // At most 10 are expected, with a standard deviation of 3.
  EXPECT_LE(broken, 19);
}

TEST(LaddersOf, NamesAndTexts) {
  EXPECT_THAT(*LaddersOf("spatten:final=*,heads=0.75"), ElementsAre("spatten:final=*,heads=0.75"));
  EXPECT_FALSE(LaddersOf("spatten")->empty());
  EXPECT_FALSE(LaddersOf("fact")->empty());
  EXPECT_THAT(*LaddersOf("ltp"), ElementsAre("ltp:final=~"));
  EXPECT_THAT(*LaddersOf("mnnfast:threshold=~"), ElementsAre("mnnfast:threshold=~"));
  EXPECT_THAT(Message(LaddersOf("spatten:final=0.5").status()), HasSubstr("nothing to search"));
  EXPECT_FALSE(LaddersOf("").ok());
}

TEST(DefaultShares, FallFromNearlyAllToATwentieth) {
  const std::vector<double> shares = DefaultShares();
  EXPECT_EQ(shares.front(), 0.95);
  EXPECT_EQ(shares.back(), 0.05);
  EXPECT_TRUE(std::ranges::is_sorted(shares, std::greater<>()));
}

}  // namespace
}  // namespace thresher
