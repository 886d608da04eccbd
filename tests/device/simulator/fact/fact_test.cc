#include "backend/device/simulator/fact/fact.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/shapes.h"
#include "backend/tensor/status.h"
#include "tests/device/simulator/watched_accelerator.h"

namespace thresher {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::HasSubstr;

std::unique_ptr<Accelerator> Make(const v1::Preset& preset) {
  auto accelerator = CreateFact(preset);
  EXPECT_TRUE(accelerator.ok()) << accelerator.status();
  return testing::Watched(*std::move(accelerator), preset);
}

v1::Simulation Charge(const v1::Preset& preset, const LayerRecord& record,
                      bool attention_only = false) {
  const auto charge = Make(preset)->Run(record, {.attention_only = attention_only});
  EXPECT_TRUE(charge.ok()) << charge.status();
  return charge.ok() ? charge->total : v1::Simulation();
}

double Of(const google::protobuf::Map<std::string, double>& map, const std::string& name) {
  const auto found = map.find(name);
  return found == map.end() ? 0 : found->second;
}

/// A record with candidates, and what it counts.
struct Masked {
  explicit Masked(LayerRecord dense, int32_t one_hot = 0) : record(std::move(dense)) {
    const SequenceRecord& sequence = record.sequences[0];
    mask = CandidateMask(record.shape.heads, sequence.rows, sequence.rows);
    record.sequences[0].candidates = &mask;
    one_hot_queries = one_hot;
  }
  /// After the bits are set.
  void Count() {
    SequenceRecord& sequence = record.sequences[0];
    const int32_t rows = sequence.rows;
    const int32_t group = record.shape.heads / record.shape.kv_heads;
    sequence.query_rows = sequence.key_rows = sequence.value_rows = 0;
    std::vector<bool> keys, values;
    for (HeadRecord& head : sequence.heads) {
      if (head.head % group == 0) {
        keys.assign(rows, false);
        values.assign(rows, false);
      }
      head.queries = rows - one_hot_queries;
      head.scores = 0;
      int32_t one_hot = one_hot_queries;
      std::vector<bool> read(rows);
      for (int32_t q = 0; q < rows; ++q) {
        int64_t count = 0;
        for (int32_t k = 0; k < rows; ++k) count += mask.test(head.head, q, k);
        const bool runs = count > 1 || one_hot == 0;
        if (!runs) --one_hot;
        if (runs) head.scores += count;
        for (int32_t k = 0; k < rows; ++k) {
          if (!mask.test(head.head, q, k)) continue;
          read[k] = true;
          values[k] = true;
          if (runs) keys[k] = true;
        }
      }
      head.keys = std::count(read.begin(), read.end(), true);
      head.values = head.scores + one_hot_queries;
      sequence.query_rows += head.queries;
      if (head.head % group == group - 1) {
        sequence.key_rows += std::count(keys.begin(), keys.end(), true);
        sequence.value_rows += std::count(values.begin(), values.end(), true);
      }
    }
    sequence.predicted_rows = int64_t{rows} * (record.shape.heads + record.shape.kv_heads);
    sequence.prediction_bits = 8;
  }
  LayerRecord record;
  CandidateMask mask;
  int32_t one_hot_queries = 0;
};

/// Twice as many operations as the record has products: generation, attention, linear layers.
double OperationsOf(const LayerRecord& record) {
  const double dim = record.shape.head_dim, hidden = record.shape.hidden_size;
  double products = 0;
  for (const SequenceRecord& s : record.sequences) {
    products += static_cast<double>(s.query_rows + s.key_rows + s.value_rows) * hidden * dim;
    for (const HeadRecord& head : s.heads) products += 2 * static_cast<double>(head.scores) * dim;
    products += s.rows * (hidden * dim * record.shape.heads +
                          hidden * record.shape.ffn_size * record.shape.ffn_matrices);
  }
  return 2 * products;
}

void ExpectConserved(const LayerRecord& record, const v1::Simulation& total) {
  EXPECT_EQ(total.operations(), OperationsOf(record));
  EXPECT_EQ(total.dram_bytes(), 32.0 * (total.dram().reads() + total.dram().writes()));
  EXPECT_LE(total.dram_bytes_plain(), total.dram_bytes());
  double energy = 0;
  for (const auto& [part, joules] : total.energy_by_part()) {
    EXPECT_GT(joules, 0) << part;
    energy += joules;
  }
  EXPECT_NEAR(total.energy_joules(), energy, 1e-9 * energy);
  // The array always either works or stands still for a reason.
  double array = Of(total.busy_cycles(), "array");
  for (const auto& [cause, cycles] : total.stall_cycles()) {
    EXPECT_GT(cycles, 0) << cause;
    if (cause.starts_with("array:")) array += cycles;
  }
  EXPECT_EQ(array, static_cast<double>(total.cycles()));
  int64_t softmax_rows = 0;
  for (const SequenceRecord& s : record.sequences) {
    for (const HeadRecord& head : s.heads) softmax_rows += head.queries;
  }
  EXPECT_EQ(total.softmax_rows(), softmax_rows);
}

// ---- By hand: 2 x 2 x 2 multipliers, a head of 4 dimensions ----

/// Memory that is never in the way.
v1::Preset MicroPreset() {
  v1::Preset preset = *FindPreset("fact");
  v1::FactSpec& spec = *preset.mutable_fact();
  spec.set_clock_hz(1e9);
  spec.set_array_rows(2);
  spec.set_array_columns(2);
  spec.set_array_depth(2);
  spec.set_activation_banks(2);
  spec.set_kv_banks(4);
  spec.mutable_prediction()->set_adders(4);
  spec.mutable_prediction()->set_latency(3);
  spec.mutable_softmax()->set_lanes(1);
  spec.mutable_softmax()->set_latency(5);
  spec.set_norm_passes(0);
  preset.mutable_dram()->mutable_flat()->set_bytes_per_second(1e15);
  preset.mutable_dram()->mutable_flat()->set_burst_bytes(32);
  return preset;
}

LayerRecord MicroRecord(int64_t tokens, const char* more = "") {
  return DenseRecordOf(
      *ParseShape(std::string("heads=1,head_dim=4,layers=1,ffn=4,hidden=4") + more), tokens, 1);
}

TEST(FactTest, ADenseLayerByHand) {
  const LayerRecord record = MicroRecord(2);
  const v1::Simulation total = Charge(MicroPreset(), record);
  // Two rows pass through 4 x 4 weights in 2 x 2 cycles: K, V and Q together in 12. Two keys of 4
  // dimensions are a cycle, for scores and again for outputs: 2 queries take 4. Then output
  // projection and two feed-forward products of 4 cycles each.
  EXPECT_EQ(Of(total.busy_cycles(), "array"), 12 + 4 + 12);
  EXPECT_EQ(total.operations(), 2 * (3 * 2 * 16 + 2 * 2 * 2 * 4 + 3 * 2 * 16));
  EXPECT_EQ(total.operations_dense(), total.operations());
  EXPECT_EQ(Of(total.busy_cycles(), "softmax"), 4);  // Two rows of two scores.
  EXPECT_EQ(Of(total.busy_cycles(), "prediction"), 0);
  // Inputs, 3 matrices, 3 x (inputs, weights, outputs), and the attention's outputs, 8 bits each.
  EXPECT_EQ(total.dram_bytes_plain(), 8 + 3 * 16 + 8 + 3 * (8 + 16 + 8));
  ExpectConserved(record, total);
}

TEST(FactTest, NormsAndActivationsPassTheSoftmaxsLanes) {
  v1::Preset preset = MicroPreset();
  preset.mutable_fact()->set_norm_passes(2);
  const LayerRecord record = MicroRecord(2);
  const v1::Simulation plain = Charge(MicroPreset(), record);
  const v1::Simulation total = Charge(preset, record);
  // Two normalizations of 2 x 4 elements, in two passes of one element a cycle.
  EXPECT_EQ(Of(total.busy_cycles(), "norm"), 2 * 16);
  EXPECT_GE(Of(total.stall_cycles(), "array: waits for norms"), 2 * 16);
  // The first feed-forward product takes 4 cycles, its 8 outputs' activation 8.
  EXPECT_EQ(Of(total.busy_cycles(), "array"), Of(plain.busy_cycles(), "array") + 4);
  EXPECT_EQ(total.dram_bytes_plain(), plain.dram_bytes_plain() + 2 * 3 * 8);
  EXPECT_EQ(total.operations(), plain.operations());
  EXPECT_NEAR(Of(total.energy_by_part(), "norm"), 0.45e-12 * (16 * 15.6 + 8 * 35.0), 1e-18);
  ExpectConserved(record, total);
}

TEST(FactTest, APredictedLayerByHand) {
  Masked masked(MicroRecord(2));
  // Both queries read key 1 alone.
  masked.mask.set(0, 0, 1);
  masked.mask.set(0, 1, 1);
  masked.Count();
  const v1::Simulation total = Charge(MicroPreset(), masked.record);
  // K of two rows: 2 x 4 x 4 additions, 4 a cycle, and 3 cycles of latency: 11. Each query: Q of 16
  // additions and 2 scores of 4: 6 cycles.
  EXPECT_EQ(Of(total.busy_cycles(), "prediction"), 11 + 6 + 6);
  // One row of K, then one of V (the array half empty); by then the second query is predicted, and
  // Q of both pass together: 3 groups of 4 cycles. Attention: 4 of one cycle.
  EXPECT_EQ(Of(total.busy_cycles(), "array"), 12 + 4 + 12);
  EXPECT_EQ(total.operations(), 2 * ((1 + 1 + 2) * 16 + 2 * 2 * 4 + 3 * 2 * 16));
  EXPECT_GT(Of(total.stall_cycles(), "array: waits for prediction"), 11);
  ExpectConserved(masked.record, total);
}

TEST(FactTest, KeysThatLieInOneBankAreReadInTurn) {
  Masked masked(MicroRecord(4));
  // Of 4 tokens, 0 and 2 begin in the same bank: two beats in place of one, for K and for V.
  for (int32_t q = 0; q < 4; ++q) {
    masked.mask.set(0, q, 0);
    masked.mask.set(0, q, 2);
  }
  masked.Count();
  v1::Simulation total = Charge(MicroPreset(), masked.record, /*attention_only=*/true);
  EXPECT_EQ(Of(total.busy_cycles(), "array"), 8);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for banks"), 8);

  Masked neighbours(MicroRecord(4));
  for (int32_t q = 0; q < 4; ++q) {
    neighbours.mask.set(0, q, 0);
    neighbours.mask.set(0, q, 3);
  }
  neighbours.Count();
  total = Charge(MicroPreset(), neighbours.record, /*attention_only=*/true);
  EXPECT_EQ(Of(total.busy_cycles(), "array"), 8);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for banks"), 0);

  // Without diagonal storage all rows lie in one bank, and so do the rows that are generated.
  v1::Preset preset = MicroPreset();
  preset.mutable_fact()->set_diagonal_storage(false);
  total = Charge(preset, neighbours.record, /*attention_only=*/true);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for banks"), 8);
  total = Charge(preset, MicroRecord(2));
  EXPECT_EQ(Of(total.busy_cycles(), "array"), 12 + 4 + 12);
  EXPECT_EQ(Of(total.stall_cycles(), "array: waits for banks"), 12 + 4 + 12);
}

TEST(FactTest, RowsOfLowPrecisionTakeHalfTheTime) {
  LayerRecord record = MicroRecord(8);
  const double full = Of(Charge(MicroPreset(), record).busy_cycles(), "array");
  record.sequences[0].ffn_low_rows = 4;
  record.sequences[0].ffn_low_bits = 4;
  const v1::Simulation total = Charge(MicroPreset(), record);
  // 2 x 2 passes of 4 cycles become 2 x 2 of 2.
  EXPECT_EQ(Of(total.busy_cycles(), "array"), full - 8);
  ExpectConserved(record, total);
  record.sequences[0].ffn_low_bits = 8;
  EXPECT_EQ(Of(Charge(MicroPreset(), record).busy_cycles(), "array"), full);
}

TEST(FactTest, AOneHotQueryCopiesAValue) {
  Masked masked(MicroRecord(2), /*one_hot=*/1);
  masked.mask.set(0, 0, 1);
  masked.mask.set(0, 1, 0);
  masked.mask.set(0, 1, 1);
  masked.Count();
  EXPECT_EQ(masked.record.sequences[0].query_rows, 1);
  const v1::Simulation total = Charge(MicroPreset(), masked.record);
  EXPECT_EQ(total.operations(), 2 * ((1 + 2 + 2) * 16 + 2 * 2 * 4 + 3 * 2 * 16));
  EXPECT_EQ(total.softmax_rows(), 1);
  ExpectConserved(masked.record, total);
}

TEST(FactTest, CachedKeysComeFromMemory) {
  LayerRecord record = MicroRecord(1);
  SequenceRecord& sequence = record.sequences[0];
  sequence.decode = true;
  sequence.keys = sequence.dense_keys = 9;
  sequence.heads[0].keys = sequence.heads[0].scores = sequence.heads[0].values = 9;
  const v1::Simulation total = Charge(MicroPreset(), record);
  EXPECT_EQ(total.kv_bytes(), 9 * 2 * 4);  // Of 8 that are cached and 1 that is generated.
  EXPECT_EQ(total.kv_bytes_dense().fp16(), 9 * 2 * 4 * 2);
  ExpectConserved(record, total);
}

// ---- A layer of BERT-base ----

/// Queries that read a fifth of the keys; half of their choice is common to all.
Masked Pruned(int32_t tokens, uint32_t seed) {
  Masked masked(DenseRecordOf(*ParseShape("bert-base"), tokens, 1));
  std::mt19937 random(seed);
  for (const HeadRecord& head : masked.record.sequences[0].heads) {
    for (int32_t q = 0; q < tokens; ++q) {
      for (int32_t i = 0; i < tokens / 10; ++i) {
        masked.mask.set(head.head, q, (i * 37 + head.head) % tokens);
        masked.mask.set(head.head, q, static_cast<int32_t>(random() % (tokens / 3)) * 3);
      }
    }
  }
  masked.Count();
  return masked;
}

TEST(FactTest, OutOfOrderGenerationHidesThePrediction) {
  const Masked masked = Pruned(128, 1);
  const LayerRecord& record = masked.record;
  LayerRecord copy = record;
  copy.sequences[0].candidates = &masked.mask;
  v1::Preset preset = *FindPreset("fact");
  const v1::Simulation out_of_order = Charge(preset, copy);
  preset.mutable_fact()->set_out_of_order(false);
  const v1::Simulation in_order = Charge(preset, copy);
  EXPECT_LT(out_of_order.cycles(), in_order.cycles());
  // At most the prediction was hidden, and most of it was.
  const double prediction = Of(in_order.busy_cycles(), "prediction");
  EXPECT_EQ(Of(out_of_order.busy_cycles(), "prediction"), prediction);
  const auto hidden = static_cast<double>(in_order.cycles() - out_of_order.cycles());
  EXPECT_GT(hidden, 0.5 * prediction);
  // The work is the same.
  EXPECT_EQ(out_of_order.operations(), in_order.operations());
  EXPECT_EQ(out_of_order.dram_bytes(), in_order.dram_bytes());
  ExpectConserved(copy, out_of_order);
  ExpectConserved(copy, in_order);
}

TEST(FactTest, PruningSavesTimeAndEnergy) {
  const Masked masked = Pruned(128, 2);
  LayerRecord pruned = masked.record;
  pruned.sequences[0].candidates = &masked.mask;
  pruned.sequences[0].ffn_low_rows = 64;
  pruned.sequences[0].ffn_low_bits = 4;
  const v1::Preset preset = *FindPreset("fact");
  const v1::Simulation dense = Charge(preset, DenseRecordOf(pruned.shape, 128, 1));
  const v1::Simulation saved = Charge(preset, pruned);
  EXPECT_LT(saved.cycles(), dense.cycles());
  EXPECT_LT(Of(saved.energy_by_part(), "attention"), Of(dense.energy_by_part(), "attention"));
  EXPECT_LT(Of(saved.energy_by_part(), "generation"), Of(dense.energy_by_part(), "generation"));
  EXPECT_LT(Of(saved.energy_by_part(), "linear"), Of(dense.energy_by_part(), "linear"));
  EXPECT_EQ(saved.operations_dense(), dense.operations_dense());
  // No more than the multipliers can do.
  EXPECT_LT(dense.operations() / dense.seconds(), Make(preset)->peak_operations());
  EXPECT_GT(dense.operations() / dense.seconds(), 0.9 * Make(preset)->peak_operations());
}

TEST(FactTest, CountsStandForCandidatesThatNobodyRecorded) {
  const Masked masked = Pruned(96, 3);
  LayerRecord with = masked.record;
  with.sequences[0].candidates = &masked.mask;
  LayerRecord without = with;
  without.sequences[0].candidates = nullptr;
  const v1::Preset preset = *FindPreset("fact");
  const v1::Simulation a = Charge(preset, with), b = Charge(preset, without);
  EXPECT_EQ(a.operations(), b.operations());
  EXPECT_NEAR(static_cast<double>(a.cycles()), static_cast<double>(b.cycles()),
              0.1 * static_cast<double>(a.cycles()));
  ExpectConserved(without, b);
}

TEST(FactTest, QueuesHoldUpWhoeverIsAhead) {
  const Masked masked = Pruned(64, 4);
  LayerRecord record = masked.record;
  record.sequences[0].candidates = &masked.mask;
  v1::Preset preset = *FindPreset("fact");
  preset.mutable_fact()->mutable_prediction()->set_row_queue(1);
  const v1::Simulation shallow = Charge(preset, record);
  EXPECT_GT(Of(shallow.stall_cycles(), "prediction: waits for the array"), 0);
  preset.mutable_fact()->mutable_prediction()->set_row_queue(64);
  preset.mutable_fact()->mutable_prediction()->set_adders(64);
  const v1::Simulation slow = Charge(preset, record);
  EXPECT_GT(Of(slow.stall_cycles(), "array: waits for prediction"),
            10 * Of(shallow.stall_cycles(), "array: waits for prediction"));
  preset = *FindPreset("fact");
  preset.mutable_fact()->mutable_softmax()->set_latency(5000);
  preset.mutable_fact()->mutable_softmax()->set_queue(1);
  EXPECT_GT(Of(Charge(preset, record).stall_cycles(), "array: waits for softmax"), 0);
  preset = *FindPreset("fact");
  preset.mutable_dram()->mutable_flat()->set_bytes_per_second(1e9);
  EXPECT_GT(Of(Charge(preset, record).stall_cycles(), "array: waits for weights"), 0);
}

TEST(FactTest, InputsThatDoNotFitComeAgainForEachHead) {
  const LayerRecord record = DenseRecordOf(*ParseShape("bert-base"), 64, 1);
  v1::Preset preset = *FindPreset("fact");
  preset.mutable_fact()->set_activation_sram_bytes(64 * 3072);
  const double fits = Charge(preset, record).dram_bytes_plain();
  // Room for 32 rows of 768: the other 32 come for 11 more heads, and the feed-forward network's
  // 4.7 million weights twice and more.
  preset.mutable_fact()->set_activation_sram_bytes(32 * 768);
  const double again = Charge(preset, record, /*attention_only=*/false).dram_bytes_plain();
  EXPECT_GT(again - fits, 11.0 * 32 * 768);
}

TEST(FactTest, BatchesShareWeights) {
  const LayerRecord one = DenseRecordOf(*ParseShape("bert-base"), 32, 1);
  const LayerRecord four = DenseRecordOf(*ParseShape("bert-base"), 32, 4);
  const auto accelerator = Make(*FindPreset("fact"));
  const auto charge = *accelerator->Run(four, {});
  ASSERT_EQ(charge.shares.size(), 4u);
  EXPECT_NEAR(std::accumulate(charge.shares.begin(), charge.shares.end(), 0.0), 1, 1e-12);
  for (const double share : charge.shares) EXPECT_NEAR(share, 0.25, 1e-3);
  EXPECT_LT(charge.total.dram_bytes(), 2 * Charge(*FindPreset("fact"), one).dram_bytes());
  ExpectConserved(four, charge.total);
}

TEST(FactTest, TheSameRecordsAreChargedTheSame) {
  const Masked masked = Pruned(64, 5);
  LayerRecord record = masked.record;
  record.sequences[0].candidates = &masked.mask;
  const auto accelerator = Make(*FindPreset("fact"));
  const auto first = accelerator->Run(record, {})->total;
  const auto second = accelerator->Run(record, {})->total;
  accelerator->Reset();
  EXPECT_TRUE(MessageDifferencer::Equals(accelerator->Run(record, {})->total, first));
  EXPECT_TRUE(MessageDifferencer::Equals(accelerator->Run(record, {})->total, second));
}

TEST(FactTest, AnyRecordIsChargedWhatItHas) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const char* shapes[] = {"heads=4,head_dim=16,layers=2,ffn=48,hidden=40",
                            "heads=4,kv_heads=2,head_dim=24,layers=2,ffn=64,ffn_matrices=3",
                            "heads=3,head_dim=8,layers=2,ffn=20,causal=1"};
    const auto tokens = static_cast<int32_t>(1 + random() % 50);
    Masked masked(DenseRecordOf(*ParseShape(shapes[seed % 3]), tokens, 1));
    LayerRecord& record = masked.record;
    for (const HeadRecord& head : record.sequences[0].heads) {
      for (int32_t q = 0; q < tokens; ++q) {
        const int32_t sight = record.shape.causal ? q + 1 : tokens;
        const auto keys = static_cast<int32_t>(1 + random() % sight);
        for (int32_t i = 0; i < keys; ++i) {
          masked.mask.set(head.head, q, static_cast<int32_t>(random() % sight));
        }
      }
    }
    masked.Count();
    record.sequences[0].ffn_low_rows = static_cast<int32_t>(random() % (tokens + 1));
    record.sequences[0].ffn_low_bits = 4;
    v1::Preset preset = *FindPreset("fact");
    preset.mutable_fact()->set_out_of_order(random() % 2 == 0);
    preset.mutable_fact()->set_diagonal_storage(random() % 4 != 0);
    preset.mutable_fact()->set_generation_window(static_cast<int32_t>(1 + random() % 20));
    preset.mutable_fact()->mutable_prediction()->set_row_queue(
        static_cast<int32_t>(1 + random() % 9));
    preset.mutable_fact()->mutable_softmax()->set_queue(static_cast<int32_t>(1 + random() % 4));
    ExpectConserved(record, Charge(preset, record));
    record.sequences[0].candidates = nullptr;
    ExpectConserved(record, Charge(preset, record));
  }
}

