#include "client/load/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

namespace thresher::load {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Texts> Words() { return MakeTexts(*Lengths::Parse("5"), 1); }

TEST(ParseMixTest, MethodsModelsAndWeights) {
  const auto parts = ParseMix("classify:sst2-mini=3,embed:mini:lm=0.5,generate");
  ASSERT_TRUE(parts.ok()) << parts.status();
  ASSERT_EQ(parts->size(), 3u);
  EXPECT_EQ((*parts)[0].method, Method::kClassify);
  EXPECT_EQ((*parts)[0].model.name(), "sst2-mini");
  EXPECT_EQ((*parts)[0].weight, 3);
  EXPECT_EQ((*parts)[1].model.name(), "mini:lm");
  EXPECT_EQ((*parts)[1].weight, 0.5);
  EXPECT_EQ((*parts)[2].method, Method::kGenerate);
  EXPECT_EQ((*parts)[2].model.name(), "");
  EXPECT_EQ((*parts)[2].weight, 1);
}

TEST(ParseMixTest, MistakesNameThePart) {
  for (const char* text : {"", "dance", "classify,", "classify=0", "classify=-1", "classify=x",
                           "classify=inf", "embed,classify=nan"}) {
    EXPECT_EQ(ParseMix(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(std::string(ParseMix("embed,dance:m=2").status().message()),
              HasSubstr("'dance:m=2' is neither"));
}

TEST(WorkloadTest, SharesFollowTheWeightsAndTheSeed) {
  const auto parts_of = [](uint64_t seed) {
    WorkloadOptions options = {.seed = seed};
    options.parts = *ParseMix("classify:a=3,embed:b=1");
    Workload workload(std::move(options), Words());
    std::vector<int> parts;
    for (int i = 0; i < 4000; ++i) parts.push_back(workload.Next().part);
    return parts;
  };
  const auto parts = parts_of(1);
  EXPECT_NEAR(static_cast<double>(std::count(parts.begin(), parts.end(), 0)), 3000, 150);
  EXPECT_EQ(parts_of(1), parts);
  EXPECT_NE(parts_of(2), parts);
}

TEST(WorkloadTest, ACallHoldsItsModelItsOptionsAndItsBatch) {
  WorkloadOptions options = {.batch = 3};
  options.parts = *ParseMix("classify:a");
  options.options.mutable_sparsity()->set_policy("spatten:final=0.5");
  std::vector<Text> texts = {{.text = "good", .pair = "better", .label = 1}};
  Workload workload(std::move(options), MakeTexts(texts, 1));
  const Query query = workload.Next();
  const auto& request = std::get<v1::ClassifyRequest>(query.request);
  EXPECT_EQ(request.model().name(), "a");
  EXPECT_EQ(request.options().sparsity().policy(), "spatten:final=0.5");
  ASSERT_EQ(request.inputs_size(), 3);
  EXPECT_EQ(request.inputs(2).text(), "good");
  EXPECT_EQ(request.inputs(2).pair(), "better");
  EXPECT_EQ(query.labels, (std::vector<std::optional<int>>{1, 1, 1}));
}

TEST(WorkloadTest, ATextIsGeneratedFromOnePrompt) {
  WorkloadOptions options = {.batch = 3, .max_tokens = 9, .ignore_eos = true};
  options.parts = *ParseMix("generate:a");
  Workload workload(std::move(options), Words());
  const Query query = workload.Next();
  const auto& request = std::get<v1::GenerateRequest>(query.request);
  EXPECT_EQ(request.max_tokens(), 9);
  EXPECT_TRUE(request.ignore_eos());
  EXPECT_FALSE(request.prompt().text().empty());
}

TEST(WorkloadTest, AnOpenInferenceCallTakesThePolicyAsAParameter) {
  inference::ModelMetadataResponse metadata;
  metadata.set_name("m");
  auto& input = *metadata.add_inputs();
  input.set_name("text");
  input.set_datatype("BYTES");
  input.add_shape(-1);
  WorkloadOptions options = {.batch = 2};
  options.parts = *ParseMix("infer:m");
  options.parts[0].infer = *InferRequests::Create(metadata, "", {});
  options.options.mutable_sparsity()->set_policy("dense");
  Workload workload(std::move(options), Words());
  const Query query = workload.Next();
  const auto& request = std::get<inference::ModelInferRequest>(query.request);
  EXPECT_EQ(request.parameters().at("sparsity").string_param(), "dense");
  EXPECT_EQ(request.inputs(0).contents().bytes_contents_size(), 2);
}

}  // namespace
}  // namespace thresher::load
