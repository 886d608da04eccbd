#include "server/flags.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "backend/build_info/build_info.h"
#include "backend/tensor/status.h"
#include "server/address.h"
#include "server/config.h"
#include "server/config_file.h"
#include "server/libraries.h"
#include "server/model_flag.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

Environment Fixed(std::map<std::string, std::string> variables) {
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

absl::StatusOr<CommandLine> Parse(const std::vector<std::string>& arguments,
                                  std::map<std::string, std::string> variables = {}) {
  return ParseCommandLine(arguments, Fixed(std::move(variables)));
}

v1::ServerConfig ConfigOf(const std::vector<std::string>& arguments,
                          std::map<std::string, std::string> variables = {}) {
  const auto line = Parse(arguments, std::move(variables));
  EXPECT_TRUE(line.ok()) << line.status();
  return line.ok() ? line->config : v1::ServerConfig();
}

std::string ErrorOf(const std::vector<std::string>& arguments,
                    std::map<std::string, std::string> variables = {}) {
  const auto line = Parse(arguments, std::move(variables));
  if (line.ok()) {
    ADD_FAILURE() << "no error; config:\n" << line->config.DebugString();
    return "";
  }
  return Message(line.status());
}

TEST(FlagsTest, AModelIsEnoughAndTheRestHasDefaults) {
  const v1::ServerConfig config = ConfigOf({"--model", "m=dir"});
  EXPECT_EQ(config.listen(), "127.0.0.1:8001");
  EXPECT_EQ(config.http(), "127.0.0.1:8002");
  EXPECT_EQ(config.device(), "cpu");
  EXPECT_FALSE(config.has_precision());
  EXPECT_EQ(config.threads(), 0);
  EXPECT_EQ(config.max_queue(), 1024);
  EXPECT_EQ(config.max_inputs(), 256);
  EXPECT_EQ(ToDuration(config.max_batch_delay()), absl::ZeroDuration());
  EXPECT_EQ(ToDuration(config.drain_timeout()), absl::Seconds(30));
  EXPECT_EQ(ToDuration(config.lame_duck()), absl::ZeroDuration());
  ASSERT_EQ(config.models_size(), 1);
  EXPECT_EQ(config.models(0).name(), "m");
  EXPECT_EQ(config.models(0).path(), "dir");
}

TEST(FlagsTest, EveryPromisedFlagIsTaken) {
  const v1::ServerConfig config = ConfigOf({"--listen",
                                            "127.0.0.1:0",
                                            "--http",
                                            "[::1]:0",
                                            "--model",
                                            "a=x",
                                            "--model",
                                            "b=y",
                                            "--device",
                                            "reference",
                                            "--precision",
                                            "bf16",
                                            "--threads",
                                            "3",
                                            "--max-batch-tokens",
                                            "100",
                                            "--max-batch-sequences",
                                            "7",
                                            "--max-queue",
                                            "50",
                                            "--max-inputs",
                                            "9",
                                            "--max-message-bytes",
                                            "4096",
                                            "--max-batch-delay",
                                            "0ms",
                                            "--drain-timeout",
                                            "1.5s",
                                            "--lame-duck=5s",
                                            "--metrics-attention-every",
                                            "0",
                                            "--metrics-per-layer",
                                            "--model-repository",
                                            "models",
                                            "--log-level",
                                            "debug",
                                            "--log-format",
                                            "json"});
  EXPECT_EQ(config.listen(), "127.0.0.1:0");
  EXPECT_EQ(config.http(), "[::1]:0");
  ASSERT_EQ(config.models_size(), 2);
  EXPECT_EQ(config.models(1).name(), "b");
  EXPECT_EQ(config.device(), "reference");
  EXPECT_EQ(config.precision(), "bf16");
  EXPECT_EQ(config.threads(), 3);
  EXPECT_EQ(config.max_batch_tokens(), 100);
  EXPECT_EQ(config.max_batch_sequences(), 7);
  EXPECT_EQ(config.max_queue(), 50);
  EXPECT_EQ(config.max_inputs(), 9);
  EXPECT_EQ(config.max_message_bytes(), 4096);
  EXPECT_EQ(ToDuration(config.drain_timeout()), absl::Milliseconds(1500));
  EXPECT_EQ(ToDuration(config.lame_duck()), absl::Seconds(5));
  EXPECT_TRUE(config.metrics_per_layer());
  EXPECT_EQ(config.metrics_attention_every(), 0);
  EXPECT_EQ(config.model_repository(), "models");
  EXPECT_EQ(config.log_level(), "debug");
  EXPECT_EQ(config.log_format(), "json");
}

TEST(FlagsTest, SizesHaveUnits) {
  EXPECT_FALSE(ConfigOf({"--model=m=d"}).has_kv_cache_bytes());
  for (const auto& [text, bytes] :
       std::vector<std::pair<std::string, int64_t>>{{"1000", 1000},
                                                    {"3KiB", 3 << 10},
                                                    {"512MiB", int64_t{512} << 20},
                                                    {"40GiB", int64_t{40} << 30}}) {
    EXPECT_EQ(ConfigOf({"--model=m=d", "--kv-cache-bytes", text}).kv_cache_bytes(), bytes);
  }
  for (const char* text : {"MiB", "-1", "1.5GiB", "1 MiB", "1mb", "9999999999GiB", "0"}) {
    EXPECT_THAT(ErrorOf({"--model=m=d", std::string("--kv-cache-bytes=") + text}),
                HasSubstr("--kv-cache-bytes"))
        << text;
  }
  EXPECT_THAT(ErrorOf({"--model=m=d", "--prefill-chunk=0"}), HasSubstr("--prefill-chunk"));
}

// A field of the configuration file without a flag and a variable, or without a line in the help,
// would be forgotten silently.
TEST(FlagsTest, EveryFieldHasAFlagInTheHelp) {
  const auto line = Parse({"--help"});
  ASSERT_TRUE(line.ok());
  EXPECT_EQ(line->action, CommandLine::Action::kHelp);
  const auto* descriptor = v1::ServerConfig::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    std::string name = descriptor->field(i)->name();
    if (name == "models") name = "model";
    std::replace(name.begin(), name.end(), '_', '-');
    EXPECT_THAT(line->help, HasSubstr("--" + name + " "));
  }
  EXPECT_THAT(line->help, HasSubstr("THRESHER_MODEL"));
  EXPECT_THAT(line->help, HasSubstr("127.0.0.1:8001"));
}

