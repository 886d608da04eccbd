// What a simulated device hears of the layers that run beside it.
#include "backend/engine/layer_pricing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>

#include "backend/device/simulator/trace/trace.h"
#include "tests/engine/decoder_engine_testing.h"
#include "tests/engine/engine_testing.h"
#include "tests/golden/golden.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;
using testing::MakeDevice;

/// Keeps what it is told and charges a second, a joule and a byte for each layer.
class Listener final : public Accelerator {
 public:
  std::span<const std::string_view> policies() const override { return kPolicies; }
  void Reset() override { ++resets; }
  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope&) override {
    records.push_back(record);
    LayerCharge charge;
    charge.total.set_preset("listener");
    charge.total.set_cycles(10);
    charge.total.set_seconds(seconds);
    charge.total.set_energy_joules(1.0);
    double rows = 0.0;
    for (const SequenceRecord& sequence : record.sequences) rows += sequence.rows;
    for (const SequenceRecord& sequence : record.sequences) {
      charge.shares.push_back(sequence.rows / rows);
    }
    return charge;
  }

  static constexpr std::string_view kPolicies[] = {"dense", "spatten", "fact"};
  std::vector<LayerRecord> records;
  int resets = 0;
  double seconds = 1.0;
};

struct Simulated {
  explicit Simulated(const std::string& inner, double pace = 0.0) {
    auto accelerator = std::make_unique<Listener>();
    listener = accelerator.get();
    device =
        CreateSimulatedDevice("sim:listener@" + inner, CreateDevice(inner, {.threads = 1}).value(),
                              {.accelerator = std::move(accelerator), .pace = pace});
  }
  Listener* listener;
  std::shared_ptr<Device> device;
};

std::string Model() { return (testing::SourceDir() / "models/sst2-mini").string(); }

std::vector<Sequence> Batch(const Engine& engine) {
  std::vector<Sequence> batch = testing::MixedSequences(6, 40, 8000, true);
  size_t next = 0;
  for (const char* policy :
       {"dense", "spatten:keep=0.5,heads=0.75", "fact:topk=0.25,threshold=0.01,ffn=0.5,qskip=gap",
        "spatten:keep=0.7,values=0.5,bits=8/4,refetch=0.5", "dense", "spatten:final=0.4"}) {
    batch[next++].policy = engine.ParsePolicy(policy).value();
  }
  return batch;
}

class OnInner : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Device, OnInner, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

TEST_P(OnInner, AnswersAreTheInnerDevicesBitForBit) {
  const Simulated simulated(GetParam());
  const auto plain = testing::MakeEngine(Model(), MakeDevice(GetParam()));
  const auto engine = testing::MakeEngine(Model(), simulated.device);
  const auto expected = testing::RunBatch(*plain, Batch(*plain));
  const auto outputs = testing::RunBatch(*engine, Batch(*engine));
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(outputs[i].logits, expected[i].logits) << i;
    EXPECT_EQ(outputs[i].embedding, expected[i].embedding) << i;
    EXPECT_FALSE(expected[i].report.has_simulation());
  }
}

