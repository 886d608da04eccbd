#include "backend/device/simulator/spatten/spatten.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/device/simulator/simulation.h"
#include "backend/device/simulator/spatten/top_k_engine.h"
#include "backend/device/simulator/trace/trace.h"
#include "backend/tensor/status.h"
#include "tests/device/simulator/watched_accelerator.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::HasSubstr;

std::unique_ptr<Accelerator> Make(const v1::Preset& preset) {
  auto accelerator = CreateSpAtten(preset);
  EXPECT_TRUE(accelerator.ok()) << accelerator.status();
  return testing::Watched(*std::move(accelerator), preset);
}
std::unique_ptr<Accelerator> Make(const std::string& name) { return Make(*FindPreset(name)); }

v1::Simulation Replay(Accelerator* accelerator, const std::string& path, int layers = 1 << 30) {
  v1::Simulation total;
  auto reader = TraceReader::Open(path);
  EXPECT_TRUE(reader.ok()) << reader.status();
  while (reader.ok() && layers-- > 0) {
    auto record = (*reader)->Next();
    EXPECT_TRUE(record.ok()) << record.status();
    if (!record.ok() || !record->has_value()) break;
    const auto charge = accelerator->Run(**record, {.attention_only = true});
    EXPECT_TRUE(charge.ok()) << charge.status();
    if (!charge.ok()) break;
    AddSimulation(charge->total, &total);
  }
  return total;
}

/// An encoder's layer at SpAtten's static width.
LayerRecord Encoder(int64_t tokens, int32_t batch = 1) {
  LayerRecord record = DenseRecordOf(*ParseShape("bert-base"), tokens, batch);
  for (SequenceRecord& sequence : record.sequences) {
    sequence.bits = {.query = 12, .key = 12, .value = 12};
  }
  return record;
}

