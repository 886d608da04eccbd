// What evaluate and calibrate print and draw.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/evaluation_format.h"
#include "client/cli/plot.h"
#include "client/cli/share.h"

namespace thresher::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

PolicyResult Result(const std::string& sparsity) {
  PolicyResult result;
  result.sparsity = sparsity;
  result.policy = sparsity + ",more=1";
  result.quality.n = 4;
  result.quality.accuracy = 0.75;
  result.quality.loss = 0.0123;
  result.quality.loss_upper = 0.05;
  result.quality.kl = 0.25;
  result.quality.cosine = 0.5;
  result.work.mutable_tokens()->set_dense(8);
  result.work.mutable_tokens()->set_done(4);
  result.work.mutable_bytes()->set_dense(64);
  result.work.mutable_bytes()->set_done(16);
  result.work.set_softmax_rows(10);
  result.work.set_refetched_rows(1);
  result.requests_per_second = 100;
  result.speedup = 2;
  return result;
}

TEST(ParseShare, SharesAndPercent) {
  EXPECT_EQ(ParseShare("0.01"), 0.01);
  EXPECT_EQ(ParseShare("1%"), 0.01);
  EXPECT_EQ(ParseShare("0"), 0.0);
  EXPECT_EQ(ParseShare("100%"), 1.0);
  for (const char* bad : {"", "%", "1.5", "101%", "-0.1", "nan", "inf", "0.1x", " 0.1", "1 %"}) {
    EXPECT_FALSE(ParseShare(bad)) << bad;
    EXPECT_THAT(CheckShare(bad), HasSubstr("0.01 or 1%"));
  }
}

TEST(EvaluationJson, HasTheNamesThatStay) {
  const Json json = ToJson(Result("p"));
  EXPECT_EQ(json["sparsity"], "p");
  EXPECT_EQ(json["accuracy"], 0.75);
  EXPECT_EQ(json["loss"], 0.0123);
  EXPECT_EQ(json["keep"]["token"], 0.5);
  for (const char* kind : {"head", "value", "score", "qkv_row", "ffn_full_precision"}) {
    EXPECT_TRUE(json["keep"].contains(kind)) << kind;
  }
  for (const char* key : {"agreement", "kl", "cosine", "requests_per_second", "speedup", "n"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["bytes"], Json({{"dense", 64}, {"done", 16}}));
  EXPECT_EQ(json["refetch_share"], 0.1);
  EXPECT_FALSE(json.contains("spearman"));
}

TEST(EvaluationJson, SimilarityHasCorrelationsAndNoInfinity) {
  PolicyResult result = Result("p");
  result.quality.accuracy.reset();
  result.quality.kl.reset();
  result.quality.pearson = 0.5;
  result.quality.spearman = 0.25;
  result.requests_per_second = INFINITY;
  const Json json = ToJson(result);
  EXPECT_EQ(json["pearson"], 0.5);
  EXPECT_EQ(json["spearman"], 0.25);
  EXPECT_FALSE(json.contains("accuracy"));
  EXPECT_FALSE(json.contains("kl"));
  EXPECT_TRUE(json["requests_per_second"].is_null());
  const std::vector<PolicyResult> results = {result};
  EXPECT_THAT(ToTable(results), HasSubstr("SPEARMAN"));
}

TEST(EvaluationTable, DenseHasNoBound) {
  const std::vector<PolicyResult> results = {Result("dense"), Result("p:a=1")};
  const std::string table = ToTable(results);
  EXPECT_THAT(table, HasSubstr("75.00 %"));
  EXPECT_THAT(table, HasSubstr("+1.23"));
  EXPECT_EQ(table.find("+5.00"), table.rfind("+5.00"));
}

TEST(EvaluationCsv, QuotesAndFlattens) {
  const std::vector<PolicyResult> results = {Result("p:a=1,b=\"x\"")};
  const std::string csv = ToCsv(results);
  EXPECT_THAT(csv, HasSubstr("sparsity,policy,accuracy"));
  EXPECT_THAT(csv, HasSubstr("keep_token,keep_head"));
  EXPECT_THAT(csv, HasSubstr("bytes_dense,bytes_done,refetch_share,n"));
  EXPECT_THAT(csv, HasSubstr("\n\"p:a=1,b=\"\"x\"\"\","));
}

TEST(PlotScript, DrawsMetricAndDrift) {
  const std::vector<Series> series = {{"p:a=*", {Result("p:a=1"), Result("p:a=2")}},
                                      {"it's", {Result("q")}}};
  const auto script = PlotScript(Result("dense"), series, {.path = "a'b.svg", .x = "token"});
  ASSERT_TRUE(script.ok()) << script.status();
  EXPECT_THAT(*script, HasSubstr("set output 'a''b.svg'"));
  EXPECT_THAT(*script, HasSubstr("title 'it''s'"));
  EXPECT_THAT(*script, HasSubstr("0.5 75 0.25"));
  EXPECT_THAT(*script, HasSubstr("logscale"));
  EXPECT_THAT(*script, HasSubstr("reverse"));  // From all to nothing.
}

TEST(PlotScript, NamesCanNotBreakOut) {
  const std::vector<Series> series = {{"a\nsystem('x')", {Result("q")}}};
  const auto script = PlotScript(Result("dense"), series, {.path = "a.png"});
  ASSERT_TRUE(script.ok());
  EXPECT_THAT(*script, Not(HasSubstr("\nsystem")));
  EXPECT_THAT(*script, HasSubstr("pngcairo"));
}

TEST(PlotScript, OtherFormatsAreRefused) {
  EXPECT_EQ(PlotScript({}, {}, {.path = "a.pdf"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(TextPlotScript, DrawsPerplexityAndLossOverDenseAgainstBytesRead) {
  PerplexityResult dense{.sparsity = "dense", .tokens = 100, .loss = 1.0, .seconds = 2};
  PerplexityResult pruned = dense;
  pruned.sparsity = "p:keep=0.5";
  pruned.loss = 1.25;
  pruned.seconds = 1;
  pruned.decode.mutable_bytes()->set_dense(8);
  pruned.decode.mutable_bytes()->set_done(2);
  const auto script = TextPlotScript(dense, {{"p:keep=*", {pruned}}}, {.path = "a.svg"});
  ASSERT_TRUE(script.ok()) << script.status();
  EXPECT_THAT(*script, HasSubstr("\n0.25 3.490"));  // e^1.25
  EXPECT_THAT(*script, HasSubstr(" 0.25\nEOD"));    // Nats lost.
  EXPECT_THAT(*script, HasSubstr("'perplexity'"));
  const auto speed = TextPlotScript(dense, {{"p", {pruned}}}, {.path = "a.svg", .x = "speedup"});
  ASSERT_TRUE(speed.ok());
  EXPECT_THAT(*speed, HasSubstr("\n2 3.490"));
}

TEST(TextPlotScript, ATextHasNoRequests) {
  EXPECT_EQ(TextPlotScript({}, {}, {.path = "a.svg", .x = "requests_per_second"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PlotAxes, EachHasItsValue) {
  const PolicyResult result = Result("p");
  EXPECT_EQ(AxisValue(result, "speedup"), 2);
  EXPECT_EQ(AxisValue(result, "requests_per_second"), 100);
  EXPECT_EQ(AxisValue(result, "token"), 0.5);
  EXPECT_EQ(AxisValue(result, "bytes"), 0.25);
  EXPECT_EQ(PlotAxes().size(), 10u);
}

}  // namespace
}  // namespace thresher::cli