TEST_P(OnInner, RecordsAgreeWithThePruningReport) {
  const Simulated simulated(GetParam());
  const auto engine = testing::MakeEngine(Model(), simulated.device);
  const auto outputs = testing::RunBatch(*engine, Batch(*engine));
  ASSERT_EQ(simulated.listener->resets, 1);
  const std::vector<LayerRecord>& records = simulated.listener->records;
  ASSERT_FALSE(records.empty());
  ASSERT_EQ(records.size(), static_cast<size_t>(records[0].shape.layers));
  for (size_t s = 0; s < outputs.size(); ++s) {
    SCOPED_TRACE(s);
    int64_t tokens = 0, heads = 0, scores = 0, values = 0, rows = 0, refetched = 0, qkv = 0;
    int64_t predicted = 0, predicted_scores = 0, low = 0;
    for (const LayerRecord& record : records) {
      const SequenceRecord& sequence = record.sequences.at(s);
      tokens += sequence.rows;
      heads += static_cast<int64_t>(sequence.heads.size());
      for (const HeadRecord& head : sequence.heads) {
        scores += head.scores;
        values += head.values;
        rows += head.queries;
        refetched += head.refetched;
        EXPECT_LE(head.keys, sequence.keys);
        EXPECT_LE(head.refetched, head.queries);
      }
      qkv += sequence.query_rows + sequence.key_rows + sequence.value_rows;
      predicted += sequence.predicted_rows;
      predicted_scores += sequence.predicted_scores;
      low += sequence.ffn_low_rows;
      EXPECT_EQ(sequence.dense_rows, records[0].sequences[s].rows);
      if (sequence.top_k > 0 && &record != &records.back()) {
        const LayerRecord& next = *(&record + 1);
        EXPECT_EQ(next.sequences[s].rows, sequence.top_k);
        EXPECT_EQ(next.sequences[s].positions.size(), static_cast<size_t>(sequence.top_k));
      }
    }
    const v1::PruningReport::Work& total = outputs[s].report.total();
    EXPECT_EQ(tokens, total.tokens().done());
    EXPECT_EQ(heads, total.heads().done());
    EXPECT_EQ(scores, total.scores().done());
    EXPECT_EQ(values, total.values().done());
    EXPECT_EQ(rows, total.softmax_rows());
    EXPECT_EQ(refetched, total.refetched_rows());
    EXPECT_EQ(qkv, total.qkv_rows().done());
    EXPECT_EQ(predicted, total.predicted_rows());
    EXPECT_EQ(predicted_scores, total.predicted_scores());
    EXPECT_EQ(tokens - low, total.ffn_full_precision().done());
  }
}

// What was counted over all heads is spread over them: nothing is lost, and no head reads more than
// it scored, but for the value that each one-hot query copies.
TEST(LayerPricing, CountsOfHeadsSumToTheirTotalsAndStayWithinTheirBounds) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](uint32_t n) { return static_cast<int32_t>(random() % n); };
    const PolicyShape shape = {.layers = 2, .heads = 1 + below(13), .kv_heads = 1, .head_dim = 4};
    const int32_t rows = 1 + below(40);
    std::vector<int32_t> positions(static_cast<size_t>(rows));
    std::iota(positions.begin(), positions.end(), 0);
    SequencePlan plan;
    if (seed % 3 != 0) plan.candidates.emplace(shape.heads, rows, rows);
    if (seed % 2 != 0) plan.one_hot.assign(static_cast<size_t>(shape.heads) * rows, -1);
    AttentionRecord record;
    int64_t copied = 0;
    for (int32_t h = 0; h < shape.heads; ++h) {
      for (int32_t q = 0; q < rows; ++q) {
        const int32_t keys = plan.candidates ? 1 + below(static_cast<uint32_t>(rows)) : rows;
        for (int32_t k = 0; plan.candidates && k < keys; ++k) plan.candidates->set(h, q, k);
        if (!plan.one_hot.empty() && below(4) == 0) {
          plan.one_hot[static_cast<size_t>(h) * rows + q] = 0;
          ++copied;
          continue;
        }
        ++record.rows;
        record.scores += keys;
      }
    }
    // What heads kept of their values, and which rows were refetched, was counted together.
    record.values = copied + below(static_cast<uint32_t>(record.scores) + 1);
    record.refetched_rows = below(static_cast<uint32_t>(record.rows) + 1);
    const SequenceRecord out =
        RecordOf(shape, rows, positions, &plan, 0, record, rows, shape.heads);
    int64_t queries = 0, scores = 0, values = 0, refetched = 0;
    for (const HeadRecord& head : out.heads) {
      queries += head.queries;
      scores += head.scores;
      values += head.values;
      refetched += head.refetched;
      EXPECT_GE(head.values, rows - head.queries);
      EXPECT_LE(head.values, head.scores + rows - head.queries);
      EXPECT_GE(head.refetched, 0);
      EXPECT_LE(head.refetched, head.queries);
      EXPECT_LE(head.scores, head.queries * head.keys);
    }
    EXPECT_EQ(queries, record.rows);
    EXPECT_EQ(scores, record.scores);
    EXPECT_EQ(values, record.values);
    EXPECT_EQ(refetched, record.refetched_rows);
  }
}

