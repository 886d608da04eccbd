// What sparsity saves: a BERT-base with random weights through the engine, 8 x 384 tokens, each
// policy against dense. Runs of the two alternate and their medians are compared, since the speed
// of a shared machine drifts.
//
//   ratio to dense     dense time / policy time; its limit is what the policy's share of the dense
//                      multiply-adds allows (Policy::CostShare)
//   ratio to dense FFN the same for the feed-forward network alone, where the policy splits it; its
//                      limit: the rows in low precision at the speed of the low-precision product
//   choosing %         share of the policy's time that is neither arithmetic of the model nor done
//   by
//                      dense: statistics in the attention, prediction of scores, top-k,
//                      accumulation, compaction, accounts
//   QKV rows %         rows of Q, K and V generated, of dense's
//   refetched %        softmax rows that progressive quantization made again
//
// Threads and device: bench/bench_device.h. THRESHER_BENCH_PAIRS: runs of each kind, else 3.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "backend/engine/loaded_model.h"
#include "backend/tensor/status.h"
#include "bench/bench_device.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

using benchmark::State;
using Clock = std::chrono::steady_clock;

int FromEnvironment(const char* name, int fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::max(1, std::atoi(value)) : fallback;
}

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Seconds of one run, by what the time went into.
struct Times {
  double total = 0;
  double ffn = 0;     // Products with the inner layer of the feed-forward network.
  double linear = 0;  // The other products.
  double attention = 0;
  double statistics = 0;  // The part of it that statistics take.
  double other = 0;       // Norms and embeddings.

  double choosing() const { return total - ffn - linear - attention - other + statistics; }
};

/// The cpu device with a clock on each operation.
class TimedDevice final : public Device {
 public:
  TimedDevice(std::unique_ptr<Device> device, int64_t ffn_size)
      : device_(std::move(device)), ffn_size_(ffn_size) {}

  const DeviceDescription& description() const override { return device_->description(); }
  absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(const StoredMatrix& weight,
                                                     const StoredMatrix& bias,
                                                     Precision precision) override {
    return device_->Pack(weight, bias, precision);
  }
  absl::Status Linear(const PackedLinear& weights, ConstMatrix x, Activation activation,
                      Matrix y) override {
    const bool ffn = x.cols == ffn_size_ || y.cols == ffn_size_;
    return Time(ffn ? times_.ffn : times_.linear,
                [&] { return device_->Linear(weights, x, activation, y); });
  }
  absl::Status Attention(const AttentionInput& input, Matrix out) override {
    return Time(times_.attention, [&] { return device_->Attention(input, out); });
  }
  absl::Status PlannedAttention(const AttentionInput& input,
                                std::span<const SequencePlan* const> plans, Matrix out,
                                std::span<AttentionRecord> records) override {
    double with = 0;
    THRESHER_RETURN_IF_ERROR(
        Time(with, [&] { return device_->PlannedAttention(input, plans, out, records); }));
    times_.attention += with;
    if (!split_statistics) return absl::OkStatus();
    // Once more without statistics; that time does not count.
    const Clock::time_point begin = Clock::now();
    std::vector<SequencePlan> copies;
    for (const SequencePlan* plan : plans) {
      copies.push_back(plan != nullptr ? *plan : SequencePlan());
      copies.back().wanted = {};
    }
    std::vector<const SequencePlan*> pointers;
    pointers.reserve(copies.size());
    for (const SequencePlan& copy : copies) pointers.push_back(&copy);
    std::vector<AttentionRecord> ignored(records.size());
    double without = 0;
    THRESHER_RETURN_IF_ERROR(
        Time(without, [&] { return device_->PlannedAttention(input, pointers, out, ignored); }));
    times_.statistics += with - without;
    excluded_ += SecondsSince(begin);
    return absl::OkStatus();
  }
  // Predictions are choosing: their time is nobody else's.
  absl::Status EncodeLeadingOne(const LeadingOneInput& input, int32_t bits, int64_t group,
                                Matrix codes, Matrix scales) override {
    return device_->EncodeLeadingOne(input, bits, group, codes, scales);
  }
  absl::Status EncodeVectors(const VectorCodes& encoder, ConstMatrix x,
                             std::span<const float> center, Matrix codes, Matrix scales) override {
    return device_->EncodeVectors(encoder, x, center, codes, scales);
  }
  absl::Status PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                             ScoreBlockBody body) override {
    return device_->PredictScores(operands, heads, body);
  }
  absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                         std::span<const float> beta, float epsilon, Matrix y) override {
    return Time(times_.other,
                [&] { return device_->LayerNorm(x, residual, gamma, beta, epsilon, y); });
  }
  absl::Status Embed(std::span<const Lookup> lookups, Matrix y) override {
    return Time(times_.other, [&] { return device_->Embed(lookups, y); });
  }
  absl::Status MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) override {
    return Time(times_.other, [&] { return device_->MeanPool(x, offsets, y); });
  }

  void Start() {
    times_ = {};
    excluded_ = 0;
    begin_ = Clock::now();
  }
  Times Stop() {
    times_.total = SecondsSince(begin_) - excluded_;
    return times_;
  }

  bool split_statistics = false;

 private:
  template <typename Operation>
  static absl::Status Time(double& sum, const Operation& operation) {
    const Clock::time_point begin = Clock::now();
    absl::Status status = operation();
    sum += SecondsSince(begin);
    return status;
  }

  const std::unique_ptr<Device> device_;
  const int64_t ffn_size_;
  Times times_;
  double excluded_ = 0;
  Clock::time_point begin_;
};

