#include "client/cli/format.h"

#include <gtest/gtest.h>

#include <bit>
#include <clocale>
#include <cmath>
#include <limits>
#include <random>

#include "client/cli/progress.h"
#include "inference/open_inference_grpc.pb.h"

namespace thresher::cli {
namespace {

TEST(JsonFloatTest, ReadsBackAsTheSameFloat) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    const Json back = Json::parse(Dump(JsonFloat(value)));
    EXPECT_EQ(static_cast<float>(back.get<double>()), value);
  }
  for (const float value :
       {0.0f, -0.0f, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max()}) {
    EXPECT_EQ(Json::parse(Dump(JsonFloat(value))).get<float>(), value);
  }
}

TEST(JsonFloatTest, IsAsShortAsAFloatCanBe) { EXPECT_EQ(Dump(JsonFloat(0.1f)), "0.1"); }

TEST(JsonFloatTest, NotANumberIsNull) {
  EXPECT_EQ(Dump(JsonFloat(std::nanf(""))), "null");
  EXPECT_EQ(Dump(JsonFloat(std::numeric_limits<float>::infinity())), "null");
}

TEST(ToJsonTest, MessageKeepsFieldNamesAndNumbers) {
  v1::PruningReport report;
  report.set_policy("dense");
  report.mutable_total()->mutable_tokens()->set_dense(5'000'000'000);
  EXPECT_EQ(
      Dump(ToJson(report)),
      R"({"policy":"dense","total":{"tokens":{"dense":5000000000,"done":0},)"
      R"("softmax_rows":0,"refetched_rows":0,)"
      R"("predicted_rows":0,"predicted_scores":0,"predicted_outputs":0},"layers":[],"token_layers":[],"keys_read":[]})");
}

TEST(ToJsonTest, MessagesThatAreNotSetAreLeftOut) {
  EXPECT_EQ(Dump(ToJson(v1::PruningReport())),
            R"({"policy":"","layers":[],"token_layers":[],"keys_read":[]})");
}

TEST(ToJsonTest, ListsAndMapsAndEveryKindOfValue) {
  inference::ModelMetadataResponse metadata;
  metadata.add_versions("1");
  auto& input = *metadata.add_inputs();
  input.set_name("text");
  input.add_shape(-1);
  (*metadata.mutable_properties())["max_tokens"] = "512";
  const Json json = ToJson(metadata);
  EXPECT_EQ(json["versions"].dump(), R"(["1"])");
  EXPECT_EQ(json["inputs"].dump(), R"([{"name":"text","datatype":"","shape":[-1]}])");
  EXPECT_EQ(json["properties"].dump(), R"({"max_tokens":"512"})");

  inference::InferParameter parameter;
  parameter.set_bool_param(true);
  EXPECT_EQ(ToJson(parameter).dump(), R"({"bool_param":true})");
  inference::InferTensorContents contents;
  contents.add_uint64_contents(std::numeric_limits<uint64_t>::max());
  contents.add_fp32_contents(0.1f);
  EXPECT_EQ(ToJson(contents)["uint64_contents"].dump(), "[18446744073709551615]");
  EXPECT_EQ(ToJson(contents)["fp32_contents"].dump(), "[0.1]");
  inference::ModelInstanceGroup group;
  group.set_kind(inference::ModelInstanceGroup::KIND_CPU);
  EXPECT_EQ(ToJson(group)["kind"], "KIND_CPU");
}

TEST(ToJsonTest, StatusIsItsCanonicalCodeAndMessage) {
  EXPECT_EQ(ToJson(absl::ResourceExhaustedError("full")).dump(),
            R"({"code":"RESOURCE_EXHAUSTED","message":"full"})");
}

TEST(DumpTest, BytesThatAreNotUtf8AreReplaced) {
  EXPECT_EQ(Dump({{"text", "a\xFFz"}}), "{\"text\":\"a\xEF\xBF\xBDz\"}");
}

TEST(PrintableTest, NothingCanDriveATerminal) {
  EXPECT_EQ(Printable("a\x1b[31mb\r\nc\td"), "a [31mb  c d");
  EXPECT_EQ(Printable("caf\u00e9 \u4e2d"), "caf\u00e9 \u4e2d");
  EXPECT_EQ(Printable("\u202Eabc\u2028"), " abc ");
  EXPECT_EQ(Printable("a\xC3"), "a\xEF\xBF\xBD");
}

TEST(WidthTest, CountsColumnsNotBytes) {
  EXPECT_EQ(Width("abc"), 3);
  EXPECT_EQ(Width("caf\u00e9"), 4);
  EXPECT_EQ(Width("\u4e2d\u6587"), 4);  // Wide.
  EXPECT_EQ(Width("e\u0301"), 1);       // A combining accent takes none.
}

class LocaleTest : public ::testing::Test {
 protected:
  void TearDown() override { std::setlocale(LC_CTYPE, "C"); }
};

TEST_F(LocaleTest, ShortenKeepsTheWidth) {
  EXPECT_EQ(Shorten("abcdef", 6), "abcdef");
  EXPECT_EQ(Shorten("abcdef", 4), "abc~");
  EXPECT_EQ(Shorten("\u4e2d\u6587\u5b57", 4), "\u4e2d~");
  ASSERT_NE(std::setlocale(LC_CTYPE, "C.UTF-8"), nullptr);
  EXPECT_EQ(Shorten("abcdef", 4), "abc\u2026");
}

TEST_F(LocaleTest, BarIsAlwaysAsWideAsAsked) {
  EXPECT_EQ(Bar(0.5, 4), "##  ");
  EXPECT_EQ(Bar(7, 4), "####");
  EXPECT_EQ(Bar(-1, 4), "    ");
  EXPECT_EQ(Bar(std::nan(""), 4), "    ");
  ASSERT_NE(std::setlocale(LC_CTYPE, "C.UTF-8"), nullptr);
  EXPECT_EQ(Bar(0.5, 3), "\u2588\u258C ");
  for (double share = 0; share <= 1; share += 1.0 / 64) EXPECT_EQ(Width(Bar(share, 5)), 5);
}

TEST(TableTest, AlignsColumnsWithoutTrailingBlanks) {
  EXPECT_EQ(Table({{"A", "LONG"}, {"value", "x", "more"}}), "A      LONG\nvalue  x     more\n");
  EXPECT_EQ(Table({}), "");
}

TEST(ProgressLineTest, SaysCountRateShareAndTimeLeft) {
  EXPECT_EQ(ProgressLine(100, 0, 0.25, absl::Seconds(2)),
            "100 done  50/s  |#####               |  25%  6s left");
  EXPECT_EQ(ProgressLine(3, 1, -1, absl::Seconds(2)), "3 done, 1 failed  2/s");
  EXPECT_EQ(ProgressLine(0, 0, 0, absl::ZeroDuration()), "0 done  |                    |   0%");
}

}  // namespace
}  // namespace thresher::cli