TEST(LayerPricing, ABatchIsChargedByShareAndItsTimeToAll) {
  const Simulated simulated("reference");
  const auto engine = testing::MakeEngine(Model(), simulated.device);
  const auto outputs = testing::RunBatch(*engine, Batch(*engine));
  const auto layers = static_cast<double>(simulated.listener->records.size());
  double energy = 0.0;
  for (const SequenceOutput& output : outputs) {
    const v1::Simulation& simulation = output.report.simulation();
    EXPECT_EQ(simulation.preset(), "listener");
    EXPECT_DOUBLE_EQ(simulation.seconds(), layers);
    energy += simulation.energy_joules();
  }
  EXPECT_NEAR(energy, layers, 1e-9);
}

TEST(LayerPricing, APolicyWithoutHardwareIsRefusedWithThoseThatHaveIt) {
  const Simulated simulated("reference");
  const auto decoder = testing::MakeDecoder(testing::GoldenDir("decoder-gpt2"), simulated.device);
  const auto refused = decoder->ParsePolicy("sinks:first=2,recent=20");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(refused.status()), HasSubstr("sim:listener@reference has no hardware"));
  EXPECT_THAT(Message(refused.status()), HasSubstr("dense, spatten, fact"));
  EXPECT_TRUE(decoder->ParsePolicy("spatten:keep=0.5").ok());
}

TEST(LayerPricing, ATextIsChargedStepByStep) {
  const Simulated simulated("cpu");
  const auto engine = testing::MakeDecoder(testing::GoldenDir("decoder-gpt2"), simulated.device);
  const auto plain = testing::MakeDecoder(testing::GoldenDir("decoder-gpt2"), MakeDevice("cpu"));
  const auto policy = "spatten:keep=0.5,values=0.5,bits=6/4,refetch=0.3";
  const std::vector<int32_t> prompt = testing::RandomIds(*engine, 30, 1);
  const auto expected = testing::RunAlone(*plain, prompt, 6, testing::MakePolicy(*plain, policy));
  EXPECT_EQ(testing::RunAlone(*engine, prompt, 6, testing::MakePolicy(*engine, policy)), expected);
  const auto layers = static_cast<size_t>(engine->config().layers);
  const std::vector<LayerRecord>& records = simulated.listener->records;
  ASSERT_EQ(records.size(), 7 * layers);
  for (size_t i = 0; i < records.size(); ++i) {
    const SequenceRecord& text = records[i].sequences.at(0);
    const auto step = static_cast<int32_t>(i / layers);
    EXPECT_EQ(text.decode, step > 0);
    EXPECT_EQ(text.rows, step == 0 ? 30 : 1);
    EXPECT_EQ(text.dense_keys, 30 + step);
    EXPECT_EQ(text.bits.key, 6);
    EXPECT_EQ(text.bits.key_refetch, 4);
    EXPECT_EQ(text.bits.query, 10);
    EXPECT_EQ(text.rescales_importance, i % layers == layers - 1);
    if (step == 0 || text.positions.empty()) continue;
    EXPECT_EQ(text.positions.back(), 29 + step);  // The newest token is read.
    for (const HeadRecord& head : text.heads) {
      EXPECT_EQ(head.keys, static_cast<int64_t>(text.positions.size()));
      EXPECT_EQ(head.scores, head.keys);
    }
  }
}

