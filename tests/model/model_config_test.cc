#include "backend/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

json Bert() {
  return json::parse(R"({
    "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": 100,
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "hidden_act": "gelu", "max_position_embeddings": 50, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "pad_token_id": 0, "id2label": {"0": "no", "1": "yes", "2": "?"}})");
}

json DistilBert() {
  return json::parse(R"({
    "architectures": ["DistilBertModel"], "model_type": "distilbert", "vocab_size": 100, "dim": 64,
    "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "activation": "relu",
    "max_position_embeddings": 50})");
}

absl::StatusOr<ModelConfig> Parse(const json& config) {
  return ParseModelConfig(config.dump(), "config.json");
}

/// The error when one field has another value.
std::string Error(json config, const std::string& field, const json& value,
                  absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  config[field] = value;
  const auto parsed = Parse(config);
  EXPECT_EQ(parsed.status().code(), code) << field << " = " << value << ": " << parsed.status();
  EXPECT_THAT(Message(parsed.status()), HasSubstr("config.json"));
  return Message(parsed.status());
}

TEST(ModelConfig, ReadsBert) {
  const auto config = Parse(Bert());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, Family::kBert);
  EXPECT_EQ(config->task, Task::kSequenceClassification);
  EXPECT_EQ(config->vocab_size, 100);
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->head_dim(), 16);
  EXPECT_EQ(config->intermediate_size, 128);
  EXPECT_EQ(config->type_vocab_size, 2);
  EXPECT_EQ(config->max_tokens(), 50);
  EXPECT_EQ(config->activation, Activation::kGelu);
  EXPECT_EQ(config->layer_norm_epsilon, 1e-12f);
  EXPECT_THAT(config->labels, ElementsAre("no", "yes", "?"));
}

TEST(ModelConfig, ReadsDistilBertsOwnNames) {
  const auto config = Parse(DistilBert());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, Family::kDistilBert);
  EXPECT_EQ(config->task, Task::kNone);
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->layers, 2);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->intermediate_size, 128);
  EXPECT_EQ(config->type_vocab_size, 0);
  EXPECT_EQ(config->activation, Activation::kRelu);
  EXPECT_THAT(config->labels, IsEmpty());
}

TEST(ModelConfig, RobertasPositionsBeginAfterThePadding) {
  json config = Bert();
  config["architectures"] = {"RobertaForTokenClassification"};
  config["model_type"] = "roberta";
  config["pad_token_id"] = 1;
  config["layer_norm_eps"] = 1e-5;
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->first_position, 2);
  EXPECT_EQ(parsed->max_tokens(), 48);
  EXPECT_EQ(parsed->layer_norm_epsilon, 1e-5f);
  EXPECT_THAT(Error(config, "max_position_embeddings", 2), HasSubstr("leaves no position"));
  EXPECT_THAT(Error(config, "pad_token_id", 100), HasSubstr("'pad_token_id' is 100"));
  config.erase("pad_token_id");
  EXPECT_EQ(Parse(config)->first_position, 2);
}

TEST(ModelConfig, XlmRobertaAndCamembertAreRoberta) {
  json config = Bert();
  for (const auto& [architecture, type] : {std::pair("XLMRobertaModel", "xlm-roberta"),
                                           std::pair("CamembertForMaskedLM", "camembert")}) {
    config["architectures"] = {architecture};
    config["model_type"] = type;
    const auto parsed = Parse(config);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->family, Family::kRoberta);
  }
}

TEST(ModelConfig, EachFieldThatShapesTheNetworkIsRequired) {
  for (const char* field : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                            "intermediate_size", "max_position_embeddings", "architectures"}) {
    json config = Bert();
    config.erase(field);
    EXPECT_THAT(Message(Parse(config).status()),
                AllOf(HasSubstr(std::string("'") + field + "'"), HasSubstr("missing")));
    EXPECT_THAT(Error(Bert(), field, nullptr), HasSubstr("missing"));
  }
  for (const char* field : {"dim", "n_layers", "n_heads", "hidden_dim"}) {
    json config = DistilBert();
    config.erase(field);
    EXPECT_THAT(Message(Parse(config).status()), HasSubstr(std::string("'") + field + "'"));
  }
}

TEST(ModelConfig, EachNumberHasARange) {
  for (const char* field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings", "type_vocab_size", "pad_token_id"}) {
    for (const json& value : std::vector<json>{-1, 1'000'000'000, 18446744073709551615u, INT64_MIN,
                                               2.5, "12", true, json::array()}) {
      EXPECT_THAT(Error(Bert(), field, value), HasSubstr(std::string("'") + field + "'"));
    }
  }
  EXPECT_THAT(Error(Bert(), "hidden_size", 0), HasSubstr("'hidden_size' is 0"));
  for (const json& value : std::vector<json>{0, -1e-5, 2, "x", 1e300}) {
    EXPECT_THAT(Error(Bert(), "layer_norm_eps", value), HasSubstr("'layer_norm_eps'"));
  }
}

