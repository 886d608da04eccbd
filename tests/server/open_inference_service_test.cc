#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <set>

#include "server/infer_stream.h"
#include "tests/server/server_fixture.h"

namespace thresher {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class OpenInferenceServiceTest : public testing::ServerTest {
 protected:
  using Stub = inference::GRPCInferenceService::Stub;

  /// One of the service's unary calls.
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    return (inference_.get()->*method)(&context, request, response);
  }
  grpc::Status Infer(const ModelInferRequest& request, ModelInferResponse* response) {
    response->Clear();
    return Call(&Stub::ModelInfer, request, response);
  }

  static ModelInferRequest::InferInputTensor* AddTensor(ModelInferRequest* request,
                                                        const std::string& name,
                                                        const std::string& datatype,
                                                        const std::vector<int64_t>& shape) {
    auto* tensor = request->add_inputs();
    tensor->set_name(name);
    tensor->set_datatype(datatype);
    tensor->mutable_shape()->Add(shape.begin(), shape.end());
    return tensor;
  }
  static ModelInferRequest Texts(const std::string& model, const std::vector<std::string>& texts) {
    ModelInferRequest request;
    request.set_model_name(model);
    auto* tensor = AddTensor(&request, "text", "BYTES", {static_cast<int64_t>(texts.size())});
    for (const std::string& text : texts) tensor->mutable_contents()->add_bytes_contents(text);
    return request;
  }
  static const ModelInferResponse::InferOutputTensor& Output(const ModelInferResponse& response,
                                                             const std::string& name) {
    for (const auto& output : response.outputs()) {
      if (output.name() == name) return output;
    }
    ADD_FAILURE() << "no output " << name;
    return ModelInferResponse::InferOutputTensor::default_instance();
  }
  void ExpectRefused(const ModelInferRequest& request, grpc::StatusCode code,
                     const std::string& part) {
    ModelInferResponse response;
    const grpc::Status status = Infer(request, &response);
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(part));
  }
};

TEST_F(OpenInferenceServiceTest, TellsOfTheServer) {
  inference::ServerLiveResponse live;
  ASSERT_TRUE(Call(&Stub::ServerLive, inference::ServerLiveRequest(), &live).ok());
  EXPECT_TRUE(live.live());

  inference::ServerReadyResponse ready;
  ASSERT_TRUE(Call(&Stub::ServerReady, inference::ServerReadyRequest(), &ready).ok());
  EXPECT_TRUE(ready.ready());
  server_->SetServing(false);
  ASSERT_TRUE(Call(&Stub::ServerReady, inference::ServerReadyRequest(), &ready).ok());
  EXPECT_FALSE(ready.ready());

  inference::ServerMetadataResponse metadata;
  ASSERT_TRUE(Call(&Stub::ServerMetadata, inference::ServerMetadataRequest(), &metadata).ok());
  EXPECT_EQ(metadata.name(), "thresher");
  EXPECT_FALSE(metadata.version().empty());
  EXPECT_THAT(metadata.extensions(),
              ElementsAre("model_configuration", "model_repository", "statistics", "parameters"));
}

TEST_F(OpenInferenceServiceTest, TellsOfAModel) {
  inference::ModelReadyRequest ready_request;
  inference::ModelReadyResponse ready;
  ready_request.set_name("sst2-mini");
  ASSERT_TRUE(Call(&Stub::ModelReady, ready_request, &ready).ok());
  EXPECT_TRUE(ready.ready());

  inference::ModelMetadataRequest request;
  inference::ModelMetadataResponse metadata;
  request.set_name("sst2-mini");
  ASSERT_TRUE(Call(&Stub::ModelMetadata, request, &metadata).ok());
  EXPECT_EQ(metadata.platform(), "thresher");
  EXPECT_THAT(metadata.versions(), ElementsAre("1"));
  ASSERT_EQ(metadata.inputs_size(), 5);
  EXPECT_EQ(metadata.inputs(0).name(), "text");
  EXPECT_EQ(metadata.inputs(0).datatype(), "BYTES");
  EXPECT_THAT(metadata.inputs(0).shape(), ElementsAre(-1));
  ASSERT_EQ(metadata.outputs_size(), 3);
  EXPECT_EQ(metadata.outputs(0).name(), "logits");
  EXPECT_THAT(metadata.outputs(0).shape(), ElementsAre(-1, 2));
  EXPECT_EQ(metadata.properties().at("task"), "sequence classification");
  EXPECT_EQ(metadata.properties().at("max_tokens"), "128");
  EXPECT_EQ(metadata.properties().at("labels"), "negative,positive");

  inference::ModelConfigRequest config_request;
  inference::ModelConfigResponse config;
  config_request.set_name("sst2-mini");
  ASSERT_TRUE(Call(&Stub::ModelConfig, config_request, &config).ok());
  EXPECT_EQ(config.config().max_batch_size(), 256);
  EXPECT_EQ(config.config().input(0).data_type(), inference::TYPE_STRING);
  EXPECT_EQ(config.config().input(0).dims_size(), 0);
  EXPECT_FALSE(config.config().input(0).optional());
  EXPECT_TRUE(config.config().input(1).optional());
  EXPECT_THAT(config.config().output(0).dims(), ElementsAre(2));
}