TEST(FlagsTest, VersionNeedsNoModel) {
  const auto line = Parse({"--version"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->action, CommandLine::Action::kVersion);
  const std::string text = VersionText("thresherd", ServerLibraries());
  EXPECT_THAT(text, StartsWith("thresherd " + GetBuildInfo().version + "\n"));
  for (const char* part : {"commit", "build", "gRPC 1.", "Protobuf 3.", "oneDNN ", "Abseil LTS 20",
                           "CivetWeb 1.", "prometheus-cpp "}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(GetBuildInfo().commit, ::testing::MatchesRegex("unknown|[0-9a-f]+(-dirty)?"));
}

class PrecedenceTest : public ::testing::Test {
 protected:
  void WriteFile(const std::string& text) { std::ofstream(path()) << text; }
  std::string path() const { return (dir_.path() / "server.textproto").string(); }

 private:
  testing::TempDir dir_;
};

TEST_F(PrecedenceTest, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  WriteFile("max_queue: 11 models { name: 'file' path: 'f' } drain_timeout { seconds: 7 }");
  for (const bool file : {false, true}) {
    for (const bool environment : {false, true}) {
      for (const bool flag : {false, true}) {
        std::vector<std::string> arguments;
        std::map<std::string, std::string> variables;
        if (file) {
          arguments.insert(arguments.end(), {"--config", path()});
        } else {
          variables["THRESHER_MODEL"] = "env=e";
        }
        if (environment) {
          variables["THRESHER_MAX_QUEUE"] = "22";
          variables["THRESHER_DRAIN_TIMEOUT"] = "500ms";
        }
        if (flag) {
          arguments.insert(arguments.end(), {"--max-queue", "33", "--drain-timeout", "2s"});
        }
        const v1::ServerConfig config = ConfigOf(arguments, variables);
        EXPECT_EQ(config.max_queue(), flag ? 33 : environment ? 22 : file ? 11 : 1024);
        // A duration is replaced as a whole: 7 s and 500 ms must not become 7.5 s.
        EXPECT_EQ(ToDuration(config.drain_timeout()), flag          ? absl::Seconds(2)
                                                      : environment ? absl::Milliseconds(500)
                                                      : file        ? absl::Seconds(7)
                                                                    : absl::Seconds(30));
        ASSERT_EQ(config.models_size(), 1);
        EXPECT_EQ(config.models(0).name(), file ? "file" : "env");
      }
    }
  }
}

TEST_F(PrecedenceTest, EachVariableSetsWhatItsFlagSets) {
  const std::vector<std::pair<std::string, std::string>> settings = {{"listen", "1.2.3.4:5"},
                                                                     {"http", "1.2.3.4:6"},
                                                                     {"device", "reference"},
                                                                     {"precision", "int8"},
                                                                     {"threads", "2"},
                                                                     {"max-batch-tokens", "64"},
                                                                     {"max-queue", "8"},
                                                                     {"max-inputs", "3"},
                                                                     {"max-message-bytes", "2048"},
                                                                     {"max-batch-delay", "3ms"},
                                                                     {"drain-timeout", "4s"},
                                                                     {"lame-duck", "5s"},
                                                                     {"max-batch-sequences", "6"},
                                                                     {"model-repository", "dir"},
                                                                     {"kv-cache-bytes", "512MiB"},
                                                                     {"prefill-chunk", "77"},
                                                                     {"log-level", "warn"},
                                                                     {"log-format", "json"}};
  for (const auto& [name, value] : settings) {
    std::string variable = "THRESHER_" + name;
    std::replace(variable.begin(), variable.end(), '-', '_');
    std::transform(variable.begin(), variable.end(), variable.begin(), ::toupper);
    const v1::ServerConfig by_flag = ConfigOf({"--model=m=d", "--" + name, value});
    const v1::ServerConfig by_variable = ConfigOf({"--model=m=d"}, {{variable, value}});
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(by_flag, by_variable)) << name;
    EXPECT_FALSE(
        google::protobuf::util::MessageDifferencer::Equals(by_flag, ConfigOf({"--model=m=d"})))
        << name;
  }
}

TEST_F(PrecedenceTest, AStrongerListOfModelsReplacesTheWeaker) {
  WriteFile("models { name: 'a' path: 'f' } models { name: 'b' path: 'f' }");
  const v1::ServerConfig from_variable =
      ConfigOf({"--config", path()}, {{"THRESHER_MODEL", "c=1 d=2"}});
  ASSERT_EQ(from_variable.models_size(), 2);
  EXPECT_EQ(from_variable.models(0).name(), "c");
  const v1::ServerConfig from_flag =
      ConfigOf({"--config", path(), "--model", "e=3"}, {{"THRESHER_MODEL", "c=1 d=2"}});
  ASSERT_EQ(from_flag.models_size(), 1);
  EXPECT_EQ(from_flag.models(0).name(), "e");
}

TEST_F(PrecedenceTest, TheFileItselfMayBeNamedByTheEnvironment) {
  WriteFile("threads: 5 models { name: 'a' path: 'f' }");
  EXPECT_EQ(ConfigOf({}, {{"THRESHER_CONFIG", path()}}).threads(), 5);
  EXPECT_THAT(ErrorOf({"--config", "/nowhere"}, {{"THRESHER_CONFIG", path()}}),
              StartsWith("--config: /nowhere: no such file"));
}

TEST_F(PrecedenceTest, AnEmptyVariableIsNotSet) {
  EXPECT_EQ(
      ConfigOf({"--model=m=d"}, {{"THRESHER_THREADS", ""}, {"THRESHER_CONFIG", ""}}).threads(), 0);
}

TEST_F(PrecedenceTest, AWrongValueThatABetterOneReplacesIsNoError) {
  EXPECT_EQ(
      ConfigOf({"--model=m=d", "--max-queue", "5"}, {{"THRESHER_MAX_QUEUE", "-1"}}).max_queue(), 5);
}

TEST_F(PrecedenceTest, AnErrorNamesThePlaceThatIsToBeMended) {
  WriteFile("models { name: 'm' path: 'd' } max_queue: -3");
  EXPECT_THAT(ErrorOf({"--config", path()}),
              StartsWith(path() + ": max_queue: is -3, must be 1 or more"));
  EXPECT_THAT(ErrorOf({"--model=m=d"}, {{"THRESHER_MAX_QUEUE", "0"}}),
              StartsWith("THRESHER_MAX_QUEUE: is 0"));
  EXPECT_THAT(ErrorOf({"--model=m=d", "--max-queue=0"}), StartsWith("--max-queue: is 0"));
}

TEST(UsageErrorTest, EveryWrongUseSaysWhatIsWrong) {
  const std::string m = "--model=m=d";
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "--model"},
      {{m, "--bogus"}, "--bogus"},
      {{m, "stray"}, "stray"},
      {{m, "--listen"}, "--listen"},
      {{m, "--listen", "a:1", "--listen", "b:2"}, "--listen"},
      {{m, "--listen", "nohost"}, "--listen: 'nohost': no port"},
      {{m, "--listen", ":80"}, "--listen: ':80': no host"},
      {{m, "--listen", "h:"}, "--listen: 'h:': the port"},
      {{m, "--listen", "h:70000"}, "--listen: 'h:70000': the port"},
      {{m, "--listen", "h:8x"}, "--listen: 'h:8x': the port"},
      {{m, "--listen", "::1:80"}, "brackets"},
      {{m, "--listen", "a:1,b:2"}, "bad host"},
      {{m, "--http", "127.0.0.1:8001"}, "--http: is '127.0.0.1:8001', which gRPC (listen) has"},
      {{m, "--threads", "two"}, "--threads: 'two' is not a whole number"},
      {{m, "--threads", "2.5"}, "--threads: '2.5' is not a whole number"},
      {{m, "--threads", "-1"}, "--threads: is -1, must be from 0 to 1024"},
      {{m, "--threads", "99999999999"}, "--threads: '99999999999' is not a whole number"},
      {{m, "--max-batch-tokens", "0"}, "--max-batch-tokens: is 0, must be 1 or more"},
      {{m, "--max-batch-sequences", "0"}, "--max-batch-sequences: is 0"},
      {{m, "--max-message-bytes", "1"}, "--max-message-bytes: is 1, must be 1024 or more"},
      {{m, "--max-queue", "10", "--max-inputs", "11"}, "--max-inputs: is 11, more than max_queue"},
      {{m, "--max-batch-delay", "5"}, "--max-batch-delay: '5' is not a time"},
      {{m, "--drain-timeout", "-1s"}, "--drain-timeout: '-1s' is not a time"},
      {{m, "--drain-timeout", "inf"}, "--drain-timeout: 'inf' is not a time"},
      {{m, "--lame-duck", "25h"}, "--lame-duck: is 25h, must be from 0s to 24h"},
      {{m, "--precision", "f64"}, "--precision: "},
      {{m, "--device", ""}, "--device: unknown device ''"},
      {{m, "--log-level", "loud"}, "--log-level: is 'loud', must be one of trace, debug"},
      {{m, "--log-format", "xml"}, "--log-format: is 'xml', must be one of text, json"},
      {{"--model", "m"}, "--model: 'm': 'm' is not NAME=DIR"},
      {{"--model", "=d"}, "name ''"},
      {{"--model", "m="}, "path: is empty"},
      {{"--model", "../m=d"}, "name '../m'"},
      {{"--model", "..=d"}, "name '..'"},
      {{"--model", "m=d,int8"}, "'int8' is not KEY=VALUE"},
      {{"--model", "m=d,"}, "'' is not KEY=VALUE"},
      {{"--model", "m=d,colour=red"}, "'colour': no such option; there are precision, device"},
      {{"--model", "m=d,precision=f64"}, "precision: "},
      {{"--model", "m=d,pooling=max"}, "pooling: is 'max', must be cls or mean"},
      {{"--model", "m=d,normalize=yes"}, "'normalize=yes': expected true or false"},
      {{"--model", "m=d,max_tokens=0"}, "'max_tokens=0': expected a whole number from 1"},
      {{"--model", "m=d,max_tokens=9,max_tokens=9"}, "'max_tokens' is given twice"},
      {{"--model", "m=d,versions=newest"}, "'versions=newest': expected latest:COUNT"},
      {{"--model", "m=d,versions=latest:0"}, "'versions=latest:0'"},
      {{"--model", "m=d,versions=named:"}, "'versions=named:'"},
      {{"--model", "m=d,versions=named:1;x"}, "'versions=named:1;x'"},
      {{m, m}, "--model: model 'm' is given twice"},
      {{m, "--config", "/nowhere.textproto"}, "--config: /nowhere.textproto: no such file"},
      {{m, "--config", "/tmp"}, "--config: /tmp: not a regular file"},
  };
  for (const auto& [arguments, expected] : cases) {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    EXPECT_THAT(ErrorOf(arguments), HasSubstr(expected));
  }
}

