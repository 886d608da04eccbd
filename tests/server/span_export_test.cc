// Against a collector of OpenTelemetry's protocol, whose messages the library brings along.
#include "server/span_export.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kTraceparent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Takes in requests of any method as they come.
class Collector final : public grpc::CallbackGenericService {
 public:
  Collector() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterCallbackGenericService(this);
    server_ = builder.BuildAndStart();
  }
  int port() const { return port_; }

  /// All spans so far, as JSON.
  std::vector<nlohmann::json> Spans() {
    const std::lock_guard lock(mutex_);
    return spans_;
  }
  std::vector<nlohmann::json> resources;

 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    Reactor(Collector* collector, const std::string& method) : collector_(collector) {
      EXPECT_EQ(method, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
      StartRead(&request_);
    }
    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no request"));
      collector_->Take(request_);
      StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
    }
    void OnDone() override { delete this; }

   private:
    Collector* const collector_;
    grpc::ByteBuffer request_;
    grpc::ByteBuffer response_{&empty_, 1};  // An ExportTraceServiceResponse with nothing to say.
    static inline const grpc::Slice empty_;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Reactor(this, context->method());
  }

  void Take(grpc::ByteBuffer& bytes) {
    const google::protobuf::Descriptor* type =
        google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(
            "opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest");
    ASSERT_NE(type, nullptr);
    const std::unique_ptr<google::protobuf::Message> request(
        google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
    grpc::Slice whole;
    ASSERT_TRUE(bytes.DumpToSingleSlice(&whole).ok());
    ASSERT_TRUE(request->ParseFromArray(whole.begin(), static_cast<int>(whole.size())));
    std::string json;
    ASSERT_TRUE(google::protobuf::util::MessageToJsonString(*request, &json).ok());
    const std::lock_guard lock(mutex_);
    const nlohmann::json parsed = nlohmann::json::parse(json);
    for (const auto& resource : parsed.at("resourceSpans")) {
      resources.push_back(resource.at("resource"));
      for (const auto& scope : resource.at("scopeSpans")) {
        for (const auto& span : scope.at("spans")) spans_.push_back(span);
      }
    }
  }

  int port_ = 0;
  std::mutex mutex_;
  std::vector<nlohmann::json> spans_;
  std::unique_ptr<grpc::Server> server_;
};

/// Sets variables and takes them back.
class SpanExportTest : public ::testing::Test {
 protected:
  void Set(const char* name, const std::string& value) {
    setenv(name, value.c_str(), 1);
    names_.push_back(name);
  }
  void SetUp() override {
    Set("OTEL_BSP_SCHEDULE_DELAY", "20");
    Set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:" + std::to_string(collector_.port()));
  }
  void TearDown() override {
    for (const char* name : names_) unsetenv(name);
  }

  /// One call under the environment; sent when this returns.
  CallIdentity Call(std::string_view front, std::string_view method, std::string_view status,
                    std::string_view traceparent) {
    auto spans = SpanExport::FromEnvironment();
    EXPECT_TRUE(spans.ok()) << Message(spans.status());
    const AccessLog log(false, spans->get());
    CallIdentity identity = log.Begin(method, "r-1", traceparent);
    log.End({.front = front,
             .method = method,
             .status = status,
             .time = absl::Milliseconds(250),
             .identity = identity,
             .caller = "alice",
             .peer = "ipv4:127.0.0.1:5"});
    return identity;
  }

  Collector collector_;
  std::vector<const char*> names_;
};

/// Attribute `key` of a span or resource, as text.
std::string Attribute(const nlohmann::json& of, const std::string& key) {
  for (const auto& attribute : of.at("attributes")) {
    if (attribute.at("key") != key) continue;
    const auto& value = attribute.at("value");
    for (const char* kind : {"stringValue", "intValue"}) {
      if (value.contains(kind)) return value.at(kind).get<std::string>();
    }
  }
  return "(none)";
}

bool Failed(const nlohmann::json& span) {
  return span.contains("status") && span.at("status").value("code", "") == "STATUS_CODE_ERROR";
}

TEST_F(SpanExportTest, ACallBecomesASpanUnderItsCallers) {
  const CallIdentity identity = Call("grpc", "/thresher.v1.Thresher/Classify", "OK", kTraceparent);
  ASSERT_EQ(collector_.Spans().size(), 1u);
  const nlohmann::json span = collector_.Spans()[0];
  // Bytes are base64 in Protobuf's JSON: these are the ids above.
  EXPECT_EQ(span.at("traceId"), "CvdlGRbNQ92ESOshHIAxnA==");
  EXPECT_EQ(span.at("parentSpanId"), "t61rcWkgMzE=");
  EXPECT_EQ(span.at("name"), "thresher.v1.Thresher/Classify");
  EXPECT_EQ(span.at("kind"), "SPAN_KIND_SERVER");
  const auto nanoseconds = [&span](const char* key) {
    return std::stoll(span.at(key).get<std::string>());
  };
  EXPECT_EQ(nanoseconds("endTimeUnixNano") - nanoseconds("startTimeUnixNano"), 250'000'000);
  EXPECT_EQ(Attribute(span, "rpc.system"), "grpc");
  EXPECT_EQ(Attribute(span, "rpc.service"), "thresher.v1.Thresher");
  EXPECT_EQ(Attribute(span, "rpc.method"), "Classify");
  EXPECT_EQ(Attribute(span, "rpc.grpc.status_code"), "0");
  EXPECT_EQ(Attribute(span, "thresher.request_id"), "r-1");
  EXPECT_EQ(Attribute(span, "enduser.id"), "alice");
  EXPECT_FALSE(Failed(span));
  EXPECT_EQ(Attribute(collector_.resources[0], "service.name"), "thresherd");
  EXPECT_EQ(identity.trace_flags, "01");
}

