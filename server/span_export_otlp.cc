// By the parts of OpenTelemetry's SDK: its sampler decides, its processor queues and batches, its
// exporter sends. Spans are made whole when a call ends, with the ids that its answer named.
#include <opentelemetry/common/key_value_iterable_view.h>
#include <opentelemetry/exporters/otlp/otlp_grpc_exporter_factory.h>
#include <opentelemetry/exporters/otlp/otlp_grpc_exporter_options.h>
#include <opentelemetry/sdk/common/global_log_handler.h>
#include <opentelemetry/sdk/instrumentationscope/instrumentation_scope.h>
#include <opentelemetry/sdk/resource/resource.h>
#include <opentelemetry/sdk/resource/resource_detector.h>
#include <opentelemetry/sdk/trace/batch_span_processor_factory.h>
#include <opentelemetry/sdk/trace/batch_span_processor_options.h>
#include <opentelemetry/sdk/trace/processor.h>
#include <opentelemetry/sdk/trace/recordable.h>
#include <opentelemetry/sdk/trace/sampler.h>
#include <opentelemetry/sdk/trace/samplers/always_off_factory.h>
#include <opentelemetry/sdk/trace/samplers/always_on_factory.h>
#include <opentelemetry/sdk/trace/samplers/parent_factory.h>
#include <opentelemetry/sdk/trace/samplers/trace_id_ratio_factory.h>
#include <opentelemetry/sdk/version/version.h>
#include <opentelemetry/trace/propagation/http_trace_context.h>
#include <opentelemetry/trace/span_context_kv_iterable_view.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "backend/build_info/build_info.h"
#include "backend/tensor/status.h"
#include "server/span_export.h"

