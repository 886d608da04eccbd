#include "backend/device/simulator/spatial/spatial.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/device/simulator/spatial/machine.h"
#include "backend/tensor/status.h"
#include "proto/text_format.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

v1::Preset PresetOf(const std::string& name) {
  const auto preset = FindPreset(name);
  EXPECT_TRUE(preset.ok()) << preset.status();
  return *preset;
}

// Arrays of 2 x 2 and of 2 elements, rows of 2 words, 1 pJ for each multiply-add and nothing for
// all else, and memory that takes no time: small enough to be worked by hand.
v1::Preset MicroPreset(const std::string& name) {
  v1::Preset preset = PresetOf(name);
  v1::SpatialSpec& spec = *preset.mutable_spatial();
  spec.set_clock_hz(1e9);
  spec.mutable_array_2d()->set_rows(2);
  spec.mutable_array_2d()->set_columns(2);
  spec.set_array_1d_units(2);
  spec.mutable_buffer()->set_row_bytes(4);
  spec.mutable_buffer()->set_read_picojoules(0);
  spec.mutable_buffer()->set_write_picojoules(0);
  for (auto& [op, picojoules] : *spec.mutable_op_picojoules()) picojoules = op == "mac" ? 1 : 0;
  preset.mutable_dram()->mutable_flat()->set_bytes_per_second(1e18);
  preset.mutable_dram()->mutable_flat()->set_picojoules_per_bit(0);
  if (spec.has_fused()) {
    spec.mutable_fused()->clear_choices();
    auto* choice = spec.mutable_fused()->add_choices();
    choice->add_on_chip("QK");
    choice->add_on_chip("A");
    choice->set_stationary(v1::FusedMapping::OUTPUT);
  }
  return preset;
}

LayerShape MicroShape(int32_t heads = 1) {
  return {.layers = 1,
          .heads = heads,
          .kv_heads = heads,
          .head_dim = 2,
          .hidden_size = 2 * heads,
          .ffn_size = 4};
}

LayerCharge Charge(const v1::Preset& preset, const LayerRecord& record,
                   const RunScope& scope = {.attention_only = true}) {
  auto accelerator = CreateSpatial(preset);
  EXPECT_TRUE(accelerator.ok()) << accelerator.status();
  auto charge = (*accelerator)->Run(record, scope);
  EXPECT_TRUE(charge.ok()) << charge.status();
  return *std::move(charge);
}

// Four queries and four keys of dimension two: two tiles by two.
v1::Simulation ChargeMicro(const v1::Preset& preset) {
  return Charge(preset, DenseRecordOf(MicroShape(), 4, 1)).total;
}

double Get(const google::protobuf::Map<std::string, double>& map, const std::string& key) {
  const auto found = map.find(key);
  return found == map.end() ? 0 : found->second;
}

TEST(Spatial, FuseMaxByHand) {
  const v1::Simulation total = ChargeMicro(MicroPreset("fusemax-cloud"));
  // A tile: scores 2 and maximum 1 beside the sums 1 + 2 of the tile before; running maximum 1;
  // exponentials 7 and their sum 1 beside the correction 7 + 1; V 2 beside 2. That is 14. Of the
  // first query tile the output takes 2 more of the 1D array's time than there is to hide; of the
  // second, the sums and the output come after all: 1 + 2 + 2.
  EXPECT_EQ(total.cycles(), 4 * 14 + 2 + 5);
  EXPECT_DOUBLE_EQ(total.dram_bytes(), 2 * 4 * (4 * 2));  // Q, K, V and the output, once.
  EXPECT_DOUBLE_EQ(total.kv_bytes(), 2 * 2 * (4 * 2));
  // Multiply-adds: Q.K and S.V 32 each, exponentials 6 x 16; for each query and chunk the
  // correction's 6, and 1 + 2 to apply it.
  EXPECT_NEAR(total.energy_joules() * 1e12, 32 + 32 + 96 + 8 * (6 + 1 + 2), 1e-9);
  // Rows of the buffer. In each tile: Q and K 2 each, V 2, RM 1 + 1, RD 1 + 1, RNV 2 + 2; filled
  // with Q, K and V 4 each; for the output RNV 4 and RD 2.
  EXPECT_DOUBLE_EQ(total.sram_bytes(), 4 * (4 * (2 + 2 + 2 + 2 + 2 + 4) + 3 * 4 + 4 + 2));
  EXPECT_DOUBLE_EQ(Get(total.busy_cycles(), "array_2d"), 4 * (2 + 1 + 7 + 1 + 2));
  EXPECT_DOUBLE_EQ(Get(total.busy_cycles(), "array_2d.SLN"), 4 * 7);
  EXPECT_DOUBLE_EQ(Get(total.busy_cycles(), "array_1d"), 4 * (1 + 7 + 1 + 2 + 1 + 2) + 2 * 2);
  // The 2D array waits for each running maximum, and once for an output.
  EXPECT_DOUBLE_EQ(Get(total.stall_cycles(), "array_2d: waits for RM"), 4 * 1 + 2);
  EXPECT_DOUBLE_EQ(total.operations(), 2 * 2 * 32);
  EXPECT_DOUBLE_EQ(total.operations_dense(), 2 * 2 * 32);
  EXPECT_EQ(total.softmax_rows(), 4);
}

