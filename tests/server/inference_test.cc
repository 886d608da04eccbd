#include "server/inference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <optional>

#include "backend/tensor/status.h"
#include "tests/server/fake_model.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using testing::EngineOf;
using ::testing::HasSubstr;

class InferenceTest : public ::testing::Test {
 protected:
  using Answer = absl::StatusOr<InferenceAnswer>;

  void Start(const SchedulerOptions& scheduler_options = {},
             const Inference::Options& options = {.max_inputs = 4}) {
    scheduler_ = std::make_unique<Scheduler>(scheduler_options, nullptr);
    inference_ = std::make_unique<Inference>(
        options,
        [this](std::string_view name, std::string_view) {
          return name == model_->name ? absl::StatusOr<std::shared_ptr<const ServedModel>>(model_)
                                      : NotFound("no model '{}'", name);
        },
        scheduler_.get(), &metrics_);
  }
  void TearDown() override { EngineOf(*model_).Open(); }

  InferenceRequest Request(const std::vector<std::string_view>& texts) {
    InferenceRequest request;
    request.model = model_;
    request.arrival = Clock::Real()->Now();
    for (const std::string_view text : texts) request.inputs.push_back({.text = text});
    return request;
  }
  /// Gives the answer when the call has let go of all that it held, `done` at last.
  std::future<Answer> Run(InferenceRequest request) {
    struct Ending {
      ~Ending() { promise.set_value(std::move(answer)); }
      std::promise<Answer> promise;
      Answer answer = absl::InternalError("the call ended without an answer");
    };
    auto ending = std::make_shared<Ending>();
    std::future<Answer> future = ending->promise.get_future();
    inference_->Run(std::move(request), [ending = std::move(ending)](Answer answer) {
      ending->answer = std::move(answer);
    });
    return future;
  }
  std::string Count(const std::string& outcome) {
    const std::string text = metrics_.Exposition();
    for (size_t at = 0; (at = text.find("thresher_requests_total{", at)) != std::string::npos;
         ++at) {
      const std::string line = text.substr(at, text.find('\n', at) - at);
      if (line.find("outcome=\"" + outcome + "\"") != std::string::npos &&
          line.find("method=\"Classify\"") != std::string::npos &&
          line.find("model=\"" + model_->name + "\"") != std::string::npos) {
        return line.substr(line.rfind(' ') + 1);
      }
    }
    return "0";
  }

  const std::shared_ptr<ServedModel> model_ = testing::MakeFakeModel("fake");
  Metrics metrics_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Inference> inference_;
};

TEST_F(InferenceTest, AnswersEveryInputInOrder) {
  Start();
  const Answer answer = Run(Request({"abc", "z"})).get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->results.size(), 2u);
  EXPECT_THAT(answer->results[0].output.logits, ElementsAre('a', 3));
  EXPECT_THAT(answer->results[1].output.logits, ElementsAre('z', 1));
  for (const InferenceResult& result : answer->results) {
    EXPECT_TRUE(result.status.ok());
    EXPECT_EQ(result.batch_sequences, 2);
    EXPECT_EQ(result.batch_tokens, 4);
    EXPECT_GE(result.times.total,
              result.times.queue + result.times.tokenize + result.times.compute);
  }
  EXPECT_GE(answer->times.total, answer->results[0].times.total);
  EXPECT_EQ(Count("ok"), "2");
}

TEST_F(InferenceTest, ABadInputFailsAlone) {
  Start();
  const Answer answer = Run(Request({"", "much too long", "a!", "fine"})).get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->results[0].status, InvalidArgument("empty text"));
  EXPECT_EQ(answer->results[1].status, InvalidArgument("13 tokens; the limit is 8"));
  EXPECT_EQ(answer->results[2].status, InvalidArgument("token id 33 is out of range"));
  EXPECT_TRUE(answer->results[3].status.ok());
  EXPECT_THAT(answer->results[3].output.logits, ElementsAre('f', 4));
  EXPECT_EQ(Count("ok"), "1");
  EXPECT_EQ(Count("invalid_argument"), "3");
}

TEST_F(InferenceTest, SeveralBadInputsKeepTheirOwnStatus) {
  Start();
  const Answer answer = Run(Request({"", "a!"})).get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->results[0].status, InvalidArgument("empty text"));
  EXPECT_EQ(answer->results[1].status, InvalidArgument("token id 33 is out of range"));
}

TEST_F(InferenceTest, AnOnlyInputsStatusIsTheCalls) {
  Start();
  EXPECT_EQ(Run(Request({""})).get().status(), InvalidArgument("empty text"));
  EXPECT_EQ(EngineOf(*model_).runs(), 0);
}

