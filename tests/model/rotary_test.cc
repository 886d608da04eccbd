// Rotations against values worked out from the published formulas.
#include "backend/model/rotary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Scaling = RotaryConfig::Scaling;

/// The angle that pair `pair` turns by from one position to the next.
double Frequency(const RotaryTable& table, int pair) {
  return std::atan2(table.sin[table.half + pair], table.cos[table.half + pair]);
}

struct Parsed {
  absl::StatusOr<RotaryConfig> config;
  int32_t positions = 1024;
};

Parsed Parse(const json& object, int32_t head_dim = 64) {
  Parsed parsed;
  const auto fields = JsonFields::Of(object, "config.json");
  parsed.config = ParseRotary(*fields, head_dim, &parsed.positions);
  return parsed;
}

std::string Error(const json& object, absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const Parsed parsed = Parse(object);
  EXPECT_EQ(parsed.config.status().code(), code) << object << ": " << parsed.config.status();
  EXPECT_THAT(Message(parsed.config.status()), HasSubstr("config.json"));
  return Message(parsed.config.status());
}

TEST(Rotary, PairsTurnEverSlower) {
  const RotaryTable table = MakeRotaryTable({.theta = 10000.0f, .dims = 4}, 5);
  EXPECT_EQ(table.half, 2);
  EXPECT_EQ(table.positions(), 5);
  for (int p = 0; p < 5; ++p) {
    EXPECT_FLOAT_EQ(table.cos[2 * p], std::cos(p * 1.0));
    EXPECT_FLOAT_EQ(table.sin[2 * p], std::sin(p * 1.0));
    EXPECT_FLOAT_EQ(table.cos[2 * p + 1], std::cos(p * 0.01));
    EXPECT_FLOAT_EQ(table.sin[2 * p + 1], std::sin(p * 0.01));
  }
}

TEST(Rotary, LinearScalingDividesEveryFrequency) {
  const RotaryTable table =
      MakeRotaryTable({.theta = 10000.0f, .dims = 4, .scaling = Scaling::kLinear, .factor = 4}, 2);
  EXPECT_NEAR(Frequency(table, 0), 0.25, 1e-7);
  EXPECT_NEAR(Frequency(table, 1), 0.0025, 1e-9);
}

TEST(Rotary, Llama3KeepsFastPairsAndStretchesSlowOnes) {
  // theta 10^6 and 6 dimensions: f = 1, 10^-2, 10^-4. Of 1000 positions they turn 159, 1.59 and
  // 0.016 times, where 1 is slow and 4 is fast: the middle one is (1.5915 - 1) / 3 of the way.
  const RotaryTable table = MakeRotaryTable({.theta = 1e6f,
                                             .dims = 6,
                                             .scaling = Scaling::kLlama3,
                                             .factor = 8,
                                             .original_positions = 1000},
                                            2);
  EXPECT_NEAR(Frequency(table, 0), 1.0, 1e-6);
  const double fast = (1000 * 0.01 / 6.283185307 - 1) / 3;
  EXPECT_NEAR(Frequency(table, 1), 0.01 * (fast + (1 - fast) / 8), 1e-8);
  EXPECT_NEAR(Frequency(table, 2), 0.0001 / 8, 1e-10);
}

TEST(Rotary, YarnRampsBetweenPairsAndLengthensVectors) {
  // The pairs that turn 32 times and once within 4096 positions: 128 ln(4096 / (2 pi r)) /
  // (2 ln 10000) = 20.94 and 45.03, so the ramp runs from 20 to 46.
  const RotaryConfig config = {.theta = 10000.0f,
                               .dims = 128,
                               .scaling = Scaling::kYarn,
                               .factor = 16,
                               .original_positions = 4096};
  const RotaryTable table = MakeRotaryTable(config, 2);
  const auto plain = [](int pair) { return std::pow(10000.0, -pair / 64.0); };
  const double magnitude = 0.1 * std::log(16.0) + 1;
  EXPECT_NEAR(std::hypot(table.cos[0], table.sin[0]), magnitude, 1e-6);
  EXPECT_NEAR(table.cos[64] / magnitude, std::cos(1.0), 1e-6);
  EXPECT_NEAR(Frequency(table, 20), plain(20), 1e-7);
  const double slow = (33.0 - 20.0) / 26.0;
  EXPECT_NEAR(Frequency(table, 33), plain(33) * (1 - slow + slow / 16), 1e-8);
  EXPECT_NEAR(Frequency(table, 46), plain(46) / 16, 1e-9);
  EXPECT_NEAR(Frequency(table, 63), plain(63) / 16, 1e-9);

  RotaryConfig other = config;
  other.attention_factor = 1.0f;
  EXPECT_FLOAT_EQ(MakeRotaryTable(other, 1).cos[0], 1.0f);
  other.truncate = false;  // The ramp's ends are 20.94 and 45.03 then.
  EXPECT_NEAR(Frequency(MakeRotaryTable(other, 2), 46), plain(46) / 16, 1e-9);
  EXPECT_LT(Frequency(MakeRotaryTable(other, 2), 45), plain(45) / 15.5);
  EXPECT_GT(Frequency(table, 45), plain(45) / 15.5);
}