TEST(Spatial, AnEinsumMoreByHand) {
  // Queries are scaled first, on the 1D array: once for each, before the first chunk.
  v1::Preset preset = MicroPreset("fusemax-cloud");
  v1::SpatialSpec& spec = *preset.mutable_spatial();
  spec.mutable_einsums(0)->set_einsum("QK[p,m1,m0] = QS[p,e] * K[m1,m0,e]");
  spec.mutable_einsums(0)->clear_from_buffer();
  spec.mutable_einsums(0)->add_from_buffer("QS");
  spec.mutable_einsums(0)->add_from_buffer("K");
  auto* scale = spec.add_einsums();
  scale->set_einsum("QS[p,e] = Q[p,e] * scale");
  scale->set_ops("mac");
  scale->set_array(v1::ARRAY_1D);
  scale->set_to_buffer(true);
  auto* stage = spec.add_stages();
  stage->add_array_1d("QS");
  for (int i = spec.einsums_size() - 1; i > 0; --i) {
    spec.mutable_einsums()->SwapElements(i, i - 1);
  }
  for (int i = spec.stages_size() - 1; i > 0; --i) spec.mutable_stages()->SwapElements(i, i - 1);
  const v1::Simulation plain = ChargeMicro(MicroPreset("fusemax-cloud"));
  const v1::Simulation total = ChargeMicro(preset);
  // Two tiles of queries, two cycles each: scores wait for it.
  EXPECT_EQ(total.cycles(), plain.cycles() + 2 * 2);
  EXPECT_NEAR((total.energy_joules() - plain.energy_joules()) * 1e12, 4 * 2, 1e-9);
  // Rows of the buffer: Q was filled for QK to read, and goes straight to the 1D array now; QS is
  // written and read in its place.
  EXPECT_DOUBLE_EQ(total.sram_bytes(), plain.sram_bytes());
  EXPECT_DOUBLE_EQ(total.dram_bytes(), plain.dram_bytes());
}

TEST(Spatial, FuseMaxInLockstepByHand) {
  v1::Preset preset = MicroPreset("fusemax-architecture");
  preset.mutable_spatial()->mutable_stages(0)->set_stall_cycles(2);
  const v1::Simulation total = ChargeMicro(preset);
  // Scores 3, the maximum's way 2, 1, 8, and 2 + 2 for the sums that wait for V. At the end the
  // denominator and the output, 1 + 2.
  EXPECT_EQ(total.cycles(), 4 * (3 + 2 + 1 + 8 + 4) + 3);
}

TEST(Spatial, TheCascadeOnFlatArraysByHand) {
  const v1::Simulation total = ChargeMicro(MicroPreset("fusemax-cascade"));
  // The 1D array: maxima 2, 1, correction 2, exponentials 4, sum 2, 1, 1, 2, and the sums of the
  // tile before, 2. It begins after the first scores, 2; at the end come V, 2 - but that was made
  // while the 1D array went on - the sums 2 and the output 2; the first output took 2 as well.
  EXPECT_EQ(total.cycles(), 2 + 4 * 15 + 3 * 2 + 2 + (2 + 2));
}

