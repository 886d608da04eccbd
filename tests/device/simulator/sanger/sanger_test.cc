#include "backend/device/simulator/sanger/sanger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;

double Of(const google::protobuf::Map<std::string, double>& map, const std::string& name) {
  const auto found = map.find(name);
  return found == map.end() ? 0 : found->second;
}

v1::Preset SangerPreset() {
  auto preset = FindPreset("sanger");
  EXPECT_TRUE(preset.ok()) << preset.status();
  return *std::move(preset);
}

/// Passes take 2 * (dimension + 3) + 1 + 2 cycles; a byte comes in a cycle, or as many as one
/// likes.
v1::Preset MicroPreset(bool slow_memory) {
  v1::Preset preset = SangerPreset();
  v1::SangerSpec& spec = *preset.mutable_sanger();
  spec.set_clock_hz(1e9);
  spec.set_array_rows(2);
  spec.set_row_elements(2);
  spec.set_vector_keys(4);
  spec.set_skew_cycles(3);
  spec.set_exponent_cycles(1);
  spec.set_sum_cycles(2);
  spec.mutable_prediction()->set_array_rows(2);
  spec.mutable_prediction()->set_array_columns(4);
  spec.mutable_prediction()->set_turn_cycles(5);
  preset.mutable_dram()->mutable_flat()->set_bytes_per_second(slow_memory ? 1e9 : 1e15);
  return preset;
}

v1::Simulation Charge(const v1::Preset& preset, const LayerRecord& record,
                      bool attention_only = true) {
  const auto accelerator = CreateSanger(preset);
  EXPECT_TRUE(accelerator.ok()) << accelerator.status();
  const auto charge = (*accelerator)->Run(record, {.attention_only = attention_only});
  EXPECT_TRUE(charge.ok()) << charge.status();
  return charge.ok() ? charge->total : v1::Simulation();
}

/// Two heads of dimension 2 with the mask that pack_test.cc works out: 5 + 2 sub-rows, 11 scores.
struct Micro {
  Micro() : mask(2, 3, 6) {
    const std::vector<std::string> rows = {"111110", "001000", "110111"};
    for (int32_t h = 0; h < 2; ++h) {
      for (int32_t q = 0; q < 3; ++q) {
        for (int32_t k = 0; k < 6; ++k) {
          if (rows[q][k] == '1') mask.set(h, q, k);
        }
      }
    }
    record.shape = {
        .layers = 1, .heads = 2, .kv_heads = 2, .head_dim = 2, .hidden_size = 4, .ffn_size = 5};
    SequenceRecord sequence{.rows = 3, .keys = 6, .dense_rows = 3, .dense_keys = 6};
    for (int32_t h = 0; h < 2; ++h) {
      sequence.heads.push_back({.head = h, .queries = 3, .keys = 6, .scores = 11, .values = 11});
    }
    sequence.candidates = &mask;
    record.sequences.push_back(sequence);
  }
  CandidateMask mask;
  LayerRecord record;
};

TEST(Sanger, AMicroLayerByHand) {
  const Micro micro;
  const v1::Simulation total = Charge(MicroPreset(/*slow_memory=*/false), micro.record);
  // Prediction: 2 bands of queries x 2 of keys, 2 + 5 cycles each. The array: 3 + 1 passes of 13.
  const int64_t prediction = 4 * 7, array = 4 * 13;
  EXPECT_EQ(total.cycles(),
            prediction + array + array);  // The second head's hides behind the first.
  EXPECT_EQ(Of(total.busy_cycles(), "prediction"), 2 * prediction);
  EXPECT_EQ(Of(total.busy_cycles(), "array"), 2 * array);
  EXPECT_EQ(Of(total.busy_cycles(), "array.attention"), 2 * array);
  EXPECT_EQ(Of(total.busy_cycles(), "array.rows"), 2 * 7 * 13 / 2.0);
  EXPECT_EQ(Of(total.busy_cycles(), "array.elements"), 2 * 11 * 13 / 4.0);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for the mask"), prediction);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for memory"), 0);
  EXPECT_EQ(total.operations(), 2 * 4 * 2 * 11);
  EXPECT_EQ(total.operations_dense(), 2 * 4 * 2 * 18);
  EXPECT_EQ(total.softmax_rows(), 6);
}

