#include "backend/device/simulator/rated/rated.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;

// SOFA's paper (MICRO 2024), table II: the columns that follow from the others, as printed. 0:
// none.
struct TableRow {
  const char* preset;
  double milliseconds;
  double core;    // GOPS/W at 28 nm and 1.0 V.
  double device;  // With input and output.
  double area;    // GOPS/mm2.
};
constexpr TableRow kTable[] = {
    {"rated-a3", 622, 1863, 300, 217},
    {"rated-elsa", 252, 1944, 1004, 1765},
    {"rated-sanger", 241, 2342, 0, 522},
    {"rated-dota", 448, 817, 0, 683},
    {"rated-energon", 477, 7007, 450, 709},
    {"rated-dtatrans", 652, 3071, 0, 1786},
    {"rated-spatten-eighth", 382, 1915, 447, 474},
    {"rated-fact", 296, 2754, 0, 154},
    {"rated-sofa", 45, 25708, 7183, 4292},
};

v1::Preset Preset(const std::string& name) {
  auto preset = FindPreset(name);
  EXPECT_TRUE(preset.ok()) << preset.status();
  return *std::move(preset);
}

// Attention of Llama-7B, 512 tokens, as a whole square of scores: 4 * 512^2 * 4096 operations in
// each of 32 layers, which are 2^37, the table's "137 GOP".
LayerRecord LlamaLayer() {
  const auto shape =
      ParseShape("heads=32,head_dim=128,layers=32,ffn=11008,ffn_matrices=3,causal=0");
  EXPECT_TRUE(shape.ok()) << shape.status();
  return DenseRecordOf(*shape, 512, 1);
}

v1::Simulation Charged(const v1::Preset& preset, const LayerRecord& record) {
  const auto accelerator = CreateRated(preset);
  EXPECT_TRUE(accelerator.ok()) << accelerator.status();
  const auto charge = (*accelerator)->Run(record, {.attention_only = true});
  EXPECT_TRUE(charge.ok()) << charge.status();
  return charge->total;
}

TEST(Rated, TheTablesLatenciesComeOutToItsLastDigit) {
  for (const TableRow& row : kTable) {
    SCOPED_TRACE(row.preset);
    const v1::Preset preset = Preset(row.preset);
    const double operations = 32 * Charged(preset, LlamaLayer()).operations_dense();
    EXPECT_EQ(operations, std::exp2(37));
    const double milliseconds = 1e3 * operations / RatingOnBasis(preset).operations_per_second;
    EXPECT_NEAR(milliseconds, row.milliseconds, 0.5);
  }
}

TEST(Rated, MultipliersThatNobodyPublishedFollowFromTheLatencyAndSaySo) {
  for (const TableRow& row : kTable) {
    SCOPED_TRACE(row.preset);
    const v1::RatedSpec spec = Preset(row.preset).rated();
    // What the printed latency says, between its roundings.
    const auto implied = [&](double milliseconds) {
      return spec.giga_operations_per_second() * 1e9 * milliseconds * 1e-3 / std::exp2(37) * 128 *
             1e9 / spec.clock_hz();
    };
    EXPECT_GE(spec.multipliers(), implied(row.milliseconds - 0.5));
    EXPECT_LE(spec.multipliers(), implied(row.milliseconds + 0.5));
    const std::string name = row.preset;
    const bool published = name == "rated-sanger" || name == "rated-spatten-eighth" ||
                           name == "rated-fact" || name == "rated-sofa";
    EXPECT_EQ(spec.multipliers_implied(), !published);
    // One of them is no number that anyone would build, nor near one.
    const bool power_of_two = (spec.multipliers() & (spec.multipliers() - 1)) == 0;
    EXPECT_EQ(power_of_two, name != "rated-dtatrans");
  }
  const double built[] = {768, 800};
  for (const double multipliers : built) {
    const double milliseconds = std::exp2(37) / 1304e9 * 1e3 * multipliers / 128;
    EXPECT_GT(std::abs(milliseconds - 652), 6);
  }
}

TEST(Rated, TheTablesEfficienciesComeOutWithinTheirRounding) {
  for (const TableRow& row : kTable) {
    SCOPED_TRACE(row.preset);
    const BasisRating rating = RatingOnBasis(Preset(row.preset));
    EXPECT_NEAR(rating.gops_per_core_watt, row.core, 0.6);
    EXPECT_NEAR(rating.gops_per_device_watt, row.device, 0.5);
    // DOTA's is 681.96 by its own row, and 683 in the table.
    EXPECT_NEAR(rating.gops_per_mm2, row.area, std::string(row.preset) == "rated-dota" ? 1.1 : 0.5);
  }
}