TEST(Spatial, FlatByHand) {
  v1::Preset preset = MicroPreset("flat-cloud");
  v1::Simulation total = ChargeMicro(preset);
  // Two tiles of two queries: scores 2 x 2; four operations on 2 x 4 elements by 2; V 2 x 2. The
  // second tile's scores are made during the first's softmax, the first's output during the
  // second's.
  EXPECT_EQ(total.cycles(), 4 + 2 * 16 + 4);
  // Q, K and V are read for each tile, the output is written once.
  EXPECT_DOUBLE_EQ(total.dram_bytes(), 2 * (16 + 16 + 16 + 8));
  EXPECT_DOUBLE_EQ(total.kv_bytes(), 2 * (16 + 16));
  // The buffer: scores read 4 times and written 3 times, and 2 vectors both.
  EXPECT_DOUBLE_EQ(total.sram_bytes(), 2 * (7 * 16 + 2 * 2 * 4));
  // Room for three quarters of the scores (32 bytes) and four tiles of 8 bytes, twice.
  preset.mutable_spatial()->mutable_buffer()->set_bytes(72);
  total = ChargeMicro(preset);
  EXPECT_DOUBLE_EQ(total.dram_bytes(), 2 * (16 + 16 + 16 + 8 + 0.25 * 7 * 16));
}

TEST(Spatial, FlatWithStationaryWeightsByHand) {
  v1::Preset preset = MicroPreset("flat-cloud");
  auto* choice = preset.mutable_spatial()->mutable_fused()->mutable_choices(0);
  choice->set_stationary(v1::FusedMapping::WEIGHT);
  choice->clear_on_chip();
  choice->add_on_chip("Q");
  choice->add_on_chip("AV");
  choice->set_rows(2);
  const v1::Simulation total = ChargeMicro(preset);
  // A tile of K (or V) at a time, and two queries stream by: 2 x 2.
  EXPECT_EQ(total.cycles(), 4 + 2 * 16 + 4);
  // Scores and probabilities out and in; K and V for each two queries; Q and the output once.
  EXPECT_DOUBLE_EQ(total.dram_bytes(), 2 * (4 * 16 + 2 * 16 + 2 * 8));
}

TEST(Spatial, UnfusedByHand) {
  const v1::Simulation total = ChargeMicro(MicroPreset("unfused"));
  EXPECT_EQ(total.cycles(), 2 * 4 + 2 * 16 + 2 * 4);
  EXPECT_DOUBLE_EQ(total.dram_bytes(), 2 * ((16 + 16) + 2 * 16 + (16 + 16)));
}

TEST(Spatial, MemoryHoldsUpWhatItMust) {
  v1::Preset preset = MicroPreset("unfused");
  // One byte a cycle: 64 for each of the phases, of which the first tile has half. What the array
  // does for the last tile comes after.
  preset.mutable_dram()->mutable_flat()->set_bytes_per_second(1e9);
  const v1::Simulation total = ChargeMicro(preset);
  EXPECT_EQ(total.cycles(), (64 + 4) + (64 + 16) + (64 + 4));
  EXPECT_DOUBLE_EQ(Get(total.busy_cycles(), "memory"), 3 * 64);
  EXPECT_DOUBLE_EQ(Get(total.stall_cycles(), "array_2d: waits for memory"), 2 * (32 + 28));
}

TEST(Spatial, ThePublishedTimeIsThatOfTheSteadyState) {
  // 154 cycles for each of 12288 tiles. Around them, the first scores and the last sums, and the
  // first operands: one chunk of K and V and one tile of Q.
  const v1::Simulation total =
      Charge(PresetOf("fusemax-cloud"), DenseRecordOf(*ParseShape("bert-base"), 1024, 64)).total;
  const double operands = 3 * 256 * 64 * 2 / (400.0 * (1 << 30)) * 940e6;
  EXPECT_NEAR(static_cast<double>(total.cycles()), 154.0 * 12288 + 65 + operands, 1);
}