TEST(ModelFlagTest, EveryOption) {
  const auto config = ParseModelFlag(
      "sst=models/x y,precision=int8,device=reference,pooling=cls,normalize=true,"
      "max_tokens=128,versions=named:1;3");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name(), "sst");
  EXPECT_EQ(config->path(), "models/x y");
  EXPECT_EQ(config->precision(), "int8");
  EXPECT_EQ(config->device(), "reference");
  EXPECT_EQ(config->pooling(), "cls");
  EXPECT_TRUE(config->normalize());
  EXPECT_EQ(config->max_tokens(), 128);
  EXPECT_THAT(config->versions().named().versions(), ElementsAre(1, 3));
}

TEST(ModelFlagTest, VersionPolicies) {
  EXPECT_TRUE(ParseModelFlag("m=d,versions=all")->versions().has_all());
  EXPECT_EQ(ParseModelFlag("m=d,versions=latest:2")->versions().latest().count(), 2);
  EXPECT_TRUE(ParseModelFlag("m=d,versions=latest")->versions().has_latest());
  EXPECT_FALSE(ParseModelFlag("m=d")->has_versions());
  // Only the first '=' divides name and directory.
  EXPECT_EQ(ParseModelFlag("m=a=b")->path(), "a=b");
}

TEST(ModelFlagTest, AListIsSeparatedBySpaceOrBySemicolonBeforeAName) {
  EXPECT_THAT(SplitModelList("a=x b=y"), ElementsAre("a=x", "b=y"));
  EXPECT_THAT(SplitModelList(" a=x;b=y ;\n\tc=z; "), ElementsAre("a=x", "b=y", "c=z"));
  EXPECT_THAT(SplitModelList("a=x,versions=named:1;3;b=y,versions=named:2;4,device=cpu c=z"),
              ElementsAre("a=x,versions=named:1;3", "b=y,versions=named:2;4,device=cpu", "c=z"));
  EXPECT_THAT(SplitModelList(""), IsEmpty());
  EXPECT_THAT(SplitModelList(" ; ;; "), IsEmpty());
  EXPECT_THAT(SplitModelList("nonsense"), ElementsAre("nonsense"));
}

