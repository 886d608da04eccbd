#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/server/server_fixture.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SourceDir;

class ThresherServiceTest : public testing::ServerTest {
 protected:
  static v1::Input Text(const std::string& text) {
    v1::Input input;
    input.set_text(text);
    return input;
  }
  void ExpectRefused(const grpc::Status& status, grpc::StatusCode code, const std::string& part) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(part));
  }
};

TEST_F(ThresherServiceTest, ClassifiesAsTheGoldenFileSays) {
  const auto golden =
      nlohmann::json::parse(std::ifstream(SourceDir() / "models/sst2-mini/golden.json"));
  v1::ClassifyRequest request = ClassifyRequest({});
  std::vector<std::vector<float>> logits;
  for (const auto& item : golden["cases"]) {
    const std::string text = item["text"];
    if (text.empty() || logits.size() == 12) continue;
    *request.add_inputs() = Text(text);
    logits.push_back(item["logits"].get<std::vector<float>>());
  }
  request.mutable_options()->set_truncate(true);
  request.set_raw_scores(true);
  v1::ClassifyResponse raw;
  const grpc::Status status = Classify(request, &raw);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(raw.model().name(), "sst2-mini");
  EXPECT_EQ(raw.model().version(), "1");
  EXPECT_THAT(raw.labels(), ElementsAre("negative", "positive"));
  ASSERT_EQ(static_cast<size_t>(raw.results_size()), logits.size());
  request.set_raw_scores(false);
  v1::ClassifyResponse probable;
  ASSERT_TRUE(Classify(request, &probable).ok());
  for (int i = 0; i < raw.results_size(); ++i) {
    const std::vector<float>& expected = logits[static_cast<size_t>(i)];
    ASSERT_EQ(raw.results(i).scores_size(), 2);
    EXPECT_NEAR(raw.results(i).scores(0), expected[0], 1e-4);
    EXPECT_NEAR(raw.results(i).scores(1), expected[1], 1e-4);
    const double positive = 1 / (1 + std::exp(expected[0] - expected[1]));
    EXPECT_NEAR(probable.results(i).scores(1), positive, 1e-4);
    EXPECT_NEAR(probable.results(i).scores(0), 1 - positive, 1e-4);
    EXPECT_EQ(probable.results(i).label(), positive > 0.5 ? "positive" : "negative");
  }
}

TEST_F(ThresherServiceTest, EveryResultTellsItsFacts) {
  v1::ClassifyResponse response;
  ASSERT_TRUE(Classify(ClassifyRequest({"good", "not good at all"}), &response).ok());
  for (const auto& result : response.results()) {
    const v1::ResultInfo& info = result.info();
    EXPECT_EQ(info.status().code(), 0);
    EXPECT_FALSE(info.truncated());
    EXPECT_GE(info.batch_sequences(), 1);
    EXPECT_GE(info.batch_tokens(), info.tokens());
    EXPECT_EQ(info.report().policy(), "dense");
    const v1::PruningReport::Work& total = info.report().total();
    EXPECT_EQ(total.tokens().dense(), 6 * info.tokens());  // Six layers.
    EXPECT_EQ(total.tokens().done(), total.tokens().dense());
    EXPECT_EQ(total.scores().dense(), 6 * 6 * info.tokens() * info.tokens());
    EXPECT_EQ(total.bytes().done(), total.bytes().dense());
    EXPECT_GT(info.timings().compute(), 0);
    EXPECT_GE(info.timings().total(),
              info.timings().queue() + info.timings().tokenize() + info.timings().compute());
    EXPECT_GE(response.timings().total(), info.timings().total());
  }
  EXPECT_EQ(response.results(0).info().tokens(), 3);
}

TEST_F(ThresherServiceTest, TextsAndTheirIdsGiveTheSameAnswer) {
  v1::ClassifyRequest request = ClassifyRequest({"good"});
  v1::Input* ids = request.add_inputs();
  for (const int id : {2, 387, 3}) ids->add_token_ids(id);
  v1::Input* typed = request.add_inputs();
  *typed = *ids;
  for (int i = 0; i < 3; ++i) typed->add_token_type_ids(0);
  v1::ClassifyResponse response;
  ASSERT_TRUE(Classify(request, &response).ok());
  EXPECT_THAT(response.results(1).scores(),
              ElementsAre(response.results(0).scores(0), response.results(0).scores(1)));
  EXPECT_THAT(response.results(2).scores(),
              ElementsAre(response.results(0).scores(0), response.results(0).scores(1)));
}

