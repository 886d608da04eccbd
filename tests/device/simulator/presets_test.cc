#include "backend/device/simulator/presets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "backend/device/simulator/accelerator.h"
#include "backend/device/simulator/shapes.h"
#include "backend/device/simulator/simulation.h"
#include "backend/tensor/status.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

TEST(Presets, EachIsAnAcceleratorThatRunsADenseLayer) {
  ASSERT_THAT(PresetNames(), Contains("spatten"));
  const auto shape = ParseShape("heads=4,head_dim=64,layers=1,ffn=1024");
  ASSERT_TRUE(shape.ok()) << shape.status();
  const LayerRecord record = DenseRecordOf(*shape, 96, 2);
  for (const std::string& name : PresetNames()) {
    SCOPED_TRACE(name);
    const auto preset = FindPreset(name);
    ASSERT_TRUE(preset.ok()) << preset.status();
    EXPECT_EQ(preset->name(), name);
    EXPECT_FALSE(preset->description().empty());
    const auto accelerator = CreateAccelerator(*preset);
    ASSERT_TRUE(accelerator.ok()) << accelerator.status();
    EXPECT_THAT((*accelerator)->policies(), Contains("dense"));
    if (preset->has_rated()) {
      // Published rates of attention, and no more than that: rated_test.cc.
      EXPECT_FALSE((*accelerator)->Run(record, {}).ok());
      continue;
    }
    EXPECT_GT((*accelerator)->peak_operations(), 0.0);
    EXPECT_GT((*accelerator)->peak_bandwidth(), 0.0);
    for (const bool attention_only : {true, false}) {
      EXPECT_EQ((*accelerator)->CheckScope({.attention_only = attention_only}), absl::OkStatus());
      (*accelerator)->Reset();
      const auto charge = (*accelerator)->Run(record, {.attention_only = attention_only});
      ASSERT_TRUE(charge.ok()) << charge.status();
      const v1::Simulation& total = charge->total;
      EXPECT_EQ(total.preset(), name);
      EXPECT_GT(total.seconds(), 0.0);
      EXPECT_GT(total.cycles(), 0);
      EXPECT_GT(total.energy_joules(), 0.0);
      EXPECT_GE(total.dram_bytes(), total.dram_bytes_plain());
      EXPECT_LE(total.operations() / total.seconds(),
                (*accelerator)->peak_operations() * (1.0 + 1e-9));
      EXPECT_LE(total.dram_bytes() / total.seconds(),
                (*accelerator)->peak_bandwidth() * (1.0 + 1e-9));
      for (const auto& [unit, cycles] : total.busy_cycles()) {
        EXPECT_LE(cycles, static_cast<double>(total.cycles()) * (1.0 + 1e-9)) << unit;
      }
      double shares = 0.0, energy = 0.0;
      for (const double share : charge->shares) shares += share;
      for (const auto& [part, joules] : total.energy_by_part()) energy += joules;
      EXPECT_EQ(charge->shares.size(), 2u);
      EXPECT_NEAR(shares, 1.0, 1e-9);
      EXPECT_NEAR(energy, total.energy_joules(), 1e-9 * energy);
      // After a reset the same layer costs the same.
      (*accelerator)->Reset();
      const auto again = (*accelerator)->Run(record, {.attention_only = attention_only});
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(again->total.cycles(), total.cycles());
      EXPECT_EQ(again->total.energy_joules(), total.energy_joules());
    }
  }
}

TEST(Presets, ShortNamesAreTheUsualVariants) {
  EXPECT_EQ(FindPreset("fusemax")->name(), "fusemax-cloud");
  EXPECT_EQ(FindPreset("flat")->name(), "flat-cloud");
}

TEST(Presets, AnUnknownNameIsNotFoundAndTheKnownAreNamed) {
  const absl::Status status = FindPreset("sparten").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), HasSubstr("spatten-eighth"));
  EXPECT_EQ(FindPreset("/no/where").status().code(), absl::StatusCode::kNotFound);
}

TEST(Presets, AFileIsReadAndItsErrorsHaveAPlace) {
  const testing::TempDir dir;
  const std::string path = (dir.path() / "mine.textproto").string();
  std::ofstream(path) << "description: 'x'\nspatten { no_such_field: 1 }\n";
  const absl::Status bad = FindPreset(path).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(bad), HasSubstr(path + ":2"));
  std::ofstream(path) << "description: 'x'\n";
  const auto empty = FindPreset(path);
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->name(), path);
  EXPECT_THAT(Message(CreateAccelerator(*empty).status()), HasSubstr("one of spatten, fact"));
}

TEST(Simulation, AddsUpAndIsShared) {
  v1::Simulation part;
  part.set_preset("chip");
  part.set_cycles(10);
  part.set_energy_joules(2.0);
  part.set_softmax_rows(8);
  (*part.mutable_busy_cycles())["qk"] = 4.0;
  part.mutable_dram()->add_requests_by_channel(3);
  v1::Simulation total;
  AddSimulation(part, &total);
  AddSimulation(part, &total);
  EXPECT_EQ(total.preset(), "chip");
  EXPECT_EQ(total.cycles(), 20);
  EXPECT_EQ(total.busy_cycles().at("qk"), 8.0);
  EXPECT_EQ(total.dram().requests_by_channel(0), 6);
  const v1::Simulation half = ShareOf(total, 0.5);
  EXPECT_EQ(half.cycles(), 20);          // All of the time,
  EXPECT_EQ(half.energy_joules(), 2.0);  // and its part of the rest.
  EXPECT_EQ(half.softmax_rows(), 8);
}

}  // namespace
}  // namespace thresher