/// The model under test: made once, in a directory of its own that goes with it.
class Model {
 public:
  Model() {
    const testing::RandomCheckpointOptions options = {.vocab_size = 1024, .positions = 512};
    const std::filesystem::path directory =
        std::filesystem::temp_directory_path() /
        fmt::format("thresher-sparsity-bench-{}", Clock::now().time_since_epoch().count());
    const absl::Status written = testing::WriteRandomCheckpoint(directory, options);
    if (!written.ok()) throw std::runtime_error(Message(written));
    device_ = std::make_shared<TimedDevice>(CreateBenchDevice(), options.intermediate_size);
    model_ = ValueOf(LoadModel(directory.string(), device_, {.precision = Precision::kF32}));
    std::filesystem::remove_all(directory);  // Its pages stay mapped.
  }

  const Engine& engine() const { return *model_->engine; }
  int32_t layers() const { return model_->info.layers; }

  /// One run of `sequences` sequences of `tokens` tokens.
  Times Run(const std::string& policy, int32_t sequences, int32_t tokens, bool split = false) {
    Sequence sequence{.want_logits = true};
    for (int32_t t = 0; t < tokens; ++t) sequence.ids.push_back(200 + (t * 37) % 800);
    if (policy != "dense") sequence.policy = ValueOf(model_->engine->ParsePolicy(policy));
    const std::vector<const Sequence*> batch(static_cast<size_t>(sequences), &sequence);
    std::vector<SequenceOutput> outputs(batch.size());
    device_->split_statistics = split;
    device_->Start();
    const absl::Status status = model_->engine->Run(batch, outputs);
    const Times times = device_->Stop();
    if (!status.ok()) throw std::runtime_error(Message(status));
    total_ = outputs[0].report.total();
    return times;
  }
  /// The account of a sequence of the last run.
  const v1::PruningReport::Work& total() const { return total_; }

 private:
  v1::PruningReport::Work total_;
  std::shared_ptr<TimedDevice> device_;
  std::unique_ptr<LoadedModel> model_;
};

Model& TheModel() {
  static Model model;
  return model;
}

template <typename Of>
double MedianOf(const std::vector<Times>& runs, const Of& of) {
  std::vector<double> values;
  values.reserve(runs.size());
  for (const Times& run : runs) values.push_back(of(run));
  return Median(std::move(values));
}

double Percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