TEST(ConfigFileTest, ErrorsTellLineAndColumn) {
  const auto syntax = ParseConfigText("listen: '127.0.0.1:1'\n  max_queue: many\n", "s.textproto");
  ASSERT_FALSE(syntax.ok());
  EXPECT_THAT(Message(syntax.status()), StartsWith("s.textproto:2:14: "));
  const auto unknown = ParseConfigText("lisen: 'x'", "s.textproto");
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(Message(unknown.status()), StartsWith("s.textproto:1:"));
  EXPECT_THAT(Message(unknown.status()), HasSubstr("lisen"));
  EXPECT_FALSE(ParseConfigText("models { name: 'a'", "s").ok());
}

TEST(ConfigFileTest, CommentsAndPoliciesAreRead) {
  const auto config = ParseConfigText(
      "# A comment.\nmodels { name: 'a' path: 'p' versions { named { versions: [2, 5] } } }", "s");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->models(0).versions().named().versions(), ElementsAre(2, 5));
}

TEST(ConfigTest, AModelOfAFileIsCheckedLikeOneOfAFlag) {
  v1::ServerConfig config = DefaultConfig();
  config.set_max_inputs(1);
  v1::ModelConfig* model = config.add_models();
  model->set_name("m");
  model->set_path("d");
  EXPECT_TRUE(ValidateConfig(config).ok()) << ValidateConfig(config);
  model->mutable_versions()->mutable_named();
  EXPECT_THAT(Message(ValidateConfig(config)), HasSubstr("model 'm': versions: named, but none"));
  model->mutable_versions()->mutable_named()->add_versions(0);
  EXPECT_THAT(Message(ValidateConfig(config)), HasSubstr("model 'm': versions: 0"));
  model->clear_versions();
  model->set_max_tokens(-1);
  EXPECT_THAT(Message(ValidateConfig(config)), HasSubstr("model 'm': max_tokens: is -1"));
}

