#include "backend/device/simulator/spatten/pipeline.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>

#include "backend/device/simulator/presets.h"
#include "backend/device/simulator/spatten/check.h"
#include "tests/device/simulator/dram/fixed_dram.h"

namespace thresher {
namespace {

/// One lane, and a memory that takes 50 cycles: transaction i of a run, counted from 0, is
/// generated in cycle 1 + i if lanes have nothing else to do, passes the crossbar in cycle 2 + i
/// and is back in cycle 53 + i.
class SpAttenPipelineTest : public ::testing::Test {
 protected:
  SpAttenPipelineTest() : dram_(16, 50'000) {
    spec_ = FindPreset("spatten")->spatten();
    spec_.mutable_fetch()->set_lanes(1);
    record_.shape = {.layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 64};
  }

  SequenceRecord& AddSequence(bool decode, OperandBits bits) {
    SequenceRecord& sequence = record_.sequences.emplace_back();
    sequence.decode = decode;
    sequence.bits = bits;
    return sequence;
  }

  int64_t Run() {
    FetchNetwork::Options options{.lanes = spec_.fetch().lanes(), .outstanding_per_channel = 64};
    network_ = std::make_unique<FetchNetwork>(options, &dram_);
    TopKEngine engine({});
    pipeline_ = std::make_unique<SpAttenPipeline>(spec_, record_, network_.get(), &engine, nullptr);
    const auto end = pipeline_->Run(0);
    EXPECT_TRUE(end.ok()) << end.status();
    if (!end.ok()) return -1;
    EXPECT_TRUE(network_->idle());
    int64_t transactions = 0;
    for (const auto& [address, times] : dram_.asked) transactions += times;
    EXPECT_EQ(network_->transactions(), transactions);
    for (const UnitClock& unit : pipeline_->units()) {
      int64_t cycles = unit.busy();
      for (const auto& [cause, stalled] : unit.stalls()) cycles += stalled;
      EXPECT_EQ(cycles, *end) << unit.name();
    }
    for (const SpAttenWork& work : pipeline_->work()) EXPECT_EQ(work.rows, work.outputs);
    return *end;
  }

  int64_t Busy(const std::string& name) const {
    for (const UnitClock& unit : pipeline_->units()) {
      if (unit.name() == name) return unit.busy();
    }
    return -1;
  }