TEST_F(InferenceTest, AllOrNoneComputesNothingWhenOneIsBad) {
  Start();
  InferenceRequest request = Request({"fine", "a!"});
  request.all_or_none = true;
  request.noun = "row";
  EXPECT_EQ(Run(std::move(request)).get().status(),
            InvalidArgument("row 1: token id 33 is out of range"));
  EXPECT_EQ(EngineOf(*model_).runs(), 0);
}

TEST_F(InferenceTest, TruncatesWhenAsked) {
  Start();
  const std::vector<int32_t> ids(9, 7);
  InferenceRequest request = Request({"much too long"});
  request.inputs.push_back({.ids = ids});
  request.truncate = true;
  const Answer answer = Run(std::move(request)).get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  for (const InferenceResult& result : answer->results) {
    EXPECT_TRUE(result.encoding.truncated);
    EXPECT_EQ(result.encoding.tokens.size(), 8u);
  }
}

TEST_F(InferenceTest, ChecksIdsAndTheirTypes) {
  Start();
  const std::vector<int32_t> ids = {1, 2};
  const std::vector<int32_t> types = {0};
  InferenceRequest request = Request({});
  request.inputs = {{.text = "a", .ids = ids},
                    {.ids = ids, .type_ids = types},
                    {.text = "a", .type_ids = types},
                    {.text = "a", .pair = ""}};
  const Answer answer = Run(std::move(request)).get();
  ASSERT_TRUE(answer.ok());
  const char* parts[] = {"both a text and token ids", "1 token type ids for 2 token ids",
                         "token type ids without token ids", "empty second text"};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(answer->results[i].status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(answer->results[i].status), HasSubstr(parts[i]));
  }
}

TEST_F(InferenceTest, TokenizesWithoutComputing) {
  Start();
  InferenceRequest request = Request({"abc"});
  request.method = Method::kTokenize;
  const Answer answer = Run(std::move(request)).get();
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->results[0].encoding.tokens.size(), 3u);
  EXPECT_EQ(EngineOf(*model_).runs(), 0);
}

TEST_F(InferenceTest, RefusesUnknownPolicies) {
  Start();
  InferenceRequest request = Request({"abc"});
  request.policy = "clairvoyant:keep=0.1";
  const absl::Status status = Run(std::move(request)).get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("sparsity: "));
  EXPECT_THAT(Message(status), HasSubstr("'clairvoyant'"));

  request = Request({"abc"});
  request.policy = "dense";
  EXPECT_TRUE(Run(std::move(request)).get().ok());
}

TEST_F(InferenceTest, AFullQueueRefusesTheCallAtOnce) {
  SchedulerOptions options;
  options.max_queue = 2;
  Start(options);
  EngineOf(*model_).Close();
  auto running = Run(Request({"first"}));
  EngineOf(*model_).Await(1);
  auto waiting = Run(Request({"a"}));
  const Answer refused = Run(Request({"b", "c"})).get();  // No room for both: neither is taken.
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EngineOf(*model_).Open();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(waiting.get().ok());
  EXPECT_EQ(Count("resource_exhausted"), "2");
}

TEST_F(InferenceTest, AFullQueueRefusesBeforeAnythingIsTokenized) {
  SchedulerOptions options;
  options.max_queue = 1;
  Start(options);
  EngineOf(*model_).Close();
  auto running = Run(Request({"first"}));
  EngineOf(*model_).Await(1);
  auto waiting = Run(Request({"a"}));
  // The tokenizer would refuse it with another status.
  EXPECT_EQ(Run(Request({"much too long"})).get().status().code(),
            absl::StatusCode::kResourceExhausted);
  InferenceRequest tokenize = Request({"abc"});  // Needs no place in the queue.
  tokenize.method = Method::kTokenize;
  EXPECT_TRUE(Run(std::move(tokenize)).get().ok());
  EngineOf(*model_).Open();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(waiting.get().ok());
}