TEST(Spatial, LengthsRoundUpToTiles) {
  const v1::Preset preset = PresetOf("fusemax-cloud");
  const LayerShape shape = *ParseShape("bert-base");
  const v1::Simulation whole = Charge(preset, DenseRecordOf(shape, 512, 1)).total;
  const v1::Simulation cut = Charge(preset, DenseRecordOf(shape, 300, 1)).total;
  // Idle elements take the cycle; but nothing is read or computed for them.
  EXPECT_NEAR(static_cast<double>(cut.cycles()), static_cast<double>(whole.cycles()), 400);
  EXPECT_DOUBLE_EQ(cut.dram_bytes(), whole.dram_bytes() * 300 / 512);
  EXPECT_DOUBLE_EQ(cut.operations(), whole.operations() * 300 * 300 / (512.0 * 512));
  // One query of a decoder.
  LayerRecord step = DenseRecordOf(shape, 1000, 1);
  step.sequences[0].rows = 1;
  for (HeadRecord& head : step.sequences[0].heads) head.queries = 1;
  const v1::Simulation decode = Charge(preset, step).total;
  EXPECT_LT(Get(decode.busy_cycles(), "array_2d") / decode.cycles(), 1.0 / 200);
  EXPECT_DOUBLE_EQ(decode.dram_bytes(), 2.0 * 12 * 64 * (2 * 1000 + 2));
}

TEST(Spatial, PrunedRowsKeysAndHeadsCostNothing) {
  const LayerShape shape = *ParseShape("bert-base");
  LayerRecord record = DenseRecordOf(shape, 512, 2);
  SequenceRecord& pruned = record.sequences[1];
  pruned.heads.resize(6);
  for (HeadRecord& head : pruned.heads) {
    head.queries = 256;
    head.keys = 128;
    head.scores = head.values = 256 * 128;
  }
  pruned.rows = 256;
  for (const char* name : {"fusemax-cloud", "fusemax-cascade", "fusemax-architecture", "flat-cloud",
                           "flat-edge", "unfused"}) {
    const v1::Preset preset = PresetOf(name);
    const LayerCharge charge = Charge(preset, record, {.attention_only = false});
    const v1::Simulation& total = charge.total;
    ASSERT_THAT(charge.shares, SizeIs(2));
    EXPECT_NEAR(charge.shares[0] + charge.shares[1], 1, 1e-12) << name;
    EXPECT_GT(charge.shares[0], 1.5 * charge.shares[1]) << name;
    const v1::Simulation dense =
        Charge(preset, DenseRecordOf(shape, 512, 2), {.attention_only = false}).total;
    EXPECT_LT(total.cycles(), dense.cycles()) << name;
    EXPECT_LT(total.energy_joules(), dense.energy_joules()) << name;
    EXPECT_LT(total.dram_bytes(), dense.dram_bytes()) << name;
    EXPECT_DOUBLE_EQ(total.operations_dense(), dense.operations()) << name;
    EXPECT_DOUBLE_EQ(total.kv_bytes_dense().fp16(), dense.kv_bytes_dense().fp16()) << name;
  }
}

TEST(Spatial, NothingCostsNothing) {
  LayerRecord record{.shape = MicroShape()};
  EXPECT_EQ(Charge(PresetOf("fusemax-cloud"), record).total.cycles(), 0);
  record.sequences.resize(2);
  const LayerCharge charge = Charge(PresetOf("flat-cloud"), record, {.attention_only = false});
  EXPECT_EQ(charge.total.cycles(), 0);
  EXPECT_THAT(charge.shares, ElementsAre(0.5, 0.5));
}

TEST(Spatial, TheSameRecordCostsTheSame) {
  const LayerRecord record = DenseRecordOf(*ParseShape("gpt2-small"), 777, 3);
  for (const char* name : {"fusemax-cloud", "flat-cloud", "flat-edge", "unfused"}) {
    auto accelerator = CreateSpatial(PresetOf(name));
    ASSERT_TRUE(accelerator.ok());
    const auto first = (*accelerator)->Run(record, {});
    const auto second = (*accelerator)->Run(record, {});
    (*accelerator)->Reset();
    const auto third = (*accelerator)->Run(record, {});
    ASSERT_TRUE(first.ok() && second.ok() && third.ok());
    EXPECT_EQ(first->total.ShortDebugString(), second->total.ShortDebugString());
    EXPECT_EQ(first->total.ShortDebugString(), third->total.ShortDebugString());
  }
}