TEST(ConfigTest, ASmallQueueLowersTheDefaultOfInputs) {
  EXPECT_EQ(ConfigOf({"--model=m=d", "--max-queue=10"}).max_inputs(), 10);
}

TEST(ConfigTest, AddressesGoThereAndBack) {
  for (const std::string text : {"127.0.0.1:8001", "[::1]:0", "localhost:65535", "[::]:80"}) {
    const auto address = ParseAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(ToString(*address), text);
  }
}

TEST(ConfigTest, DurationsGoThereAndBack) {
  for (const absl::Duration duration :
       {absl::ZeroDuration(), absl::Nanoseconds(1), absl::Milliseconds(1500), absl::Hours(24)}) {
    google::protobuf::Duration field;
    SetDuration(duration, &field);
    EXPECT_EQ(ToDuration(field), duration);
  }
}

TEST(ConfigTest, ModelNames) {
  EXPECT_TRUE(IsModelName("sst2-mini_v1.0"));
  EXPECT_TRUE(IsModelName(std::string(128, 'a')));
  for (const std::string bad : {"", ".", "..", ".hidden", "a/b", "a b", "a\n", "ä"}) {
    EXPECT_FALSE(IsModelName(bad)) << bad;
  }
  EXPECT_FALSE(IsModelName(std::string(129, 'a')));
}

}  // namespace
}  // namespace thresher
