// The `thresher` process against a server in this one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/client/fake_server.h"
#include "tests/e2e/process.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::FakeServer;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Process;
using testing::RunProcess;
using ::testing::StartsWith;

class CliTest : public ::testing::Test {
 protected:
  std::vector<std::string> Command(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), THRESHER_BINARY);
    arguments.insert(arguments.end(), {"--server", server_.address()});
    return arguments;
  }
  Finished Run(const std::vector<std::string>& arguments, Process::Options options = {}) {
    options.environment.push_back("LC_ALL=C");
    return RunProcess(Command(arguments), options);
  }
  static std::vector<json> Lines(const std::string& output) {
    std::vector<json> lines;
    std::istringstream stream(output);
    for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
    return lines;
  }
  /// An address where nobody listens any more.
  static std::string NoServer() { return FakeServer().address(); }
  std::string File(const std::string& text) {
    const std::string path = directory_.path() / "file";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  testing::TempDir directory_;
  FakeServer server_;
};

TEST_F(CliTest, ClassifyPrintsLabelScoreBarAndText) {
  const Finished run = Run({"classify", "abc", "a\x1b[31m"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(run.output,
            "negative  0.7500  ########    abc\n"
            "negative  0.8571  #########   a [31m\n");
  EXPECT_EQ(run.error, "");
}

TEST_F(CliTest, TopShowsMoreLabelsAndTimingsTheirTime) {
  const Finished run = Run({"classify", "abc", "--top", "5", "--timings"});
  EXPECT_EQ(run.output,
            "negative  0.7500  ########    abc\n"
            "positive  0.2500  ###\n"
            "    queue 250.00 ms, tokenize 0.00 ms, compute 0.00 ms, total 500.00 ms\n");
}

TEST_F(CliTest, JsonHasAllFacts) {
  const Finished run = Run({"classify", "--json", "abc", "--pair", "d"});
  EXPECT_EQ(run.code, 0) << run.error;
  const json line = Lines(run.output).at(0);
  EXPECT_EQ(line, json::parse(R"({
    "index": 0, "text": "abc", "pair": "d", "label": "negative",
    "scores": {"negative": 0.75, "positive": 0.25}, "token_count": 3,
    "timings": {"queue": 0.25, "tokenize": 0.0, "compute": 0.0, "total": 0.5},
    "report": {"policy": "dense",
      "keep": {"token": 0.0, "head": 1.0, "value": 1.0, "score": 1.0, "qkv_row": 1.0,
               "ffn_full_precision": 1.0, "ffn_output": 1.0},
      "bytes": {"dense": 0, "done": 0}, "refetch_share": 0.0,
      "total": {"tokens": {"dense": 5000000000, "done": 0}, "softmax_rows": 0,
                "refetched_rows": 0, "predicted_rows": 0, "predicted_scores": 0,
                "predicted_outputs": 0}}})"));
}

TEST_F(CliTest, HelpAndPoliciesListEveryKey) {
  const Finished help = Run({"classify", "--help"});
  const Finished policies = RunProcess({THRESHER_BINARY, "policies"});
  const Finished list = RunProcess({THRESHER_BINARY, "policies", "--json"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(policies.code, 0) << policies.error;
  int keys = 0;
  for (const json& policy : json::parse(list.output)) {
    for (const json& key : policy["keys"]) {
      ++keys;
      const std::string name = key["name"];
      EXPECT_THAT(help.output, HasSubstr("\n    " + name + " ")) << name;
      EXPECT_THAT(policies.output, HasSubstr("\n  " + name + " ")) << name;
      EXPECT_TRUE(key["range"].is_string() && key["source"].is_string()) << name;
    }
  }
  EXPECT_GE(keys, 19);
  EXPECT_THAT(help.output, HasSubstr("SpAtten III-A"));
  EXPECT_THAT(help.output, HasSubstr("Examples:"));
}

TEST_F(CliTest, ExplainAsksForItAndShowsTheReport) {
  std::atomic<bool> asked = false;
  server_.on_classify = [&](const v1::ClassifyRequest& request) {
    asked = request.options().sparsity().explain();
  };
  const Finished run = Run({"classify", "abc", "--explain"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_TRUE(asked);
  EXPECT_THAT(run.output, HasSubstr("\n    policy dense\n"));
  EXPECT_EQ(Run({"classify", "abc", "--explain", "--color", "sometimes"}).code, 2);
}

TEST_F(CliTest, OneBadTextFailsAlone) {
  const Finished run = Run({"classify", "--json", "abc", "bad", "x\xFF", "d"});
  EXPECT_EQ(run.code, 1);
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_TRUE(lines[0].contains("label"));
  EXPECT_EQ(lines[1]["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(lines[1]["error"]["message"], "it is bad");
  EXPECT_EQ(lines[2]["error"]["message"], "byte 1 is not UTF-8");
  EXPECT_EQ(lines[3]["scores"]["positive"], 0.5);
  EXPECT_THAT(run.error, AllOf(HasSubstr("input 1: INVALID_ARGUMENT: it is bad\n"),
                               HasSubstr("input 2: INVALID_ARGUMENT: byte 1 is not UTF-8\n")));
}

TEST_F(CliTest, FailedCallFailsItsInputs) {
  server_.before = [](grpc::CallbackServerContext&) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no model 'm'");
  };
  const Finished run = Run({"classify", "--json", "a", "b"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(Lines(run.output).at(1)["error"]["code"], "NOT_FOUND");
  EXPECT_THAT(run.error, HasSubstr("thresher: input 1: NOT_FOUND: no model 'm'\n"));
}

TEST_F(CliTest, LargeFileIsAnsweredInOrderOverManyCalls) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::string(i % 50, 'x') + "\n";
  std::mutex mutex;
  int largest = 0;
  server_.on_classify = [&](const v1::ClassifyRequest& request) {
    const std::lock_guard lock(mutex);
    largest = std::max(largest, request.inputs_size());
  };
  const Finished run =
      Run({"classify", "--json", "--file", File(text), "--batch", "16", "--concurrency", "8"});
  EXPECT_EQ(run.code, 0) << run.error;
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 5000u);
  for (int i = 0; i < 5000; ++i) {
    EXPECT_EQ(lines[i]["index"], i);
    EXPECT_EQ(lines[i]["scores"]["positive"].get<float>(),
              FakeServer::Score(std::string(i % 50, 'x')));
  }
  EXPECT_EQ(server_.calls, (5000 + 15) / 16);
  EXPECT_EQ(largest, 16);
}

TEST_F(CliTest, TablesGiveTextsAndPairs) {
  std::mutex mutex;
  std::vector<std::string> seen;
  server_.on_classify = [&](const v1::ClassifyRequest& request) {
    const std::lock_guard lock(mutex);
    for (const auto& input : request.inputs()) seen.push_back(input.text() + "|" + input.pair());
  };
  const std::string path = File("id\tpremise\thypothesis\n1\ta\tb\n2\tc\td\n");
  EXPECT_EQ(Run({"classify", "--file", path, "--column", "premise", "--pair-column", "3"}).code, 0);
  EXPECT_THAT(seen, ::testing::ElementsAre("a|b", "c|d"));
  EXPECT_EQ(Run({"classify", "--file", path, "--column", "absent"}).code, 2);
}

TEST_F(CliTest, StandardInputIsReadWithoutTexts) {
  EXPECT_EQ(Lines(Run({"classify", "--json"}, {.input = "a\nb\n"}).output).size(), 2u);
  EXPECT_EQ(Lines(Run({"classify", "--json", "-"}, {.input = "a\nb\n"}).output).size(), 2u);
  EXPECT_EQ(Lines(Run({"classify", "--json", "--file", "-"}, {.input = "a"}).output).size(), 1u);
  // Texts win over an input that nobody asked for.
  EXPECT_EQ(Lines(Run({"classify", "--json", "t"}, {.input = "a\nb\n"}).output).size(), 1u);
  EXPECT_EQ(Run({"classify"}).code, 0);
}

TEST_F(CliTest, SlowInputIsAnsweredLineByLine) {
  Process process(Command({"classify", "--json"}), {.input = "one\n", .keep_input_open = true});
  ASSERT_TRUE(process.WaitForOutput("\"text\":\"one\".*\n"));
  process.WriteInput("two\n");
  ASSERT_TRUE(process.WaitForOutput("\"text\":\"two\".*\n"));
  process.CloseInput();
  EXPECT_EQ(process.Wait(), 0);
}

TEST_F(CliTest, EmbedPrintsVectors) {
  const Finished run = Run({"embed", "--json", "abc", "--pooling", "mean", "--no-normalize"});
  EXPECT_EQ(Lines(run.output).at(0)["embedding"], json::parse("[0.25, 2.0, 0.0]"));
  EXPECT_EQ(Lines(Run({"embed", "--json", "abc"}).output).at(0)["embedding"],
            json::parse("[0.25, 0.0, -1.0]"));
  EXPECT_EQ(Run({"embed", "abc"}).output,
            "3 values, length 1.0308:  0.2500  0.0000 -1.0000  abc\n");
}

TEST_F(CliTest, TokenClassifyPrintsTokens) {
  EXPECT_EQ(Lines(Run({"token-classify", "--json", "Ada"}).output).at(0)["tokens"],
            json::parse(R"([{"token": "Ada", "id": 0, "label": "B-PER", "score": 0.5,
                             "begin": 0, "end": 3, "sequence": 0}])"));
  EXPECT_EQ(Run({"token-classify", "Ada"}).output, "Ada\n  Ada  B-PER  0.5000  #####\n");
}

TEST_F(CliTest, AnswerTakesQuestionsOrContexts) {
  const json answer = Lines(Run({"answer", "--json", "--context", "here", "where?"}).output).at(0);
  EXPECT_EQ(answer["answers"], json::parse(R"([{"text": "here", "score": 0.5,
                                                "begin": 0, "end": 0}])"));
  EXPECT_EQ(Run({"answer", "--question", "where?", "there"}).output,
            "where?\n  0.5000  #####       there\n");
  EXPECT_EQ(Run({"answer", "where?"}).code, 2);
  EXPECT_EQ(Run({"answer", "--question", "q", "--context", "c", "x"}).code, 2);
}

TEST_F(CliTest, TokenizePrintsPiecesAndIds) {
  const json line = Lines(Run({"tokenize", "--json", "ab"}).output).at(0);
  EXPECT_EQ(line["ids"], json::parse("[97, 98]"));
  EXPECT_EQ(line["tokens"], json::parse(R"(["a", "b"])"));
  EXPECT_EQ(line["offsets"], json::parse("[[0, 1], [1, 2]]"));
  EXPECT_EQ(Run({"tokenize", "ab"}).output, "a   b\n97  98\n");
}

TEST_F(CliTest, ModelsListsWhatEachTakes) {
  const json line = Lines(Run({"models", "--json"}).output).at(0);
  EXPECT_EQ(line["name"], "m");
  EXPECT_EQ(line["inputs"][0]["shape"], json::parse("[-1]"));
  EXPECT_EQ(line["properties"]["max_tokens"], "512");
  EXPECT_EQ(Run({"models"}).output,
            "MODEL  VERSION  STATE  PLATFORM\n"
            "m      1        READY  thresher\n"
            "\nm 1\n"
            "  takes       text BYTES[n]\n"
            "  max_tokens  512\n");
}

TEST_F(CliTest, HealthIsItsExitCode) {
  server_.health["slow"] = grpc::health::v1::HealthCheckResponse::NOT_SERVING;
  const Finished serving = Run({"health"});
  EXPECT_EQ(serving.code, 0);
  EXPECT_EQ(serving.output, "SERVING\n");
  const Finished not_serving = Run({"health", "--service", "slow", "--json"});
  EXPECT_EQ(not_serving.code, 1);
  EXPECT_EQ(Lines(not_serving.output).at(0),
            json::parse(R"({"service": "slow", "status": "NOT_SERVING"})"));
  const Finished unknown = Run({"health", "--service", "nobody", "--json"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.error, HasSubstr("NOT_FOUND: unknown service"));
  EXPECT_EQ(Lines(unknown.output).at(0), json::parse(R"({"service": "nobody", "status": "UNKNOWN",
                            "error": {"code": "NOT_FOUND", "message": "unknown service"}})"));
}

TEST_F(CliTest, HealthOfNoServerIsAnObjectToo) {
  const std::string address = NoServer();
  const Finished run = RunProcess({THRESHER_BINARY, "health", "--json", "--server", address});
  EXPECT_EQ(run.code, 1);
  const auto lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["service"], "");
  EXPECT_EQ(lines[0]["status"], "UNKNOWN");
  EXPECT_EQ(lines[0]["error"]["code"], "UNAVAILABLE");
  const std::string message = "no server answers at " + address;
  EXPECT_THAT(lines[0]["error"]["message"].get<std::string>(), StartsWith(message));
  EXPECT_THAT(run.error, StartsWith("thresher: " + message));
}

TEST_F(CliTest, ModelMustBeNamedWhereThereAreSeveral) {
  server_.models = {"b", "a"};
  const Finished run = Run({"classify", "x"});
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.error, HasSubstr("choose one with --model: a, b"));
  EXPECT_EQ(Run({"classify", "x", "--model", "a"}).code, 0);
  server_.models = {};
  EXPECT_EQ(Run({"classify", "x"}).code, 1);
}

TEST_F(CliTest, ModelComesFromTheEnvironmentAlsoAsAServerWritesIt) {
  server_.models = {"b", "a"};
  std::mutex mutex;
  std::vector<std::string> asked;
  server_.on_classify = [&](const v1::ClassifyRequest& request) {
    const std::lock_guard lock(mutex);
    asked.push_back(request.model().name());
  };
  for (const std::string value : {"b", "b=models/b", "b=models/b,precision=int8"}) {
    const Finished run = Run({"classify", "x"}, {.environment = {"THRESHER_MODEL=" + value}});
    EXPECT_EQ(run.code, 0) << value << ": " << run.error;
  }
  Run({"classify", "x", "--model", "a"}, {.environment = {"THRESHER_MODEL=b=models/b"}});
  EXPECT_THAT(asked, ::testing::ElementsAre("b", "b", "b", "a"));
}

TEST_F(CliTest, ServerComesFromTheEnvironment) {
  const Process::Options options = {.environment = {"THRESHER_SERVER=" + server_.address()}};
  EXPECT_EQ(RunProcess({THRESHER_BINARY, "health"}, options).code, 0);
}

TEST_F(CliTest, ServerThatIsNotThereSaysHowToStartOne) {
  const std::string address = NoServer();
  const Finished run = RunProcess({THRESHER_BINARY, "classify", "x", "--server", address});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, AllOf(StartsWith("thresher: no server answers at " + address),
                               HasSubstr("thresherd --listen " + address)));
}

TEST_F(CliTest, AddressThatIsNoneIsWrongUsage) {
  const auto expect_refused = [](const Finished& run, const std::string& address) {
    EXPECT_EQ(run.code, 2) << address;
    EXPECT_EQ(run.output, "");
    EXPECT_THAT(run.error,
                HasSubstr("'" + address + "' is not HOST:PORT with a port from 1 to 65535"));
  };
  for (const std::string address :
       {"localhost", "localhost:", ":8001", "localhost:0", "localhost:65536", "localhost:73537",
        "localhost:4295000000", "localhost:-1", "localhost:80x", "localhost:http"}) {
    expect_refused(RunProcess({THRESHER_BINARY, "classify", "x", "--server", address}), address);
  }
  const std::string address = "localhost:65536";
  expect_refused(
      RunProcess({THRESHER_BINARY, "health"}, {.environment = {"THRESHER_SERVER=" + address}}),
      address);
  expect_refused(RunProcess({THRESHER_BINARY, "evaluate", "--model", "m", "--data", File("a\tb\n"),
                             "--server", address}),
                 address);
  // Names of gRPC's other kinds pass: here nobody answers.
  EXPECT_EQ(RunProcess({THRESHER_BINARY, "health", "--server", "unix:" + File("") + ".none"}).code,
            1);
}

TEST_F(CliTest, WrongUsageIsTwo) {
  EXPECT_EQ(Run({}).code, 2);
  EXPECT_EQ(Run({"dance"}).code, 2);
  EXPECT_EQ(Run({"classify", "x", "--no-such-flag"}).code, 2);
  EXPECT_EQ(Run({"classify", "x", "--batch", "0"}).code, 2);
  EXPECT_EQ(Run({"classify", "x", "--concurrency", "none"}).code, 2);
  const std::string data = File("a\tb\n");
  EXPECT_EQ(Run({"evaluate", "--model", "m", "--data", data, "--batch", "0"}).code, 2);
  EXPECT_EQ(Run({"evaluate", "--model", "m", "--data", data, "--concurrency", "0"}).code, 2);
  EXPECT_EQ(Run({"classify", "x", "--deadline", "5"}).code, 2);
  EXPECT_EQ(Run({"classify", "x", "--deadline", "-5s"}).code, 2);
  EXPECT_EQ(Run({"embed", "x", "--pooling", "max"}).code, 2);
  const Finished missing = Run({"classify", "--file", "/nowhere/at/all"});
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.error, HasSubstr("/nowhere/at/all: No such file"));
}

TEST_F(CliTest, HelpShowsCommandsAndExamples) {
  const Finished help = RunProcess({THRESHER_BINARY, "--help"});
  EXPECT_EQ(help.code, 0);
  for (const std::string command :
       {"classify", "embed", "token-classify", "answer", "tokenize", "models", "health"}) {
    EXPECT_THAT(help.output, HasSubstr(command));
    const Finished run = RunProcess({THRESHER_BINARY, command, "--help"});
    EXPECT_EQ(run.code, 0);
    EXPECT_THAT(run.output, AllOf(HasSubstr("--server"), HasSubstr("--json"),
                                  HasSubstr("Examples:\n  thresher " + command)));
  }
  EXPECT_THAT(RunProcess({THRESHER_BINARY, "--version"}).output, StartsWith("thresher "));
}

TEST_F(CliTest, InterruptCancelsTheCallsAndEnds) {
  std::promise<void> arrived, open;
  server_.before = [&arrived, opened = open.get_future().share()](grpc::CallbackServerContext&) {
    arrived.set_value();
    opened.wait();
    return grpc::Status::OK;
  };
  Process process(Command({"classify", "x", "--deadline", "1h"}));
  arrived.get_future().wait();
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 130);
  EXPECT_EQ(process.error(), "thresher: interrupted\n");
  EXPECT_EQ(process.output(), "");
  open.set_value();
}

TEST_F(CliTest, DeadlineIsTheCalls) {
  std::promise<void> open;
  server_.before = [opened = open.get_future().share()](grpc::CallbackServerContext&) {
    opened.wait();
    return grpc::Status::OK;
  };
  const Finished run = Run({"classify", "x", "--deadline", "300ms"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("input 0: DEADLINE_EXCEEDED"));
  open.set_value();
}

TEST_F(CliTest, ReaderThatGoesAwayEndsItQuietly) {
  Process process(Command({"classify", "--json", "--batch", "1"}),
                  {.input = "one\n", .keep_input_open = true});
  ASSERT_TRUE(process.WaitForOutput("\n"));
  process.CloseOutput();
  process.WriteInput("two\n");
  EXPECT_EQ(process.Wait(), 0);
  EXPECT_EQ(process.error(), "");
}

TEST_F(CliTest, FullDiskIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "skipped: no /dev/full here";
  const Finished run = Run({"classify", "--json", "x"}, {.output_path = "/dev/full"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("can't write to standard output: No space left"));
}

}  // namespace
}  // namespace thresher