TEST_F(ThresherServiceTest, ABadInputFailsAlone) {
  v1::ClassifyRequest request = ClassifyRequest({"good", "", std::string(3000, 'z') + " b"});
  request.add_inputs()->add_token_ids(8000);
  std::string long_text;
  for (int i = 0; i < 600; ++i) long_text += "good ";
  request.add_inputs()->set_text(long_text);
  v1::ClassifyResponse response;
  const grpc::Status status = Classify(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.results(0).label(), "positive");
  EXPECT_EQ(response.results(1).info().status().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(response.results(1).info().status().message(), "empty text");
  EXPECT_EQ(response.results(2).info().status().code(), 0);
  EXPECT_EQ(response.results(3).info().status().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(response.results(3).info().status().message(), HasSubstr("8000"));
  EXPECT_EQ(response.results(4).info().status().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(response.results(4).info().status().message(), HasSubstr("128"));
  EXPECT_EQ(response.results(4).scores_size(), 0);

  request.mutable_options()->set_truncate(true);
  ASSERT_TRUE(Classify(request, &response).ok());
  EXPECT_EQ(response.results(4).info().status().code(), 0);
  EXPECT_TRUE(response.results(4).info().truncated());
  EXPECT_EQ(response.results(4).info().tokens(), 128);
}

TEST_F(ThresherServiceTest, SaysWhatIsWrongWithACall) {
  v1::ClassifyResponse response;
  ExpectRefused(Classify(ClassifyRequest({""}), &response), grpc::StatusCode::INVALID_ARGUMENT,
                "empty text");
  ExpectRefused(Classify(ClassifyRequest({}), &response), grpc::StatusCode::INVALID_ARGUMENT,
                "no inputs");
  ExpectRefused(Classify(ClassifyRequest(std::vector<std::string>(257, "a")), &response),
                grpc::StatusCode::INVALID_ARGUMENT, "257 inputs in one call");
  v1::ClassifyRequest request = ClassifyRequest({"a"});
  request.mutable_model()->set_name("nobody");
  ExpectRefused(Classify(request, &response), grpc::StatusCode::NOT_FOUND, "nobody");
  request.mutable_model()->set_name("sst2-mini");
  request.mutable_model()->set_version("7");
  ExpectRefused(Classify(request, &response), grpc::StatusCode::NOT_FOUND, "7");
  request.mutable_model()->set_version("1");
  request.mutable_options()->mutable_sparsity()->set_policy("guess");
  ExpectRefused(Classify(request, &response), grpc::StatusCode::INVALID_ARGUMENT, "'guess'");
  request.mutable_options()->mutable_sparsity()->set_policy("dense");
  EXPECT_TRUE(Classify(request, &response).ok());
  request.mutable_model()->set_name("plain");
  ExpectRefused(Classify(request, &response), grpc::StatusCode::UNIMPLEMENTED,
                "Classify needs a model for sequence classification; 'plain' (BertModel) is one "
                "for embedding");
}

TEST_F(ThresherServiceTest, EmbedsWithAnyEncoder) {
  v1::EmbedRequest request;
  v1::EmbedResponse mean, cls, normal;
  request.mutable_model()->set_name("sst2-mini");
  *request.add_inputs() = Text("good film");
  const auto embed = [&](v1::EmbedResponse* response) {
    grpc::ClientContext context;
    const grpc::Status status = thresher_->Embed(&context, request, response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response->results(0).values_size(), 192);
  };
  embed(&mean);
  request.set_pooling(v1::EmbedRequest::POOLING_CLS);
  embed(&cls);
  EXPECT_NE(mean.results(0).values(0), cls.results(0).values(0));
  request.set_normalize(true);
  embed(&normal);
  double square = 0;
  for (const float value : normal.results(0).values()) square += value * value;
  EXPECT_NEAR(square, 1, 1e-5);

  request.set_pooling(static_cast<v1::EmbedRequest::Pooling>(9));
  grpc::ClientContext context;
  ExpectRefused(thresher_->Embed(&context, request, &normal), grpc::StatusCode::INVALID_ARGUMENT,
                "pooling: 9 is not known");
}

TEST_F(ThresherServiceTest, LabelsTokensWithTheirPlaceInTheText) {
  v1::TokenClassifyRequest request;
  request.mutable_model()->set_name("token");
  *request.add_inputs() = Text("good  film");
  request.mutable_inputs(0)->set_pair("bad");
  v1::TokenClassifyResponse response;
  {
    grpc::ClientContext context;
    const grpc::Status status = thresher_->TokenClassify(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  EXPECT_THAT(response.labels(), ElementsAre("class0", "class1", "class2"));
  const auto& tokens = response.results(0).tokens();
  ASSERT_EQ(tokens.size(), 3);
  EXPECT_EQ(tokens[1].token(), "film");
  EXPECT_EQ(tokens[1].begin(), 6);
  EXPECT_EQ(tokens[1].end(), 10);
  EXPECT_EQ(tokens[1].sequence(), 0);
  EXPECT_EQ(tokens[2].token(), "bad");
  EXPECT_EQ(tokens[2].sequence(), 1);
  for (const v1::TokenLabel& token : tokens) {
    EXPECT_GT(token.score(), 1.0 / 3 - 1e-6);
    EXPECT_LE(token.score(), 1);
  }
  request.set_include_special_tokens(true);
  grpc::ClientContext context;
  ASSERT_TRUE(thresher_->TokenClassify(&context, request, &response).ok());
  ASSERT_EQ(response.results(0).tokens_size(), 6);
  EXPECT_EQ(response.results(0).tokens(0).token(), "[CLS]");
  EXPECT_EQ(response.results(0).tokens(0).sequence(), -1);
}

TEST_F(ThresherServiceTest, AnswersWithSpansOfTheContext) {
  v1::AnswerRequest request;
  request.mutable_model()->set_name("answer");
  v1::Question* question = request.add_questions();
  question->set_question("good?");
  question->set_context("the film, and not the bad film.");
  request.set_top(3);
  request.set_max_answer_tokens(2);
  v1::AnswerResponse response;
  {
    grpc::ClientContext context;
    const grpc::Status status = thresher_->Answer(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  const auto& answers = response.results(0).answers();
  ASSERT_EQ(answers.size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_GE(answers[i].begin(), 0);
    EXPECT_LT(answers[i].begin(), answers[i].end());
    EXPECT_EQ(answers[i].text(), question->context().substr(
                                     static_cast<size_t>(answers[i].begin()),
                                     static_cast<size_t>(answers[i].end() - answers[i].begin())));
    if (i > 0) {
      EXPECT_LE(answers[i].score(), answers[i - 1].score());
    }
    for (int j = 0; j < i; ++j) {
      EXPECT_TRUE(answers[i].end() <= answers[j].begin() || answers[j].end() <= answers[i].begin());
    }
  }

  question->clear_context();
  grpc::ClientContext empty;
  ExpectRefused(thresher_->Answer(&empty, request, &response), grpc::StatusCode::INVALID_ARGUMENT,
                "empty second text");
  question->set_context("x");
  request.set_top(1000);
  grpc::ClientContext many;
  ExpectRefused(thresher_->Answer(&many, request, &response), grpc::StatusCode::INVALID_ARGUMENT,
                "top: 1000 is not in [0, 100]");
}

TEST_F(ThresherServiceTest, Tokenizes) {
  v1::TokenizeRequest request;
  request.mutable_model()->set_name("plain");
  *request.add_inputs() = Text("good films");
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status = thresher_->Tokenize(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto& tokens = response.results(0).tokens();
  ASSERT_EQ(tokens.size(), 5);
  EXPECT_EQ(tokens[0].text(), "[CLS]");
  EXPECT_EQ(tokens[3].text(), "##s");
  EXPECT_EQ(tokens[3].begin(), 9);
  EXPECT_EQ(tokens[3].end(), 10);
  EXPECT_EQ(response.results(0).info().tokens(), 5);
  EXPECT_FALSE(response.results(0).info().has_report());

  request.set_add_special_tokens(false);
  grpc::ClientContext bare;
  ASSERT_TRUE(thresher_->Tokenize(&bare, request, &response).ok());
  EXPECT_EQ(response.results(0).tokens_size(), 3);
}

}  // namespace
}  // namespace thresher