// Runs `policy` and dense in turn.
void Compare(State& state, const std::string& policy, int32_t sequences, int32_t tokens) {
  Model& model = TheModel();
  model.Run(policy, sequences, tokens);  // Packs what the policy needs.
  std::vector<Times> dense, sparse;
  for (auto _ : state) {
    dense.push_back(model.Run("dense", sequences, tokens));
    sparse.push_back(model.Run(policy, sequences, tokens));
    state.SetIterationTime(sparse.back().total);
  }
  const auto total = [](const Times& t) { return t.total; };
  const double seconds = MedianOf(sparse, total);
  state.counters["tokens/s"] = static_cast<double>(sequences) * tokens / seconds;
  if (policy == "dense") return;
  state.counters["ratio to dense"] = MedianOf(dense, total) / seconds;
  const auto parsed = ValueOf(model.engine().ParsePolicy(policy));
  state.counters["limit ratio to dense"] = 1.0 / parsed->CostShare(tokens);
  if (parsed->low_ffn_bits() > 0) {
    const auto ffn = [](const Times& t) { return t.ffn; };
    state.counters["ratio to dense FFN"] = MedianOf(dense, ffn) / MedianOf(sparse, ffn);
  }
  // What statistics cost shows only beside a run without them.
  const Times split = model.Run(policy, sequences, tokens, /*split=*/true);
  const v1::PruningReport::Work work = model.total();
  state.counters["QKV rows %"] = Percent(work.qkv_rows().done(), work.qkv_rows().dense());
  state.counters["refetched %"] = Percent(work.refetched_rows(), work.softmax_rows());
  const Times plain = model.Run("dense", sequences, tokens);
  const double choosing = split.choosing() - plain.choosing();
  state.counters["choosing %"] = 100.0 * std::max(0.0, choosing) / split.total;
  if (std::getenv("THRESHER_BENCH_VERBOSE") != nullptr) {
    for (const auto& [name, t] : {std::pair("dense ", plain), std::pair("policy", split)}) {
      fmt::print(
          stderr,
          "{}: total {:.4f} ffn {:.4f} linear {:.4f} attention {:.4f} of it statistics {:.4f} "
          "other {:.4f} choosing {:.4f}\n",
          name, t.total, t.ffn, t.linear, t.attention, t.statistics, t.other, t.choosing());
    }
  }
}

constexpr const char* kPolicies[] = {
    "spatten:keep=1",
    "spatten:keep=0.5",
    "spatten:keep=0.35",
    "spatten:keep=0.5,heads=0.75",
    "spatten:keep=0.5,values=0.3",
    "spatten:keep=0.5,bits=6/4",
    "spatten:heads=0.75",
    "spatten:values=0.3",
    "spatten:bits=6/4",
    "fact:topk=0.25",
    "fact:topk=0.25,ffn=0.5",
    "fact:topk=0.25,threshold=0.01,ffn=0.5,qskip=gap",
    "spatten:keep=0.5+fact:topk=0.25,ffn=0.5",
};

int RegisterAll() {
  const int pairs = FromEnvironment("THRESHER_BENCH_PAIRS", 3);
  const auto add = [pairs](const std::string& policy, int32_t sequences, int32_t tokens) {
    benchmark::RegisterBenchmark(
        fmt::format("BM_Policy/{}x{}/{}", sequences, tokens, policy).c_str(),
        [=](State& state) { Compare(state, policy, sequences, tokens); })
        ->UseManualTime()
        ->Iterations(pairs)
        ->Unit(benchmark::kMillisecond);
  };
  for (const char* policy : kPolicies) add(policy, 8, 384);
  // The latency of one request.
  for (const int32_t tokens : {128, 384}) {
    for (const char* policy : {"spatten:keep=0.5", "spatten:keep=0.35", "fact:topk=0.25,ffn=0.5"}) {
      add(policy, 1, tokens);
    }
  }
  return 0;
}
const int kRegistered = RegisterAll();

}  // namespace
}  // namespace thresher