TEST_F(OpenInferenceServiceTest, DoesNotKnowWhatIsNotThere) {
  inference::ModelMetadataRequest request;
  inference::ModelMetadataResponse response;
  request.set_name("nobody");
  EXPECT_EQ(Call(&Stub::ModelMetadata, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  inference::ModelReadyRequest ready_request;
  inference::ModelReadyResponse ready;
  ready_request.set_name("nobody");
  EXPECT_EQ(Call(&Stub::ModelReady, ready_request, &ready).error_code(),
            grpc::StatusCode::NOT_FOUND);
  inference::ModelStatisticsRequest statistics_request;
  inference::ModelStatisticsResponse statistics;
  statistics_request.set_name("nobody");
  EXPECT_EQ(Call(&Stub::ModelStatistics, statistics_request, &statistics).error_code(),
            grpc::StatusCode::NOT_FOUND);
  ExpectRefused(Texts("nobody", {"a"}), grpc::StatusCode::NOT_FOUND, "nobody");
}

TEST_F(OpenInferenceServiceTest, ClassifiesTyped) {
  ModelInferRequest request = Texts("sst2-mini", {"good", "bad"});
  request.set_id("seven");
  ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model_name(), "sst2-mini");
  EXPECT_EQ(response.model_version(), "1");
  EXPECT_EQ(response.id(), "seven");
  EXPECT_THAT(Output(response, "logits").shape(), ElementsAre(2, 2));
  EXPECT_NEAR(Output(response, "logits").contents().fp32_contents(0), -1.39199, 1e-4);
  EXPECT_NEAR(Output(response, "logits").contents().fp32_contents(1), 1.437603, 1e-4);
  EXPECT_THAT(Output(response, "label").shape(), ElementsAre(2));
  EXPECT_THAT(Output(response, "label").contents().bytes_contents(),
              ElementsAre("positive", "negative"));
  const auto& scores = Output(response, "scores").contents().fp32_contents();
  EXPECT_NEAR(scores.Get(0) + scores.Get(1), 1, 1e-6);
  EXPECT_EQ(response.parameters().at("policy").string_param(), "dense");
  EXPECT_EQ(response.parameters().at("tokens").int64_param(), 6);
  EXPECT_GT(response.parameters().at("compute_seconds").double_param(), 0);
  EXPECT_GE(response.parameters().at("total_seconds").double_param(),
            response.parameters().at("compute_seconds").double_param());
}

TEST_F(OpenInferenceServiceTest, ClassifiesRawPaddedIdsAsRawTexts) {
  ModelInferResponse by_text, by_ids;
  ModelInferRequest request;
  request.set_model_name("sst2-mini");
  AddTensor(&request, "text", "BYTES", {1});
  request.add_raw_input_contents(std::string("\4\0\0\0good", 8));
  ASSERT_TRUE(Infer(request, &by_text).ok());
  ASSERT_EQ(by_text.raw_output_contents_size(), 3);
  EXPECT_EQ(by_text.raw_output_contents(0).size(), 8u);
  EXPECT_EQ(by_text.raw_output_contents(2), std::string("\10\0\0\0positive", 12));

  request.Clear();
  request.set_model_name("sst2-mini");
  const std::vector<int64_t> ids = {2, 387, 3, 0, 0};
  const std::vector<int32_t> mask = {1, 1, 1, 0, 0};
  AddTensor(&request, "input_ids", "INT64", {1, 5});
  AddTensor(&request, "attention_mask", "INT32", {1, 5});
  request.add_raw_input_contents(ids.data(), ids.size() * sizeof(int64_t));
  request.add_raw_input_contents(mask.data(), mask.size() * sizeof(int32_t));
  const grpc::Status status = Infer(request, &by_ids);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(by_ids.raw_output_contents(0), by_text.raw_output_contents(0));
}

TEST_F(OpenInferenceServiceTest, GivesTokenTasksRagged) {
  ModelInferResponse response;
  ASSERT_TRUE(Infer(Texts("token", {"good film", "bad"}), &response).ok());
  // [CLS] good film [SEP] and [CLS] bad [SEP].
  EXPECT_THAT(Output(response, "offsets").contents().int_contents(), ElementsAre(0, 4, 7));
  EXPECT_THAT(Output(response, "logits").shape(), ElementsAre(7, 3));
  EXPECT_EQ(Output(response, "logits").contents().fp32_contents_size(), 21);
  EXPECT_EQ(Output(response, "label").contents().bytes_contents_size(), 7);
  EXPECT_EQ(Output(response, "token_ids").contents().int_contents_size(), 7);
  EXPECT_THAT(Output(response, "token_spans").shape(), ElementsAre(7, 3));
  EXPECT_THAT(Output(response, "token_spans").contents().int_contents(),
              ElementsAre(-1, 0, 0, 0, 0, 4, 0, 5, 9, -1, 0, 0, -1, 0, 0, 0, 0, 3, -1, 0, 0));

  ModelInferRequest request = Texts("answer", {"good?"});
  AddTensor(&request, "text_pair", "BYTES", {1})->mutable_contents()->add_bytes_contents("film");
  ASSERT_TRUE(Infer(request, &response).ok());
  EXPECT_THAT(Output(response, "logits").shape(), ElementsAre(6, 2));
  EXPECT_THAT(Output(response, "offsets").contents().int_contents(), ElementsAre(0, 6));
}

TEST_F(OpenInferenceServiceTest, EmbedsWithAPlainModel) {
  ModelInferResponse response;
  ASSERT_TRUE(Infer(Texts("plain", {"good film", "bad"}), &response).ok());
  EXPECT_THAT(Output(response, "embedding").shape(), ElementsAre(2, 32));
  EXPECT_EQ(Output(response, "embedding").contents().fp32_contents_size(), 64);
}

TEST_F(OpenInferenceServiceTest, SendsTheOutputsAskedFor) {
  ModelInferRequest request = Texts("sst2-mini", {"good"});
  request.add_outputs()->set_name("label");
  ModelInferResponse response;
  ASSERT_TRUE(Infer(request, &response).ok());
  ASSERT_EQ(response.outputs_size(), 1);
  EXPECT_EQ(response.outputs(0).name(), "label");
  request.add_outputs()->set_name("label");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "'label' is asked for twice");
  request.mutable_outputs(1)->set_name("embedding");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT,
                "output 'embedding' is not known; the outputs are: logits, scores, label");
}

