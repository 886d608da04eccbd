#include "backend/scheduler/generation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <map>
#include <random>
#include <thread>

#include "tests/engine/decoder_engine_testing.h"
#include "tests/golden/golden.h"
#include "tests/testing/fake_clock.h"

namespace thresher {
namespace {

using testing::MakeDecoder;
using testing::MakeDevice;
using testing::MakePolicy;
using testing::RandomIds;

constexpr std::string_view kPolicies[] = {"",
                                          "spatten:final=0.3,values=0.5,bits=6/4",
                                          "sinks:first=2,recent=12",
                                          "h2o:heavy=0.2,recent=0.2",
                                          "snapkv:keep=0.4,window=4",
                                          "quest:keep=0.2,page=4"};

/// Keeps what comes, and does as it is told.
class Sink final : public GenerationSink {
 public:
  /// Asked at each token; may be null: go on.
  using Decide = std::function<Next(const TextToken&)>;
  explicit Sink(Decide decide = nullptr) : decide_(std::move(decide)) {}

  Next OnToken(const TextToken& token) override {
    {
      MutexLock lock(&mutex_);
      EXPECT_FALSE(result_.has_value());
      tokens_.push_back(token);
      changed_.SignalAll();
    }
    return decide_ != nullptr ? decide_(token) : Next::kGoOn;
  }
  void OnEnd(absl::StatusOr<GenerationResult> result) override {
    MutexLock lock(&mutex_);
    EXPECT_FALSE(result_.has_value());
    result_ = std::move(result);
    changed_.SignalAll();
  }

  absl::StatusOr<GenerationResult> Await() {
    MutexLock lock(&mutex_);
    while (!result_) changed_.Wait(&mutex_);
    return *result_;
  }
  void AwaitTokens(size_t count) {
    MutexLock lock(&mutex_);
    while (tokens_.size() < count && !result_) changed_.Wait(&mutex_);
  }
  std::vector<int32_t> ids() {
    MutexLock lock(&mutex_);
    std::vector<int32_t> ids;
    for (const TextToken& token : tokens_) ids.push_back(token.id);
    return ids;
  }
  std::vector<TextToken> tokens() {
    MutexLock lock(&mutex_);
    return tokens_;
  }

 private:
  const Decide decide_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<TextToken> tokens_;
  std::optional<absl::StatusOr<GenerationResult>> result_;
};

/// Holds the executor at its first token until it is let go.
class Plug {
 public:
  std::shared_ptr<Sink> sink() { return sink_; }
  void LetGo() { released_.set_value(); }

 private:
  std::promise<void> released_;
  std::shared_future<void> gone_ = released_.get_future().share();
  std::shared_ptr<Sink> sink_ = std::make_shared<Sink>([gone = gone_](const TextToken&) {
    gone.wait();
    return GenerationSink::Next::kGoOn;
  });
};

class StepLog final : public GenerationObserver {
 public:
  struct Entry {
    int32_t texts, decoded, read;
  };
  explicit StepLog(std::function<void()> on_step = nullptr) : on_step_(std::move(on_step)) {}
  void OnStep(int32_t texts, int32_t decoded, int32_t read, absl::Duration) override {
    if (on_step_ != nullptr) on_step_();
    MutexLock lock(&mutex_);
    entries_.push_back({texts, decoded, read});
  }
  std::vector<Entry> entries() {
    MutexLock lock(&mutex_);
    return entries_;
  }

 private:
  const std::function<void()> on_step_;
  Mutex mutex_;
  std::vector<Entry> entries_;
};

class GenerationTest : public ::testing::Test {
 protected:
  void Open(GenerationObserver* observer = nullptr,
            std::shared_ptr<KvPool> pool = std::make_shared<KvPool>(testing::kPlentyOfCache)) {
    engine_ = MakeDecoder(testing::GoldenDir("decoder-llama3"), MakeDevice("cpu"), Precision::kF32,
                          std::move(pool));
    options_.clock = &clock_;
    scheduler_ =
        std::make_unique<Scheduler>(SchedulerOptions{.clock = &clock_}, /*observer=*/nullptr);
    generator_ = std::make_unique<Generator>(engine_, options_, scheduler_.get(), observer);
  }

