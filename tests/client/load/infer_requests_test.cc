#include "client/load/infer_requests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace thresher::load {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Tensor {
  std::string name;
  std::string datatype;
  std::vector<int64_t> shape;
};

inference::ModelMetadataResponse Metadata(const std::vector<Tensor>& tensors) {
  inference::ModelMetadataResponse metadata;
  metadata.set_name("m");
  for (const Tensor& tensor : tensors) {
    auto& input = *metadata.add_inputs();
    input.set_name(tensor.name);
    input.set_datatype(tensor.datatype);
    input.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
  }
  return metadata;
}

class InferRequestsTest : public ::testing::Test {
 protected:
  inference::ModelInferRequest Make(const std::vector<Tensor>& tensors, int batch,
                                    InferRequests::Options options = {}) {
    const auto requests = InferRequests::Create(Metadata(tensors), "3", std::move(options));
    EXPECT_TRUE(requests.ok()) << requests.status();
    return requests->Make(batch, *texts_, random_);
  }

  std::unique_ptr<Texts> texts_ = MakeTexts({{.text = "hello"}}, 1);
  Random random_{1};
};

TEST_F(InferRequestsTest, TokenIdsMaskAndTypesShareOneShape) {
  const auto request = Make({{"input_ids", "INT64", {-1, -1}},
                             {"attention_mask", "INT64", {-1, -1}},
                             {"token_type_ids", "INT64", {-1, -1}}},
                            2, {.lengths = *Lengths::Parse("7"), .largest_id = 5});
  EXPECT_EQ(request.model_name(), "m");
  EXPECT_EQ(request.model_version(), "3");
  ASSERT_EQ(request.inputs_size(), 3);
  for (const auto& input : request.inputs()) {
    EXPECT_THAT(input.shape(), ElementsAre(2, 7));
    EXPECT_EQ(input.contents().int64_contents_size(), 14);
  }
  EXPECT_THAT(request.inputs(0).contents().int64_contents(),
              Each(::testing::AllOf(::testing::Ge(1), ::testing::Le(5))));
  EXPECT_THAT(request.inputs(1).contents().int64_contents(), Each(1));
  EXPECT_THAT(request.inputs(2).contents().int64_contents(), Each(0));
}

TEST_F(InferRequestsTest, EachDatatypeHasItsContents) {
  const auto request = Make({{"a", "BOOL", {4}},
                             {"b", "UINT8", {4}},
                             {"c", "INT32", {4}},
                             {"d", "UINT64", {4}},
                             {"e", "FP32", {1, 4}},
                             {"f", "FP64", {4}},
                             {"g", "BYTES", {1}},
                             {"h", "INT8", {}}},
                            9);
  EXPECT_EQ(request.inputs(0).contents().bool_contents_size(), 4);
  EXPECT_EQ(request.inputs(1).contents().uint_contents_size(), 4);
  EXPECT_EQ(request.inputs(2).contents().int_contents_size(), 4);
  EXPECT_EQ(request.inputs(3).contents().uint64_contents_size(), 4);
  EXPECT_EQ(request.inputs(4).contents().fp32_contents_size(), 4);
  EXPECT_EQ(request.inputs(5).contents().fp64_contents_size(), 4);
  EXPECT_THAT(request.inputs(6).contents().bytes_contents(), ElementsAre("hello"));
  EXPECT_EQ(request.inputs(7).contents().int_contents_size(), 1);
  EXPECT_THAT(request.inputs(7).contents().int_contents(), Each(::testing::Le(127)));
  EXPECT_EQ(request.raw_input_contents_size(), 0);
}

TEST_F(InferRequestsTest, HalfPrecisionMakesAllContentsRaw) {
  const auto request = Make(
      {{"x", "FP16", {-1, 3}}, {"t", "BYTES", {1}}, {"b", "BF16", {2}}, {"i", "INT16", {5}}}, 2);
  ASSERT_EQ(request.raw_input_contents_size(), 4);
  EXPECT_EQ(request.raw_input_contents(0).size(), 12u);
  for (size_t i = 0; i < 6; ++i) {
    uint16_t bits;
    std::memcpy(&bits, request.raw_input_contents(0).data() + 2 * i, 2);
    EXPECT_EQ(bits >> 10, 0x3800 >> 10);  // From 0.5 to 1.
  }
  EXPECT_EQ(request.raw_input_contents(1), std::string("\5\0\0\0hello", 9));
  EXPECT_EQ(request.raw_input_contents(2).size(), 4u);
  EXPECT_EQ(request.raw_input_contents(3).size(), 10u);
  EXPECT_FALSE(request.inputs(0).has_contents());
}

TEST_F(InferRequestsTest, ABatchNeedsASizeThatVaries) {
  const auto takes = [](std::vector<int64_t> shape) {
    return InferRequests::Create(Metadata({{"x", "FP32", std::move(shape)}}), "", {})
        ->takes_batches();
  };
  EXPECT_TRUE(takes({-1, 4}));
  EXPECT_FALSE(takes({4}));
  EXPECT_FALSE(takes({1, -1}));
}

TEST_F(InferRequestsTest, OptionalInputsStayAwayUnlessAskedFor) {
  const std::vector<Tensor> tensors = {{"text", "BYTES", {-1}}, {"input_ids", "INT64", {-1, -1}}};
  EXPECT_EQ(Make(tensors, 1, {.optional = {"input_ids"}}).inputs_size(), 1);
  const auto asked = Make(tensors, 1, {.inputs = {"input_ids"}, .optional = {"input_ids"}});
  ASSERT_EQ(asked.inputs_size(), 1);
  EXPECT_EQ(asked.inputs(0).name(), "input_ids");
}

TEST_F(InferRequestsTest, WhatCantBeFilledIsRefused) {
  const auto error = [](const std::vector<Tensor>& tensors, InferRequests::Options options = {}) {
    const auto requests = InferRequests::Create(Metadata(tensors), "", std::move(options));
    EXPECT_FALSE(requests.ok());
    return std::string(requests.status().message());
  };
  EXPECT_THAT(error({{"x", "COMPLEX", {1}}}), HasSubstr("datatype COMPLEX is unknown"));
  EXPECT_THAT(error({{"x", "FP32", {0}}}), HasSubstr("a size of 0"));
  EXPECT_THAT(error({{"x", "FP32", {-2}}}), HasSubstr("a size of -2"));
  EXPECT_THAT(error({{"x", "FP32", {1 << 20, 1 << 20}}}), HasSubstr("can't be filled"));
  EXPECT_THAT(error({{"x", "FP32", {INT64_MAX}}}), HasSubstr("can't be filled"));
  EXPECT_THAT(error({}), HasSubstr("names no input"));
  EXPECT_THAT(error({{"x", "FP32", {1}}, {"y", "FP32", {1}}}, {.inputs = {"z"}}),
              HasSubstr("no input 'z'; it has: x, y"));
}

TEST_F(InferRequestsTest, LongLengthsInManyPlacesStayInMemory) {
  const auto request =
      Make({{"x", "BOOL", {-1, -1, -1}}}, 1 << 12, {.lengths = *Lengths::Parse("100000")});
  int64_t elements = 1;
  for (const int64_t size : request.inputs(0).shape()) elements *= size;
  EXPECT_LE(elements, 1 << 24);
  EXPECT_EQ(request.inputs(0).contents().bool_contents_size(), elements);
}

}  // namespace
}  // namespace thresher::load