TEST_F(OpenInferenceServiceTest, SaysWhatIsWrong) {
  ModelInferRequest request = Texts("sst2-mini", {"good", ""});
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "row 1: empty text");
  ExpectRefused(Texts("sst2-mini", {"good", "a\xff"}), grpc::StatusCode::INVALID_ARGUMENT,
                "row 1: ");

  request = Texts("sst2-mini", {"good"});
  request.add_raw_input_contents("x");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "both typed contents and raw");

  request = Texts("sst2-mini", {"good"});
  request.mutable_inputs(0)->set_shape(0, 2);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "needs 2 values, but there are 1");
  request.mutable_inputs(0)->set_shape(0, 1000);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "takes at most 256");
  request.mutable_inputs(0)->set_shape(0, -1);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "at least 1");
  request.clear_inputs();
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "neither");

  AddTensor(&request, "input_ids", "INT64", {1, 1})->mutable_contents()->add_int64_contents(9999);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "9999");
  request.set_model_version("3");
  ExpectRefused(request, grpc::StatusCode::NOT_FOUND, "3");

  request = Texts("sst2-mini", {"good"});
  (*request.mutable_parameters())["sparsity"].set_string_param("guess");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "'guess'");
  request.clear_parameters();
  (*request.mutable_parameters())["timeout"].set_string_param("soon");
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "'timeout' must be a number");
}