TEST(Sanger, AMicroLayerThatWaitsForMemoryByHand) {
  const Micro micro;
  const v1::Simulation total = Charge(MicroPreset(/*slow_memory=*/true), micro.record);
  // K and V of 4 keys in 3 passes and of 2 in 1, elements of 2 bytes; Q and outputs of 3 queries;
  // for prediction Q once and K for each of 2 bands, 4 bits.
  const int64_t stream = (3 * 4 + 1 * 2) * 2 * 2 * 2, rows = 2 * 3 * 2 * 2;
  const int64_t predicted = (3 + 2 * 6) * 2 / 2;
  EXPECT_EQ(total.dram_bytes(), 2 * (stream + rows + predicted));
  EXPECT_EQ(total.kv_bytes(), 2 * stream);
  const int64_t first = 28;  // Of 15 bytes, behind the prediction.
  const int64_t second = stream + rows + predicted, third = stream + rows;
  EXPECT_EQ(total.cycles(), first + second + third);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for the mask"), first);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for memory"), second + third - 2 * 52);
}

TEST(Sanger, EnergyOfAMicroLayerByHand) {
  const Micro micro;
  v1::Preset preset = MicroPreset(false);
  v1::SangerEnergy& energy = *preset.mutable_sanger()->mutable_energy();
  energy.set_scale(2);
  energy.set_multiply(100);
  energy.set_add(10);
  energy.set_predict(1);
  energy.set_exponent(7);
  energy.set_divide(3);
  energy.set_sram_byte(5);
  preset.mutable_dram()->mutable_flat()->set_picojoules_per_bit(4);
  const v1::Simulation total = Charge(preset, micro.record);
  const auto& parts = total.energy_by_part();
  constexpr double kPico = 1e-12;
  EXPECT_NEAR(Of(parts, "prediction"), 2 * 2 * 18 * (2 * 1 + 7) * kPico, 1e-18);
  // Two products for each score and dimension; 7 sub-rows' outputs of 2 elements are added up.
  EXPECT_NEAR(Of(parts, "attention"), 2 * 2 * (2 * 11 * 2 * 110 + 7 * 2 * 10) * kPico, 1e-18);
  EXPECT_NEAR(Of(parts, "softmax"), 2 * 2 * (11 * 7 + 3 * 2 * 3) * kPico, 1e-18);
  EXPECT_NEAR(Of(parts, "dram"), total.dram_bytes() * 8 * 4 * kPico, 1e-18);
  const double sram_bytes = 2 * (total.dram_bytes() + 2 * 7 * 2 * 2);
  EXPECT_EQ(total.sram_bytes(), sram_bytes);
  EXPECT_NEAR(Of(parts, "sram"), 2 * sram_bytes * 5 * kPico, 1e-18);
}

TEST(Sanger, LinearLayersRunInTilesOfTheArray) {
  const Micro micro;
  const v1::Preset preset = MicroPreset(false);
  const v1::Simulation attention = Charge(preset, micro.record);
  const v1::Simulation layer = Charge(preset, micro.record, /*attention_only=*/false);
  // 3 rows are 2 bands; a tile of 2 x 2 outputs takes a cycle for each element of the inputs.
  const int64_t qkv = 2 * 6 * 4, output = 2 * 2 * 4, up = 2 * 3 * 4, down = 2 * 2 * 5;
  EXPECT_EQ(layer.cycles() - attention.cycles(), qkv + output + up + down);
  EXPECT_EQ(Of(layer.busy_cycles(), "array") - Of(layer.busy_cycles(), "array.attention"),
            qkv + output + up + down);
  EXPECT_EQ(layer.operations() - attention.operations(), 2 * 3 * (4 * 12 + 4 * 4 + 4 * 5 + 5 * 4));
  EXPECT_GT(Of(layer.energy_by_part(), "linear"), 0);
}

/// Attention with masks cut out of random probabilities, as large as they are.
struct Random {
  Random(int32_t tokens, double threshold, uint32_t seed)
      : record(DenseRecordOf(*ParseShape("heads=3,head_dim=64,layers=1,ffn=768"), tokens, 2)) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0.0, 2.0);
    for (SequenceRecord& sequence : record.sequences) {
      auto& mask = *masks.emplace_back(std::make_unique<CandidateMask>(3, tokens, tokens));
      sequence.candidates = &mask;
      for (HeadRecord& head : sequence.heads) {
        head.scores = 0;
        for (int32_t q = 0; q < tokens; ++q) {
          std::vector<double> row(static_cast<size_t>(tokens));
          double sum = 0;
          for (double& p : row) sum += p = std::exp(normal(random));
          for (int32_t k = 0; k < tokens; ++k) {
            if (row[k] / sum <= threshold) continue;
            mask.set(head.head, q, k);
            ++head.scores;
          }
        }
        scores += head.scores;
      }
    }
  }
  std::vector<std::unique_ptr<CandidateMask>> masks;
  LayerRecord record;
  int64_t scores = 0;
};