TEST(LayerPricing, PaceHoldsABatchUntilItsSimulatedTimeIsOver) {
  const Simulated simulated("reference", 10.0);
  simulated.listener->seconds = 1e-3;
  const auto engine = testing::MakeEngine(Model(), simulated.device);
  const Sequence sequence{.ids = {1, 2, 3}, .want_logits = true};
  const absl::Time begin = absl::Now();
  const auto outputs = testing::RunBatch(*engine, {sequence});
  const double simulated_seconds = outputs[0].report.simulation().seconds();
  EXPECT_GT(simulated_seconds, 0.0);
  EXPECT_GE(absl::Now() - begin, absl::Seconds(10.0 * simulated_seconds));
}

TEST(LayerRecorder, WritesATraceThatIsReadBack) {
  const testing::TempDir directory;
  const std::string path = (directory.path() / "trace.csv").string();
  const auto engine = testing::MakeEngine(Model(), MakeDevice("cpu"));
  auto recorder = LayerRecorder::Create(path, "sst2", int64_t{1} << 30);
  ASSERT_TRUE(recorder.ok()) << recorder.status();
  const std::shared_ptr<LayerRecorder> shared = *std::move(recorder);
  engine->SetRecorder(shared);
  Sequence sequence{.ids = {101, 7, 8, 9, 10, 102}, .want_logits = true};
  sequence.policy = engine->ParsePolicy("spatten:keep=0.5").value();
  const auto outputs = testing::RunBatch(*engine, {sequence});
  engine->SetRecorder(nullptr);
  (void)testing::RunBatch(*engine, {sequence});  // Heard by nobody.
  ASSERT_TRUE(shared->Finish().ok()) << shared->Finish();

  const auto reader = TraceReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->configuration(), "sst2");
  int64_t scores = 0, layers = 0;
  while (true) {
    const auto record = (*reader)->Next();
    ASSERT_TRUE(record.ok()) << record.status();
    if (!record->has_value()) break;
    ++layers;
    for (const HeadRecord& head : (*record)->sequences.at(0).heads) scores += head.scores;
  }
  EXPECT_EQ(layers, (*reader)->shape().layers);
  EXPECT_EQ(scores, outputs[0].report.total().scores().done());
}

TEST(LayerRecorder, TrafficOfEveryPolicyIsReadBack) {
  const testing::TempDir directory;
  const std::string path = (directory.path() / "trace.csv").string();
  const auto engine = testing::MakeEngine(Model(), MakeDevice("cpu"));
  const std::shared_ptr<LayerRecorder> recorder =
      LayerRecorder::Create(path, "sst2", int64_t{1} << 30).value();
  engine->SetRecorder(recorder);
  (void)testing::RunBatch(*engine, Batch(*engine));
  ASSERT_TRUE(recorder->Finish().ok()) << recorder->Finish();
  const auto reader = TraceReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  int64_t records = 0;
  while (true) {
    const auto record = (*reader)->Next();
    ASSERT_TRUE(record.ok()) << record.status();
    if (!record->has_value()) break;
    ++records;
  }
  EXPECT_EQ(records, 6 * (*reader)->shape().layers);
}

TEST(LayerRecorder, EndsAtItsLimitWithAFileThatCanBeRead) {
  const testing::TempDir directory;
  const std::string path = (directory.path() / "trace.csv").string();
  const auto engine = testing::MakeEngine(Model(), MakeDevice("cpu"));
  const std::shared_ptr<LayerRecorder> recorder = LayerRecorder::Create(path, "sst2", 2000).value();
  engine->SetRecorder(recorder);
  const Sequence sequence{.ids = {101, 7, 8, 9, 10, 102}, .want_logits = true};
  for (int i = 0; i < 5; ++i) (void)testing::RunBatch(*engine, {sequence});
  EXPECT_EQ(recorder->status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(recorder->status()), HasSubstr(path));
  const auto reader = TraceReader::Open(path);
  EXPECT_TRUE(reader.ok()) << reader.status();
}

}  // namespace
}  // namespace thresher