TEST(Spatial, PartsAddUp) {
  const v1::Simulation total =
      Charge(PresetOf("flat-cloud"), DenseRecordOf(*ParseShape("t5-small"), 2048, 2), {}).total;
  double joules = 0;
  for (const auto& [part, energy] : total.energy_by_part()) joules += energy;
  EXPECT_NEAR(joules, total.energy_joules(), joules * 1e-12);
  for (const std::string unit : {"array_2d", "array_1d"}) {
    double busy = 0;
    for (const auto& [name, cycles] : total.busy_cycles()) {
      if (name.rfind(unit + ".", 0) == 0) busy += cycles;
    }
    EXPECT_NEAR(busy, Get(total.busy_cycles(), unit), busy * 1e-12);
    EXPECT_LE(busy, static_cast<double>(total.cycles()));
  }
}

TEST(Spatial, NormalizationsAreChargedWhereThePresetSaysSo) {
  v1::Preset preset = MicroPreset("fusemax-cloud");
  const LayerRecord record = DenseRecordOf(MicroShape(), 4, 1);
  const v1::Simulation without = Charge(preset, record, {}).total;
  preset.mutable_spatial()->set_norm_ops("2 add + 2 mac");
  const v1::Simulation with = Charge(preset, record, {}).total;
  // Two of them, four rows of two on two elements, four operations.
  EXPECT_EQ(with.cycles() - without.cycles(), 2 * 2 * 2 * 4);
  EXPECT_NEAR((with.energy_joules() - without.energy_joules()) * 1e12, 2 * 8 * 2, 1e-9);
}

TEST(Spatial, GatedAndGroupedLayersAreCharged) {
  v1::Preset preset = MicroPreset("fusemax-cloud");
  LayerShape shape = MicroShape(4);  // Hidden size 8.
  const LayerRecord record = DenseRecordOf(shape, 4, 1);
  const double dense = Charge(preset, record, {}).total.operations();
  shape.kv_heads = 1;
  shape.ffn_matrices = 3;
  const double grouped = Charge(preset, DenseRecordOf(shape, 4, 1), {}).total.operations();
  EXPECT_DOUBLE_EQ(grouped - dense, 2.0 * 4 * 8 * (4 - 2 * 6));
}

TEST(Spatial, TheEdgeArraySearchesItsMapping) {
  const LayerShape shape = *ParseShape("bert-base");
  for (const int64_t tokens : {32, 128, 512, 4096, 65536}) {
    const v1::Simulation total =
        Charge(PresetOf("flat-edge"), DenseRecordOf(shape, tokens, 1)).total;
    // No slower than a choice that anyone could make: nothing on chip, outputs stationary.
    v1::Preset plain = PresetOf("flat-edge");
    plain.mutable_spatial()->mutable_fused()->add_choices()->set_stationary(
        v1::FusedMapping::OUTPUT);
    const v1::Simulation other = Charge(plain, DenseRecordOf(shape, tokens, 1)).total;
    EXPECT_LE(total.seconds(), other.seconds() * 1.001) << tokens;
  }
}

TEST(Spatial, SpansComeInOrder) {
  auto accelerator = CreateSpatial(PresetOf("fusemax-cloud"));
  ASSERT_TRUE(accelerator.ok());
  Timeline timeline;
  const LayerRecord record = DenseRecordOf(*ParseShape("bert-base"), 512, 1);
  ASSERT_TRUE((*accelerator)->Run(record, {.timeline = &timeline}).ok());
  const int64_t end = timeline.spans().back().end_ps;
  ASSERT_TRUE((*accelerator)->Run(record, {.timeline = &timeline}).ok());
  std::map<std::string, int64_t> last;
  bool scored = false;
  for (const Timeline::Span& span : timeline.spans()) {
    EXPECT_GE(span.begin_ps, last[span.unit]) << span.unit << " " << span.what;
    EXPECT_GE(span.end_ps, span.begin_ps);
    last[span.unit] = span.end_ps;
    scored |= span.unit == "array_2d" && span.what == "QK";
  }
  EXPECT_TRUE(scored);
  EXPECT_GT(last["array_2d"], end);
}

// In milliseconds each: run in full, they would be some 10^10 tiles.
TEST(Spatial, AMillionTokensArePriced) {
  for (const char* name : {"fusemax-cloud", "fusemax-cascade", "fusemax-architecture", "flat-cloud",
                           "flat-edge", "unfused"}) {
    // Lengths that leave parts of tiles over, too.
    for (const int64_t tokens : {1 << 20, (1 << 20) - 77}) {
      const v1::Simulation total =
          Charge(PresetOf(name), DenseRecordOf(*ParseShape("xlm"), tokens, 64)).total;
      EXPECT_GT(total.seconds(), 1) << name;
    }
  }
}