namespace thresher {
namespace {

namespace otel = opentelemetry;
namespace sdk = opentelemetry::sdk;
using otel::nostd::string_view;
using otel::trace::SpanId;
using otel::trace::TraceId;
using std::chrono::milliseconds;

string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::string Variable(const char* name, const char* fallback = "") {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? fallback : value;
}

/// A whole number in [1, 2^31), or `fallback` where there is none.
absl::StatusOr<int64_t> Count(const char* name, int64_t fallback) {
  const std::string text = Variable(name);
  int32_t value = 0;
  if (text.empty()) return fallback;
  if (!absl::SimpleAtoi(text, &value) || value < 1) {
    return InvalidArgument("{}: '{}' is no whole number above 0", name, text);
  }
  return value;
}

absl::StatusOr<std::shared_ptr<sdk::trace::Sampler>> MakeSampler() {
  constexpr char kName[] = "OTEL_TRACES_SAMPLER", kArgument[] = "OTEL_TRACES_SAMPLER_ARG";
  constexpr std::string_view kParentBased = "parentbased_";
  const std::string whole = Variable(kName, "parentbased_always_on");
  const bool parent_based = whole.starts_with(kParentBased);
  const std::string root = parent_based ? whole.substr(kParentBased.size()) : whole;
  std::shared_ptr<sdk::trace::Sampler> sampler;
  if (root == "always_on") {
    sampler = sdk::trace::AlwaysOnSamplerFactory::Create();
  } else if (root == "always_off") {
    sampler = sdk::trace::AlwaysOffSamplerFactory::Create();
  } else if (root == "traceidratio") {
    const std::string text = Variable(kArgument, "1");
    double ratio = 0;
    if (!absl::SimpleAtod(text, &ratio) || !(ratio >= 0 && ratio <= 1)) {
      return InvalidArgument("{}: '{}' is no share from 0 to 1", kArgument, text);
    }
    sampler = sdk::trace::TraceIdRatioBasedSamplerFactory::Create(ratio);
  } else {
    return InvalidArgument(
        "{}: '{}' is none of always_on, always_off, traceidratio, parentbased_always_on, "
        "parentbased_always_off, parentbased_traceidratio",
        kName, whole);
  }
  if (parent_based) return sdk::trace::ParentBasedSamplerFactory::Create(sampler);
  return sampler;
}

/// The library's own complaints, as that a collector does not answer, go where all others go.
class LogHandler final : public sdk::common::internal_log::LogHandler {
 public:
  void Handle(sdk::common::internal_log::LogLevel level, const char*, int, const char* message,
              const sdk::common::AttributeMap&) noexcept override {
    using sdk::common::internal_log::LogLevel;
    const bool grave = level == LogLevel::Error || level == LogLevel::Warning;
    spdlog::log(grave ? spdlog::level::warn : spdlog::level::debug, "OpenTelemetry: {}",
                message == nullptr ? "" : message);
  }
};

/// What the environment says goes before what we say.
sdk::resource::Resource MakeResource() {
  return sdk::resource::Resource::Create({{"service.name", std::string("thresherd")},
                                          {"service.version", std::string(GetBuildInfo().version)}})
      .Merge(sdk::resource::OTELResourceDetector().Detect());
}

/// gRPC's codes that are the server's fault, by the semantic conventions of OpenTelemetry.
bool IsServersFault(int code) {
  switch (static_cast<absl::StatusCode>(code)) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

int CodeOf(std::string_view name) {
  for (int code = 0; code <= 16; ++code) {
    if (absl::StatusCodeToString(static_cast<absl::StatusCode>(code)) == name) return code;
  }
  return static_cast<int>(absl::StatusCode::kUnknown);
}

class OtlpSpanExport final : public SpanExport {
 public:
  OtlpSpanExport(std::shared_ptr<sdk::trace::Sampler> sampler,
                 std::unique_ptr<sdk::trace::SpanProcessor> processor)
      : sampler_(std::move(sampler)),
        processor_(std::move(processor)),
        resource_(MakeResource()),
        scope_(sdk::instrumentationscope::InstrumentationScope::Create(
            "thresher", std::string(GetBuildInfo().version))) {}

  ~OtlpSpanExport() override { processor_->Shutdown(std::chrono::seconds(5)); }

  void Begin(std::string_view method, CallIdentity* identity) override {
    const bool root = identity->parent_id.empty();
    const sdk::trace::SamplingResult result = sampler_->ShouldSample(
        root ? otel::trace::SpanContext::GetInvalid() : Context(*identity, identity->parent_id),
        ToTraceId(identity->trace_id), View(method), otel::trace::SpanKind::kServer,
        otel::common::NoopKeyValueIterable(), otel::trace::NullSpanContext());
    identity->exported = result.decision == sdk::trace::Decision::RECORD_AND_SAMPLE;
    identity->trace_flags = identity->exported ? "01" : "00";
  }

  void End(const CallRecord& record) override {
    std::unique_ptr<sdk::trace::Recordable> span = processor_->MakeRecordable();
    if (span == nullptr) return;
    const auto time = absl::ToChronoNanoseconds(record.time);
    span->SetIdentity(Context(record.identity, record.identity.span_id),
                      ToSpanId(record.identity.parent_id));
    span->SetTraceFlags(otel::trace::TraceFlags(otel::trace::TraceFlags::kIsSampled));
    span->SetSpanKind(otel::trace::SpanKind::kServer);
    span->SetResource(resource_);
    span->SetInstrumentationScope(*scope_);
    span->SetStartTime(std::chrono::system_clock::now() -
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(time));
    span->SetDuration(time);
    if (record.front == "grpc") {
      DescribeGrpc(record, *span);
    } else {
      DescribeHttp(record, *span);
    }
    Set(*span, "client.address", record.peer);
    Set(*span, "enduser.id", record.caller);
    Set(*span, "thresher.request_id", record.identity.request_id);
    processor_->OnEnd(std::move(span));
  }

 private:
  static TraceId ToTraceId(std::string_view hex) {
    return otel::trace::propagation::HttpTraceContext::TraceIdFromHex(View(hex));
  }
  static SpanId ToSpanId(std::string_view hex) {
    if (hex.empty()) return {};
    return otel::trace::propagation::HttpTraceContext::SpanIdFromHex(View(hex));
  }
  static otel::trace::SpanContext Context(const CallIdentity& identity, std::string_view span) {
    return {
        ToTraceId(identity.trace_id), ToSpanId(span),
        otel::trace::propagation::HttpTraceContext::TraceFlagsFromHex(View(identity.trace_flags)),
        /*is_remote=*/true};
  }

  static void Set(sdk::trace::Recordable& span, std::string_view key, std::string_view value) {
    if (!value.empty()) span.SetAttribute(View(key), View(value));
  }

  static void DescribeGrpc(const CallRecord& record, sdk::trace::Recordable& span) {
    std::string_view name = record.method;
    if (name.starts_with('/')) name.remove_prefix(1);
    const size_t slash = name.rfind('/');
    span.SetName(View(name));
    Set(span, "rpc.system", "grpc");
    if (slash != std::string_view::npos) {
      Set(span, "rpc.service", name.substr(0, slash));
      Set(span, "rpc.method", name.substr(slash + 1));
    }
    const int code = CodeOf(record.status);
    span.SetAttribute("rpc.grpc.status_code", code);
    if (IsServersFault(code)) span.SetStatus(otel::trace::StatusCode::kError, View(record.status));
  }

  static void DescribeHttp(const CallRecord& record, sdk::trace::Recordable& span) {
    const size_t space = record.method.find(' ');
    int status = 0;
    (void)absl::SimpleAtoi(std::string(record.status), &status);
    // A path that leads nowhere is the caller's words: as a name it would make a group of its own.
    const bool known = status != 404 && status != 405;
    span.SetName(View(known ? record.method : record.method.substr(0, space)));
    Set(span, "http.request.method", record.method.substr(0, space));
    if (space != std::string_view::npos) Set(span, "url.path", record.method.substr(space + 1));
    span.SetAttribute("http.response.status_code", status);
    if (status >= 500) span.SetStatus(otel::trace::StatusCode::kError, View(record.status));
  }

  const std::shared_ptr<sdk::trace::Sampler> sampler_;
  const std::unique_ptr<sdk::trace::SpanProcessor> processor_;
  const sdk::resource::Resource resource_;
  const std::unique_ptr<sdk::instrumentationscope::InstrumentationScope> scope_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SpanExport>> SpanExport::FromEnvironment() {
  const bool asked = !Variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").empty() ||
                     !Variable("OTEL_EXPORTER_OTLP_ENDPOINT").empty();
  if (!asked || Variable("OTEL_SDK_DISABLED") == "true" ||
      Variable("OTEL_TRACES_EXPORTER", "otlp") == "none") {
    return nullptr;
  }
  const std::string protocol = Variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                                        Variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").c_str());
  if (protocol != "grpc") {
    return InvalidArgument("OTEL_EXPORTER_OTLP_PROTOCOL: '{}' is not offered, only grpc", protocol);
  }
  THRESHER_ASSIGN_OR_RETURN(auto sampler, MakeSampler());
  sdk::trace::BatchSpanProcessorOptions batches;
  THRESHER_ASSIGN_OR_RETURN(const int64_t delay, Count("OTEL_BSP_SCHEDULE_DELAY", 5000));
  THRESHER_ASSIGN_OR_RETURN(const int64_t queue, Count("OTEL_BSP_MAX_QUEUE_SIZE", 2048));
  THRESHER_ASSIGN_OR_RETURN(const int64_t batch,
                            Count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", std::min<int64_t>(queue, 512)));
  if (batch > queue) {
    return InvalidArgument(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is {}, above OTEL_BSP_MAX_QUEUE_SIZE, {}", batch, queue);
  }
  batches.schedule_delay_millis = milliseconds(delay);
  batches.max_queue_size = static_cast<size_t>(queue);
  batches.max_export_batch_size = static_cast<size_t>(batch);

  sdk::common::internal_log::GlobalLogHandler::SetLogHandler(
      otel::nostd::shared_ptr<sdk::common::internal_log::LogHandler>(new LogHandler));
  const otel::exporter::otlp::OtlpGrpcExporterOptions options;  // By the environment.
  auto processor = sdk::trace::BatchSpanProcessorFactory::Create(
      otel::exporter::otlp::OtlpGrpcExporterFactory::Create(options), batches);
  spdlog::info("spans of calls go to {}", options.endpoint);
  return std::make_unique<OtlpSpanExport>(std::move(sampler), std::move(processor));
}

const char* SpanExport::LibraryVersion() { return OPENTELEMETRY_SDK_VERSION; }

}  // namespace thresher
