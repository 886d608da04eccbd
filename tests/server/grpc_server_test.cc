// What holds for all services: health, reflection, overload, deadlines, cancellation, bad bytes,
// the end.
#include "server/grpc_server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <thread>

#include "server/grpc_status.h"
#include "tests/server/server_fixture.h"

namespace thresher {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

class GrpcServerTest : public testing::ServerTest {
 protected:
  grpc::Status Check(const std::string& service, HealthCheckResponse* response) {
    HealthCheckRequest request;
    request.set_service(service);
    grpc::ClientContext context;
    return health_->Check(&context, request, response);
  }

  /// A unary call with these bytes as its message.
  grpc::Status CallWithBytes(const std::string& method, const std::string& bytes) {
    grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel_);
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, method, {}, &request, &response,
                   [&](grpc::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }
};

TEST_F(GrpcServerTest, HealthFollowsServingForEachService) {
  HealthCheckResponse response;
  for (const char* service : {"", "thresher.v1.Thresher", "inference.GRPCInferenceService"}) {
    ASSERT_TRUE(Check(service, &response).ok());
    EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  }
  EXPECT_EQ(Check("nobody", &response).error_code(), grpc::StatusCode::NOT_FOUND);
  server_->SetServing(false);
  ASSERT_TRUE(Check("", &response).ok());
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
}

TEST_F(GrpcServerTest, HealthFollowsTheModels) {
  HealthCheckResponse response;
  ASSERT_TRUE(repository_->Unload("plain").ok());
  ASSERT_TRUE(Check("", &response).ok());
  const bool ready = repository_->AllReady();
  EXPECT_EQ(response.status(),
            ready ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
  ASSERT_TRUE(repository_->Load("plain").ok());
  ASSERT_TRUE(Check("", &response).ok());
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
}

TEST_F(GrpcServerTest, WatchTellsEveryChangeAndTheEnd) {
  grpc::ClientContext context;
  const auto watch = health_->Watch(&context, HealthCheckRequest());
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->SetServing(false);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  server_->SetServing(true);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->Shutdown(absl::InfiniteFuture());  // Would hang if the watch held it.
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServerTest, WatchOfAnUnknownServiceSaysSo) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("nobody");
  const auto watch = health_->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  context.TryCancel();
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GrpcServerTest, ManyWatchersAndChangesAtOnce) {
  std::vector<std::thread> watchers;
  for (int i = 0; i < 8; ++i) {
    watchers.emplace_back([this, i] {
      grpc::ClientContext context;
      const auto watch = health_->Watch(&context, HealthCheckRequest());
      HealthCheckResponse response;
      for (int reads = 0; watch->Read(&response); ++reads) {
        if (i % 2 == 0 && reads == 3) context.TryCancel();
      }
      (void)watch->Finish();
    });
  }
  for (int i = 0; i < 100; ++i) server_->SetServing(i % 2 == 0);
  server_->Shutdown(absl::InfiniteFuture());
  for (std::thread& watcher : watchers) watcher.join();
}

TEST_F(GrpcServerTest, ReflectionListsTheServices) {
  // Read as bytes: the reflection schema is gRPC's own. Field 7 of the request lists services.
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto stream = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto wait = [&] {
    void* tag;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  stream->StartCall(nullptr);
  ASSERT_TRUE(wait());
  const grpc::Slice slice(std::string("\x3a\x00", 2));
  stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(wait());
  grpc::ByteBuffer response;
  stream->Read(&response, nullptr);
  ASSERT_TRUE(wait());
  grpc::Slice bytes;
  ASSERT_TRUE(response.DumpToSingleSlice(&bytes).ok());
  const std::string text(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  EXPECT_THAT(text, HasSubstr("thresher.v1.Thresher"));
  EXPECT_THAT(text, HasSubstr("inference.GRPCInferenceService"));
  EXPECT_THAT(text, HasSubstr("grpc.health.v1.Health"));
  context.TryCancel();
  grpc::Status status;
  stream->Finish(&status, nullptr);
  wait();
}

TEST_F(GrpcServerTest, TwoServersDoNotShareAPort) {
  GrpcServerOptions options;
  options.listen = server_->address();
  const auto second = GrpcServer::Start(options, repository_, scheduler_.get(), &metrics_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), HasSubstr(server_->address()));
  options.listen = "nonsense";
  EXPECT_FALSE(GrpcServer::Start(options, repository_, scheduler_.get(), &metrics_).ok());
}

TEST_F(GrpcServerTest, AFullQueueRefusesAtOnce) {
  SchedulerOptions scheduler;
  scheduler.max_queue = 2;
  Start(scheduler, {});
  Hold();
  const auto waiting = StartClassify({"good", "bad"});
  AwaitQueued(2);
  v1::ClassifyResponse response;
  grpc::ClientContext context;
  const grpc::Status refused = thresher_->Classify(&context, ClassifyRequest({"good"}), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(refused.error_message().empty());
  // And says when to come again, in the words that gRPC's own retries obey.
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto hint = trailers.find("grpc-retry-pushback-ms");
  ASSERT_NE(hint, trailers.end());
  EXPECT_GE(std::stoi(std::string(hint->second.data(), hint->second.size())), 10);
  Release();
  EXPECT_TRUE(waiting->status.get().ok());
  EXPECT_EQ(waiting->response.results(0).label(), "positive");
}

TEST_F(GrpcServerTest, ADeadlineThatPassesInTheQueueIsObeyed) {
  Hold();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(30));
  v1::ClassifyResponse response;
  EXPECT_EQ(thresher_->Classify(&context, ClassifyRequest({"good"}), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  Release();
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
}

TEST_F(GrpcServerTest, ACancelledCallIsDropped) {
  Hold();
  const auto pending = StartClassify({"good"});
  AwaitQueued(1);
  pending->context.TryCancel();
  EXPECT_EQ(pending->status.get().error_code(), grpc::StatusCode::CANCELLED);
  Release();
  EXPECT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
}

TEST_F(GrpcServerTest, ADrainingServerFinishesWhatItTook) {
  Hold();
  const auto pending = StartClassify({"good"});
  AwaitQueued(1);
  server_->RefuseNewWork();
  v1::ClassifyResponse response;
  const grpc::Status refused = Classify(ClassifyRequest({"good"}), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("draining"));
  auto shutdown =
      std::async(std::launch::async, [this] { server_->Shutdown(absl::InfiniteFuture()); });
  Release();
  EXPECT_TRUE(pending->status.get().ok());
  shutdown.wait();
}

TEST_F(GrpcServerTest, ShutdownCancelsWhatIsNotDoneByItsDeadline) {
  Hold();
  const auto pending = StartClassify({"good"});
  AwaitQueued(1);
  // The cancelled call ends when the scheduler drops it, which it does at its next batch.
  auto shutdown = std::async(std::launch::async, [this] { server_->Shutdown(absl::Now()); });
  EXPECT_FALSE(pending->status.get().ok());
  Release();
  shutdown.wait();
}

TEST_F(GrpcServerTest, AnOversizedMessageIsRefused) {
  GrpcServerOptions options;
  options.max_message_bytes = 10'000;
  Start({}, options);
  v1::ClassifyResponse response;
  const grpc::Status status = Classify(ClassifyRequest({std::string(20'000, 'a')}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Classify(ClassifyRequest({"good"}), &response).ok());
}

TEST_F(GrpcServerTest, SaysWhichStringIsNotUtf8) {
  v1::ClassifyRequest request = ClassifyRequest({"good", "XXXX"});
  std::string bytes = request.SerializeAsString();
  bytes.replace(bytes.find("XXXX"), 4, "ab\xff\xfe");
  const grpc::Status status = CallWithBytes("/thresher.v1.Thresher/Classify", bytes);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "inputs[1].text is not UTF-8 at byte 2");

  inference::ModelInferRequest infer;
  infer.set_model_name("XXXX");
  bytes = infer.SerializeAsString();
  bytes.replace(bytes.find("XXXX"), 4, "\xff\xff\xff\xff");
  EXPECT_EQ(CallWithBytes("/inference.GRPCInferenceService/ModelInfer", bytes).error_message(),
            "model_name is not UTF-8 at byte 0");
}

TEST_F(GrpcServerTest, RefusesBytesThatAreNoMessage) {
  for (const char* method :
       {"/thresher.v1.Thresher/Classify", "/thresher.v1.Thresher/Tokenize",
        "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/RepositoryModelLoad"}) {
    const grpc::Status status = CallWithBytes(method, "\xff\xff\xff garbage");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_THAT(status.error_message(), HasSubstr("is not a valid")) << method;
  }
  EXPECT_FALSE(CallWithBytes("/grpc.health.v1.Health/Check", "\xff\xff\xff garbage").ok());
  EXPECT_EQ(CallWithBytes("/thresher.v1.Thresher/Nothing", "").error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  v1::ClassifyResponse response;
  EXPECT_TRUE(Classify(ClassifyRequest({"good"}), &response).ok());
}

TEST_F(GrpcServerTest, ServesManyCallersAtOnce) {
  std::vector<std::thread> callers;
  std::atomic<int> answered = 0;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&, i] {
      for (int round = 0; round < 10; ++round) {
        grpc::ClientContext context;
        if (i % 4 == 3) context.TryCancel();
        v1::ClassifyResponse response;
        const grpc::Status status =
            thresher_->Classify(&context, ClassifyRequest({"good", "bad", ""}), &response);
        if (!status.ok()) continue;
        ++answered;
        EXPECT_EQ(response.results(0).label(), "positive");
        EXPECT_EQ(response.results(1).label(), "negative");
        EXPECT_EQ(response.results(2).info().status().code(), grpc::StatusCode::INVALID_ARGUMENT);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(answered, 60);
}

TEST(GrpcStatusTest, MessagesAreMadeFitForTheWire) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  const grpc::Status status = ToGrpc(InvalidArgument("a\xff z"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "a\uFFFD z");
  EXPECT_LT(WireMessage(InvalidArgument("{}", std::string(100'000, 'x'))).size(), 2100u);
  EXPECT_EQ(ToProto(NotFound("gone")).code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ToProto(absl::OkStatus()).code(), 0);
}

}  // namespace
}  // namespace thresher