TEST(Spatial, RecordsThatCannotBeAreRefused) {
  auto accelerator = CreateSpatial(PresetOf("fusemax-cloud"));
  ASSERT_TRUE(accelerator.ok());
  const struct {
    std::function<void(LayerRecord*)> spoil;
    std::string why;
  } kCases[] = {
      {[](LayerRecord* r) { r->shape.head_dim = 0; }, "can't be"},
      {[](LayerRecord* r) { r->shape.hidden_size = -4; }, "can't be"},
      {[](LayerRecord* r) { r->sequences[0].rows = -1; }, "sequence 0: -1 rows"},
      {[](LayerRecord* r) { r->sequences[0].rows = r->sequences[0].keys = 1 << 30; },
       "are not from 0 to 67108864"},
      {[](LayerRecord* r) { r->sequences[0].heads[1].queries = -5; }, "head 1: -5 queries"},
      {[](LayerRecord* r) { r->sequences[0].heads[1].keys = 1 << 20; }, "1048576 keys of"},
      {[](LayerRecord* r) { r->sequences[0].heads.resize(13); }, "13 heads ran of 12"},
      {[](LayerRecord* r) { r->shape.head_dim = 65536; }, "spatial.buffer.bytes"},
      {[](LayerRecord* r) {
         r->shape.heads = 1 << 20;
         r->sequences[0].rows = r->sequences[0].keys = 1 << 26;
         const HeadRecord head{.queries = 1 << 26, .keys = 1 << 26};
         r->sequences[0].heads.assign(1 << 16, head);
       },
       "cycles: at most"},
  };
  for (const auto& refused : kCases) {
    LayerRecord record = DenseRecordOf(*ParseShape("bert-base"), 128, 1);
    refused.spoil(&record);
    const auto charge = (*accelerator)->Run(record, {});
    ASSERT_EQ(charge.status().code(), absl::StatusCode::kInvalidArgument) << refused.why;
    EXPECT_THAT(Message(charge.status()), HasSubstr(refused.why));
  }
}

TEST(Spatial, ATimeWithoutEndIsRefused) {
  const LayerRecord record = DenseRecordOf(*ParseShape("bert-base"), 128, 1);
  for (const char* name : {"fusemax-cloud", "flat-cloud", "unfused"}) {
    v1::Preset preset = PresetOf(name);
    preset.mutable_dram()->mutable_flat()->set_bytes_per_second(1e-300);
    const auto accelerator = CreateSpatial(preset);
    ASSERT_TRUE(accelerator.ok()) << accelerator.status();
    Timeline timeline;
    for (const bool attention_only : {false, true}) {
      const auto charge =
          (*accelerator)->Run(record, {.attention_only = attention_only, .timeline = &timeline});
      EXPECT_THAT(Message(charge.status()), HasSubstr("cycles: at most")) << name;
    }
  }
}

TEST(Spatial, StallsCountAmongTheTime) {
  v1::Preset preset = PresetOf("fusemax-architecture");
  preset.mutable_spatial()->mutable_stages(0)->set_stall_cycles(1'000'000);
  const auto accelerator = CreateSpatial(preset);
  ASSERT_TRUE(accelerator.ok()) << accelerator.status();
  const LayerRecord record = DenseRecordOf(*ParseShape("t5-small"), kMaxShapeTokens, 1);
  EXPECT_THAT(Message((*accelerator)->Run(record, {}).status()), HasSubstr("cycles: at most"));
}

