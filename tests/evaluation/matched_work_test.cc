#include "backend/evaluation/matched_work.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// What stands behind the first '='.
double NumberIn(const std::string& keys) { return std::atof(keys.c_str() + keys.find('=') + 1); }

TEST(WithNumber, WritesPlainDecimalsOfFourDigits) {
  EXPECT_EQ(WithNumber("keep=*", 1.0), "keep=1");
  EXPECT_EQ(WithNumber("keep=*", 0.123456), "keep=0.1235");
  EXPECT_EQ(WithNumber("a=*,b=*", 0.00012345), "a=0.0001234,b=0.0001234");
  EXPECT_EQ(WithNumber("keep=*", 0.00001), "keep=0.00001");
  EXPECT_EQ(WithNumber("recent=*", 65536), "recent=65536");
  EXPECT_EQ(WithNumber("recent=*", 100), "recent=100");
  EXPECT_EQ(WithNumber("x=*", 0), "x=0");
}

TEST(MatchWork, FindsTheSettingThatLeavesTheShare) {
  std::vector<std::string> asked;
  const auto found = MatchWork({.keys = "keep=*"}, 0.25, 0.005, [&](const std::string& keys) {
    asked.push_back(keys);
    return absl::StatusOr<double>(NumberIn(keys) * NumberIn(keys));
  });
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(found->reached);
  EXPECT_NEAR(found->left, 0.25, 0.005);
  EXPECT_NEAR(NumberIn(found->keys), 0.5, 0.005);
  EXPECT_LE(asked.size(), 14u);
}

TEST(MatchWork, ThresholdsRiseOverOrdersOfMagnitude) {
  const PolicyKnob knob = {.keys = "threshold=*", .least = 0.00001, .most = 1, .logarithmic = true};
  const auto found = MatchWork(knob, 0.7, 0.01, [](const std::string& keys) {
    return absl::StatusOr<double>(-std::log10(NumberIn(keys)) / 5);
  });
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(found->reached);
  EXPECT_NEAR(NumberIn(found->keys), std::pow(10, -3.5), 1e-4);
}

TEST(MatchWork, WhatSavesLessAtMostSaysSoAtOnce) {
  int asked = 0;
  const auto found = MatchWork({.keys = "keep=*"}, 0.25, 0.01, [&](const std::string&) {
    ++asked;
    return absl::StatusOr<double>(0.6);
  });
  ASSERT_TRUE(found.ok());
  EXPECT_FALSE(found->reached);
  EXPECT_EQ(found->left, 0.6);
  EXPECT_EQ(found->keys, "keep=0.001");
  EXPECT_EQ(asked, 1);
}

TEST(MatchWork, WholeNumbersThatStepOverGiveTheNearest) {
  const PolicyKnob knob = {.keys = "n=*", .least = 4, .most = 1, .integer = true};
  const auto found = MatchWork(knob, 0.4, 0.01, [](const std::string& keys) {
    EXPECT_EQ(NumberIn(keys), std::round(NumberIn(keys)));
    return absl::StatusOr<double>(NumberIn(keys) / 4);
  });
  ASSERT_TRUE(found.ok());
  EXPECT_FALSE(found->reached);
  EXPECT_EQ(found->keys, "n=2");
  EXPECT_EQ(found->left, 0.5);
}

TEST(MatchWork, ErrorsComeThrough) {
  const auto found = MatchWork({.keys = "keep=*"}, 0.25, 0.01, [](const std::string&) {
    return absl::StatusOr<double>(Internal("broken"));
  });
  EXPECT_EQ(found.status().code(), absl::StatusCode::kInternal);
}

/// Every policy of the table is compared, or says that it saves nothing.
TEST(PolicyKnobs, StandBesideEveryPolicyThatSavesWork) {
  for (const PolicySpec& spec : PolicySpecs()) {
    SCOPED_TRACE(spec.name);
    if (spec.knob.keys.empty()) {
      EXPECT_NE(spec.title.find("saves no work"), spec.title.npos);
      continue;
    }
    for (const double number : {spec.knob.least, spec.knob.most}) {
      const std::string text = std::string(spec.name) + ":" + WithNumber(spec.knob.keys, number);
      EXPECT_TRUE(ParsePolicyText(text).ok()) << text;
    }
  }
}

}  // namespace
}  // namespace thresher