TEST(Rotary, ScalingIsReadUnderItsOldAndItsNewNames) {
  const Parsed plain = Parse(json::object(), 80);
  ASSERT_TRUE(plain.config.ok()) << plain.config.status();
  EXPECT_EQ(plain.config->theta, 10000.0f);
  EXPECT_EQ(plain.config->dims, 80);
  EXPECT_EQ(plain.config->scaling, Scaling::kNone);
  EXPECT_EQ(plain.positions, 1024);
  for (const char* text :
       {R"({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}})",
        R"({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}})",
        R"({"rope_theta": 5e5, "rope_scaling": {"type": "?", "rope_type": "linear", "factor": 2}})",
        R"({"rope_parameters": {"rope_theta": 500000, "rope_type": "linear", "factor": 2}})"}) {
    const Parsed parsed = Parse(json::parse(text));
    ASSERT_TRUE(parsed.config.ok()) << parsed.config.status();
    EXPECT_EQ(parsed.config->theta, 500000.0f) << text;
    EXPECT_EQ(parsed.config->scaling, Scaling::kLinear) << text;
    EXPECT_EQ(parsed.config->factor, 2.0f) << text;
  }
  for (const char* text :
       {R"({"rope_scaling": null})", R"({"rope_scaling": {"rope_type": "default"}})",
        R"({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})"}) {
    EXPECT_EQ(Parse(json::parse(text)).config->scaling, Scaling::kNone) << text;
  }
  EXPECT_EQ(Parse({{"partial_rotary_factor", 0.5}}).config->dims, 32);
}

TEST(Rotary, Llama3NeedsItsFields) {
  const json good = {{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 8192}};
  const Parsed parsed = Parse({{"rope_scaling", good}});
  ASSERT_TRUE(parsed.config.ok()) << parsed.config.status();
  EXPECT_EQ(parsed.config->scaling, Scaling::kLlama3);
  EXPECT_EQ(parsed.config->original_positions, 8192);
  EXPECT_EQ(parsed.config->high_freq_factor, 4.0f);
  for (const char* field :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    json broken = good;
    broken.erase(field);
    EXPECT_THAT(
        Error({{"rope_scaling", broken}}),
        AllOf(HasSubstr(std::string("'") + field + "' is missing"), HasSubstr("'rope_scaling'")));
  }
  json broken = good;
  broken["high_freq_factor"] = 1.0;
  EXPECT_THAT(Error({{"rope_scaling", broken}}), HasSubstr("not above 'low_freq_factor'"));
}

TEST(Rotary, YarnHasDefaults) {
  json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}};
  const Parsed parsed = Parse({{"rope_scaling", yarn}});
  ASSERT_TRUE(parsed.config.ok()) << parsed.config.status();
  EXPECT_EQ(parsed.config->original_positions, 1024);
  EXPECT_EQ(parsed.config->beta_fast, 32.0f);
  EXPECT_EQ(parsed.config->attention_factor, 0.0f);
  yarn["mscale"] = 1.0;
  yarn["mscale_all_dim"] = 0.707;
  EXPECT_FLOAT_EQ(Parse({{"rope_scaling", yarn}}).config->attention_factor,
                  (0.1 * std::log(4.0) + 1) / (0.0707 * std::log(4.0) + 1));
  yarn["attention_factor"] = 1.5;
  EXPECT_EQ(Parse({{"rope_scaling", yarn}}).config->attention_factor, 1.5f);
  yarn["beta_slow"] = 64;
  EXPECT_THAT(Error({{"rope_scaling", yarn}}), HasSubstr("below 'beta_slow'"));
}

TEST(Rotary, DynamicScalingIsServedWhereItIsThePlainOne) {
  const Parsed parsed = Parse({{"rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}}});
  ASSERT_TRUE(parsed.config.ok()) << parsed.config.status();
  EXPECT_EQ(parsed.config->scaling, Scaling::kNone);
  EXPECT_EQ(parsed.positions, 1024);
  EXPECT_EQ(Parse({{"rope_scaling",
                    {{"rope_type", "dynamic"}, {"original_max_position_embeddings", 256}}}})
                .positions,
            256);
}

TEST(Rotary, RefusesWhatIsNotComputedOrMakesNoSense) {
  EXPECT_THAT(Error({{"rope_scaling", {{"rope_type", "longrope"}, {"factor", 2}}}},
                    absl::StatusCode::kUnimplemented),
              AllOf(HasSubstr("longrope"), HasSubstr("yarn")));
  EXPECT_THAT(Error({{"rope_scaling", "linear"}}), HasSubstr("'rope_scaling'"));
  EXPECT_THAT(Error({{"rope_scaling", {{"type", 3}}}}), HasSubstr("'type'"));
  EXPECT_THAT(Error({{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}}),
              HasSubstr("'factor' is 0.5"));
  EXPECT_THAT(Error({{"rope_scaling", {{"type", "linear"}, {"factor", "2"}}}}),
              HasSubstr("not a number"));
  for (const json& theta : std::vector<json>{0, -1.0, 1, "x", 1e300, true}) {
    EXPECT_THAT(Error({{"rope_theta", theta}}), HasSubstr("'rope_theta'"));
  }
  EXPECT_THAT(Error({{"partial_rotary_factor", 0.02}}), HasSubstr("1 dimensions"));
  EXPECT_THAT(Error({{"partial_rotary_factor", 1.5}}), HasSubstr("'partial_rotary_factor'"));
}

}  // namespace
}  // namespace thresher