TEST(Sanger, AHigherThresholdTakesNeitherMoreCyclesNorMoreBytesAndEveryScoreIsMadeOnce) {
  const v1::Preset preset = SangerPreset();
  for (const uint32_t seed : {1U, 2U, 3U}) {
    v1::Simulation last;
    for (const double threshold : {0.0, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 2.0}) {
      const Random drawn(150, threshold, seed);
      const v1::Simulation total = Charge(preset, drawn.record);
      EXPECT_EQ(total.operations(), 4.0 * 64 * static_cast<double>(drawn.scores));
      if (threshold > 0) {
        EXPECT_LE(total.cycles(), last.cycles());
        EXPECT_LE(total.dram_bytes(), last.dram_bytes());
        EXPECT_LE(total.energy_joules(), last.energy_joules());
      }
      last = total;
    }
    EXPECT_EQ(last.operations(), 0);  // Nothing is above 2,
    EXPECT_GT(last.cycles(), 0);      // but that had to be found out.
  }
}

TEST(Sanger, WithoutFillingAndTurningItIsTheRateOfTheAuthorsFirstScript) {
  v1::Preset preset = SangerPreset();
  v1::SangerSpec& spec = *preset.mutable_sanger();
  spec.set_skew_cycles(0);
  spec.set_exponent_cycles(0);
  spec.set_sum_cycles(0);
  const Random drawn(256, 0.003, 4);
  const v1::Simulation total = Charge(preset, drawn.record);
  // Dense operations at (2 x 1024 operations a cycle) / density * load balance.
  const double dense = total.operations_dense();
  const double density = total.operations() / dense;
  const double balance =
      Of(total.busy_cycles(), "array.elements") / Of(total.busy_cycles(), "array.rows");
  const double scripted = dense / (2048.0 / density * balance);
  EXPECT_NEAR(Of(total.busy_cycles(), "array.rows"), scripted, 1e-9 * scripted);
  // The script leaves out that the last pass over a segment of keys is seldom full: less than a
  // pass for each of 4 segments of 6 heads.
  EXPECT_GT(Of(total.busy_cycles(), "array.attention"), scripted);
  EXPECT_LE(Of(total.busy_cycles(), "array.attention"), scripted + 6 * 4 * 2 * 64);
}

TEST(Sanger, DenseMakesNoMaskAndIsTheSameAsKeepingAll) {
  const v1::Preset preset = SangerPreset();
  Random all(130, 0.0, 5);
  const v1::Simulation masked = Charge(preset, all.record);
  for (SequenceRecord& sequence : all.record.sequences) sequence.candidates = nullptr;
  const v1::Simulation dense = Charge(preset, all.record);
  EXPECT_EQ(Of(dense.busy_cycles(), "prediction"), 0);
  EXPECT_GT(Of(masked.busy_cycles(), "prediction"), 0);
  EXPECT_EQ(Of(dense.busy_cycles(), "array"), Of(masked.busy_cycles(), "array"));
  EXPECT_EQ(Of(dense.busy_cycles(), "array.elements"), Of(masked.busy_cycles(), "array.elements"));
  EXPECT_EQ(dense.operations(), masked.operations());
  EXPECT_LT(dense.cycles(), masked.cycles());
  EXPECT_LT(dense.energy_joules(), masked.energy_joules());
}

TEST(Sanger, CountsWithoutAMaskArePredictedAndBalancedAtBest) {
  const v1::Preset preset = SangerPreset();
  Random drawn(256, 0.003, 6);
  const v1::Simulation masked = Charge(preset, drawn.record);
  for (SequenceRecord& sequence : drawn.record.sequences) sequence.candidates = nullptr;
  const v1::Simulation counted = Charge(preset, drawn.record);
  EXPECT_EQ(counted.operations(), masked.operations());
  EXPECT_EQ(Of(counted.busy_cycles(), "prediction"), Of(masked.busy_cycles(), "prediction"));
  EXPECT_LE(Of(counted.busy_cycles(), "array.rows"), Of(masked.busy_cycles(), "array.rows"));
}