TEST(ModelConfig, RefusesContradictions) {
  EXPECT_THAT(Error(Bert(), "num_attention_heads", 5),
              AllOf(HasSubstr("'hidden_size' is 64"), HasSubstr("'num_attention_heads'")));
  EXPECT_THAT(Error(Bert(), "num_labels", 2),
              AllOf(HasSubstr("'num_labels' is 2"), HasSubstr("3 labels")));
  EXPECT_THAT(Error(Bert(), "model_type", "roberta"), HasSubstr("contradicts"));
  EXPECT_THAT(Error(Bert(), "model_type", "gpt2"), HasSubstr("contradicts"));
}

TEST(ModelConfig, LabelsMustBeNumberedFromZero) {
  for (const char* labels :
       {R"({"1": "a", "2": "b"})", R"({"0": "a", "x": "b"})", R"({"0": "a", "00": "b"})",
        R"({"0": "a", "-1": "b"})", "{}", R"({"0": "a", "99999999999999999999": "b"})",
        R"(["a", "b"])", R"({"0": 1})", R"({"": "a"})"}) {
    EXPECT_THAT(Error(Bert(), "id2label", json::parse(labels)), HasSubstr("id2label")) << labels;
  }
}

TEST(ModelConfig, LabelsHaveDefaults) {
  json config = Bert();
  config.erase("id2label");
  EXPECT_THAT(Parse(config)->labels, ElementsAre("LABEL_0", "LABEL_1"));
  config["num_labels"] = 3;
  EXPECT_THAT(Parse(config)->labels, ElementsAre("LABEL_0", "LABEL_1", "LABEL_2"));
  config["problem_type"] = "multi_label_classification";
  EXPECT_TRUE(Parse(config)->multi_label);
  EXPECT_THAT(Error(config, "problem_type", "guess"), HasSubstr("'problem_type' is 'guess'"));
}

TEST(ModelConfig, KnowsTheActivations) {
  json config = Bert();
  for (const auto& [name, activation] :
       {std::pair("gelu", Activation::kGelu), std::pair("gelu_new", Activation::kGeluTanh),
        std::pair("gelu_pytorch_tanh", Activation::kGeluTanh), std::pair("relu", Activation::kRelu),
        std::pair("silu", Activation::kSilu), std::pair("swish", Activation::kSilu)}) {
    config["hidden_act"] = name;
    EXPECT_EQ(Parse(config)->activation, activation) << name;
  }
  EXPECT_THAT(Error(Bert(), "hidden_act", "mish", absl::StatusCode::kUnimplemented),
              AllOf(HasSubstr("'mish'"), HasSubstr("gelu_new")));
}

TEST(ModelConfig, KnowsHowTokensAttend) {
  EXPECT_EQ(Parse(Bert())->attention, AttentionKind::kSoftmax);
  json config = Bert();
  for (const auto& [name, kind] :
       {std::pair("softmax", AttentionKind::kSoftmax), std::pair("flow", AttentionKind::kFlow),
        std::pair("flow_causal", AttentionKind::kCausalFlow)}) {
    config["attention_type"] = name;
    EXPECT_EQ(Parse(config)->attention, kind) << name;
  }
  EXPECT_THAT(Error(Bert(), "attention_type", "block_sparse", absl::StatusCode::kUnimplemented),
              AllOf(HasSubstr("'block_sparse'"), HasSubstr("flow_causal")));
}

TEST(ModelConfig, SaysWhatIsNotServed) {
  const auto unserved = absl::StatusCode::kUnimplemented;
  EXPECT_THAT(Error(Bert(), "architectures", {"GPT2LMHeadModel"}, unserved),
              AllOf(HasSubstr("GPT2LMHeadModel"), HasSubstr("DistilBertForQuestionAnswering")));
  EXPECT_THAT(Error(Bert(), "position_embedding_type", "relative_key", unserved),
              HasSubstr("relative_key"));
  EXPECT_THAT(Error(Bert(), "is_decoder", true, unserved), HasSubstr("is_decoder"));
  EXPECT_THAT(Error(Bert(), "pruned_heads", {{"0", {1}}}, unserved), HasSubstr("pruned_heads"));
  EXPECT_THAT(Error(Bert(), "quantization_config", json::object(), unserved),
              HasSubstr("quantization_config"));
  EXPECT_TRUE(Parse([] {
                json config = Bert();
                config["pruned_heads"] = json::object();
                return config;
              }())
                  .ok());
}

TEST(ModelConfig, RefusesWhatIsNotAConfig) {
  for (const char* text : {"", "{", "[]", "3", "nul", "\xff", "{\"architectures\": [3]}",
                           "{\"architectures\": []}", "{\"architectures\": [\"a\", \"b\"]}"}) {
    EXPECT_EQ(ParseModelConfig(text, "c").status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
  const std::string deep(1 << 20, '[');
  EXPECT_FALSE(ParseModelConfig(deep, "c").ok());
}

TEST(ModelConfig, SaysThatTheFileIsMissing) {
  const testing::TempDir empty;
  const auto config = LoadModelConfig(empty.path().string());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(config.status()), HasSubstr("config.json"));
}

}  // namespace
}  // namespace thresher
