#include "backend/model/decoder_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/model/safetensors_builder.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;

json Gpt2() {
  return json::parse(R"({
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50257,
    "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128})");
}

json Llama() {
  return json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 500,
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 172,
    "max_position_embeddings": 512})");
}

json Opt() {
  return json::parse(R"({
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 500,
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 256,
    "max_position_embeddings": 100})");
}

absl::StatusOr<DecoderConfig> Parse(const json& config, const std::string& generation = "") {
  return ParseDecoderConfig(config.dump(), generation, "config.json");
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

json With(json config, const json& fields) {
  config.update(fields);
  return config;
}

TEST(DecoderConfig, Gpt2HasItsPublishedDefaults) {
  const auto config = Parse(Gpt2());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "GPT2LMHeadModel");
  EXPECT_EQ(config->family, DecoderFamily::kGpt2);
  EXPECT_EQ(config->vocab_size, 50257);
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->embedding_size, 64);
  EXPECT_EQ(config->layers, 3);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->intermediate_size, 256);
  EXPECT_EQ(config->max_tokens, 128);
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_FALSE(config->gated);
  EXPECT_FALSE(config->rms_norm);
  EXPECT_TRUE(config->pre_norm);
  EXPECT_TRUE(config->final_norm);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->mlp_bias);
  EXPECT_TRUE(config->tied);
  EXPECT_FALSE(config->rotary);
  EXPECT_EQ(config->position_offset, 0);
  EXPECT_TRUE(config->scale_attention);
  EXPECT_FALSE(config->scale_by_layer);
  EXPECT_THAT(config->bos, Optional(50256));
  EXPECT_THAT(config->eos, ElementsAre(50256));
}

TEST(DecoderConfig, Gpt2sOptionsAreRead) {
  const auto config = Parse(With(Gpt2(), {{"n_inner", 100},
                                          {"activation_function", "relu"},
                                          {"layer_norm_epsilon", 1e-6},
                                          {"scale_attn_weights", false},
                                          {"scale_attn_by_inverse_layer_idx", true},
                                          {"tie_word_embeddings", false}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->intermediate_size, 100);
  EXPECT_EQ(config->activation, Activation::kRelu);
  EXPECT_EQ(config->norm_epsilon, 1e-6f);
  EXPECT_FALSE(config->scale_attention);
  EXPECT_TRUE(config->scale_by_layer);
  EXPECT_FALSE(config->tied);
  EXPECT_EQ(Parse(With(Gpt2(), {{"n_inner", nullptr}}))->intermediate_size, 256);
}

TEST(DecoderConfig, LlamaHasItsPublishedDefaults) {
  const auto config = Parse(Llama());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, DecoderFamily::kLlama);
  EXPECT_EQ(config->kv_heads, 8);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->intermediate_size, 172);
  EXPECT_EQ(config->max_tokens, 512);
  EXPECT_EQ(config->activation, Activation::kSilu);
  EXPECT_EQ(config->norm_epsilon, 1e-6f);
  EXPECT_TRUE(config->gated);
  EXPECT_TRUE(config->rms_norm);
  EXPECT_TRUE(config->pre_norm);
  EXPECT_TRUE(config->final_norm);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->mlp_bias);
  EXPECT_FALSE(config->tied);
  ASSERT_TRUE(config->rotary);
  EXPECT_EQ(config->rotary->dims, 8);
  EXPECT_EQ(config->rotary->theta, 10000.0f);
  EXPECT_THAT(config->bos, Optional(1));
  EXPECT_THAT(config->eos, ElementsAre(2));
}