// ---- What can't be ----

TEST(FactTest, PresetsThatCantWorkAreRefusedByField) {
  const auto refusal = [](auto change) {
    v1::Preset preset = *FindPreset("fact");
    change(*preset.mutable_fact());
    const auto accelerator = CreateFact(preset);
    return accelerator.ok() ? std::string() : Message(accelerator.status());
  };
  EXPECT_THAT(refusal([](auto& s) { s.set_clock_hz(0); }), HasSubstr("fact.clock_hz"));
  EXPECT_THAT(refusal([](auto& s) { s.set_array_depth(0); }), HasSubstr("fact.array_depth"));
  EXPECT_THAT(refusal([](auto& s) { s.set_activation_banks(65); }),
              HasSubstr("fact.activation_banks"));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_prediction()->set_row_queue(0); }),
              HasSubstr("fact.prediction.row_queue"));
  EXPECT_THAT(refusal([](auto& s) { s.set_weight_sram_bytes(0); }),
              HasSubstr("fact.weight_sram_bytes"));
  EXPECT_THAT(refusal([](auto& s) { s.mutable_energy()->set_add(-1); }),
              HasSubstr("fact.energy.add"));
  v1::Preset preset = *FindPreset("fact");
  preset.clear_dram();
  EXPECT_THAT(Message(CreateFact(preset).status()), HasSubstr("dram"));
  preset.clear_fact();
  EXPECT_THAT(Message(CreateFact(preset).status()), HasSubstr("fact: is missing"));
}

