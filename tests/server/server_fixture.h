// A gRPC server in this process, on real models and the reference device, and stubs to call it.
#ifndef THRESHER_TESTS_SERVER_SERVER_FIXTURE_H_
#define THRESHER_TESTS_SERVER_SERVER_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "inference/open_inference_grpc.grpc.pb.h"
#include "server/grpc_server.h"
#include "tests/server/fake_model.h"
#include "tests/testing/paths.h"
#include "thresher/v1/thresher.grpc.pb.h"

namespace thresher::testing {

/// Serves "sst2-mini" and, with random weights, "token", "answer" and "plain" (embeddings alone).
class ServerTest : public ::testing::Test {
 protected:
  // The models are loaded once for all tests of a suite.
  static void SetUpTestSuite() {
    RepositoryOptions options;
    options.device = "reference";
    options.warm_up = [](LoadedModel&) { return absl::OkStatus(); };
    std::vector<v1::ModelConfig> models;
    for (const auto& [name, path] :
         {std::pair("sst2-mini", "models/sst2-mini"), std::pair("token", "tests/golden/bert-token"),
          std::pair("answer", "tests/golden/bert-answer"),
          std::pair("plain", "tests/golden/bert-plain")}) {
      models.emplace_back().set_name(name);
      models.back().set_path((SourceDir() / path).string());
    }
    repository_ = new ModelRepository(options, models);
    const absl::Status loaded = repository_->LoadAll();
    ASSERT_TRUE(loaded.ok()) << loaded;
  }
  static void TearDownTestSuite() {
    delete repository_;
    repository_ = nullptr;
  }

  void SetUp() override { Start({}, {}); }

  /// Starts anew with these options; the port is picked.
  void Start(const SchedulerOptions& scheduler, GrpcServerOptions options) {
    Stop();
    scheduler_ = std::make_unique<Scheduler>(scheduler, nullptr);
    options.listen = "127.0.0.1:0";
    auto server = GrpcServer::Start(options, repository_, scheduler_.get(), &metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetServing(true);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                         arguments);
    thresher_ = v1::Thresher::NewStub(channel_);
    inference_ = inference::GRPCInferenceService::NewStub(channel_);
    health_ = grpc::health::v1::Health::NewStub(channel_);
  }

  void Stop() {
    Release();
    server_.reset();
    scheduler_.reset();
  }
  void TearDown() override { Stop(); }

  /// Keeps the compute executor busy until Release, so that what is asked now waits in the queue.
  void Hold() { executor_.Hold(*scheduler_); }
  void Release() { executor_.Release(); }
  /// Waits until so many sequences are in the queue.
  void AwaitQueued(int count) {
    while (scheduler_->snapshot().queued != count) std::this_thread::yield();
  }

  static v1::ClassifyRequest ClassifyRequest(const std::vector<std::string>& texts) {
    v1::ClassifyRequest request;
    request.mutable_model()->set_name("sst2-mini");
    for (const std::string& text : texts) request.add_inputs()->set_text(text);
    return request;
  }
  grpc::Status Classify(const v1::ClassifyRequest& request, v1::ClassifyResponse* response) {
    grpc::ClientContext context;
    return thresher_->Classify(&context, request, response);
  }
  /// A call in the background; cancel it through its context.
  struct Pending {
    grpc::ClientContext context;
    v1::ClassifyResponse response;
    std::future<grpc::Status> status;
  };
  std::unique_ptr<Pending> StartClassify(const std::vector<std::string>& texts) {
    auto pending = std::make_unique<Pending>();
    pending->status = std::async(std::launch::async, [this, texts, call = pending.get()] {
      return thresher_->Classify(&call->context, ClassifyRequest(texts), &call->response);
    });
    return pending;
  }

  static inline ModelRepository* repository_ = nullptr;
  Metrics metrics_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Thresher::Stub> thresher_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> inference_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;

 private:
  ExecutorHold executor_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SERVER_SERVER_FIXTURE_H_
