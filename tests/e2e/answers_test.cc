// What a user gets: the `thresher` command against a real server on a real model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/e2e/server_process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::Finished;
using ::testing::HasSubstr;
using testing::ServerProcess;

std::vector<json> Lines(const std::string& output) {
  std::vector<json> lines;
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

class AnswersTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = new ServerProcess(); }
  static void TearDownTestSuite() { delete server_; }
  static ServerProcess* server_;
};
ServerProcess* AnswersTest::server_ = nullptr;

struct Golden {
  std::vector<std::string> texts;
  std::vector<std::string> labels;
  std::vector<json> ids;
};

/// The golden cases that have a text.
Golden ReadGolden() {
  std::ifstream file(testing::SourceDir() / "models/sst2-mini/golden.json");
  const json golden = json::parse(file);
  Golden out;
  for (const json& item : golden["cases"]) {
    const std::string text = item["text"];
    if (text.empty() || text.find('\n') != std::string::npos) continue;
    const auto& logits = item["logits"];
    out.texts.push_back(text);
    out.labels.push_back(golden["label_order"][logits[0] < logits[1] ? 1 : 0]);
    out.ids.push_back(item["input_ids"]);
  }
  return out;
}

std::string Joined(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) out += text + "\n";
  return out;
}

TEST_F(AnswersTest, ClassifyAgreesWithTheGoldenLabels) {
  const Golden golden = ReadGolden();
  ASSERT_GT(golden.texts.size(), 20u);
  const Finished run =
      server_->Cli({"classify", "--json", "--truncate"}, {.input = Joined(golden.texts)});
  ASSERT_EQ(run.code, 0) << run.error;
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), golden.texts.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["index"], i);
    EXPECT_EQ(lines[i]["text"], golden.texts[i]);
    EXPECT_EQ(lines[i]["label"], golden.labels[i]) << golden.texts[i];
  }
}

TEST_F(AnswersTest, TokenizeAgreesWithTheGoldenIds) {
  const Golden golden = ReadGolden();
  const Finished run =
      server_->Cli({"tokenize", "--json", "--truncate"}, {.input = Joined(golden.texts)});
  ASSERT_EQ(run.code, 0) << run.error;
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), golden.texts.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["ids"], golden.ids[i]) << golden.texts[i];
    EXPECT_EQ(lines[i]["tokens"].size(), golden.ids[i].size());
  }
}

TEST_F(AnswersTest, JsonHasTheKeysThatScriptsRead) {
  const json line = Lines(server_->Cli({"classify", "--json", "a moving film"}).output).at(0);
  EXPECT_EQ(line["index"], 0);
  EXPECT_EQ(line["text"], "a moving film");
  EXPECT_EQ(line["label"], "positive");
  const double sum =
      line["scores"]["positive"].get<double>() + line["scores"]["negative"].get<double>();
  EXPECT_NEAR(sum, 1, 1e-5);
  for (const char* part : {"queue", "tokenize", "compute", "total"}) {
    EXPECT_GE(line["timings"][part].get<double>(), 0) << part;
  }
  EXPECT_GE(line["timings"]["total"].get<double>(), line["timings"]["compute"].get<double>());
  EXPECT_EQ(line["report"]["policy"], "dense");
  EXPECT_EQ(line["report"]["keep"]["token"], 1.0);
  EXPECT_EQ(line["report"]["bytes"]["done"], line["report"]["bytes"]["dense"]);
}

TEST_F(AnswersTest, SameTextGivesTheSameBitsAloneAndInAnyBatch) {
  std::vector<std::string> texts;
  for (int i = 0; i < 48; ++i) {
    std::string text = "film";
    for (int j = 0; j < i; ++j) text += j % 3 == 0 ? " good" : j % 3 == 1 ? " and" : " dull";
    texts.push_back(text);
  }
  const Finished together =
      server_->Cli({"classify", "--json", "--batch", "48"}, {.input = Joined(texts)});
  const Finished mixed = server_->Cli({"classify", "--json", "--batch", "5", "--concurrency", "8"},
                                      {.input = Joined(texts)});
  const Finished alone = server_->Cli({"classify", "--json", "--batch", "1", "--concurrency", "1"},
                                      {.input = Joined(texts)});
  const auto expected = Lines(alone.output);
  const auto in_one = Lines(together.output), in_some = Lines(mixed.output);
  ASSERT_EQ(expected.size(), texts.size());
  ASSERT_EQ(in_one.size(), texts.size());
  ASSERT_EQ(in_some.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    // The numbers round-trip, so the same text means the same bits.
    EXPECT_EQ(in_one[i]["scores"].dump(), expected[i]["scores"].dump()) << i;
    EXPECT_EQ(in_some[i]["scores"].dump(), expected[i]["scores"].dump()) << i;
  }
}