TEST(FactTest, RecordsThatCantBeAreRefused) {
  const auto refusal = [](auto change) {
    LayerRecord record = DenseRecordOf(*ParseShape("bert-base"), 16, 1);
    change(record);
    const auto charge = Make(*FindPreset("fact"))->Run(record, {});
    return charge.ok() ? std::string() : Message(charge.status());
  };
  EXPECT_THAT(refusal([](LayerRecord& r) { r.sequences[0].heads[3].scores = 1 << 20; }),
              HasSubstr("sequence 0: head 3: scores"));
  EXPECT_THAT(refusal([](LayerRecord& r) { r.sequences[0].heads[0].queries = -1; }),
              HasSubstr("queries"));
  EXPECT_THAT(refusal([](LayerRecord& r) { r.sequences[0].heads[0].head = 5; }),
              HasSubstr("ascend"));
  EXPECT_THAT(refusal([](LayerRecord& r) { r.sequences[0].key_rows = 17 * 12; }),
              HasSubstr("key_rows"));
  EXPECT_THAT(refusal([](LayerRecord& r) { r.sequences[0].ffn_low_rows = 17; }),
              HasSubstr("ffn_low_rows"));
  EXPECT_THAT(refusal([](LayerRecord& r) { r.shape.kv_heads = 5; }), HasSubstr("kv_heads"));
  EXPECT_THAT(refusal([](LayerRecord& r) { r.shape.hidden_size = 4096; }),
              HasSubstr("fact.weight_sram_bytes"));
  EXPECT_THAT(refusal([](LayerRecord& r) { r = DenseRecordOf(r.shape, 1 << 20, 1); }),
              HasSubstr("fact.kv_sram_bytes"));
  const CandidateMask mask(12, 15, 15);
  EXPECT_THAT(refusal([&](LayerRecord& r) { r.sequences[0].candidates = &mask; }),
              HasSubstr("candidates"));
  EXPECT_EQ(refusal([](LayerRecord& r) { r.sequences.clear(); }), "");
}

}  // namespace
}  // namespace thresher