TEST(SpAtten, ThePublicTraceReadsAsManyBytesAsPublished) {
  const auto path = testing::SharedPath("golden/spatten/gpt2-small-wikitext2-per8.csv");
  THRESHER_REQUIRE_SHARED(path);
  const v1::Simulation total = Replay(Make("spatten").get(), path);
  EXPECT_EQ(total.kv_bytes(), 82'428'256);  // K 61,592,256, V 12,248,640, lower bits 8,587,360.
  EXPECT_EQ(total.kv_bytes_dense().fp32(), 4.0 * 594'837'504);
  EXPECT_NEAR(total.kv_bytes_dense().fp32() / total.kv_bytes(), 28.9, 0.289);
  EXPECT_NEAR(total.kv_bytes_dense().fp16() / total.kv_bytes(), 14.4, 0.144);
  EXPECT_NEAR(total.kv_bytes_dense().int12() / total.kv_bytes(), 10.8, 0.108);
  EXPECT_EQ(total.refetched_rows(), 323);
  EXPECT_EQ(total.softmax_rows(), 4608);
  // Fused pairs fill their transactions; a query is 128 bytes, an output 96.
  EXPECT_EQ(total.dram_bytes_plain(), total.kv_bytes() + 4608 * (128 + 96));
  EXPECT_EQ(total.dram_bytes(), total.dram_bytes_plain());
  EXPECT_EQ(total.dram_bytes(), 32.0 * (total.dram().reads() + total.dram().writes()));

  const auto& channels = total.dram().requests_by_channel();
  ASSERT_EQ(channels.size(), 16);
  const double mean = std::accumulate(channels.begin(), channels.end(), 0.0) / 16;
  EXPECT_EQ(mean * 16 * 32, total.dram_bytes());
  for (const int64_t requests : channels) {
    EXPECT_NEAR(static_cast<double>(requests), mean, 0.05 * mean);
  }

  // Arrays work as long as their share of keys and values says; top-k's time is its queue's.
  EXPECT_EQ(total.busy_cycles().at("qk"), 196'103);
  EXPECT_EQ(total.busy_cycles().at("pv"), 33'132);
  EXPECT_NEAR(total.busy_cycles().at("top_k"), 377'411 + 162'336 + 27'298, 0.03 * 567'045);
  EXPECT_EQ(total.operations(), 231'258'496);  // 2.313e8, those made again included.
  EXPECT_EQ(total.operations_dense(), 1'189'675'008);
  for (const char* unit : {"qk", "softmax", "top_k", "pv"}) {
    double cycles = total.busy_cycles().at(unit);
    for (const auto& [cause, stalled] : total.stall_cycles()) {
      if (cause.rfind(std::string(unit) + ":", 0) == 0) cycles += stalled;
    }
    EXPECT_EQ(cycles, total.cycles()) << unit;
  }
}

TEST(SpAtten, ATraceWithoutPruningReadsAllOfIt) {
  const auto path = testing::SharedPath("golden/spatten/gpt2-small-wikitext2-per8-step1+dedic.csv");
  THRESHER_REQUIRE_SHARED(path);
  const v1::Simulation total = Replay(Make("spatten").get(), path, 12);  // A step: all are alike.
  EXPECT_EQ(total.kv_bytes(), total.kv_bytes_dense().fp32());
  EXPECT_EQ(total.operations(), total.operations_dense());
  EXPECT_EQ(total.refetched_rows(), 0);
  EXPECT_EQ(total.busy_cycles().at("top_k"), 0);
}

TEST(SpAtten, TheSameTraceGivesTheSameChargeEveryTime) {
  const auto path = testing::SharedPath("golden/spatten/gpt2-small-wikitext2-per8.csv");
  THRESHER_REQUIRE_SHARED(path);
  auto accelerator = Make("spatten-eighth");
  const v1::Simulation first = Replay(accelerator.get(), path, 30);
  accelerator->Reset();
  EXPECT_TRUE(MessageDifferencer::Equals(first, Replay(accelerator.get(), path, 30)));
  EXPECT_TRUE(MessageDifferencer::Equals(first, Replay(Make("spatten-eighth").get(), path, 30)));
}

TEST(SpAtten, ALongSentenceNearlyReachesThePeak) {
  auto accelerator = Make("spatten");
  const auto charge = accelerator->Run(Encoder(384), {.attention_only = true});
  ASSERT_TRUE(charge.ok()) << charge.status();
  // 12 heads x 384 queries x 384 / 8 cycles.
  EXPECT_EQ(charge->total.busy_cycles().at("qk"), 12 * 384 * 48);
  EXPECT_EQ(charge->total.busy_cycles().at("pv"), 12 * 384 * 48);
  EXPECT_GT(charge->total.operations() / charge->total.seconds(), 0.99 * 2.048e12);
  EXPECT_EQ(charge->total.kv_bytes(), charge->total.kv_bytes_dense().int12());
}

TEST(SpAtten, ContextsLongerThanTheSramRunInSegments) {
  auto accelerator = Make("spatten");
  const auto whole = accelerator->Run(Encoder(1024), {.attention_only = true});
  const auto cut = accelerator->Run(Encoder(1025), {.attention_only = true});
  ASSERT_TRUE(whole.ok() && cut.ok());
  EXPECT_EQ(cut->total.kv_bytes(), cut->total.kv_bytes_dense().int12());
  EXPECT_EQ(cut->total.operations(), cut->total.operations_dense());
  EXPECT_EQ(cut->total.softmax_rows(), 12 * 1025);
  EXPECT_GT(cut->total.cycles(), whole->total.cycles());
  EXPECT_GT(cut->total.dram_bytes(), 2 * whole->total.dram_bytes()) << "partial outputs";
}

TEST(SpAtten, SharesOfABatchAddUpAndFollowTheWork) {
  auto accelerator = Make("spatten");
  LayerRecord record = Encoder(64, 3);
  record.sequences[1] = Encoder(128).sequences[0];
  for (const bool attention_only : {true, false}) {
    const auto charge = accelerator->Run(record, {.attention_only = attention_only});
    ASSERT_TRUE(charge.ok()) << charge.status();
    const auto& shares = charge->shares;
    ASSERT_EQ(shares.size(), 3);
    EXPECT_NEAR(shares[0] + shares[1] + shares[2], 1, 1e-12);
    EXPECT_DOUBLE_EQ(shares[0], shares[2]);
    EXPECT_GT(shares[1], 1.9 * shares[0]);
    double joules = 0;
    for (const auto& [part, value] : charge->total.energy_by_part()) joules += value;
    EXPECT_NEAR(joules, charge->total.energy_joules(), 1e-12 * joules);
  }
}

TEST(SpAtten, LinearLayersStreamTheirWeights) {
  auto accelerator = Make("spatten");
  const auto attention = accelerator->Run(Encoder(64), {.attention_only = true});
  accelerator->Reset();
  const auto layer = accelerator->Run(Encoder(64), {.attention_only = false});
  ASSERT_TRUE(attention.ok() && layer.ok());
  const double weights = 4.0 * 768 * 768 + 2.0 * 768 * 3072;
  const double linear = layer->total.operations() - attention->total.operations();
  EXPECT_EQ(linear, 2 * 64 * weights);
  EXPECT_EQ(layer->total.operations(), layer->total.operations_dense());
  // 64 rows of 768 fit into the V SRAM, and 42 of 3072: those weights come twice.
  const double activations = 64.0 * (4 * 768 * 2 + 2 * (768 + 3072));
  // Two normalizations read rows and residuals, and write.
  const double norms = 2.0 * 64 * 768;
  EXPECT_EQ(layer->total.dram_bytes_plain() - attention->total.dram_bytes_plain(),
            1.5 * (weights + 768 * 3072 + activations + 3 * norms));
  // Two passes, 8 elements a cycle.
  EXPECT_NEAR(layer->total.busy_cycles().at("norm"), norms * 2 / 8, 32);
  EXPECT_GE(layer->total.stall_cycles().at("linear: waits for norms"), norms * 2 / 8);
  EXPECT_NEAR(layer->total.energy_by_part().at("norm"), (norms * 15.6 + 64.0 * 3072 * 35.0) * 1e-12,
              1e-12);
  const double cycles = layer->total.busy_cycles().at("linear");
  EXPECT_NEAR(cycles, linear / 2048, 0.01 * cycles);
  EXPECT_GT(layer->total.energy_by_part().at("linear"), 0);
}

TEST(SpAtten, AnActivationThatIsSlowerThanItsProductHoldsItUp) {
  v1::Preset preset = *FindPreset("spatten");
  LayerRecord record = Encoder(8);
  record.shape.hidden_size = 16;  // Two multiplications of 1024 for each output.
  const auto linear = [&] {
    const auto charge = Make(preset)->Run(record, {});
    return charge.ok() ? charge->total.busy_cycles().at("linear") : -1.0;
  };
  const double with = linear();
  preset.mutable_spatten()->set_norm_passes(0);
  // 8 x 3072 elements, 8 a cycle, beside 8 x 3072 x 16 products, 1024 a cycle.
  EXPECT_NEAR(with - linear(), 3072 - 384, 2);
}

TEST(SpAtten, ImportanceAndTheRankingOfHeadsHaveTheirPrice) {
  LayerRecord record = Encoder(16);
  const auto before = Make("spatten")->Run(record, {.attention_only = true});
  record.sequences[0].accumulates_importance = true;
  record.sequences[0].accumulates_head_importance = true;
  record.sequences[0].head_top_k_from = 12;
  record.sequences[0].head_top_k = 9;
  const auto after = Make("spatten")->Run(record, {.attention_only = true});
  ASSERT_TRUE(before.ok() && after.ok());
  // 12 heads x 16 queries x 16 probabilities, and x 64 elements of output.
  EXPECT_NEAR(after->total.energy_by_part().at("importance"), 12 * 16 * (16 + 64) * 0.9e-12, 1e-18);
  EXPECT_EQ(before->total.energy_by_part().count("importance"), 0);
  // In, and out, by 8 a cycle.
  const int64_t selection = TopKEngine({.parallelism = 16, .round_cycles = 3}).Rank(12, 9).cycles;
  EXPECT_EQ(after->total.busy_cycles().at("top_k"), selection + 2);
  EXPECT_LE(after->total.cycles() - before->total.cycles(), 2 + selection + 2);
}

TEST(SpAtten, EnergyIsWhatWasDoneAtThePresetsPrices) {
  v1::Preset preset = *FindPreset("spatten");
  v1::SpAttenEnergy& energy = *preset.mutable_spatten()->mutable_energy();
  energy.set_multiply(2);
  energy.set_add(1);
  energy.set_softmax_element(10);
  energy.set_sram_byte(0.5);
  const auto accelerator = Make(preset);
  const auto charge = accelerator->Run(Encoder(16), {.attention_only = true});
  ASSERT_TRUE(charge.ok()) << charge.status();
  const auto& parts = charge->total.energy_by_part();
  const double scores = 12 * 16 * 16;
  EXPECT_NEAR(parts.at("qk"), scores * 64 * 3e-12, 1e-18);
  EXPECT_NEAR(parts.at("pv"), scores * 64 * 3e-12, 1e-18);
  EXPECT_NEAR(parts.at("softmax"), scores * 10e-12, 1e-18);
  EXPECT_EQ(parts.at("top_k"), 0);
  // K and V of 16 tokens are written once and read for each of 16 queries, 96 bytes a row.
  EXPECT_NEAR(charge->total.sram_bytes(), 2 * 12 * (16 + 256) * 96, 1e-6);
  EXPECT_NEAR(parts.at("sram"), 2 * 12 * (16 + 256) * 96 * 0.5e-12, 1e-18);
  const v1::DramCounts& dram = charge->total.dram();
  EXPECT_EQ(dram.reads() + dram.writes(), 12 * 16 * (2 * 3 + 3 + 3));
  const double bits = 256.0 * static_cast<double>(dram.reads() + dram.writes());
  EXPECT_NEAR(parts.at("dram"),
              (909.0 * static_cast<double>(dram.activations()) + 2.71 * bits) * 1e-12, 1e-15);
}

TEST(SpAtten, ATimelineShowsWhatUnitsDid) {
  auto accelerator = Make("spatten");
  Timeline timeline(1000);
  const auto charge = accelerator->Run(Encoder(16), {.timeline = &timeline});
  ASSERT_TRUE(charge.ok());
  int64_t qk_ps = 0;
  for (const Timeline::Span& span : timeline.spans()) {
    EXPECT_LE(span.begin_ps, span.end_ps);
    if (span.unit == "qk") qk_ps += span.end_ps - span.begin_ps;
  }
  EXPECT_EQ(qk_ps, 12 * 16 * 2 * 1000);
  EXPECT_EQ(timeline.spans().front().unit, "linear");
}

TEST(SpAtten, ItHasHardwareForItsOwnPolicyAndForDense) {
  EXPECT_THAT(Make("spatten")->policies(), ::testing::ElementsAre("dense", "spatten"));
}

TEST(SpAtten, APresetThatCannotWorkIsRefusedWithTheReason) {
  const auto error = [](auto change) {
    v1::Preset preset = *FindPreset("spatten");
    change(preset.mutable_spatten());
    return Message(CreateSpAtten(preset).status());
  };
  using Spec = v1::SpAttenSpec;
  EXPECT_THAT(error([](Spec* spec) { spec->set_clock_hz(0); }),
              HasSubstr("preset 'spatten': spatten.clock_hz"));
  EXPECT_THAT(error([](Spec* spec) { spec->set_multipliers(0); }), HasSubstr("multipliers"));
  EXPECT_THAT(error([](Spec* spec) { spec->set_softmax_fifo(1023); }), HasSubstr("softmax_fifo"));
  EXPECT_THAT(error([](Spec* spec) { spec->mutable_fetch()->clear_planes(); }),
              HasSubstr("fetch.planes"));
  EXPECT_THAT(error([](Spec* spec) { spec->mutable_fetch()->set_lanes(-1); }),
              HasSubstr("fetch.lanes"));
  EXPECT_THAT(error([](Spec* spec) { spec->mutable_top_k()->set_parallelism(0); }),
              HasSubstr("top_k.parallelism"));
  EXPECT_THAT(error([](Spec* spec) { spec->mutable_energy()->set_add(-1); }),
              HasSubstr("energy.add"));
  v1::Preset preset = *FindPreset("spatten");
  preset.clear_dram();
  EXPECT_FALSE(CreateSpAtten(preset).ok());
  EXPECT_FALSE(CreateSpAtten(v1::Preset()).ok());
}

TEST(SpAtten, ARecordThatCannotBeIsRefusedWithTheField) {
  auto accelerator = Make("spatten");
  const auto error = [&](auto change) {
    LayerRecord record = Encoder(16);
    change(&record);
    const auto charge = accelerator->Run(record, {.attention_only = true});
    EXPECT_FALSE(charge.ok());
    return Message(charge.status());
  };
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].heads[3].keys = -1; }),
              HasSubstr("spatten: layer 0: sequence 0: head 3: keys: -1"));
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].heads[3].scores = 257; }),
              HasSubstr("head 3: scores: 257 of 16 queries and 16 keys"));
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].heads[0].values = 257; }),
              HasSubstr("head 0: values"));
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].heads[0].refetched = 1; }),
              HasSubstr("bits.key_refetch"));
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].heads[1].head = 0; }),
              HasSubstr("ascend"));
  EXPECT_THAT(error([](LayerRecord* r) {
                r->sequences[0].positions = {1, 2};
              }),
              HasSubstr("at 2 positions"));
  EXPECT_THAT(error([](LayerRecord* r) {
                r->sequences[0].positions = {2, 1};
              }),
              HasSubstr("positions: 1 at place 1"));
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].bits.key = 40; }), HasSubstr("bits.key"));
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].top_k = 9; }), HasSubstr("top_k"));
  EXPECT_THAT(error([](LayerRecord* r) { r->shape.kv_heads = 5; }), HasSubstr("kv_heads"));
  EXPECT_THAT(error([](LayerRecord* r) { r->shape.head_dim = 1 << 17; }), HasSubstr("head_dim"));
  EXPECT_THAT(error([](LayerRecord* r) {
                for (HeadRecord& head : r->sequences[0].heads) {
                  head.queries = head.keys = 1 << 24;
                  head.scores = head.values = int64_t{1} << 48;
                }
              }),
              HasSubstr("use fewer tokens"));
  EXPECT_THAT(error([](LayerRecord* r) { r->sequences[0].key_rows = 1000; }),
              HasSubstr("key_rows"));
  LayerRecord wide = Encoder(16);
  wide.shape.hidden_size = wide.shape.ffn_size = 1 << 22;
  EXPECT_THAT(Message(accelerator->Run(wide, {}).status()),
              HasSubstr("spatten: layer 0: linear layers"));
  EXPECT_TRUE(accelerator->Run(wide, {.attention_only = true}).ok());
  EXPECT_TRUE(accelerator->Run(Encoder(16), {}).ok()) << "nothing stays behind";
}

TEST(SpAtten, LayersWithNothingToDoCostNothing) {
  auto accelerator = Make("spatten");
  LayerRecord record = Encoder(16, 2);
  for (SequenceRecord& sequence : record.sequences) sequence.heads.clear();
  const auto charge = accelerator->Run(record, {.attention_only = true});
  ASSERT_TRUE(charge.ok()) << charge.status();
  EXPECT_EQ(charge->total.cycles(), 0);
  EXPECT_EQ(charge->shares, std::vector<double>({0.5, 0.5}));
}

}  // namespace
}  // namespace thresher