TEST_F(AnswersTest, EmbedGivesAVectorOfTheModelsWidth) {
  const auto lines = Lines(server_->Cli({"embed", "--json", "--normalize", "a", "b"}).output);
  ASSERT_EQ(lines.size(), 2u);
  ASSERT_EQ(lines[0]["embedding"].size(), 192u);
  double squares = 0;
  for (const json& value : lines[0]["embedding"])
    squares += value.get<double>() * value.get<double>();
  EXPECT_NEAR(squares, 1, 1e-5);
  EXPECT_NE(lines[0]["embedding"], lines[1]["embedding"]);
}

TEST_F(AnswersTest, OneBadTextFailsAlone) {
  const Finished run =
      server_->Cli({"classify", "--json", "--file", "-"}, {.input = "fine\n\nb\xFFz\nalso fine\n"});
  EXPECT_EQ(run.code, 1);
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_TRUE(lines[0].contains("label"));
  EXPECT_EQ(lines[1]["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(lines[2]["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_TRUE(lines[3].contains("label"));
  EXPECT_THAT(run.error, AllOf(HasSubstr("input 1: INVALID_ARGUMENT"), HasSubstr("empty"),
                               HasSubstr("input 2: INVALID_ARGUMENT")));
}

TEST_F(AnswersTest, TooLongIsAnErrorOrTruncated) {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "film ";
  const Finished refused = server_->Cli({"classify", "--json", text});
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(Lines(refused.output).at(0)["error"]["code"], "INVALID_ARGUMENT");
  const Finished cut = server_->Cli({"classify", "--json", "--truncate", text});
  EXPECT_EQ(cut.code, 0) << cut.error;
  EXPECT_EQ(Lines(cut.output).at(0)["truncated"], true);
}

TEST_F(AnswersTest, MethodsWithoutTheirHeadAreUnimplemented) {
  const Finished run = server_->Cli({"token-classify", "--json", "Ada"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(Lines(run.output).at(0)["error"]["code"], "UNIMPLEMENTED");
}

TEST_F(AnswersTest, UnknownModelOrVersionIsNotFound) {
  const Finished model = server_->Cli({"classify", "x", "--model", "nobody"});
  EXPECT_EQ(model.code, 1);
  EXPECT_THAT(model.error, AllOf(HasSubstr("NOT_FOUND"), HasSubstr("sst2-mini")));
  const Finished version =
      server_->Cli({"classify", "x", "--model", "sst2-mini", "--model-version", "77"});
  EXPECT_THAT(version.error, HasSubstr("NOT_FOUND"));
}

TEST_F(AnswersTest, UnknownSparsityPolicyIsRefused) {
  const Finished run = server_->Cli({"classify", "x", "--sparsity", "no-such-policy"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("no-such-policy")));
  EXPECT_EQ(server_->Cli({"classify", "x", "--sparsity", "dense"}).code, 0);
}

TEST_F(AnswersTest, ModelsAndHealthTellWhatServes) {
  const json model = Lines(server_->Cli({"models", "--json"}).output).at(0);
  EXPECT_EQ(model["name"], "sst2-mini");
  EXPECT_EQ(model["state"], "READY");
  EXPECT_EQ(model["properties"]["labels"], "negative,positive");
  EXPECT_EQ(server_->Cli({"health"}).output, "SERVING\n");
  for (const char* service : {"thresher.v1.Thresher", "inference.GRPCInferenceService"}) {
    EXPECT_EQ(server_->Cli({"health", "--service", service}).code, 0) << service;
  }
  EXPECT_EQ(server_->Cli({"health", "--service", "nobody"}).code, 1);
}

}  // namespace
}  // namespace thresher