TEST(Sanger, ADecodeStepKeepsFewRowsAtWork) {
  LayerRecord record = DenseRecordOf(*ParseShape("heads=2,head_dim=64,layers=1,ffn=512"), 256, 1);
  SequenceRecord& sequence = record.sequences[0];
  record.shape.causal = true;
  sequence.rows = sequence.dense_rows = 1;
  for (HeadRecord& head : sequence.heads) head = {.head = head.head, .queries = 1, .scores = 256};
  const v1::Simulation total = Charge(SangerPreset(), record);
  // 4 segments of keys, a pass each, 4 of 64 rows.
  EXPECT_EQ(Of(total.busy_cycles(), "array.attention"), 2 * 4 * (2 * 128 + 3 + 17));
  EXPECT_DOUBLE_EQ(Of(total.busy_cycles(), "array.rows"),
                   Of(total.busy_cycles(), "array.attention") / 16);
}

TEST(Sanger, ThePeakIsBelowWhatIsPublishedWithPruningCountedAsDone) {
  const auto accelerator = CreateSanger(SangerPreset());
  ASSERT_TRUE(accelerator.ok()) << accelerator.status();
  EXPECT_EQ((*accelerator)->peak_operations(), 1024e9);
  // 2285 GOPS: so they count what pruning saved.
  EXPECT_LT((*accelerator)->peak_operations(),
            FindPreset("rated-sanger")->rated().giga_operations_per_second() * 1e9);
  EXPECT_THAT((*accelerator)->policies(), ::testing::ElementsAre("dense", "sanger"));
}

TEST(Sanger, ATimelineHasEachUnitOneAfterTheOther) {
  const Micro micro;
  const auto accelerator = CreateSanger(MicroPreset(false));
  ASSERT_TRUE(accelerator.ok()) << accelerator.status();
  Timeline timeline;
  const auto charge =
      (*accelerator)->Run(micro.record, {.attention_only = true, .timeline = &timeline});
  ASSERT_TRUE(charge.ok()) << charge.status();
  int64_t end = 0, array = 0;
  for (const Timeline::Span& span : timeline.spans()) {
    EXPECT_LT(span.begin_ps, span.end_ps);
    EXPECT_LE(span.end_ps, charge->total.cycles() * 1000);
    if (span.unit != "array") continue;
    EXPECT_GE(span.begin_ps, end);
    end = span.end_ps;
    array += span.end_ps - span.begin_ps;
  }
  EXPECT_EQ(array, 2 * 52 * 1000);
}

TEST(Sanger, SharesSumToOneAndAnEmptyLayerCostsNothing) {
  const Random drawn(100, 0.01, 8);
  const auto accelerator = CreateSanger(SangerPreset());
  ASSERT_TRUE(accelerator.ok()) << accelerator.status();
  const auto charge = (*accelerator)->Run(drawn.record, {});
  ASSERT_TRUE(charge.ok()) << charge.status();
  EXPECT_NEAR(charge->shares[0] + charge->shares[1], 1.0, 1e-12);
  LayerRecord empty = drawn.record;
  empty.sequences.clear();
  const auto nothing = (*accelerator)->Run(empty, {});
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_EQ(nothing->total.cycles(), 0);
}

TEST(Sanger, RefusesWhatCannotBe) {
  const Micro micro;
  const auto accelerator = CreateSanger(MicroPreset(false));
  ASSERT_TRUE(accelerator.ok()) << accelerator.status();
  const auto refused = [&](const LayerRecord& record) {
    return Message((*accelerator)->Run(record, {}).status());
  };
  LayerRecord record = micro.record;
  record.sequences[0].heads[0].refetched = 1;
  EXPECT_THAT(refused(record), HasSubstr("progressive quantization"));
  record = micro.record;
  record.sequences[0].heads[1].scores = 19;
  EXPECT_THAT(refused(record), HasSubstr("scores"));
  record = micro.record;
  record.sequences[0].keys = 7;
  EXPECT_THAT(refused(record), HasSubstr("candidates"));
  record = micro.record;
  std::swap(record.sequences[0].heads[0], record.sequences[0].heads[1]);
  EXPECT_THAT(refused(record), HasSubstr("ascend"));
  v1::Preset preset = MicroPreset(false);
  preset.mutable_sanger()->set_row_elements(0);
  EXPECT_THAT(Message(CreateSanger(preset).status()), HasSubstr("sanger.row_elements"));
  preset = MicroPreset(false);
  preset.mutable_dram()->mutable_hbm2();
  EXPECT_THAT(Message(CreateSanger(preset).status()), HasSubstr("dram.flat"));
  preset = MicroPreset(false);
  preset.mutable_dram()->mutable_flat()->set_latency_nanoseconds(5);
  EXPECT_THAT(Message(CreateSanger(preset).status()), HasSubstr("dram.flat"));
}

}  // namespace
}  // namespace thresher