TEST_F(InferenceTest, BoundsTheInputThatCallsHold) {
  Start({}, {.max_inputs = 4, .max_pending_bytes = 8});
  EngineOf(*model_).Close();
  auto running = Run(Request({"abc"}));
  EngineOf(*model_).Await(1);

  // Texts, the second texts of pairs, ids and their types all count, and before they are tokenized.
  const std::vector<int32_t> ids = {1};
  for (const InferenceInput& input :
       {InferenceInput{.text = "much too long"}, InferenceInput{.text = "abc", .pair = "def"},
        InferenceInput{.ids = ids, .type_ids = ids}}) {
    InferenceRequest request = Request({});
    request.inputs = {input};
    const absl::Status status = Run(std::move(request)).get().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(Message(status), HasSubstr("at most 8 may wait"));
  }
  InferenceRequest tokenize = Request({"ab", "cdef"});
  tokenize.method = Method::kTokenize;
  EXPECT_THAT(Message(Run(std::move(tokenize)).get().status()), HasSubstr("hold 9 bytes of input"));

  // What was refused holds nothing, so that there is room for just so much.
  auto waiting = Run(Request({"abc", "de"}));
  EXPECT_EQ(Run(Request({"x"})).get().status().code(), absl::StatusCode::kResourceExhausted);
  EngineOf(*model_).Open();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(waiting.get().ok());
  EXPECT_TRUE(Run(Request({"12345678"})).get().ok());  // All have given back theirs.
}

TEST_F(InferenceTest, ALargeCallGoesAlone) {
  Start({}, {.max_inputs = 4, .max_pending_bytes = 2});
  ASSERT_TRUE(Run(Request({"abc", "def"})).get().ok());
  EngineOf(*model_).Close();
  auto running = Run(Request({"abcd"}));
  EngineOf(*model_).Await(2);
  EXPECT_EQ(Run(Request({"abc", "def"})).get().status().code(),
            absl::StatusCode::kResourceExhausted);
  EngineOf(*model_).Open();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(Run(Request({"abc", "def"})).get().ok());
}

TEST_F(InferenceTest, APassedDeadlineComputesNothing) {
  Start();
  InferenceRequest request = Request({"abc"});
  request.deadline = request.arrival;
  EXPECT_EQ(Run(std::move(request)).get().status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(EngineOf(*model_).runs(), 0);
}

TEST_F(InferenceTest, ACancelledCallIsDroppedBeforeCompute) {
  Start();
  EngineOf(*model_).Close();
  auto running = Run(Request({"first"}));
  EngineOf(*model_).Await(1);
  const auto cancelled = std::make_shared<std::atomic<bool>>(false);
  InferenceRequest request = Request({"a", "b"});
  request.cancelled = cancelled;
  auto waiting = Run(std::move(request));
  cancelled->store(true);
  EngineOf(*model_).Open();
  EXPECT_EQ(waiting.get().status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(running.get().ok());
  EXPECT_EQ(EngineOf(*model_).runs(), 1);
}

TEST_F(InferenceTest, AdmitsOnlyWhatCanBeDone) {
  Start();
  EXPECT_TRUE(inference_->Admit(Method::kClassify, "fake", "", 4).ok());
  EXPECT_TRUE(inference_->Admit(Method::kEmbed, "fake", "", 1).ok());
  EXPECT_EQ(inference_->Admit(Method::kClassify, "other", "", 1).status(),
            NotFound("no model 'other'"));
  EXPECT_EQ(inference_->Admit(Method::kClassify, "fake", "", 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(inference_->Admit(Method::kClassify, "fake", "", 5).status()),
              HasSubstr("5 inputs in one call; this server takes at most 4"));
  const absl::Status task = inference_->Admit(Method::kAnswer, "fake", "", 1).status();
  EXPECT_EQ(task.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(task), HasSubstr("needs a model for question answering; 'fake' "
                                       "(FakeForSequenceClassification) is one for sequence "
                                       "classification"));
  inference_->RefuseNewWork();
  EXPECT_EQ(inference_->Admit(Method::kClassify, "fake", "", 1).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(InferenceTest, CountsCallsAndBatches) {
  Start();
  ASSERT_TRUE(Run(Request({"a", "b"})).get().ok());
  ASSERT_TRUE(Run(Request({"c"})).get().ok());
  EXPECT_FALSE(Run(Request({""})).get().ok());
  const auto statistics = inference_->statistics().Get("fake", "1");
  EXPECT_EQ(statistics.inference_count(), 3u);
  EXPECT_EQ(statistics.execution_count(), 2u);
  EXPECT_EQ(statistics.inference_stats().success().count(), 2u);
  EXPECT_EQ(statistics.inference_stats().fail().count(), 1u);
  EXPECT_GT(statistics.inference_stats().success().ns(), 0u);
  EXPECT_GT(statistics.last_inference(), 0u);
  ASSERT_EQ(statistics.batch_stats_size(), 2);
  EXPECT_EQ(statistics.batch_stats(0).batch_size(), 1u);
  EXPECT_EQ(statistics.batch_stats(1).batch_size(), 2u);
  EXPECT_EQ(statistics.batch_stats(1).compute_infer().count(), 1u);
}

}  // namespace
}  // namespace thresher