TEST(Spatial, PresetsThatCannotWorkAreRefused) {
  using Spoil = std::function<void(v1::Preset*)>;
  const auto spatial = [](const std::function<void(v1::SpatialSpec*)>& spoil) -> Spoil {
    return [spoil](v1::Preset* preset) { spoil(preset->mutable_spatial()); };
  };
  const struct {
    std::string preset;
    Spoil spoil;
    std::string why;
  } kCases[] = {
      {"fusemax-cloud", spatial([](auto* s) { s->set_clock_hz(0); }), "spatial: clock_hz"},
      {"fusemax-cloud", spatial([](auto* s) { s->set_clock_hz(-1.0 / 0.0); }), "clock_hz"},
      {"fusemax-cloud", spatial([](auto* s) { s->set_word_bits(0); }), "word_bits"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_array_2d()->set_rows(0); }),
       "array_2d.rows"},
      {"fusemax-cloud", spatial([](auto* s) { s->set_array_1d_units(-1); }), "array_1d_units"},
      {"fusemax-cloud", spatial([](auto* s) { s->clear_buffer(); }), "buffer"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_buffer()->set_bytes(2048); }),
       "buffer.bytes: 2048 do not hold"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_op_picojoules()->erase("mac"); }),
       "'mac' is missing"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_op_picojoules()->erase("max"); }),
       "einsums[1]: ops: op_picojoules has no operation 'max'"},
      {"fusemax-cloud", spatial([](auto* s) { (*s->mutable_op_picojoules())["add"] = -1; }),
       "op_picojoules 'add'"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_einsums(0)->set_ops(""); }),
       "einsums[0]: ops"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_einsums(0)->set_ops("0 mac"); }),
       "counts are from 1"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_einsums(0)->clear_array(); }),
       "einsums[0]: array"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_einsums(0)->set_einsum("QK"); }),
       "einsums[0]: Einsum 'QK', column 3"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_einsums(0)->add_from_buffer("V"); }),
       "from_buffer: 'V' is none of its inputs"},
      {"fusemax-cloud", spatial([](auto* s) {
         s->mutable_einsums(0)->set_einsum("QK[p,m1,m0] = Q[p,x] * K[m1,m0,x]");
       }),
       "rank x is none of"},
      {"fusemax-cloud", spatial([](auto* s) { s->clear_einsums(); }), "at least one Einsum"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_stages()->RemoveLast(); }),
       "'SLNV' is in none"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_stages(1)->add_array_1d("RM"); }),
       "'RM' is there twice"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_stages(1)->add_array_1d("QK"); }),
       "no Einsum makes 'QK' on that array"},
      {"fusemax-cloud", spatial([](auto* s) { s->add_stages(); }), "is empty"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_stages(0)->set_stall_cycles(-1); }),
       "stall_cycles"},
      {"fusemax-cloud",
       spatial([](auto* s) { s->mutable_stages(0)->mutable_array_1d()->SwapElements(1, 2); }),
       "'AV' would be two tiles behind: put it after 'RNV'"},
      {"fusemax-cloud", spatial([](auto* s) { s->clear_chunked(); }), "mapping"},
      {"fusemax-cloud", spatial([](auto* s) { s->mutable_fused(); }),
       "einsums[0].from_buffer: where the input Q lies"},
      {"fusemax-cloud", spatial([](auto* s) { s->set_norm_ops("sqrt"); }), "norm_ops"},
      {"flat-cloud", spatial([](auto* s) { s->mutable_chunked(); }), "chunks, ranks m1 and m0"},
      {"flat-cloud",
       spatial([](auto* s) { s->mutable_fused()->mutable_choices(0)->add_on_chip("X"); }),
       "fused.choices[0].on_chip: the cascade has no tensor 'X'"},
      {"flat-cloud",
       spatial([](auto* s) { s->mutable_fused()->mutable_choices(1)->clear_stationary(); }),
       "fused.choices[1].stationary"},
      {"flat-edge", spatial([](auto* s) {
         std::string inputs;
         for (char c = 'B'; c < 'J'; ++c) inputs += fmt::format(" * {}[m,e]", c);
         s->mutable_einsums(0)->set_einsum("QK[p,m] = Q[p,e]" + inputs);
       }),
       "10 inputs are too many"},
      {"unfused", spatial([](auto* s) { s->add_stages()->add_array_2d("QK"); }), "stages"},
      {"flat-cloud", [](v1::Preset* p) { p->clear_dram(); }, "dram"},
      {"flat-cloud", [](v1::Preset* p) { p->mutable_dram()->mutable_hbm2(); }, "`flat` memory"},
      {"flat-cloud",
       [](v1::Preset* p) { p->mutable_dram()->mutable_flat()->set_bytes_per_second(0); },
       "dram.flat.bytes_per_second: 0 moves nothing"},
  };
  for (const auto& refused : kCases) {
    v1::Preset preset = PresetOf(refused.preset);
    refused.spoil(&preset);
    const auto accelerator = CreateSpatial(preset);
    ASSERT_EQ(accelerator.status().code(), absl::StatusCode::kInvalidArgument) << refused.why;
    EXPECT_THAT(Message(accelerator.status()),
                AllOf(HasSubstr("preset '" + refused.preset), HasSubstr(refused.why)));
  }
}