TEST(Rated, ChargesByHand) {
  v1::Preset preset;
  preset.set_name("chip");
  v1::RatedSpec& spec = *preset.mutable_rated();
  spec.set_clock_hz(1e9);
  spec.set_giga_operations_per_second(2);
  spec.set_saved_share(0.75);
  spec.set_core_watts(3);
  spec.set_io_watts(0.5);
  // 3 heads of dimension 4: 10 queries on 10 keys, and a decode step that sees 50 keys.
  LayerRecord record{
      .shape = {.layers = 1, .heads = 3, .kv_heads = 3, .head_dim = 4, .hidden_size = 12}};
  record.sequences.push_back({.rows = 7, .keys = 7, .dense_rows = 10, .dense_keys = 10});
  record.sequences.push_back({.rows = 1, .keys = 50, .dense_rows = 1, .dense_keys = 50});
  const auto accelerator = CreateRated(preset);
  ASSERT_TRUE(accelerator.ok()) << accelerator.status();
  const auto charge = (*accelerator)->Run(record, {.attention_only = true});
  ASSERT_TRUE(charge.ok()) << charge.status();
  const v1::Simulation& total = charge->total;
  // 4 * 4 * 3 operations for each pair of 100 and of 50, whatever was pruned.
  EXPECT_EQ(total.operations_dense(), 48 * 150);
  EXPECT_EQ(total.operations(), 48 * 150 / 4);
  EXPECT_DOUBLE_EQ(total.seconds(), 3.6e-6);
  EXPECT_EQ(total.cycles(), 3600);
  EXPECT_DOUBLE_EQ(total.energy_by_part().at("core"), 10.8e-6);
  EXPECT_DOUBLE_EQ(total.energy_by_part().at("io"), 1.8e-6);
  EXPECT_DOUBLE_EQ(total.energy_joules(), 12.6e-6);
  EXPECT_DOUBLE_EQ(charge->shares[0], 2.0 / 3);
  EXPECT_DOUBLE_EQ(charge->shares[1], 1.0 / 3);
  // What it can't say is not there.
  EXPECT_EQ(total.dram_bytes(), 0);
  EXPECT_TRUE(total.busy_cycles().empty());
}

TEST(Rated, CausalScoresAreHalfOfTheSquare) {
  v1::Preset preset = Preset("rated-a3");
  LayerRecord record = LlamaLayer();
  const double square = Charged(preset, record).seconds();
  record.shape.causal = true;
  EXPECT_NEAR(Charged(preset, record).seconds() / square, 513.0 / 1024, 1e-12);
}

TEST(Rated, RefusesWhatARatingCannotSay) {
  const auto accelerator = CreateRated(Preset("rated-fact"));
  ASSERT_TRUE(accelerator.ok()) << accelerator.status();
  EXPECT_THAT((*accelerator)->policies(), ::testing::ElementsAre("dense"));
  EXPECT_THAT(Message((*accelerator)->Run(LlamaLayer(), {}).status()),
              HasSubstr("attention alone"));
  Timeline timeline;
  EXPECT_THAT(Message((*accelerator)->CheckScope({.attention_only = true, .timeline = &timeline})),
              HasSubstr("timeline"));
  LayerRecord record = LlamaLayer();
  record.sequences[0].dense_rows = 513;  // More than keys.
  EXPECT_EQ((*accelerator)->Run(record, {.attention_only = true}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Rated, RefusesAPresetThatCannotBe) {
  v1::Preset preset = Preset("rated-fact");
  preset.mutable_rated()->set_giga_operations_per_second(0);
  EXPECT_THAT(Message(CreateRated(preset).status()), HasSubstr("giga_operations_per_second"));
  preset = Preset("rated-fact");
  preset.mutable_rated()->set_saved_share(1.5);
  EXPECT_THAT(Message(CreateRated(preset).status()), HasSubstr("saved_share"));
  preset = Preset("rated-fact");
  preset.mutable_dram()->mutable_hbm2();
  EXPECT_THAT(Message(CreateRated(preset).status()), HasSubstr("dram"));
  preset = Preset("rated-fact");
  preset.clear_rated();
  EXPECT_FALSE(CreateRated(preset).ok());
}

TEST(Rated, WhatIsNotPublishedIsNotOnTheBasis) {
  v1::Preset preset = Preset("rated-fact");
  preset.mutable_rated()->set_multipliers(0);
  EXPECT_EQ(RatingOnBasis(preset).operations_per_second, 0);
  EXPECT_GT(RatingOnBasis(preset).gops_per_core_watt, 0);
  EXPECT_EQ(RatingOnBasis(preset).gops_per_device_watt, 0);  // No power of input and output.
  preset.mutable_rated()->set_volts(0);
  EXPECT_EQ(RatingOnBasis(preset).gops_per_core_watt, 0);
  EXPECT_GT(RatingOnBasis(preset).gops_per_mm2, 0);
  preset.set_technology_nm(0);
  EXPECT_EQ(RatingOnBasis(preset).gops_per_mm2, 0);
}

}  // namespace
}  // namespace thresher
