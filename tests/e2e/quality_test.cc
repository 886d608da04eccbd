// Evaluate, calibrate, serve: the whole way of a quality bound.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/e2e/server_process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Finished;
using ::testing::HasSubstr;
using testing::Process;
using testing::RunProcess;
using testing::ServerProcess;

const std::string kModel = (testing::SourceDir() / "models/sst2-mini").string();
const std::string kData = (testing::SourceDir() / "tests/evaluation/reviews.tsv").string();

std::vector<json> Lines(const std::string& output) {
  std::vector<json> lines;
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

std::string ReadText(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

Finished Thresher(std::vector<std::string> arguments, const Process::Options& options = {}) {
  arguments.insert(arguments.begin(), THRESHER_BINARY);
  return RunProcess(arguments, options);
}

bool HasGnuplot() { return RunProcess({"gnuplot", "--version"}).code == 0; }

class QualityTest : public ::testing::Test {
 protected:
  /// The model in a directory of the test's own.
  std::string Copy() const {
    const fs::path copy = dir_.path() / "sst2-mini";
    fs::create_directories(copy);
    for (const auto& file : fs::directory_iterator(kModel)) {
      fs::create_symlink(file.path(), copy / file.path().filename());
    }
    return copy.string();
  }

  testing::TempDir dir_;
};

TEST_F(QualityTest, EvaluatesInThisProcess) {
  const std::string csv = (dir_.path() / "out.csv").string();
  const Finished run =
      Thresher({"evaluate", "--model", kModel, "--data", kData, "--sparsity", "spatten:final=0.4",
                "--sparsity", "fact:topk=*", "--shares", "1,50%", "--json", "--csv", csv});
  ASSERT_EQ(run.code, 0) << run.error;
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["sparsity"], "dense");
  EXPECT_EQ(lines[0]["speedup"], 1.0);
  EXPECT_EQ(lines[0]["n"], 30);
  EXPECT_EQ(lines[0]["keep"]["token"], 1.0);
  EXPECT_EQ(lines[1]["sparsity"], "spatten:final=0.4");
  EXPECT_LT(lines[1]["keep"]["token"], 1.0);
  EXPECT_GT(lines[1]["kl"], 0.0);
  // Everything kept is dense.
  EXPECT_EQ(lines[2]["sparsity"], "fact:topk=1");
  EXPECT_EQ(lines[2]["kl"], 0.0);
  EXPECT_EQ(lines[2]["agreement"], 1.0);
  EXPECT_EQ(lines[3]["sparsity"], "fact:topk=0.5");
  EXPECT_LT(lines[3]["keep"]["score"], 1.0);
  EXPECT_THAT(ReadText(csv), HasSubstr("\n\"fact:topk=0.5\","));
}

TEST_F(QualityTest, PeopleGetATable) {
  const Finished run = Thresher({"evaluate", "--model", kModel, "--data", kData, "--limit", "5",
                                 "--sparsity", "spatten:final=0.5"});
  ASSERT_EQ(run.code, 0) << run.error;
  EXPECT_THAT(run.output, HasSubstr("SPARSITY"));
  EXPECT_THAT(run.output, HasSubstr("\nspatten:final=0.5 "));
  EXPECT_EQ(run.error, "");
}

TEST_F(QualityTest, AServerGivesTheSameQuality) {
  const ServerProcess server;
  const std::vector<std::string> arguments = {"evaluate",
                                              "--data",
                                              kData,
                                              "--sparsity",
                                              "spatten:final=0.3,heads=0.5",
                                              "--sparsity",
                                              "spatten:final=0.3",
                                              "--json"};
  auto local = arguments;
  local.insert(local.end(), {"--model", kModel});
  auto remote = arguments;
  remote.insert(remote.end(), {"--model", "sst2-mini", "--server", server.grpc(), "--batch", "7"});
  const Finished here = Thresher(local);
  const Finished there = Thresher(remote);
  ASSERT_EQ(here.code, 0) << here.error;
  ASSERT_EQ(there.code, 0) << there.error;
  const auto expected = Lines(here.output);
  const auto lines = Lines(there.output);
  ASSERT_EQ(lines.size(), expected.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    for (const char* key : {"sparsity", "policy", "accuracy", "agreement", "loss", "keep", "n"}) {
      EXPECT_EQ(lines[i][key], expected[i][key]) << key;
    }
    EXPECT_NEAR(lines[i]["kl"], expected[i]["kl"], 1e-9);
    EXPECT_NEAR(lines[i]["cosine"], expected[i]["cosine"], 1e-9);
  }
}

TEST_F(QualityTest, DrawsTheCurve) {
  const std::string svg = (dir_.path() / "curve.svg").string();
  const std::vector<std::string> arguments = {
      "evaluate",        "--model",  kModel,    "--data", kData, "--limit",  "8",    "--sparsity",
      "spatten:final=*", "--shares", "0.8,0.4", "--plot", svg,   "--plot-x", "token"};
  if (HasGnuplot()) {
    const Finished run = Thresher(arguments);
    ASSERT_EQ(run.code, 0) << run.error;
    EXPECT_EQ(run.error, "");
    EXPECT_THAT(ReadText(svg), HasSubstr("<svg"));
    EXPECT_THAT(ReadText(svg), HasSubstr("spatten:final=*"));
  }
  auto without_gnuplot = arguments;
  without_gnuplot.insert(without_gnuplot.begin(), {"env", "PATH=/nowhere", THRESHER_BINARY});
  const Finished without = RunProcess(without_gnuplot);
  EXPECT_NE(without.code, 0);
  EXPECT_THAT(without.error, HasSubstr("install gnuplot-nox"));
}

TEST_F(QualityTest, MistakesAreNamed) {
  const auto error = [](std::vector<std::string> arguments) {
    const Finished run = Thresher(std::move(arguments));
    EXPECT_EQ(run.code, 2) << run.error;
    return run.error;
  };
  EXPECT_THAT(error({"evaluate", "--model", "sst2", "--data", kData}), HasSubstr("--server"));
  EXPECT_THAT(error({"evaluate", "--model", kModel, "--data", kData, "--sparsity", "guess"}),
              HasSubstr("sparsity 'guess'"));
  EXPECT_THAT(error({"evaluate", "--model", kModel, "--data", kData, "--plot", "x.pdf"}),
              HasSubstr(".svg or .png"));
  EXPECT_THAT(error({"evaluate", "--model", kModel, "--data", kData, "--device", "abacus"}),
              HasSubstr("--device"));
  EXPECT_THAT(error({"calibrate", "--model", kModel, "--data", kData, "--max-loss", "2"}),
              HasSubstr("1%"));
  EXPECT_THAT(error({"calibrate", "--model", kModel, "--data", kData, "--max-loss", "1%",
                     "--policy", "spatten:final=0.5"}),
              HasSubstr("nothing to search"));
  const std::string broken = (dir_.path() / "d.tsv").string();
  std::ofstream(broken) << "a film\tpositive\nanother\tmeh\n";
  EXPECT_THAT(error({"evaluate", "--model", kModel, "--data", broken}),
              HasSubstr("d.tsv: line 2, column 2: 'meh' is no label"));
}

TEST_F(QualityTest, FewExamplesPromiseNothing) {
  const std::string model = Copy();
  const Finished run =
      Thresher({"calibrate", "--model", model, "--data", kData, "--max-loss", "0.1%"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("30 examples can't promise a loss of at most 0.1 %"));
  EXPECT_FALSE(fs::exists(fs::path(model) / "sparsity_profile.textproto"));
}

TEST_F(QualityTest, AReadOnlyDirectoryIsSaid) {
  // The directory for the profile does not exist, so nobody may write there, root included.
  const Finished run =
      Thresher({"calibrate", "--model", kModel, "--data", kData, "--max-loss", "50%", "--policy",
                "spatten:final=*", "--output", "/proc/profile.textproto"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("/proc/profile.textproto"));
}

TEST_F(QualityTest, ACalibratedModelServesABound) {
  const std::string model = Copy();
  // Before: the server says what to do.
  const ServerProcess server({"--model", "m=" + model});
  const Finished before =
      server.Cli({"classify", "--max-quality-loss", "0.5", "--json", "a gripping film"});
  EXPECT_EQ(before.code, 1);
  EXPECT_THAT(before.output + before.error,
              HasSubstr("thresher calibrate --model " + model + " --data"));

  const Finished run =
      Thresher({"calibrate", "--model", model, "--data", kData, "--max-loss", "50%", "--max-loss",
                "0.1%", "--policy", "spatten:final=*", "--rounds", "1", "--json"});
  EXPECT_EQ(run.code, 1) << run.error;  // One of the two bounds was too tight for 30 examples.
  const json profile = json::parse(run.output);
  ASSERT_EQ(profile["entries"].size(), 1u);
  EXPECT_EQ(profile["entries"][0]["max_loss"], 0.5);
  EXPECT_LE(profile["entries"][0]["loss_upper"], 0.5);
  EXPECT_EQ(profile["output"], model + "/sparsity_profile.textproto");

  const ServerProcess reloaded({"--model", "m=" + model});
  const auto policy = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"classify", "--json", "a gripping , moving film"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Finished answer = reloaded.Cli(arguments);
    EXPECT_EQ(answer.code, 0) << answer.error;
    return json::parse(answer.output)["report"]["policy"].get<std::string>();
  };
  const std::string chosen = profile["entries"][0]["policy"];
  EXPECT_THAT(policy({"--max-quality-loss", "50%"}), HasSubstr(chosen));
  EXPECT_THAT(policy({"--max-quality-loss", "0.5"}), HasSubstr(chosen));
  EXPECT_EQ(policy({"--max-quality-loss", "1%"}), "dense");
  const Finished both = reloaded.Cli(
      {"classify", "--max-quality-loss", "1%", "--sparsity", "dense", "a gripping film"});
  EXPECT_EQ(both.code, 2);
}

}  // namespace
}  // namespace thresher