  GenerationRequest Request(int32_t prompt, int32_t max_tokens, uint32_t seed = 1,
                            std::string_view policy = "") {
    return {.prompt = RandomIds(*engine_, prompt, seed),
            .max_tokens = max_tokens,
            .policy = MakePolicy(*engine_, policy)};
  }
  std::shared_ptr<GenerationHandle> Submit(GenerationRequest request, std::shared_ptr<Sink> sink) {
    auto handle = generator_->Submit(std::move(request), std::move(sink));
    EXPECT_TRUE(handle.ok()) << handle.status();
    return handle.ok() ? *handle : nullptr;
  }
  /// What a text gives that runs alone.
  std::vector<int32_t> Alone(GenerationRequest request) {
    const auto sink = std::make_shared<Sink>();
    Submit(std::move(request), sink);
    EXPECT_TRUE(sink->Await().ok());
    return sink->ids();
  }

  testing::FakeClock clock_;
  GeneratorOptions options_;
  std::shared_ptr<DecoderEngine> engine_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Generator> generator_;
};

TEST_F(GenerationTest, WritesTheMostProbableTokensOneByOne) {
  Open();
  const GenerationRequest request = Request(5, 10);
  const auto logits = testing::RunAlone(*engine_, request.prompt, 9, nullptr);
  const auto sink = std::make_shared<Sink>();
  Submit(request, sink);
  const auto result = sink->Await();
  ASSERT_TRUE(result.ok()) << result.status();
  std::vector<int32_t> expected;
  for (const auto& row : logits) expected.push_back(testing::ArgMaxOf(row));
  EXPECT_EQ(sink->ids(), expected);
  EXPECT_EQ(result->reason, FinishReason::kLength);
  EXPECT_EQ(result->prompt_tokens, 5);
  EXPECT_EQ(result->generated_tokens, 10);
  EXPECT_EQ(result->report.policy(), "dense");
}

TEST_F(GenerationTest, RandomCompanyChangesNoToken) {
  options_.prefill_chunk = 5;
  options_.max_step_tokens = 24;
  options_.max_running = 6;
  Open();
  struct Case {
    GenerationRequest request;
    std::vector<int32_t> alone;
    std::shared_ptr<Sink> sink;
    std::shared_ptr<GenerationHandle> handle;
  };
  std::mt19937 random(11);
  std::vector<Case> cases(testing::kSanitized ? 12 : 40);
  for (size_t i = 0; i < cases.size(); ++i) {
    Case& c = cases[i];
    c.request = Request(1 + static_cast<int32_t>(random() % 30), 1 + random() % 15, random(),
                        kPolicies[i % std::size(kPolicies)]);
    if (i % 3 == 0) c.request.sampling = {.temperature = 1.0, .top_p = 0.9, .seed = i};
    c.request.priority = static_cast<int32_t>(random() % 3);
    c.alone = Alone(c.request);
  }
  // Some pause now and then, and are resumed by another thread.
  std::atomic<bool> done = false;
  for (Case& c : cases) {
    const auto pauses = std::make_shared<std::mt19937>(random());
    c.sink = std::make_shared<Sink>([pauses](const TextToken&) {
      return (*pauses)() % 3 == 0 ? GenerationSink::Next::kPause : GenerationSink::Next::kGoOn;
    });
    c.handle = Submit(c.request, c.sink);
  }
  std::thread resumer([&] {
    while (!done) {
      for (const Case& c : cases) c.handle->Resume();
      std::this_thread::yield();
    }
  });
  for (Case& c : cases) {
    EXPECT_TRUE(c.sink->Await().ok());
    EXPECT_EQ(c.sink->ids(), c.alone);
  }
  done = true;
  resumer.join();
}

TEST_F(GenerationTest, ALongPromptIsReadInChunksWhileOthersAreWritten) {
  options_.prefill_chunk = 4;
  StepLog log;
  Open(&log);
  const auto reader = std::make_shared<Sink>();
  std::shared_ptr<Sink> writer;
  bool joined = false;
  writer = std::make_shared<Sink>([&](const TextToken&) {
    if (!joined) {
      joined = true;
      Submit(Request(30, 1, 2), reader);
    }
    return GenerationSink::Next::kGoOn;
  });
  Submit(Request(2, 20), writer);
  ASSERT_TRUE(writer->Await().ok());
  ASSERT_TRUE(reader->Await().ok());
  int32_t mixed = 0;
  for (const StepLog::Entry& entry : log.entries()) {
    if (entry.decoded == 0 || entry.read == 0) continue;
    ++mixed;
    EXPECT_LE(entry.read, 4);
  }
  EXPECT_EQ(mixed, 8);  // 30 tokens, 4 at a time.
}

TEST_F(GenerationTest, AFloodStaysWithinTheMemoryAndIsAllAnswered) {
  const auto probe = MakeDecoder(testing::GoldenDir("decoder-llama3"), MakeDevice("cpu"));
  const size_t page = probe->CacheBytes(nullptr, 1, 1);
  const auto pool = std::make_shared<KvPool>(5 * page);
  std::atomic<size_t> most = 0;
  StepLog log([&] {
    const KvPool::Snapshot snapshot = pool->snapshot();
    most = std::max(most.load(), snapshot.used + snapshot.reserved + snapshot.idle);
  });
  Open(&log, pool);
  std::vector<std::shared_ptr<Sink>> sinks;
  for (uint32_t i = 0; i < 30; ++i) {
    sinks.push_back(std::make_shared<Sink>());
    Submit(Request(35, 5, i), sinks.back());  // Two pages each.
  }
  for (const auto& sink : sinks) EXPECT_TRUE(sink->Await().ok());
  EXPECT_LE(most, 5 * page);
  EXPECT_GE(most, 4 * page);
  EXPECT_EQ(pool->snapshot().used, 0);
  EXPECT_EQ(pool->snapshot().reserved, 0);
  for (const StepLog::Entry& entry : log.entries()) EXPECT_LE(entry.texts, 2);
}

TEST_F(GenerationTest, WhatCouldNeverFitIsRefused) {
  const auto probe = MakeDecoder(testing::GoldenDir("decoder-llama3"), MakeDevice("cpu"));
  Open(nullptr, std::make_shared<KvPool>(probe->CacheBytes(nullptr, 1, 1)));
  EXPECT_TRUE(absl::IsResourceExhausted(
      generator_->Submit(Request(20, 20), std::make_shared<Sink>()).status()));
  EXPECT_EQ(Alone(Request(20, 5)).size(), 5);
}

TEST_F(GenerationTest, CancellationFreesTheMemoryAtOnce) {
  const auto pool = std::make_shared<KvPool>(testing::kPlentyOfCache);
  Open(nullptr, pool);
  const auto sink =
      std::make_shared<Sink>([](const TextToken&) { return GenerationSink::Next::kPause; });
  const auto handle = Submit(Request(5, 20), sink);
  sink->AwaitTokens(1);
  EXPECT_GT(pool->snapshot().used, 0);
  handle->Cancel();
  EXPECT_TRUE(absl::IsCancelled(sink->Await().status()));
  EXPECT_EQ(pool->snapshot().used, 0);
  EXPECT_EQ(pool->snapshot().reserved, 0);
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_EQ(generator_->snapshot().running, 0);
}

TEST_F(GenerationTest, ASlowReaderHoldsBackOnlyItself) {
  Open();
  const auto slow =
      std::make_shared<Sink>([](const TextToken&) { return GenerationSink::Next::kPause; });
  const auto handle = Submit(Request(5, 4), slow);
  slow->AwaitTokens(1);
  for (uint32_t i = 0; i < 5; ++i) EXPECT_EQ(Alone(Request(5, 6, i)).size(), 6);
  EXPECT_EQ(slow->ids().size(), 1);
  for (size_t count = 2; count <= 4; ++count) {
    handle->Resume();
    slow->AwaitTokens(count);
    EXPECT_EQ(slow->ids().size(), count);
  }
  EXPECT_TRUE(slow->Await().ok());
}

TEST_F(GenerationTest, SlowReadersTakeNoPlaceFromOthers) {
  options_.max_running = 2;
  Open();
  std::vector<std::shared_ptr<Sink>> slow;
  std::vector<std::shared_ptr<GenerationHandle>> handles;
  for (uint32_t i = 0; i < 4; ++i) {
    slow.push_back(
        std::make_shared<Sink>([](const TextToken&) { return GenerationSink::Next::kPause; }));
    handles.push_back(Submit(Request(3, 4, i), slow.back()));
    slow.back()->AwaitTokens(1);
  }
  // Several at once: each that ends or pauses lets the next one in, though others are paused.
  std::vector<std::shared_ptr<Sink>> quick;
  for (uint32_t i = 0; i < 6; ++i) {
    quick.push_back(std::make_shared<Sink>());
    Submit(Request(3, 5, i), quick.back());
  }
  for (const auto& sink : quick) EXPECT_TRUE(sink->Await().ok());
  for (const auto& handle : handles) handle->Cancel();
  for (const auto& sink : slow) EXPECT_TRUE(absl::IsCancelled(sink->Await().status()));
}

TEST_F(GenerationTest, ASmallBudgetGivesEveryTextItsTurn) {
  options_.max_step_tokens = 3;
  StepLog log;
  Open(&log);
  std::vector<std::vector<int32_t>> alone;
  for (uint32_t i = 0; i < 8; ++i) alone.push_back(Alone(Request(4, 6, i)));
  std::vector<std::shared_ptr<Sink>> sinks;
  for (uint32_t i = 0; i < 8; ++i) {
    sinks.push_back(std::make_shared<Sink>());
    Submit(Request(4, 6, i), sinks.back());
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    EXPECT_TRUE(sinks[i]->Await().ok());
    EXPECT_EQ(sinks[i]->ids(), alone[i]);
  }
  for (const StepLog::Entry& entry : log.entries()) EXPECT_LE(entry.decoded + entry.read, 3);
}

TEST_F(GenerationTest, PromptsAreReadByPriority) {
  options_.max_step_tokens = 4;
  Open();
  const auto low = std::make_shared<Sink>(), high = std::make_shared<Sink>();
  bool joined = false;
  const auto plug = std::make_shared<Sink>([&](const TextToken&) {
    if (!joined) {
      joined = true;
      Submit(Request(30, 1, 2), low);
      GenerationRequest urgent = Request(12, 1, 3);
      urgent.priority = 1;
      Submit(urgent, high);
    }
    return high->ids().empty() || !low->ids().empty() ? GenerationSink::Next::kGoOn
                                                      : GenerationSink::Next::kStop;
  });
  Submit(Request(2, 40), plug);
  ASSERT_TRUE(plug->Await().ok());
  EXPECT_EQ(plug->Await()->reason, FinishReason::kStop);  // The urgent one was first.
  ASSERT_TRUE(low->Await().ok());
}

TEST_F(GenerationTest, ADeadlineEndsATextWhereverItIs) {
  Open();
  GenerationRequest late = Request(5, 5);
  late.deadline = clock_.Now();
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(generator_->Submit(late, std::make_shared<Sink>()).status()));
  const auto sink =
      std::make_shared<Sink>([](const TextToken&) { return GenerationSink::Next::kPause; });
  GenerationRequest request = Request(5, 5);
  request.deadline = clock_.Now() + absl::Seconds(3);
  Submit(request, sink);
  sink->AwaitTokens(1);
  clock_.AwaitWaiter(request.deadline);  // Nothing else wakes the executor.
  clock_.Advance(absl::Seconds(3));
  EXPECT_TRUE(absl::IsDeadlineExceeded(sink->Await().status()));
}

TEST_F(GenerationTest, AReaderThatTakesNothingIsGivenUp) {
  const auto pool = std::make_shared<KvPool>(testing::kPlentyOfCache);
  options_.max_pause = absl::Seconds(5);
  Open(nullptr, pool);
  const auto sink =
      std::make_shared<Sink>([](const TextToken&) { return GenerationSink::Next::kPause; });
  const auto handle = Submit(Request(5, 5), sink);
  sink->AwaitTokens(1);
  clock_.AwaitWaiter(clock_.Now() + absl::Seconds(5));
  clock_.Advance(absl::Seconds(4));
  handle->Resume();  // In time: it has five seconds more.
  sink->AwaitTokens(2);
  clock_.AwaitWaiter(clock_.Now() + absl::Seconds(5));
  clock_.Advance(absl::Seconds(5));
  EXPECT_TRUE(absl::IsCancelled(sink->Await().status()));
  EXPECT_EQ(pool->snapshot().reserved, 0);
}

TEST_F(GenerationTest, TextsEndWhereTheyAreToldTo) {
  Open();
  const GenerationRequest request = Request(5, 20);
  const std::vector<int32_t> ids = Alone(request);
  GenerationRequest ended = request;
  ended.end_ids = {ids[7]};
  const auto place = static_cast<size_t>(std::ranges::find(ids, ids[7]) - ids.begin());
  const auto sink = std::make_shared<Sink>();
  Submit(ended, sink);
  const auto result = sink->Await();
  EXPECT_EQ(result->reason, FinishReason::kStop);
  EXPECT_EQ(result->generated_tokens, place + 1);
  EXPECT_EQ(sink->ids(), std::vector<int32_t>(ids.begin(), ids.begin() + place));

  int count = 0;
  const auto stopping = std::make_shared<Sink>([&](const TextToken&) {
    return ++count == 3 ? GenerationSink::Next::kStop : GenerationSink::Next::kGoOn;
  });
  Submit(request, stopping);
  EXPECT_EQ(stopping->Await()->reason, FinishReason::kStop);
  EXPECT_EQ(stopping->ids().size(), 3);

  const auto context = std::make_shared<Sink>();
  Submit(Request(40, 1000), context);
  EXPECT_EQ(context->Await()->reason, FinishReason::kLength);
  // The last of them is never run, so it may stand just past the context.
  EXPECT_EQ(context->ids().size(), engine_->max_tokens() - 40 + 1);
}

TEST_F(GenerationTest, ScoresAPromptWhateverItsChunks) {
  options_.max_step_tokens = 7;
  Open();
  GenerationRequest request = Request(30, 0);
  request.prompt_logprobs = true;
  request.top_logprobs = 2;
  const auto sink = std::make_shared<Sink>();
  Submit(request, sink);
  ASSERT_TRUE(sink->Await().ok());
  const std::vector<TextToken> tokens = sink->tokens();
  ASSERT_EQ(tokens.size(), 30);
  EXPECT_EQ(sink->ids(), request.prompt);
  EXPECT_FALSE(tokens[0].logprob.has_value());
  for (size_t i = 1; i < tokens.size(); ++i) {
    const auto row = testing::RunAlone(*engine_, std::span(request.prompt).first(i), 0, nullptr)[0];
    EXPECT_TRUE(tokens[i].prompt);
    EXPECT_NEAR(tokens[i].logprob.value(), LogProbability(row, request.prompt[i]), 1e-6);
    ASSERT_EQ(tokens[i].top.size(), 2);
    EXPECT_EQ(tokens[i].top[0].second, testing::ArgMaxOf(row));
  }
}

TEST_F(GenerationTest, HigherPriorityStartsFirst) {
  options_.max_running = 1;
  Open();
  std::vector<int> order;
  Mutex mutex;
  const auto sink = [&](int tag) {
    return std::make_shared<Sink>([&order, &mutex, tag](const TextToken&) {
      MutexLock lock(&mutex);
      if (order.empty() || order.back() != tag) order.push_back(tag);
      return GenerationSink::Next::kGoOn;
    });
  };
  Plug plug;
  Submit(Request(3, 2), plug.sink());
  plug.sink()->AwaitTokens(1);
  const auto low = sink(1), high = sink(2), also_low = sink(3);
  Submit(Request(3, 2), low);
  GenerationRequest urgent = Request(3, 2);
  urgent.priority = 1;
  Submit(urgent, high);
  Submit(Request(3, 2), also_low);
  EXPECT_EQ(generator_->snapshot().waiting, 3);
  plug.LetGo();
  for (const auto& each : {low, high, also_low}) ASSERT_TRUE(each->Await().ok());
  EXPECT_EQ(order, (std::vector<int>{2, 1, 3}));
}

TEST_F(GenerationTest, TooManyThatWaitAreRefused) {
  options_.max_running = 1;
  options_.max_waiting = 2;
  Open();
  Plug plug;
  Submit(Request(3, 2), plug.sink());
  plug.sink()->AwaitTokens(1);
  std::vector<std::shared_ptr<Sink>> sinks = {std::make_shared<Sink>(), std::make_shared<Sink>()};
  for (const auto& sink : sinks) Submit(Request(3, 2), sink);
  EXPECT_TRUE(absl::IsResourceExhausted(
      generator_->Submit(Request(3, 2), std::make_shared<Sink>()).status()));
  plug.LetGo();
  for (const auto& sink : sinks) EXPECT_TRUE(sink->Await().ok());
}

TEST_F(GenerationTest, UnloadingEndsWhatIsLeft) {
  Open();
  const auto paused =
      std::make_shared<Sink>([](const TextToken&) { return GenerationSink::Next::kPause; });
  const auto handle = Submit(Request(3, 5), paused);
  paused->AwaitTokens(1);
  generator_ = nullptr;
  EXPECT_TRUE(absl::IsUnavailable(paused->Await().status()));
  handle->Resume();  // May outlive it.
  handle->Cancel();
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
}

TEST_F(GenerationTest, ADrainFinishesWhatWasAcceptedAndTakesNoMore) {
  Open();
  const auto sink = std::make_shared<Sink>();
  Submit(Request(3, 20), sink);
  scheduler_->StopAccepting();
  EXPECT_TRUE(
      absl::IsUnavailable(generator_->Submit(Request(3, 2), std::make_shared<Sink>()).status()));
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_TRUE(sink->Await().ok());
  EXPECT_EQ(sink->ids().size(), 20);
}

TEST_F(GenerationTest, AStormOfCancellationsLeavesNothingBehind) {
  const auto pool = std::make_shared<KvPool>(testing::kPlentyOfCache);
  Open(nullptr, pool);
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 3; ++t) {
    threads.emplace_back([this, t] {
      std::mt19937 random(t);
      for (int i = 0; i < (testing::kSanitized ? 10 : 40); ++i) {
        const auto sink = std::make_shared<Sink>();
        const auto handle = Submit(Request(1 + static_cast<int32_t>(random() % 30), 30, random(),
                                           kPolicies[random() % std::size(kPolicies)]),
                                   sink);
        if (random() % 2 == 0) sink->AwaitTokens(random() % 4);
        handle->Cancel();
        const auto result = sink->Await();
        EXPECT_TRUE(result.ok() || absl::IsCancelled(result.status())) << result.status();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  EXPECT_EQ(pool->snapshot().used, 0);
  EXPECT_EQ(pool->snapshot().reserved, 0);
}

TEST_F(GenerationTest, RefusesWhatCannotRun) {
  Open();
  const auto refused = [&](const std::function<void(GenerationRequest*)>& spoil) {
    GenerationRequest request = Request(3, 3);
    spoil(&request);
    return absl::IsInvalidArgument(
        generator_->Submit(std::move(request), std::make_shared<Sink>()).status());
  };
  EXPECT_TRUE(refused([](auto* r) { r->prompt.clear(); }));
  EXPECT_TRUE(refused([](auto* r) { r->prompt[1] = -1; }));
  EXPECT_TRUE(refused([](auto* r) { r->max_tokens = -1; }));
  EXPECT_TRUE(refused([](auto* r) { r->sampling.top_p = 2.0; }));
  EXPECT_TRUE(refused([](auto* r) { r->top_logprobs = -1; }));
}

}  // namespace
}  // namespace thresher
