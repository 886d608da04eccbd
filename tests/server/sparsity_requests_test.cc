// Sparsity through both services: what is refused and how, and what comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "backend/sparsity/report.h"
#include "tests/server/server_fixture.h"

namespace thresher {
namespace {

using inference::InferParameter;
using nlohmann::json;
using ::testing::HasSubstr;

class SparsityRequestsTest : public testing::ServerTest {
 protected:
  static v1::ClassifyRequest Ask(const std::string& policy, bool explain = false,
                                 const std::vector<std::string>& texts = {kText}) {
    v1::ClassifyRequest request = ClassifyRequest(texts);
    request.mutable_options()->mutable_sparsity()->set_policy(policy);
    request.mutable_options()->mutable_sparsity()->set_explain(explain);
    return request;
  }
  v1::ClassifyResponse Answer(const v1::ClassifyRequest& request) {
    v1::ClassifyResponse response;
    const grpc::Status status = Classify(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  static inference::ModelInferRequest InferRequest(const std::vector<std::string>& texts = {
                                                       kText}) {
    inference::ModelInferRequest request;
    request.set_model_name("sst2-mini");
    auto* tensor = request.add_inputs();
    tensor->set_name("text");
    tensor->set_datatype("BYTES");
    tensor->add_shape(static_cast<int64_t>(texts.size()));
    for (const std::string& text : texts) tensor->mutable_contents()->add_bytes_contents(text);
    return request;
  }
  static InferParameter& Parameter(inference::ModelInferRequest* request, const std::string& name) {
    return (*request->mutable_parameters())[name];
  }
  grpc::Status Infer(const inference::ModelInferRequest& request,
                     inference::ModelInferResponse* response) {
    response->Clear();
    grpc::ClientContext context;
    return inference_->ModelInfer(&context, request, response);
  }

  /// The value of a series as it is spelled in the exposition.
  double Metric(const std::string& series) {
    std::istringstream lines(metrics_.Exposition());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with(series + " ")) return std::stod(line.substr(series.size() + 1));
    }
    ADD_FAILURE() << "no series " << series;
    return -1;
  }

