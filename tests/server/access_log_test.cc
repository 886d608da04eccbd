#include "server/access_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "server/span_export.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kParent[] = "b7ad6b7169203331";
constexpr char kTraceparent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Exports all, or nothing.
class FakeSpans final : public SpanExport {
 public:
  explicit FakeSpans(bool exports) : exports_(exports) {}
  void Begin(std::string_view, CallIdentity* identity) override { identity->exported = exports_; }
  void End(const CallRecord& record) override { ended.emplace_back(record.method); }
  std::vector<std::string> ended;

 private:
  bool exports_;
};

CallRecord Record(const CallIdentity& identity) {
  return {.front = "grpc",
          .method = "/x/Y",
          .status = "OK",
          .time = absl::Milliseconds(3),
          .identity = identity,
          .caller = "",
          .peer = ""};
}

TEST(AccessLogTest, ACallHasASpanOfItsOwnInItsCallersTrace) {
  const CallIdentity identity = AccessLog(false).Begin("/x/Y", "r-1", kTraceparent);
  EXPECT_EQ(identity.request_id, "r-1");
  EXPECT_EQ(identity.trace_id, kTrace);
  EXPECT_EQ(identity.parent_id, kParent);
  EXPECT_THAT(identity.span_id, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(identity.span_id, kParent);
  EXPECT_EQ(identity.TraceResponse(), std::string("00-") + kTrace + "-" + identity.span_id + "-01");
}

TEST(AccessLogTest, WithNobodyToSendToNoTraceBegins) {
  const CallIdentity identity = AccessLog(false).Begin("/x/Y", "", "");
  EXPECT_THAT(identity.request_id, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_THAT(identity.TraceResponse(), IsEmpty());
  EXPECT_FALSE(identity.exported);
}

TEST(AccessLogTest, ACallWithoutATraceBeginsOneWhereSpansAreExported) {
  FakeSpans spans(true);
  const AccessLog log(false, &spans);
  const CallIdentity identity = log.Begin("/x/Y", "", "");
  EXPECT_THAT(identity.trace_id, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_THAT(identity.span_id, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_THAT(identity.parent_id, IsEmpty());
  EXPECT_NE(log.Begin("/x/Y", "", "").trace_id, identity.trace_id);
}

TEST(AccessLogTest, AMalformedTraceIsNotTakenUp) {
  FakeSpans spans(true);
  const CallIdentity identity =
      AccessLog(false, &spans).Begin("/x/Y", "", "00-0af7651916cd43dd8448eb211c80319c-xyz-01");
  EXPECT_NE(identity.trace_id, kTrace);
  EXPECT_THAT(identity.parent_id, IsEmpty());
}

TEST(AccessLogTest, SpansAreSentOfTheCallsThatWereChosenAlone) {
  for (const bool exports : {true, false}) {
    FakeSpans spans(exports);
    const AccessLog log(false, &spans);
    const CallIdentity identity = log.Begin("/x/Y", "", kTraceparent);
    if (exports) {
      EXPECT_TRUE(log.Wants(identity));
    }
    log.End(Record(identity));
    if (exports) {
      EXPECT_THAT(spans.ended, ElementsAre("/x/Y"));
    } else {
      EXPECT_THAT(spans.ended, IsEmpty());
    }
  }
}

TEST(AccessLogTest, ACollectorInABuildWithoutOpenTelemetryIsSaidNotToBeHeard) {
  if (SpanExport::LibraryVersion() != nullptr) GTEST_SKIP() << "this build has OpenTelemetry";
  unsetenv("OTEL_EXPORTER_OTLP_ENDPOINT");
  unsetenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
  const auto nobody = SpanExport::FromEnvironment();
  ASSERT_TRUE(nobody.ok());
  EXPECT_EQ(*nobody, nullptr);
  setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317", 1);
  const auto refused = SpanExport::FromEnvironment();
  EXPECT_TRUE(absl::IsUnimplemented(refused.status()));
  EXPECT_THAT(Message(refused.status()), HasSubstr("OTEL_EXPORTER_OTLP_ENDPOINT"));
}

}  // namespace
}  // namespace thresher