TEST_F(OpenInferenceServiceTest, ObeysItsParameters) {
  std::string long_text;
  for (int i = 0; i < 200; ++i) long_text += "good ";
  ModelInferRequest request = Texts("sst2-mini", {long_text});
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "row 0");
  (*request.mutable_parameters())["truncate"].set_bool_param(true);
  (*request.mutable_parameters())["unheard_of"].set_bool_param(true);
  ModelInferResponse response;
  ASSERT_TRUE(Infer(request, &response).ok());
  EXPECT_TRUE(response.parameters().at("truncated").bool_param());
  EXPECT_EQ(response.parameters().at("tokens").int64_param(), 128);

  // A microsecond is over before any batch can begin.
  request = Texts("sst2-mini", {"good"});
  (*request.mutable_parameters())["timeout"].set_int64_param(1);
  ExpectRefused(request, grpc::StatusCode::DEADLINE_EXCEEDED, "");
}

TEST_F(OpenInferenceServiceTest, CountsWhatItDid) {
  ModelInferResponse response;
  ASSERT_TRUE(Infer(Texts("sst2-mini", {"good", "bad"}), &response).ok());
  ASSERT_TRUE(Infer(Texts("sst2-mini", {"good"}), &response).ok());
  EXPECT_FALSE(Infer(Texts("sst2-mini", {""}), &response).ok());
  inference::ModelStatisticsRequest request;
  inference::ModelStatisticsResponse statistics;
  ASSERT_TRUE(Call(&Stub::ModelStatistics, request, &statistics).ok());
  EXPECT_EQ(statistics.model_stats_size(), 4);
  request.set_name("sst2-mini");
  ASSERT_TRUE(Call(&Stub::ModelStatistics, request, &statistics).ok());
  ASSERT_EQ(statistics.model_stats_size(), 1);
  const auto& stats = statistics.model_stats(0);
  EXPECT_EQ(stats.inference_count(), 3u);
  EXPECT_EQ(stats.inference_stats().success().count(), 2u);
  EXPECT_EQ(stats.inference_stats().fail().count(), 1u);
  EXPECT_EQ(stats.inference_stats().queue().count(), 2u);
  EXPECT_GT(stats.inference_stats().compute_infer().ns(), 0u);
}