TEST_F(SpanExportTest, OnlyTheServersOwnFailuresAreErrors) {
  Call("grpc", "/x/Y", "RESOURCE_EXHAUSTED", kTraceparent);
  Call("grpc", "/x/Y", "INTERNAL", kTraceparent);
  Call("http", "GET /v1/models", "404", kTraceparent);
  Call("http", "POST /v1/classify", "503", kTraceparent);
  const std::vector<nlohmann::json> spans = collector_.Spans();
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_FALSE(Failed(spans[0]));
  EXPECT_TRUE(Failed(spans[1]));
  EXPECT_FALSE(Failed(spans[2]));
  EXPECT_TRUE(Failed(spans[3]));
  EXPECT_EQ(Attribute(spans[0], "rpc.grpc.status_code"), "8");
  EXPECT_EQ(spans[2].at("name"), "GET");  // Not the caller's words.
  EXPECT_EQ(spans[3].at("name"), "POST /v1/classify");
  EXPECT_EQ(Attribute(spans[3], "url.path"), "/v1/classify");
  EXPECT_EQ(Attribute(spans[3], "http.response.status_code"), "503");
}

TEST_F(SpanExportTest, ByDefaultTheCallerDecidesAndRootsAreSent) {
  const std::string unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  EXPECT_EQ(Call("grpc", "/x/Y", "OK", unsampled).trace_flags, "00");
  EXPECT_THAT(collector_.Spans(), IsEmpty());
  const CallIdentity root = Call("grpc", "/x/Y", "OK", "");
  EXPECT_TRUE(root.exported);
  ASSERT_EQ(collector_.Spans().size(), 1u);
  EXPECT_FALSE(collector_.Spans()[0].contains("parentSpanId"));
}

TEST_F(SpanExportTest, TheSamplerIsTheEnvironments) {
  Set("OTEL_TRACES_SAMPLER", "always_off");
  EXPECT_FALSE(Call("grpc", "/x/Y", "OK", kTraceparent).exported);
  Set("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
  Set("OTEL_TRACES_SAMPLER_ARG", "0");
  EXPECT_FALSE(Call("grpc", "/x/Y", "OK", "").exported);
  EXPECT_TRUE(Call("grpc", "/x/Y", "OK", kTraceparent).exported);
}

TEST_F(SpanExportTest, TheServiceIsWhatTheEnvironmentCallsIt) {
  Set("OTEL_SERVICE_NAME", "reviews");
  Set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test");
  Call("grpc", "/x/Y", "OK", "");
  ASSERT_EQ(collector_.resources.size(), 1u);
  EXPECT_EQ(Attribute(collector_.resources[0], "service.name"), "reviews");
  EXPECT_EQ(Attribute(collector_.resources[0], "deployment.environment"), "test");
}

TEST_F(SpanExportTest, NothingIsExportedUnlessACollectorIsNamedAndWanted) {
  Set("OTEL_SDK_DISABLED", "true");
  EXPECT_EQ(SpanExport::FromEnvironment().value(), nullptr);
  unsetenv("OTEL_SDK_DISABLED");
  Set("OTEL_TRACES_EXPORTER", "none");
  EXPECT_EQ(SpanExport::FromEnvironment().value(), nullptr);
  unsetenv("OTEL_TRACES_EXPORTER");
  unsetenv("OTEL_EXPORTER_OTLP_ENDPOINT");
  EXPECT_EQ(SpanExport::FromEnvironment().value(), nullptr);
}

TEST_F(SpanExportTest, WhatIsWrongIsNamed) {
  const std::vector<std::pair<const char*, const char*>> wrong = {
      {"OTEL_TRACES_SAMPLER", "sometimes"},
      {"OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"},
      {"OTEL_BSP_SCHEDULE_DELAY", "-1"},
      {"OTEL_BSP_MAX_QUEUE_SIZE", "many"}};
  for (const auto& [name, value] : wrong) {
    setenv(name, value, 1);
    const absl::Status status = SpanExport::FromEnvironment().status();
    unsetenv(name);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_THAT(Message(status), AllOf(HasSubstr(name), HasSubstr(value)));
  }
}

}  // namespace
}  // namespace thresher