  static constexpr const char* kText = "a gripping, unflinchingly bleak and moving film";
};

TEST_F(SparsityRequestsTest, WhatIsWrongIsRefusedByItsName) {
  const std::pair<const char*, const char*> cases[] = {
      {"salo", "unknown name 'salo'"},
      {"spatten:tokens=0.5", "unknown key 'tokens'"},
      {"spatten:final=0", "final='0': expected (0, 1]"},
      {"spatten:final=1.5", "final='1.5': expected (0, 1]"},
      {"spatten:keep=-0.5", "keep='-0.5'"},
      {"spatten:keep=nan", "keep='nan'"},
      {"spatten:heads=2", "heads='2'"},
      {"spatten:values=0", "values='0'"},
      {"spatten:bits=12/9", "bits='12/9'"},
      {"spatten:bits=6/4,refetch=1.01", "refetch='1.01'"},
      {"spatten:refetch=0.2", "refetch has no effect without bits"},
      {"spatten:seed=1", "seed has no effect without importance=random"},
      {"spatten:first=2000000", "first='2000000'"},
      {"spatten:final=0.5,keep=0.5", "final and keep contradict"},
      {"spatten:keeps=1/1/1/1/1/1,schedule=ramp", "schedule has no effect"},
      {"spatten:keeps=1/0.5", "keeps has 2 shares; the model has 6 layers"},
      {"spatten:keeps=1/1/0.5/0.6/0.5/0.5", "keeps: layer 3"},
      {"spatten:keeps=0.9/0.9/0.5/0.5/0.5/0.5", "keeps begins with 0.9"},
      {"spatten:keeps=1/1/1/1/1/1.2", "keeps='1/1/1/1/1/1.2'"},
      {"spatten:keep=0.15", "stays above 0.1667"},  // One layer of six keeps every token.
      {"fact:topk=0", "topk='0'"},
      {"fact:topk=1.25", "topk='1.25'"},
      {"fact:threshold=2", "threshold='2'"},
      {"fact:ffn=0.5", "ffn=0.5"},
      {"fact:gap=2", "gap has no effect without qskip"},
      {"fact:bits=9", "bits='9'"},
      {"fact:topk=0.5+fact:ffn=0.5", "fact stands twice"},
      {"dense+spatten:keep=0.5", "dense"},
      {"spatten:keep=0.5,keep=0.6", "keep is given twice"},
      {"spatten:", "expected key=value"},
  };
  for (const auto& [policy, part] : cases) {
    v1::ClassifyResponse response;
    grpc::Status status = Classify(Ask(policy), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << policy;
    EXPECT_THAT(status.error_message(), ::testing::StartsWith("sparsity: ")) << policy;
    EXPECT_THAT(status.error_message(), HasSubstr(part)) << policy;

    inference::ModelInferRequest request = InferRequest();
    Parameter(&request, "sparsity").set_string_param(policy);
    inference::ModelInferResponse unused;
    status = Infer(request, &unused);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << policy;
    EXPECT_THAT(status.error_message(), HasSubstr(part)) << policy;
  }
}

TEST_F(SparsityRequestsTest, OpenInferenceRefusesAPolicyBesideABound) {
  inference::ModelInferRequest request = InferRequest();
  Parameter(&request, "sparsity").set_string_param("spatten:keep=0.5");
  Parameter(&request, "max_quality_loss").set_double_param(0.01);
  inference::ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("'sparsity' and 'max_quality_loss' contradict"));
}

TEST_F(SparsityRequestsTest, WithoutAProfileABoundIsRefusedInEveryForm) {
  for (const auto& set : std::vector<std::function<void(InferParameter&)>>{
           [](InferParameter& p) { p.set_double_param(0.01); },
           [](InferParameter& p) { p.set_int64_param(1); },
           [](InferParameter& p) { p.set_string_param("0.01"); }}) {
    inference::ModelInferRequest request = InferRequest();
    set(Parameter(&request, "max_quality_loss"));
    inference::ModelInferResponse response;
    const grpc::Status status = Infer(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("max_quality_loss"));
  }
}

TEST_F(SparsityRequestsTest, ExplainTellsOfEachLayerAndEachPiece) {
  const v1::ClassifyResponse response = Answer(Ask("spatten:final=0.4,heads=0.5", true));
  const v1::ResultInfo& info = response.results(0).info();
  const v1::PruningReport& report = info.report();
  ASSERT_EQ(report.layers_size(), 6);
  ASSERT_EQ(report.token_layers_size(), info.tokens());
  ASSERT_EQ(info.pieces_size(), info.tokens());
  v1::PruningReport::Work sum;
  for (int l = 0; l < 6; ++l) {
    AddWork(report.layers(l), &sum);
    int present = 0;
    for (const int32_t layers : report.token_layers()) present += layers > l;
    EXPECT_EQ(present, report.layers(l).tokens().done()) << l;
  }
  EXPECT_EQ(sum.SerializeAsString(), report.total().SerializeAsString());
  EXPECT_EQ(info.pieces(0).text(), "[CLS]");
  EXPECT_EQ(info.pieces(0).sequence(), -1);
  EXPECT_EQ(report.token_layers(0), 6);
  const std::string text = kText;
  EXPECT_EQ(text.substr(info.pieces(2).begin(), info.pieces(2).end() - info.pieces(2).begin()),
            "gripping");
  EXPECT_GT(report.attention_entropy(), 0.0);
  EXPECT_GT(report.sink_share(), 0.0);
  EXPECT_TRUE(report.has_sink_heads());
  EXPECT_GT(report.overloaded_heads(), 0.0);
}

TEST_F(SparsityRequestsTest, WithoutExplainTheAnswerHasTotalsAlone) {
  // The server measures a model's first sequence for its metrics; that is not the caller's matter.
  for (const char* policy : {"spatten:final=0.4", "dense", ""}) {
    const v1::ClassifyResponse response = Answer(Ask(policy));
    const v1::ResultInfo& info = response.results(0).info();
    EXPECT_EQ(info.report().layers_size(), 0);
    EXPECT_EQ(info.report().token_layers_size(), 0);
    EXPECT_EQ(info.pieces_size(), 0);
    EXPECT_FALSE(info.report().has_attention_entropy());
    EXPECT_FALSE(info.report().has_sink_share());
    EXPECT_FALSE(info.report().has_sink_heads());
    EXPECT_FALSE(info.report().has_collapsed_heads());
    EXPECT_FALSE(info.report().has_overloaded_heads());
    EXPECT_GT(info.report().total().tokens().done(), 0);
  }
  EXPECT_EQ(Metric(R"(thresher_attention_entropy_nats_count{model="sst2-mini"})"), 1);
}

TEST_F(SparsityRequestsTest, ExplainingDenseChangesNoBit) {
  const auto scores = [&](const v1::ClassifyRequest& request) {
    const v1::ClassifyResponse response = Answer(request);
    return std::vector<float>(response.results(0).scores().begin(),
                              response.results(0).scores().end());
  };
  EXPECT_EQ(scores(Ask("dense", true)), scores(Ask("dense", false)));
}

TEST_F(SparsityRequestsTest, OneTokenIsAnsweredUnderEveryPolicy) {
  for (const char* policy :
       {"spatten:final=0.1,heads=0.5,values=0.1,bits=4/4", "fact:topk=0.1,ffn=0.1",
        "spatten:final=0.1,first=1000+fact:topk=0.1,qskip=gap"}) {
    v1::ClassifyRequest request = Ask(policy, true, {});
    request.add_inputs()->add_token_ids(2);
    const v1::ClassifyResponse response = Answer(request);
    EXPECT_EQ(response.results(0).info().report().total().tokens().done(), 6) << policy;
  }
}

TEST_F(SparsityRequestsTest, MetricsAreTheSumOfTheReports) {
  v1::PruningReport::Work sum;
  int sequences = 0;
  for (const char* policy :
       {"spatten:final=0.4,bits=4/4,refetch=0.9", "spatten:keep=0.6,values=0.5"}) {
    const v1::ClassifyResponse response = Answer(Ask(policy, false, {kText, "dull", "so so"}));
    for (const v1::Classification& result : response.results()) {
      AddWork(result.info().report().total(), &sum);
      ++sequences;
    }
  }
  Answer(Ask("dense"));
  const std::string labels = R"(model="sst2-mini",policy="spatten"})";
  for (const KindOfWork& kind : kKindsOfWork) {
    const std::string with_kind = R"({kind=")" + std::string(kind.name) + "\"," + labels;
    const v1::PruningReport::Amount& amount = (sum.*kind.amount)();
    EXPECT_EQ(Metric("thresher_keep_ratio_count" + with_kind), sequences);
    EXPECT_EQ(Metric("thresher_operations_done_total" + with_kind), amount.done());
    EXPECT_EQ(Metric("thresher_operations_skipped_total" + with_kind),
              amount.dense() - amount.done());
  }
  EXPECT_EQ(Metric("thresher_kv_fetched_bytes_total{" + labels), sum.bytes().done());
  EXPECT_EQ(Metric("thresher_kv_saved_bytes_total{" + labels),
            sum.bytes().dense() - sum.bytes().done());
  EXPECT_GT(sum.refetched_rows(), 0);
  EXPECT_EQ(Metric("thresher_refetched_rows_total{" + labels), sum.refetched_rows());
  EXPECT_EQ(Metric("thresher_softmax_rows_total{" + labels), sum.softmax_rows());
  EXPECT_EQ(Metric(R"(thresher_keep_ratio_sum{kind="token",model="sst2-mini",policy="dense"})"), 1);
}

TEST_F(SparsityRequestsTest, WhatAPredictionAddsIsReportedEverywhere) {
  const v1::ClassifyResponse expected = Answer(Ask("fact:topk=0.5"));
  const v1::PruningReport::Work& total = expected.results(0).info().report().total();
  EXPECT_GT(total.predicted_rows(), 0);
  EXPECT_EQ(total.predicted_scores(), total.scores().dense());
  const std::string labels = R"({model="sst2-mini",policy="fact"})";
  EXPECT_EQ(Metric("thresher_predicted_rows_total" + labels), total.predicted_rows());
  EXPECT_EQ(Metric("thresher_predicted_scores_total" + labels), total.predicted_scores());
  inference::ModelInferRequest request = InferRequest({kText});
  Parameter(&request, "sparsity").set_string_param("fact:topk=0.5");
  inference::ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto& facts = response.parameters();
  EXPECT_EQ(facts.at("predicted_rows").int64_param(), total.predicted_rows());
  EXPECT_EQ(facts.at("predicted_scores").int64_param(), total.predicted_scores());
}

TEST_F(SparsityRequestsTest, OpenInferenceReportsTheSameInParameters) {
  constexpr const char* kPolicy = "spatten:final=0.4,heads=0.5,bits=4/4,refetch=0.9";
  v1::PruningReport::Work sum;
  const v1::ClassifyResponse expected = Answer(Ask(kPolicy, true, {kText, "dull"}));
  for (const v1::Classification& result : expected.results()) {
    AddWork(result.info().report().total(), &sum);
  }
  for (const auto& set : std::vector<std::function<void(InferParameter&)>>{
           [](InferParameter& p) { p.set_bool_param(true); },
           [](InferParameter& p) { p.set_double_param(1); },
           [](InferParameter& p) { p.set_int64_param(1); },
           [](InferParameter& p) { p.set_string_param("true"); },
           [](InferParameter& p) { p.set_string_param("1"); }}) {
    inference::ModelInferRequest request = InferRequest({kText, "dull"});
    Parameter(&request, "sparsity").set_string_param(kPolicy);
    set(Parameter(&request, "explain"));
    inference::ModelInferResponse response;
    const grpc::Status status = Infer(request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    const auto& facts = response.parameters();
    EXPECT_EQ(facts.at("policy").string_param(), expected.results(0).info().report().policy());
    for (const KindOfWork& kind : kKindsOfWork) {
      const std::string name(kind.name);
      const v1::PruningReport::Amount& amount = (sum.*kind.amount)();
      EXPECT_EQ(facts.at(name + "_dense").int64_param(), amount.dense()) << name;
      EXPECT_EQ(facts.at(name + "_done").int64_param(), amount.done()) << name;
      EXPECT_EQ(facts.at("keep_" + name).double_param(), KeepRatio(amount)) << name;
    }
    EXPECT_EQ(facts.at("bytes_dense").int64_param(), sum.bytes().dense());
    EXPECT_EQ(facts.at("bytes_done").int64_param(), sum.bytes().done());
    EXPECT_EQ(facts.at("softmax_rows").int64_param(), sum.softmax_rows());
    EXPECT_EQ(facts.at("refetched_rows").int64_param(), sum.refetched_rows());
    EXPECT_EQ(facts.at("refetch_share").double_param(), RefetchShare(sum));
    const json reports = json::parse(facts.at("report").string_param());
    ASSERT_EQ(reports.size(), 2u);
    for (int row = 0; row < 2; ++row) {
      const v1::PruningReport& report = expected.results(row).info().report();
      ASSERT_EQ(reports[row]["layers"].size(), 6u);
      EXPECT_EQ(reports[row]["layers"][5]["tokens"]["done"], report.layers(5).tokens().done());
      EXPECT_EQ(reports[row]["total"]["bytes"]["done"], report.total().bytes().done());
      EXPECT_EQ(reports[row]["tokens"][0]["text"], "[CLS]");
      EXPECT_EQ(reports[row]["tokens"][1]["layers"], report.token_layers(1));
      EXPECT_EQ(reports[row]["attention_entropy"], report.attention_entropy());
    }
  }
}

TEST_F(SparsityRequestsTest, OpenInferenceExplainsOnlyWhenAsked) {
  inference::ModelInferRequest request = InferRequest();
  inference::ModelInferResponse response;
  ASSERT_TRUE(Infer(request, &response).ok());
  EXPECT_EQ(response.parameters().count("report"), 0u);
  EXPECT_EQ(response.parameters().at("policy").string_param(), "dense");
  Parameter(&request, "explain").set_string_param("perhaps");
  const grpc::Status status = Infer(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("'explain' must be true or false"));
}

}  // namespace
}  // namespace thresher
