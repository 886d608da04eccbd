#include "server/open_inference_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using inference::ModelInferRequest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Tensor = ModelInferRequest::InferInputTensor;

Tensor* Add(ModelInferRequest* request, const std::string& name, const std::string& datatype,
            const std::vector<int64_t>& shape) {
  Tensor* tensor = request->add_inputs();
  tensor->set_name(name);
  tensor->set_datatype(datatype);
  tensor->mutable_shape()->Add(shape.begin(), shape.end());
  return tensor;
}

void AddTexts(ModelInferRequest* request, const std::string& name,
              const std::vector<std::string>& texts) {
  Tensor* tensor = Add(request, name, "BYTES", {static_cast<int64_t>(texts.size())});
  for (const std::string& text : texts) tensor->mutable_contents()->add_bytes_contents(text);
}

void AddIds(ModelInferRequest* request, const std::string& name, const std::vector<int64_t>& shape,
            const std::vector<int64_t>& values) {
  auto* contents = Add(request, name, "INT64", shape)->mutable_contents();
  contents->mutable_int64_contents()->Add(values.begin(), values.end());
}

template <typename T>
std::string Raw(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string RawTexts(const std::vector<std::string>& texts) {
  std::string raw;
  for (const std::string& text : texts) {
    raw += Raw<uint32_t>({static_cast<uint32_t>(text.size())}) + text;
  }
  return raw;
}

void ExpectBad(const ModelInferRequest& request, const std::string& part) {
  const auto rows = ParseInferRows(request, 8);
  ASSERT_FALSE(rows.ok()) << request.ShortDebugString();
  EXPECT_EQ(rows.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(rows.status()), HasSubstr(part));
}

TEST(InferRowsTest, ReadsTypedAndRawTexts) {
  for (const bool raw : {false, true}) {
    for (const bool column : {false, true}) {
      ModelInferRequest request;
      Tensor* tensor = Add(&request, "text", "BYTES", {2});
      if (column) tensor->add_shape(1);
      if (raw) {
        request.add_raw_input_contents(RawTexts({"one", ""}));
      } else {
        tensor->mutable_contents()->add_bytes_contents("one");
        tensor->mutable_contents()->add_bytes_contents("");
      }
      const auto rows = ParseInferRows(request, 2);
      ASSERT_TRUE(rows.ok()) << rows.status();
      EXPECT_THAT(rows->texts, ElementsAre("one", ""));
      EXPECT_THAT(rows->pairs, IsEmpty());
      EXPECT_EQ(rows->size(), 2u);
    }
  }
}

TEST(InferRowsTest, ReadsPairs) {
  ModelInferRequest request;
  AddTexts(&request, "text_pair", {"c", "d"});
  AddTexts(&request, "text", {"a", "b"});
  const auto rows = ParseInferRows(request, 2);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_THAT(rows->texts, ElementsAre("a", "b"));
  EXPECT_THAT(rows->pairs, ElementsAre("c", "d"));
}

TEST(InferRowsTest, ReadsIdsOfBothWidthsTypedAndRaw) {
  for (const bool wide : {false, true}) {
    for (const bool raw : {false, true}) {
      ModelInferRequest request;
      Tensor* tensor = Add(&request, "input_ids", wide ? "INT64" : "INT32", {2, 2});
      if (raw) {
        request.add_raw_input_contents(wide ? Raw<int64_t>({1, 2, 3, -4})
                                            : Raw<int32_t>({1, 2, 3, -4}));
      } else {
        for (const int value : {1, 2, 3, -4}) {
          if (wide) {
            tensor->mutable_contents()->add_int64_contents(value);
          } else {
            tensor->mutable_contents()->add_int_contents(value);
          }
        }
      }
      const auto rows = ParseInferRows(request, 2);
      ASSERT_TRUE(rows.ok()) << rows.status();
      EXPECT_THAT(rows->ids, ElementsAre(ElementsAre(1, 2), ElementsAre(3, -4)));
      EXPECT_EQ(rows->size(), 2u);
    }
  }
}

TEST(InferRowsTest, CutsRowsAtTheirMask) {
  ModelInferRequest request;
  AddIds(&request, "input_ids", {2, 3}, {1, 2, 3, 4, 5, 6});
  AddIds(&request, "attention_mask", {2, 3}, {1, 1, 1, 1, 0, 0});
  AddIds(&request, "token_type_ids", {2, 3}, {0, 0, 1, 0, 1, 1});
  const auto rows = ParseInferRows(request, 2);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_THAT(rows->ids, ElementsAre(ElementsAre(1, 2, 3), ElementsAre(4)));
  EXPECT_THAT(rows->type_ids, ElementsAre(ElementsAre(0, 0, 1), ElementsAre(0)));
}

TEST(InferRowsTest, RefusesMasksThatAreNotPadding) {
  for (const auto& [mask, part] : std::vector<std::pair<std::vector<int64_t>, std::string>>{
           {{1, 0, 1}, "row 0 is not ones followed by zeros"},
           {{0, 0, 0}, "row 0 masks every token"},
           {{2, 1, 1}, "row 0 is not ones followed by zeros"}}) {
    ModelInferRequest request;
    AddIds(&request, "input_ids", {1, 3}, {1, 2, 3});
    AddIds(&request, "attention_mask", {1, 3}, mask);
    ExpectBad(request, part);
  }
}

TEST(InferRowsTest, SaysWhichInputIsWrong) {
  ModelInferRequest request;
  ExpectBad(request, "neither of the inputs 'text' and 'input_ids'");
  AddTexts(&request, "text", {"a"});
  AddIds(&request, "input_ids", {1, 1}, {1});
  ExpectBad(request, "both of the inputs 'text' and 'input_ids'");

  request.Clear();
  AddTexts(&request, "prompt", {"a"});
  ExpectBad(request, "input 'prompt' is not known; the inputs are: text, text_pair, input_ids");

  request.Clear();
  AddTexts(&request, "text", {"a"});
  AddTexts(&request, "text", {"a"});
  ExpectBad(request, "tensor 'text': sent twice");

  request.Clear();
  AddTexts(&request, "text", {"a"});
  AddIds(&request, "attention_mask", {1, 1}, {1});
  ExpectBad(request, "tensor 'attention_mask': goes with 'input_ids'");

  request.Clear();
  AddTexts(&request, "text_pair", {"a"});
  AddIds(&request, "input_ids", {1, 1}, {1});
  ExpectBad(request, "tensor 'text_pair': goes with 'text'");

  request.Clear();
  AddTexts(&request, "text", {"a", "b"});
  AddTexts(&request, "text_pair", {"a"});
  ExpectBad(request, "tensor 'text_pair': shape [1], expected that of 'text', [2]");

  request.Clear();
  AddIds(&request, "input_ids", {1, 2}, {1, 2});
  AddIds(&request, "token_type_ids", {2, 1}, {1, 2});
  ExpectBad(request, "tensor 'token_type_ids': shape [2, 1], expected that of 'input_ids', [1, 2]");
}

TEST(InferRowsTest, RefusesWrongDatatypesAndContents) {
  ModelInferRequest request;
  Add(&request, "text", "FP32", {1})->mutable_contents()->add_fp32_contents(1);
  ExpectBad(request, "tensor 'text': datatype 'FP32', expected BYTES");

  request.Clear();
  Add(&request, "input_ids", "FP32", {1, 1});
  ExpectBad(request, "tensor 'input_ids': datatype 'FP32', expected INT64 or INT32");

  request.Clear();
  Add(&request, "text", "BYTES", {1})->mutable_contents()->add_int64_contents(1);
  ExpectBad(request, "contents of another type than its datatype, BYTES");

  request.Clear();
  auto* contents = Add(&request, "input_ids", "INT64", {1, 1})->mutable_contents();
  contents->add_int64_contents(1);
  contents->add_int_contents(1);
  ExpectBad(request, "contents of another type than its datatype, INT64");

  request.Clear();
  AddTexts(&request, "text", {"a"});
  request.add_raw_input_contents(RawTexts({"a"}));
  ExpectBad(request, "both typed contents and raw_input_contents");

  request.add_raw_input_contents("");
  ExpectBad(request, "2 raw_input_contents for 1 inputs");
}

TEST(InferRowsTest, RefusesShapesThatDoNotFit) {
  const int64_t max = std::numeric_limits<int64_t>::max();
  for (const auto& [shape, part] : std::vector<std::pair<std::vector<int64_t>, std::string>>{
           {{}, "shape [], expected [rows, tokens]"},
           {{4}, "shape [4], expected [rows, tokens]"},
           {{1, 2, 2}, "shape [1, 2, 2], expected [rows, tokens]"},
           {{2, 0}, "every size must be at least 1"},
           {{-1, -4}, "every size must be at least 1"},
           {{9, 1}, "9 rows in one call; this server takes at most 8"},
           {{max, 1}, "rows in one call"},
           {{8, max}, "is too large"},
           {{1, max}, "needs 9223372036854775807 values, but there are 4"},
           {{2, 3}, "shape [2, 3] needs 6 values, but there are 4"}}) {
    ModelInferRequest request;
    AddIds(&request, "input_ids", shape, {1, 2, 3, 4});
    ExpectBad(request, part);
  }
  ModelInferRequest request;
  Add(&request, "text", "BYTES", {1, 2});
  ExpectBad(request, "shape [1, 2], expected [rows] or [rows, 1]");
}

TEST(InferRowsTest, RefusesLyingRawContents) {
  const auto text = [](int64_t rows, const std::string& raw) {
    ModelInferRequest request;
    Add(&request, "text", "BYTES", {rows});
    request.add_raw_input_contents(raw);
    return request;
  };
  ExpectBad(text(1, "ab"), "raw contents end inside the length of value 0");
  ExpectBad(text(1, Raw<uint32_t>({0xffffffff}) + "x"),
            "value 0 of the raw contents has 4294967295");
  ExpectBad(text(2, RawTexts({"a"})), "needs 2 values, but there are 1");
  ExpectBad(text(1, RawTexts({"a", "b", "c"})), "needs 1 values, but there are 2");
  ExpectBad(text(1, ""), "needs 1 values, but there are 0");

  ModelInferRequest ids;
  Add(&ids, "input_ids", "INT64", {1, 1});
  ids.add_raw_input_contents("1234567");
  ExpectBad(ids, "7 bytes of raw contents are no whole number of INT64 values");
  ids.set_raw_input_contents(0, Raw<int64_t>({1, 2}));
  ExpectBad(ids, "needs 1 values, but there are 2");
}

TEST(InferRowsTest, RefusesIdsThatFitNoToken) {
  ModelInferRequest request;
  AddIds(&request, "input_ids", {2, 2}, {1, 2, 3, 5'000'000'000});
  ExpectBad(request, "tensor 'input_ids': row 1, column 1: 5000000000 is out of range");
}

TEST(InferRowsTest, RefusesSharedMemory) {
  ModelInferRequest request;
  AddTexts(&request, "text", {"a"});
  (*request.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("r");
  EXPECT_EQ(ParseInferRows(request, 8).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(InferRowsTest, SurvivesAnyBytes) {
  // Valid requests with random bytes of their wire form changed.
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    ModelInferRequest request;
    if (round % 2 == 0) {
      Add(&request, "text", "BYTES", {2});
      request.add_raw_input_contents(RawTexts({"first text", "second"}));
    } else {
      AddIds(&request, "input_ids", {2, 3}, {1, 2, 3, 4, 5, 6});
      AddIds(&request, "attention_mask", {2, 3}, {1, 1, 1, 1, 0, 0});
    }
    std::string wire = request.SerializeAsString();
    for (int change = 0; change < 3; ++change) {
      wire[random() % wire.size()] = static_cast<char>(random());
    }
    ModelInferRequest changed;
    if (!changed.ParseFromString(wire)) continue;
    const auto rows = ParseInferRows(changed, 8);
    if (!rows.ok()) continue;
    EXPECT_GE(rows->size(), 1u);
    EXPECT_LE(rows->size(), 8u);
    for (const auto& row : rows->ids) EXPECT_FALSE(row.empty());
  }
}

class InferOptionsTest : public ::testing::Test {
 protected:
  inference::InferParameter& Parameter(const std::string& name) { return parameters_[name]; }
  InferParameters parameters_;
};

TEST_F(InferOptionsTest, TakesNumbersInAnyForm) {
  for (int form = 0; form < 4; ++form) {
    const auto set = [&](const std::string& name, int value) {
      switch (form) {
        case 0:
          return Parameter(name).set_double_param(value);
        case 1:
          return Parameter(name).set_int64_param(value);
        case 2:
          return Parameter(name).set_uint64_param(static_cast<uint64_t>(value));
        default:
          return Parameter(name).set_string_param(std::to_string(value));
      }
    };
    set("priority", 3);
    set("timeout", 1500);
    set("truncate", 1);
    set("explain", 1);
    Parameter("sparsity").set_string_param("dense");
    Parameter("sequence_id").set_int64_param(1);  // Not ours: ignored.
    const auto options = ParseInferOptions(parameters_);
    ASSERT_TRUE(options.ok()) << options.status();
    EXPECT_EQ(options->priority, 3);
    EXPECT_EQ(options->timeout, absl::Microseconds(1500));
    EXPECT_TRUE(options->truncate);
    EXPECT_TRUE(options->explain);
    EXPECT_EQ(options->sparsity, "dense");
    parameters_.erase("sparsity");
    set("max_quality_loss", 1);
    EXPECT_EQ(ParseInferOptions(parameters_)->max_quality_loss, 1.0);
    parameters_.clear();
  }
}

TEST_F(InferOptionsTest, HasDefaults) {
  const auto options = ParseInferOptions(parameters_);
  ASSERT_TRUE(options.ok());
  EXPECT_FALSE(options->truncate);
  EXPECT_EQ(options->priority, 0);
  EXPECT_EQ(options->timeout, absl::InfiniteDuration());
  EXPECT_EQ(options->sparsity, "");
  Parameter("timeout").set_int64_param(0);
  Parameter("truncate").set_bool_param(true);
  const auto more = ParseInferOptions(parameters_);
  ASSERT_TRUE(more.ok());
  EXPECT_EQ(more->timeout, absl::InfiniteDuration());
  EXPECT_TRUE(more->truncate);
}

TEST_F(InferOptionsTest, RefusesNonsense) {
  const auto expect_bad = [&](const std::string& name) {
    EXPECT_EQ(ParseInferOptions(parameters_).status().code(), absl::StatusCode::kInvalidArgument);
    parameters_.clear();
  };
  for (const char* name : {"priority", "timeout", "truncate", "explain", "max_quality_loss"}) {
    Parameter(name).set_string_param("soon");
    expect_bad(name);
    Parameter(name);
    expect_bad(name);
  }
  for (const double value :
       {std::nan(""), 1e300, -1e300, std::numeric_limits<double>::infinity()}) {
    Parameter("priority").set_double_param(value);
    expect_bad("priority");
  }
  Parameter("timeout").set_double_param(std::nan(""));
  expect_bad("timeout");
  Parameter("timeout").set_int64_param(-1);
  expect_bad("timeout");
  Parameter("sparsity").set_int64_param(1);
  expect_bad("sparsity");
}

TEST(AddOutputTest, WritesTypedAndRaw) {
  inference::ModelInferResponse response;
  AddOutput({"scores", {1, 2}, std::vector<float>{0.5f, 2}}, /*raw=*/false, &response);
  AddOutput({"label", {2}, std::vector<std::string>{"a", ""}}, false, &response);
  AddOutput({"offsets", {2}, std::vector<int32_t>{0, -1}}, false, &response);
  ASSERT_EQ(response.outputs_size(), 3);
  EXPECT_EQ(response.outputs(0).datatype(), "FP32");
  EXPECT_THAT(response.outputs(0).shape(), ElementsAre(1, 2));
  EXPECT_THAT(response.outputs(0).contents().fp32_contents(), ElementsAre(0.5f, 2.0f));
  EXPECT_EQ(response.outputs(1).datatype(), "BYTES");
  EXPECT_THAT(response.outputs(1).contents().bytes_contents(), ElementsAre("a", ""));
  EXPECT_EQ(response.outputs(2).datatype(), "INT32");
  EXPECT_THAT(response.outputs(2).contents().int_contents(), ElementsAre(0, -1));
  EXPECT_EQ(response.raw_output_contents_size(), 0);

  response.Clear();
  AddOutput({"scores", {1, 2}, std::vector<float>{0.5f, 2}}, /*raw=*/true, &response);
  AddOutput({"label", {2}, std::vector<std::string>{"ab", ""}}, true, &response);
  EXPECT_FALSE(response.outputs(0).has_contents());
  EXPECT_THAT(response.raw_output_contents(),
              ElementsAre(Raw<float>({0.5f, 2}), RawTexts({"ab", ""})));
}

}  // namespace
}  // namespace thresher