  testing::FixedDram dram_;
  v1::SpAttenSpec spec_;
  LayerRecord record_;
  std::unique_ptr<FetchNetwork> network_;
  std::unique_ptr<SpAttenPipeline> pipeline_;
};

constexpr OperandBits kTwelve{.query = 12, .key = 12, .value = 12};

// Cycles in which the engine of the tests selects the first time.
int64_t Selection(int64_t n, int64_t k) { return TopKEngine({}).Rank(n, k).cycles; }

TEST_F(SpAttenPipelineTest, ADenseRow) {
  AddSequence(true, kTwelve).heads = {
      {.head = 0, .queries = 1, .keys = 16, .scores = 16, .values = 16}};
  // Q is 3 transactions (0-2), K 16 x 3 (3-50), V as many (51-98): K is there in 103, V in 151.
  // Q.K 103-105; its scores from 114 to 116; + 28 + 23 = 167: the sum; division 167-169; + 36 + 1:
  // the decision in 206; past top-k 207; P.V 207-209; + 3 = 212: 3 transactions of output, the last
  // generated in 215, through in 216, taken in 266, known in 267.
  EXPECT_EQ(Run(), 267);
  EXPECT_EQ(Busy("qk"), 2);
  EXPECT_EQ(Busy("softmax"), 2);
  EXPECT_EQ(Busy("top_k"), 0);
  EXPECT_EQ(Busy("pv"), 2);
  EXPECT_EQ(dram_.counts().reads(), 3 + 48 + 48);
  EXPECT_EQ(dram_.counts().writes(), 3);
  const SpAttenWork& work = pipeline_->work()[0];
  EXPECT_EQ(work.key_products, 16 * 64);
  EXPECT_EQ(work.value_products, 16 * 64);
  EXPECT_EQ(work.kv_bits, 2 * 16 * 64 * 12);
  EXPECT_EQ(work.plain_bits, (2 * 16 + 2) * 64 * 12);
  EXPECT_EQ(work.sram_bits, 4 * 16 * 64 * 12) << "K and V written and read";
}

TEST_F(SpAttenPipelineTest, ARowThatChoosesItsValues) {
  AddSequence(true, kTwelve).heads = {
      {.head = 0, .queries = 1, .keys = 16, .scores = 16, .values = 4}};
  // As above up to the decision in 206; into top-k until 208; selected; streams out for 2. As it
  // begins to, V is asked for: 12 transactions from the next cycle on, the last back 64 later.
  // P.V takes 1, + 3, and the output 55.
  const int64_t selection = Selection(16, 4);
  EXPECT_EQ(Run(), 208 + selection + 64 + 1 + 3 + 55);
  EXPECT_EQ(Busy("top_k"), selection + 2);
  EXPECT_EQ(Busy("pv"), 1);
  EXPECT_EQ(dram_.counts().reads(), 3 + 48 + 12);
}

TEST_F(SpAttenPipelineTest, ARowThatIsRefetched) {
  AddSequence(true, {.query = 12, .key = 8, .key_refetch = 4, .value = 12}).heads = {
      {.head = 0, .queries = 1, .keys = 16, .scores = 16, .values = 16, .refetched = 1}};
  // K's upper bits are transactions 3-34: Q.K 87-89, scores 98-100, sum 151, division until 153,
  // decision in 190. 16 transactions, the first generated in 191, the last back in 258. Q.K again
  // 258-260, ..., decision 171 after its start, in 361; then as a dense row's, 61 later.
  EXPECT_EQ(Run(), 361 + 61);
  EXPECT_EQ(Busy("qk"), 4);
  EXPECT_EQ(Busy("softmax"), 4);
  const SpAttenWork& work = pipeline_->work()[0];
  EXPECT_EQ(work.rows, 1);
  EXPECT_EQ(work.key_products, 2 * 16 * 64);
  EXPECT_EQ(work.softmax_elements, 2 * 16);
  EXPECT_EQ(work.kv_bits, 16 * 64 * (8 + 4 + 12));
  EXPECT_EQ(dram_.counts().reads(), 3 + 32 + 48 + 16);
}

TEST_F(SpAttenPipelineTest, ARankingOfTokens) {
  SequenceRecord& sequence = AddSequence(true, kTwelve);
  sequence.top_k_from = 100;
  sequence.top_k = 10;
  // In by 8 a cycle, selected, out by 8 a cycle.
  EXPECT_EQ(Run(), 13 + Selection(100, 10) + 13);
  EXPECT_EQ(Busy("top_k"), Selection(100, 10) + 13);
}

TEST_F(SpAttenPipelineTest, HeadsAreRankedWhenTheLastOutputHasLeft) {
  SequenceRecord& sequence = AddSequence(true, kTwelve);
  sequence.heads = {{.head = 0, .queries = 1, .keys = 16, .scores = 16, .values = 16}};
  sequence.head_top_k_from = 4;
  sequence.head_top_k = 3;
  sequence.accumulates_head_importance = true;
  // As a dense row, whose output leaves P.V in 212: into top-k, selected and out again by 8 a
  // cycle, while the memory takes the output until 267.
  EXPECT_EQ(Run(), 267);
  EXPECT_EQ(Busy("top_k"), Selection(4, 3) + 1);
  EXPECT_EQ(pipeline_->work()[0].accumulated, 64);
}

TEST_F(SpAttenPipelineTest, ARowHoldsTopKUntilItHasStreamedOut) {
  auto& heads = AddSequence(true, kTwelve).heads;
  for (int32_t head = 0; head < 4; ++head) {
    heads.push_back({.head = head, .queries = 1, .keys = 200, .scores = 200, .values = 20});
  }
  spec_.mutable_fetch()->set_lanes(32);
  TopKEngine engine({});
  int64_t selections = 0;
  for (int i = 0; i < 4; ++i) selections += engine.Rank(200, 20).cycles;
  const int64_t held = Run();
  EXPECT_EQ(Busy("top_k"), selections + 4 * 25);
  spec_.mutable_top_k()->set_double_buffered(true);
  dram_.Reset();
  EXPECT_LT(Run(), held);
  EXPECT_LT(Busy("top_k"), selections + 4 * 25);
}

TEST_F(SpAttenPipelineTest, RowsOfTwoHeadsAreFetchedAsOneWord) {
  auto& heads = AddSequence(true, {.query = 16, .key = 6, .value = 6}).heads;
  heads = {{.head = 0, .queries = 1, .keys = 10, .scores = 10, .values = 4},
           {.head = 1, .queries = 1, .keys = 10, .scores = 10, .values = 4}};
  Run();
  EXPECT_EQ(dram_.counts().reads(), 2 * 4 + 10 * 3 + 4 * 3);
  EXPECT_EQ(pipeline_->work()[0].kv_bits, 2 * 14 * 64 * 6);

  // One head reads more than the other: what it reads alone is two transactions a row.
  heads[1] = {.head = 1, .queries = 1, .keys = 6, .scores = 6, .values = 1};
  dram_.Reset();
  Run();
  EXPECT_EQ(dram_.counts().reads(), 2 * 4 + (6 * 3 + 4 * 2) + (1 * 3 + 3 * 2));

  // Heads 1 and 2 are not of one word.
  heads[0].head = 1;
  heads[1] = heads[0];
  heads[1].head = 2;
  dram_.Reset();
  Run();
  EXPECT_EQ(dram_.counts().reads(), 2 * (4 + 10 * 2 + 4 * 2));
}

TEST_F(SpAttenPipelineTest, KeysAreFetchedFromTheirPositions) {
  SequenceRecord& sequence = AddSequence(true, {.query = 12, .key = 8, .value = 8});
  sequence.heads = {{.head = 2, .queries = 1, .keys = 3, .scores = 3, .values = 3}};
  sequence.positions = {4, 9, 1000};
  record_.layer = 1;
  Run();
  // Words of 64 bytes, K before V, 1025 tokens for each of 4 heads in each of 2 layers.
  const uint64_t keys = uint64_t{4 * 2 * 1025 * 64} + 2 * 1025 * 64;
  const uint64_t values = keys + 4 * 1025 * 64;
  for (const uint64_t position : {4, 9, 1000}) {
    for (const uint64_t half : {0, 32}) {
      EXPECT_EQ(dram_.asked[keys + position * 64 + half], 1);
      EXPECT_EQ(dram_.asked[values + position * 64 + half], 1);
    }
  }
}

TEST_F(SpAttenPipelineTest, AnEncoderFetchesKAndVOnceForAHead) {
  auto& sequence = AddSequence(false, kTwelve);
  sequence.rows = 40;
  for (int32_t head = 0; head < 4; ++head) {
    sequence.heads.push_back(
        {.head = head, .queries = 40, .keys = 40, .scores = 1600, .values = 1600});
  }
  spec_.mutable_fetch()->set_lanes(32);
  const int64_t cycles = Run();
  EXPECT_EQ(dram_.counts().reads(), 4 * 40 * (3 + 3 + 3));
  EXPECT_EQ(dram_.counts().writes(), 4 * 40 * 3);
  EXPECT_EQ(Busy("qk"), 4 * 40 * 5);
  EXPECT_EQ(Busy("pv"), 4 * 40 * 5);
  EXPECT_EQ(pipeline_->work()[0].outputs, 160);
  EXPECT_GT(cycles, 4 * 40 * 5);
  EXPECT_LT(cycles, 4 * 40 * 5 + 400) << "filled and drained once, not for each head";
}

TEST_F(SpAttenPipelineTest, SegmentsLeaveAndTakePartialOutputs) {
  spec_.set_context(8);
  AddSequence(true, kTwelve).heads = {
      {.head = 0, .queries = 1, .keys = 16, .scores = 16, .values = 16}};
  Run();
  EXPECT_EQ(pipeline_->work()[0].outputs, 2);
  EXPECT_EQ(dram_.counts().reads(), 2 * 3 + 48 + 48 + 8) << "64 floats";
  EXPECT_EQ(dram_.counts().writes(), 8 + 3);
  EXPECT_EQ(Busy("pv"), 1 + (1 + 1)) << "2 x 64 multiplications weigh two partial outputs";
  EXPECT_EQ(pipeline_->work()[0].kv_bits, 2 * 16 * 64 * 12);
}

TEST_F(SpAttenPipelineTest, QueuesThatAreAsSmallAsCanBeStillEmpty) {
  spec_.set_context(8);
  spec_.set_softmax_fifo(8);
  spec_.set_row_queue(1);
  spec_.set_key_sram_bytes(16 * 96);
  spec_.set_value_sram_bytes(16 * 96);
  spec_.mutable_fetch()->set_lane_queue(1);
  spec_.mutable_fetch()->set_outstanding_per_channel(1);
  // Of all kinds: pairs that choose, refetches, a dense prompt, groups, rankings.
  record_.shape.kv_heads = 2;
  for (int i = 0; i < 4; ++i) {
    SequenceRecord& sequence =
        AddSequence(i % 2 == 0, {.query = 16, .key = 6, .key_refetch = 4, .value = 6});
    const int64_t queries = i % 2 == 0 ? 1 : 13;
    for (int32_t head = 0; head < 4; ++head) {
      const int64_t keys = 20 + head, scores = queries * keys;
      sequence.heads.push_back({.head = head,
                                .queries = queries,
                                .keys = keys,
                                .scores = scores,
                                .values = i < 2 ? scores : scores * 3 / 4,
                                .refetched = (queries + 1) / 2});
    }
    sequence.top_k_from = 23;
    sequence.top_k = 9;
  }
  Run();
  for (const SpAttenWork& work : pipeline_->work()) EXPECT_GT(work.outputs, 0);
}

TEST_F(SpAttenPipelineTest, AnyLayerOnAnyMachineComesToItsEnd) {
  std::mt19937 random(11);
  const auto up_to = [&](int32_t most) { return static_cast<int32_t>(random() % (most + 1)); };
  for (int run = 0; run < 300; ++run) {
    SCOPED_TRACE(run);
    spec_ = FindPreset("spatten")->spatten();
    spec_.set_multipliers(1 << up_to(9));
    spec_.set_softmax_lanes(1 + up_to(8));
    spec_.set_context(1 + up_to(40));
    spec_.set_softmax_fifo(spec_.context() + up_to(60));
    spec_.set_row_queue(1 + up_to(5));
    spec_.set_key_sram_bytes(400 + up_to(4000));
    spec_.set_value_sram_bytes(400 + up_to(4000));
    spec_.mutable_fetch()->set_lanes(1 + up_to(8));
    spec_.mutable_top_k()->set_double_buffered(up_to(1) == 0);
    spec_.mutable_latency()->set_exponent(up_to(1) * 28);
    spec_.mutable_latency()->set_top_k_skip(up_to(1));
    record_ = {};
    const int32_t group = 1 + up_to(2), kv_heads = 1 + up_to(4);
    record_.shape = {.layers = 1,
                     .heads = kv_heads * group,
                     .kv_heads = kv_heads,
                     .head_dim = 8 << up_to(3),
                     .causal = up_to(1) == 0};
    int64_t refetched = 0;
    for (int32_t i = up_to(3); i >= 0; --i) {
      const int32_t widths[] = {4, 6, 8, 12, 0};
      SequenceRecord& sequence = AddSequence(
          up_to(1) == 0, {.query = 12, .key = widths[up_to(4)], .value = widths[up_to(4)]});
      if (sequence.bits.key > 0) sequence.bits.key_refetch = 4;
      const int32_t tokens = up_to(90);
      for (int32_t head = 0; head < record_.shape.heads; ++head) {
        if (up_to(5) == 0) continue;  // Pruned.
        HeadRecord one{.head = head};
        one.queries = sequence.decode ? 1 : up_to(20);
        one.keys = up_to(3) == 0 ? up_to(tokens) : tokens;
        one.scores = one.queries * one.keys;
        if (up_to(2) == 0) one.scores -= up_to(static_cast<int32_t>(one.scores) / 2);
        one.values = up_to(1) == 0 ? one.scores : up_to(static_cast<int32_t>(one.scores));
        if (sequence.bits.key > 0) one.refetched = up_to(static_cast<int32_t>(one.queries));
        refetched += one.refetched;
        sequence.heads.push_back(one);
      }
      if (up_to(1) == 0) {
        for (int32_t j = 0; j < tokens; ++j) sequence.positions.push_back(3 * j + i);
      }
      sequence.top_k_from = tokens;
      sequence.top_k = up_to(tokens);
    }
    const absl::Status valid = CheckSpAttenRecord(record_, spec_);
    ASSERT_TRUE(valid.ok()) << valid;
    dram_.Reset();
    const int64_t cycles = Run();
    ASSERT_GE(cycles, 0);
    int64_t scores = 0, made = 0;
    for (const SpAttenWork& work : pipeline_->work()) made += work.softmax_elements;
    for (const SequenceRecord& sequence : record_.sequences) {
      for (const HeadRecord& head : sequence.heads) scores += head.scores;
    }
    EXPECT_GE(made, scores);  // Those made again come on top.
    if (refetched == 0) {
      EXPECT_EQ(made, scores);
    }
    dram_.Reset();
    EXPECT_EQ(Run(), cycles) << "again";
  }
}

}  // namespace
}  // namespace thresher