TEST(DecoderConfig, LlamasOptionsAreRead) {
  const auto config = Parse(With(Llama(), {{"num_key_value_heads", 2},
                                           {"head_dim", 20},
                                           {"rms_norm_eps", 1e-5},
                                           {"attention_bias", true},
                                           {"mlp_bias", true},
                                           {"tie_word_embeddings", true},
                                           {"rope_theta", 500000.0}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_dim, 20);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->mlp_bias);
  EXPECT_TRUE(config->tied);
  EXPECT_EQ(config->rotary->dims, 20);
  EXPECT_EQ(config->rotary->theta, 500000.0f);
  // With a width of its own for heads, the hidden size need not be a multiple of them.
  EXPECT_TRUE(Parse(With(Llama(), {{"hidden_size", 60}, {"head_dim", 16}})).ok());
  EXPECT_EQ(Parse(With(Llama(), {{"head_dim", nullptr}}))->head_dim, 8);
}

TEST(DecoderConfig, ScalingThatGrowsWithTheTextIsServedWithinItsContext) {
  const auto config = Parse(With(
      Llama(),
      {{"rope_scaling", {{"rope_type", "dynamic"}, {"original_max_position_embeddings", 128}}}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->max_tokens, 128);
}

TEST(DecoderConfig, OptHasItsPublishedDefaults) {
  const auto config = Parse(Opt());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, DecoderFamily::kOpt);
  EXPECT_EQ(config->embedding_size, 64);
  EXPECT_EQ(config->intermediate_size, 256);
  EXPECT_EQ(config->max_tokens, 100);
  EXPECT_EQ(config->position_offset, 2);
  EXPECT_EQ(config->activation, Activation::kRelu);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_FALSE(config->gated);
  EXPECT_FALSE(config->rms_norm);
  EXPECT_TRUE(config->pre_norm);
  EXPECT_TRUE(config->final_norm);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->tied);
  EXPECT_FALSE(config->rotary);
  EXPECT_THAT(config->bos, Optional(2));
  EXPECT_THAT(config->eos, ElementsAre(2));
}

TEST(DecoderConfig, OptsOptionsAreRead) {
  auto config = Parse(
      With(Opt(),
           {{"word_embed_proj_dim", 32}, {"do_layer_norm_before", false}, {"enable_bias", false}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->embedding_size, 32);
  EXPECT_FALSE(config->pre_norm);
  EXPECT_FALSE(config->final_norm);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->mlp_bias);
  config = Parse(With(Opt(), {{"_remove_final_layer_norm", true}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->pre_norm);
  EXPECT_FALSE(config->final_norm);
}

TEST(DecoderConfig, EachFieldThatShapesTheNetworkIsRequired) {
  const std::pair<json, std::vector<const char*>> cases[] = {
      {Gpt2(), {"architectures", "vocab_size", "n_embd", "n_layer", "n_head", "n_positions"}},
      {Llama(),
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings"}},
      {Opt(),
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim",
        "max_position_embeddings"}}};
  for (const auto& [config, fields] : cases) {
    for (const char* field : fields) {
      EXPECT_THAT(Error(config, field, nullptr),
                  AllOf(HasSubstr(std::string("'") + field + "'"), HasSubstr("missing")));
    }
  }
}

TEST(DecoderConfig, EachNumberHasARange) {
  const std::pair<json, std::vector<const char*>> cases[] = {
      {Gpt2(), {"vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "n_inner"}},
      {Llama(),
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "intermediate_size", "max_position_embeddings", "head_dim"}},
      {Opt(), {"ffn_dim", "word_embed_proj_dim", "max_position_embeddings"}}};
  for (const auto& [config, fields] : cases) {
    for (const char* field : fields) {
      for (const json& value : std::vector<json>{-1, 0, 1'000'000'000, 18446744073709551615u,
                                                 INT64_MIN, 2.5, "12", true, json::array()}) {
        EXPECT_THAT(Error(config, field, value), HasSubstr(std::string("'") + field + "'"));
      }
    }
  }
  for (const json& value : std::vector<json>{0, -1e-5, 2, "x", 1e300}) {
    EXPECT_THAT(Error(Llama(), "rms_norm_eps", value), HasSubstr("'rms_norm_eps'"));
    EXPECT_THAT(Error(Gpt2(), "layer_norm_epsilon", value), HasSubstr("'layer_norm_epsilon'"));
  }
  for (const char* field : {"tie_word_embeddings", "attention_bias", "mlp_bias"}) {
    EXPECT_THAT(Error(Llama(), field, 1), HasSubstr("not true or false"));
  }
}

TEST(DecoderConfig, RefusesContradictions) {
  EXPECT_THAT(Error(Gpt2(), "n_head", 5),
              AllOf(HasSubstr("'n_embd' is 64"), HasSubstr("'n_head', which is 5")));
  EXPECT_THAT(Error(Llama(), "num_attention_heads", 5), HasSubstr("'hidden_size' is 64"));
  EXPECT_THAT(Error(Llama(), "num_key_value_heads", 3),
              AllOf(HasSubstr("'num_attention_heads' is 8"), HasSubstr("'num_key_value_heads'")));
  EXPECT_THAT(Error(Llama(), "model_type", "mistral"), HasSubstr("contradicts"));
  EXPECT_THAT(Error(Llama(), "head_dim", 7), HasSubstr("must be even"));
}

TEST(DecoderConfig, SaysWhatIsNotServed) {
  const auto unserved = absl::StatusCode::kUnimplemented;
  EXPECT_THAT(Error(Llama(), "architectures", {"MambaForCausalLM"}, unserved),
              AllOf(HasSubstr("MambaForCausalLM"), HasSubstr("OPTForCausalLM")));
  EXPECT_THAT(Error(Llama(), "quantization_config", {{"bits", 4}}, unserved),
              HasSubstr("quantization_config"));
  EXPECT_THAT(Error(Llama(), "hidden_act", "mish", unserved), HasSubstr("'hidden_act' is 'mish'"));
  EXPECT_THAT(Error(Llama(), "rope_scaling", {{"rope_type", "longrope"}}, unserved),
              HasSubstr("longrope"));
  EXPECT_THAT(Error(Gpt2(), "add_cross_attention", true, unserved),
              HasSubstr("add_cross_attention"));
  EXPECT_THAT(Error(Opt(), "layer_norm_elementwise_affine", false, unserved),
              HasSubstr("layer_norm_elementwise_affine"));
}

TEST(DecoderConfig, KnowsItsArchitectures) {
  EXPECT_TRUE(IsDecoderArchitecture("OPTForCausalLM"));
  EXPECT_FALSE(IsDecoderArchitecture("BertModel"));
  EXPECT_FALSE(IsDecoderArchitecture(""));
  EXPECT_THAT(DecoderArchitectures(), AllOf(HasSubstr("GPT2LMHeadModel"), HasSubstr(", ")));
}

TEST(DecoderConfig, WhatEndsATextIsOfTheGenerationConfigFirst) {
  const json config = With(Llama(), {{"bos_token_id", 3}, {"eos_token_id", 4}});
  EXPECT_THAT(Parse(config)->bos, Optional(3));
  EXPECT_THAT(Parse(config)->eos, ElementsAre(4));
  auto parsed = Parse(config, R"({"bos_token_id": 5, "eos_token_id": [6, 7, 6]})");
  EXPECT_THAT(parsed->bos, Optional(5));
  EXPECT_THAT(parsed->eos, ElementsAre(6, 7));
  parsed = Parse(config, R"({"eos_token_id": 8, "temperature": 0.6})");
  EXPECT_THAT(parsed->bos, Optional(3));
  EXPECT_THAT(parsed->eos, ElementsAre(8));
  parsed = Parse(With(config, {{"bos_token_id", nullptr}, {"eos_token_id", nullptr}}));
  EXPECT_FALSE(parsed->bos);
  EXPECT_THAT(parsed->eos, IsEmpty());
}

TEST(DecoderConfig, EndsOutsideTheVocabularyAreNone) {
  const auto small = Parse(With(Gpt2(), {{"vocab_size", 100}}));
  EXPECT_FALSE(small->bos);
  EXPECT_THAT(small->eos, IsEmpty());
  EXPECT_THAT(Parse(With(Llama(), {{"eos_token_id", {499, 500, -1, 18446744073709551615u}}}))->eos,
              ElementsAre(499));
}

TEST(DecoderConfig, RefusesEndsThatAreNoIds) {
  for (const json& value : std::vector<json>{
           "2", 2.0, true, json::object(), {"a"}, {{1, 2}}, json(std::vector<int>(2000, 1))}) {
    EXPECT_THAT(Error(Llama(), "eos_token_id", value), HasSubstr("'eos_token_id'"));
  }
  for (const char* text : {"{", "[]", "3", R"({"eos_token_id": "x"})"}) {
    EXPECT_THAT(Message(Parse(Llama(), text).status()), HasSubstr("generation_config.json"));
  }
}

TEST(DecoderConfig, BothFilesOfADirectoryAreRead) {
  const testing::TempDir temp;
  const std::string directory = temp.path().string();
  EXPECT_EQ(LoadDecoderConfig(directory).status().code(), absl::StatusCode::kNotFound);
  testing::WriteText(temp.path() / "config.json", Llama().dump());
  EXPECT_THAT(LoadDecoderConfig(directory)->eos, ElementsAre(2));
  testing::WriteText(temp.path() / "generation_config.json", R"({"eos_token_id": [9]})");
  EXPECT_THAT(LoadDecoderConfig(directory)->eos, ElementsAre(9));
}

TEST(DecoderConfig, RefusesWhatIsNotAConfig) {
  for (const char* text : {"", "{", "[]", "3", "\xff", "{\"architectures\": [3]}",
                           "{\"architectures\": []}", "{\"architectures\": [\"a\", \"b\"]}"}) {
    EXPECT_EQ(ParseDecoderConfig(text, "", "c").status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

}  // namespace
}  // namespace thresher