// Presets with words and numbers changed at random: each is refused, or prices a layer, soon and
// with numbers that can be.
TEST(Spatial, RandomPresetsAreRefusedOrWork) {
  const std::vector<std::string> numbers = {"0",   "-1",  "1",    "2",          "3",   "17",
                                            "256", "1e9", "1e30", "2147483647", "nan", "inf"};
  const std::vector<std::string> words = {"QK", "Q",  "V", "RM", "AV", "A",        "SN",
                                          "m1", "m0", "p", "e",  "+1", "ARRAY_1D", "WEIGHT"};
  std::vector<std::string> presets;
  for (const EmbeddedText& file : kPresetFiles) {
    std::string text(file.content);
    if (text.find("spatial {") != std::string::npos) presets.push_back(std::move(text));
  }
  std::mt19937 random(1);
  const auto draw = [&](size_t count) { return static_cast<size_t>(random() % count); };
  int parsed = 0;
  int created = 0;
  int priced = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string text = presets[draw(presets.size())];
    for (size_t change = draw(3) + 1; change > 0; --change) {
      const size_t at = draw(text.size());
      const bool number = draw(2) == 0;
      const char* kinds = number ? "0123456789." : "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
      const size_t begin = text.find_first_of(kinds, at);
      if (begin == std::string::npos) continue;
      const size_t end = std::min(text.find_first_not_of(kinds, begin), text.size());
      const auto& list = number ? numbers : words;
      text.replace(begin, end - begin, list[draw(list.size())]);
    }
    v1::Preset preset;
    if (!ParseText(text, "preset", &preset).ok()) continue;
    ++parsed;
    const auto accelerator = CreateSpatial(preset);
    if (!accelerator.ok()) continue;
    ++created;
    const auto charge = (*accelerator)->Run(DenseRecordOf(*ParseShape("t5-small"), 700, 2), {});
    if (!charge.ok()) continue;
    ++priced;
    const v1::Simulation& total = charge->total;
    for (const double value : {total.seconds(), total.dram_bytes(), total.energy_joules(),
                               total.sram_bytes(), total.operations()}) {
      ASSERT_TRUE(std::isfinite(value) && value > 0) << text;
    }
    ASSERT_GE(total.cycles(), 0) << text;
    for (const auto& [cause, cycles] : total.stall_cycles()) ASSERT_GE(cycles, 0) << cause << text;
  }
  EXPECT_GT(parsed, 500);
  EXPECT_GT(created, 250);
  EXPECT_GT(priced, 150);
}

TEST(Spatial, ACascadeOfMorePassesIsNotChunked) {
  v1::Preset preset = PresetOf("fusemax-cloud");
  v1::SpatialSpec& spec = *preset.mutable_spatial();
  spec.clear_einsums();
  spec.clear_stages();
  std::string_view text = kTwoPassAttention;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (const std::string line(text.substr(0, end)); line.find('[') != std::string::npos) {
      auto* einsum = spec.add_einsums();
      einsum->set_einsum(line);
      einsum->set_ops("mac");
      einsum->set_array(v1::ARRAY_1D);
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  EXPECT_THAT(Message(CreateSpatial(preset).status()), HasSubstr("2 passes over m"));
}

TEST(Spatial, PresetsMakeThePassesThatTheyAreKnownFor) {
  for (const auto& [name, passes] :
       {std::pair("fusemax-cloud", 1), std::pair("fusemax-cascade", 1),
        std::pair("fusemax-architecture", 1), std::pair("flat-cloud", 3), std::pair("flat-edge", 3),
        std::pair("unfused", 3)}) {
    const auto machine = CreateSpatialMachine(PresetOf(name));
    ASSERT_TRUE(machine.ok()) << machine.status();
    EXPECT_EQ(machine->cascade.Passes("m"), passes) << name;
  }
}

TEST(Spatial, HasHardwareForDenseAttentionAlone) {
  EXPECT_THAT((*CreateSpatial(PresetOf("flat-edge")))->policies(), ElementsAre("dense"));
}

}  // namespace
}  // namespace thresher