TEST_F(OpenInferenceServiceTest, LoadsAndUnloadsModels) {
  const auto index = [&] {
    inference::RepositoryIndexRequest request;
    inference::RepositoryIndexResponse response;
    EXPECT_TRUE(Call(&Stub::RepositoryIndex, request, &response).ok());
    std::map<std::string, std::string> states;
    for (const auto& model : response.models()) states[model.name()] = model.state();
    return states;
  };
  EXPECT_EQ(index()["plain"], "READY");

  inference::RepositoryModelUnloadRequest unload;
  inference::RepositoryModelUnloadResponse unloaded;
  unload.set_model_name("plain");
  ASSERT_TRUE(Call(&Stub::RepositoryModelUnload, unload, &unloaded).ok());
  EXPECT_NE(index()["plain"], "READY");
  ExpectRefused(Texts("plain", {"a"}), grpc::StatusCode::UNAVAILABLE, "plain");
  inference::ModelReadyRequest ready_request;
  inference::ModelReadyResponse ready;
  ready_request.set_name("plain");
  ASSERT_TRUE(Call(&Stub::ModelReady, ready_request, &ready).ok());
  EXPECT_FALSE(ready.ready());

  inference::RepositoryModelLoadRequest load;
  inference::RepositoryModelLoadResponse loaded;
  load.set_model_name("plain");
  ASSERT_TRUE(Call(&Stub::RepositoryModelLoad, load, &loaded).ok());
  EXPECT_EQ(index()["plain"], "READY");
  ModelInferResponse response;
  EXPECT_TRUE(Infer(Texts("plain", {"a"}), &response).ok());

  load.set_model_name("nobody");
  EXPECT_EQ(Call(&Stub::RepositoryModelLoad, load, &loaded).error_code(),
            grpc::StatusCode::NOT_FOUND);
  load.clear_model_name();
  EXPECT_EQ(Call(&Stub::RepositoryModelLoad, load, &loaded).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(OpenInferenceServiceTest, LoadsNothingByParameters) {
  inference::RepositoryModelLoadRequest load;
  inference::RepositoryModelLoadResponse loaded;
  load.set_model_name("plain");
  (*load.mutable_parameters())["config"].set_string_param("{}");
  const grpc::Status status = Call(&Stub::RepositoryModelLoad, load, &loaded);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("parameter 'config'"));
  ModelInferResponse response;
  EXPECT_TRUE(Infer(Texts("plain", {"a"}), &response).ok());  // As it was.
}

class InferStreamTest : public OpenInferenceServiceTest {
 protected:
  using Answer = inference::ModelStreamInferResponse;

  void Open() { stream_ = inference_->ModelStreamInfer(&context_); }
  void TearDown() override {
    context_.TryCancel();
    stream_.reset();
    OpenInferenceServiceTest::TearDown();
  }
  bool Send(const std::string& id, const std::vector<std::string>& texts) {
    ModelInferRequest request = Texts("sst2-mini", texts);
    request.set_id(id);
    return stream_->Write(request);
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<ModelInferRequest, Answer>> stream_;
};

TEST_F(InferStreamTest, AnswersEachAndEndsAfterTheHalfClose) {
  Open();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Send(std::to_string(i), {"good"}));
  stream_->WritesDone();
  std::set<std::string> ids;
  Answer answer;
  while (stream_->Read(&answer)) {
    EXPECT_EQ(answer.error_message(), "");
    EXPECT_EQ(Output(answer.infer_response(), "label").contents().bytes_contents(0), "positive");
    ids.insert(answer.infer_response().id());
  }
  EXPECT_EQ(ids.size(), 10u);
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(InferStreamTest, AnErrorIsAnAnswer) {
  Open();
  ASSERT_TRUE(Send("bad", {""}));
  Answer answer;
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_EQ(answer.error_message(), "INVALID_ARGUMENT: row 0: empty text");
  EXPECT_EQ(answer.infer_response().id(), "bad");
  ASSERT_TRUE(Send("good", {"good"}));
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_EQ(answer.error_message(), "");
  EXPECT_EQ(answer.infer_response().id(), "good");
}

TEST_F(InferStreamTest, AnswersComeWhenTheyAreReady) {
  Hold();
  Open();
  ASSERT_TRUE(Send("slow", {"good"}));
  AwaitQueued(1);
  ASSERT_TRUE(Send("quick", {""}));  // Refused before the queue.
  Answer answer;
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_EQ(answer.infer_response().id(), "quick");
  Release();
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_EQ(answer.infer_response().id(), "slow");
}

TEST_F(InferStreamTest, ReadsNoFurtherThanItsBound) {
  Hold();
  Open();
  constexpr int kRequests = 2 * InferStreams::kMaxInFlight;
  auto writer = std::async(std::launch::async, [&] {
    for (int i = 0; i < kRequests; ++i) Send(std::to_string(i), {"good"});
    stream_->WritesDone();
  });
  AwaitQueued(InferStreams::kMaxInFlight);
  writer.wait();  // Small requests fit the transport's window, so that the client is not held back.
  EXPECT_EQ(scheduler_->snapshot().queued, InferStreams::kMaxInFlight);
  Release();
  int answers = 0;
  Answer answer;
  while (stream_->Read(&answer)) ++answers;
  EXPECT_EQ(answers, kRequests);
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(InferStreamTest, CancellingItDropsItsWork) {
  Hold();
  Open();
  ASSERT_TRUE(Send("1", {"good"}));
  ASSERT_TRUE(Send("2", {"good"}));
  AwaitQueued(2);
  context_.TryCancel();
  Answer answer;
  EXPECT_FALSE(stream_->Read(&answer));
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(InferStreamTest, ShutdownEndsAnIdleStream) {
  Open();
  ASSERT_TRUE(Send("1", {"good"}));
  Answer answer;
  ASSERT_TRUE(stream_->Read(&answer));
  server_->Shutdown(absl::InfiniteFuture());  // Would hang if the stream held it.
  EXPECT_FALSE(stream_->Read(&answer));
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(InferStreamTest, ShutdownLetsAStreamFinishWhatItTook) {
  Hold();
  Open();
  ASSERT_TRUE(Send("1", {"good"}));
  AwaitQueued(1);
  auto shutdown =
      std::async(std::launch::async, [this] { server_->Shutdown(absl::InfiniteFuture()); });
  Release();
  Answer answer;
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_EQ(answer.error_message(), "");
  EXPECT_FALSE(stream_->Read(&answer));
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  shutdown.wait();
}

}  // namespace
}  // namespace thresher
