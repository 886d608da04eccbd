#include "server/model_repository.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "backend/tensor/status.h"
#include "server/model_versions.h"
#include "server/warm_up.h"
#include "tests/server/tiny_checkpoint.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ModelAt;
using testing::OnReference;
using testing::WriteTinyCheckpoint;

class ModelRepositoryTest : public ::testing::Test {
 protected:
  fs::path Dir(const std::string& relative) const { return dir_.path() / relative; }

  /// "name/version STATE" for each entry of the index; '-' after those that are not wanted.
  static std::vector<std::string> States(const ModelRepository& repository) {
    std::vector<std::string> states;
    for (const ModelIndexEntry& entry : repository.Index()) {
      states.push_back(entry.name + "/" + entry.version + " " + std::string(Name(entry.state)) +
                       (entry.wanted ? "" : " -"));
    }
    return states;
  }

  static std::string VersionOf(const ModelRepository& repository, const std::string& name,
                               const std::string& version = "") {
    const auto served = repository.Find(name, version);
    return served.ok() ? (*served)->version : Message(served.status());
  }

  /// Makes loading fail without touching the weights, which may be mapped.
  static void Break(const fs::path& directory) { std::ofstream(directory / "config.json") << "{"; }

  testing::TempDir dir_;
};

TEST_F(ModelRepositoryTest, APlainDirectoryIsVersionOne) {
  WriteTinyCheckpoint(Dir("m"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  EXPECT_FALSE(repository.AllReady());
  const auto early = repository.Find("m", "");
  EXPECT_EQ(early.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(early.status()), HasSubstr("not loaded yet"));

  ASSERT_TRUE(repository.LoadAll().ok());
  EXPECT_TRUE(repository.AllReady());
  const auto served = repository.Find("m", "");
  ASSERT_TRUE(served.ok()) << served.status();
  EXPECT_EQ((*served)->name, "m");
  EXPECT_EQ((*served)->version, "1");
  EXPECT_EQ((*served)->engine.get(), (*served)->model->engine.get());
  EXPECT_EQ(*repository.Find("m", "1"), *served);
  EXPECT_THAT(repository.Ready(), ElementsAre(*served));
}

TEST_F(ModelRepositoryTest, ThePolicyChoosesVersions) {
  for (const char* version : {"1", "2", "10"}) WriteTinyCheckpoint(Dir("m") / version);
  fs::create_directories(Dir("m") / "notes");  // Neither of these is a version.
  fs::create_directories(Dir("m") / "007");
  const auto states = [&](const std::function<void(v1::VersionPolicy*)>& choose) {
    v1::ModelConfig config = ModelAt("m", Dir("m"));
    choose(config.mutable_versions());
    ModelRepository repository(OnReference(), {config});
    EXPECT_TRUE(repository.LoadAll().ok());
    EXPECT_EQ(VersionOf(repository, "m"), std::string(config.versions().has_named() ? "2" : "10"));
    return States(repository);
  };
  EXPECT_THAT(states([](auto* policy) {}), ElementsAre("m/10 READY"));
  EXPECT_THAT(states([](auto* policy) { policy->mutable_latest()->set_count(2); }),
              ElementsAre("m/2 READY", "m/10 READY"));
  EXPECT_THAT(states([](auto* policy) { policy->mutable_latest()->set_count(9); }),
              ElementsAre("m/1 READY", "m/2 READY", "m/10 READY"));
  EXPECT_THAT(states([](auto* policy) { policy->mutable_all(); }),
              ElementsAre("m/1 READY", "m/2 READY", "m/10 READY"));
  EXPECT_THAT(states([](auto* policy) {
                policy->mutable_named()->add_versions(2);
                policy->mutable_named()->add_versions(1);
              }),
              ElementsAre("m/1 READY", "m/2 READY"));
}

TEST_F(ModelRepositoryTest, ANamedVersionThatIsMissingIsUnavailableAlone) {
  WriteTinyCheckpoint(Dir("m/1"));
  v1::ModelConfig config = ModelAt("m", Dir("m"));
  config.mutable_versions()->mutable_named()->add_versions(1);
  config.mutable_versions()->mutable_named()->add_versions(4);
  ModelRepository repository(OnReference(), {config});
  EXPECT_FALSE(repository.LoadAll().ok());
  EXPECT_THAT(States(repository), ElementsAre("m/1 READY", "m/4 UNAVAILABLE"));
  EXPECT_TRUE(repository.AllReady());
  EXPECT_EQ(VersionOf(repository, "m"), "1");
}

TEST_F(ModelRepositoryTest, FindSaysWhatThereIs) {
  WriteTinyCheckpoint(Dir("m/3"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  for (const char* bad : {"7", "03", "+3", "3 ", "latest", "-1", "99999999999999999999"}) {
    const auto served = repository.Find("m", bad);
    EXPECT_EQ(served.status().code(), absl::StatusCode::kNotFound) << bad;
    EXPECT_THAT(Message(served.status()), HasSubstr("there are: 3")) << bad;
  }
  const auto unknown = repository.Find("n", "");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(unknown.status()), "no model 'n'; there are: m");
  // A long name is quoted in part, and never cut within a character.
  std::string longer(127, 'x');
  longer += "ä";
  EXPECT_THAT(Message(repository.Find(longer, "").status()),
              HasSubstr("'" + std::string(127, 'x') + "'"));
}

TEST_F(ModelRepositoryTest, ABadCheckpointLeavesOthersServing) {
  WriteTinyCheckpoint(Dir("good"));
  WriteTinyCheckpoint(Dir("bad"));
  Break(Dir("bad"));
  ModelRepository repository(
      OnReference(),
      {ModelAt("bad", Dir("bad")), ModelAt("good", Dir("good")), ModelAt("gone", Dir("gone"))});
  const absl::Status loaded = repository.LoadAll();
  EXPECT_THAT(Message(loaded), HasSubstr("model 'bad' version 1"));
  EXPECT_THAT(Message(loaded), HasSubstr("config.json"));
  EXPECT_FALSE(repository.AllReady());
  EXPECT_THAT(States(repository),
              ElementsAre("bad/1 UNAVAILABLE", "gone/ UNAVAILABLE", "good/1 READY"));
  EXPECT_THAT(repository.Index()[0].reason, HasSubstr("config.json"));
  EXPECT_THAT(repository.Index()[1].reason, HasSubstr("no such directory"));
  EXPECT_TRUE(repository.Find("good", "").ok());
  const auto bad = repository.Find("bad", "");
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(bad.status()), HasSubstr("config.json"));

  // Mended, it can be loaded while the other serves.
  WriteTinyCheckpoint(Dir("bad"));
  WriteTinyCheckpoint(Dir("gone"));
  EXPECT_TRUE(repository.Load("bad").ok());
  EXPECT_TRUE(repository.Load("gone").ok());
  EXPECT_TRUE(repository.AllReady());
}

TEST_F(ModelRepositoryTest, AFailedReloadLeavesTheOldOneServing) {
  WriteTinyCheckpoint(Dir("m"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  const auto before = *repository.Find("m", "");
  Break(Dir("m"));
  const absl::Status reload = repository.Load("m");
  EXPECT_FALSE(reload.ok());
  EXPECT_EQ(*repository.Find("m", ""), before);
  EXPECT_TRUE(repository.AllReady());
  EXPECT_THAT(States(repository), ElementsAre("m/1 READY"));
  EXPECT_THAT(repository.Index()[0].reason, HasSubstr("reload failed"));

  fs::rename(Dir("m"), Dir("elsewhere"));
  EXPECT_EQ(repository.Load("m").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*repository.Find("m", ""), before);

  WriteTinyCheckpoint(Dir("m"));
  EXPECT_TRUE(repository.Load("m").ok());
  EXPECT_NE(*repository.Find("m", ""), before);
  EXPECT_THAT(repository.Index()[0].reason, IsEmpty());
}

TEST_F(ModelRepositoryTest, AReloadMovesOnToANewVersion) {
  WriteTinyCheckpoint(Dir("m/1"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  auto running = *repository.Find("m", "");

  WriteTinyCheckpoint(Dir("m/2"), /*seed=*/2);
  ASSERT_TRUE(repository.Load("m").ok());
  EXPECT_EQ(VersionOf(repository, "m"), "2");
  // A request that holds version 1 finishes on it.
  EXPECT_THAT(States(repository), ElementsAre("m/1 UNLOADING -", "m/2 READY"));
  EXPECT_TRUE(WarmUp(*running->model).ok());
  std::weak_ptr<LoadedModel> model = running->model;
  running.reset();
  EXPECT_TRUE(model.expired());
  EXPECT_THAT(States(repository), ElementsAre("m/1 UNAVAILABLE -", "m/2 READY"));
  EXPECT_THAT(VersionOf(repository, "m", "1"), HasSubstr("unloaded"));
  ASSERT_TRUE(repository.Load("m").ok());
  EXPECT_THAT(States(repository), ElementsAre("m/2 READY"));
}

TEST_F(ModelRepositoryTest, ABadNewVersionDoesNotTakeTheOldOneOut) {
  WriteTinyCheckpoint(Dir("m/1"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  WriteTinyCheckpoint(Dir("m/2"));
  Break(Dir("m/2"));
  EXPECT_THAT(Message(repository.Load("m")), HasSubstr("model 'm' version 2"));
  EXPECT_EQ(VersionOf(repository, "m"), "1");
  EXPECT_THAT(States(repository), ElementsAre("m/1 READY", "m/2 UNAVAILABLE"));
  EXPECT_TRUE(repository.AllReady());
  // Withdrawn, it is forgotten.
  fs::remove_all(Dir("m/2"));
  EXPECT_TRUE(repository.Load("m").ok());
  EXPECT_THAT(States(repository), ElementsAre("m/1 READY"));
}

TEST_F(ModelRepositoryTest, UnloadTakesOutOfService) {
  WriteTinyCheckpoint(Dir("m"));
  WriteTinyCheckpoint(Dir("n"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m")), ModelAt("n", Dir("n"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  std::weak_ptr<LoadedModel> model = (*repository.Find("m", ""))->model;
  ASSERT_TRUE(repository.Unload("m").ok());
  EXPECT_TRUE(model.expired());
  const auto gone = repository.Find("m", "");
  EXPECT_EQ(gone.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(gone.status()), HasSubstr("unloaded"));
  EXPECT_THAT(States(repository), ElementsAre("m/1 UNAVAILABLE -", "n/1 READY"));
  EXPECT_TRUE(repository.AllReady());  // Nobody wants it any more.
  EXPECT_TRUE(repository.Unload("m").ok());
  EXPECT_EQ(repository.Unload("x").code(), absl::StatusCode::kNotFound);

  EXPECT_TRUE(repository.LoadAll().ok());
  EXPECT_THAT(States(repository), ElementsAre("m/1 UNAVAILABLE -", "n/1 READY"));
  EXPECT_TRUE(repository.Load("m").ok());
  EXPECT_THAT(States(repository), ElementsAre("m/1 READY", "n/1 READY"));
}

TEST_F(ModelRepositoryTest, ServesEachSubdirectoryOfTheRoot) {
  WriteTinyCheckpoint(Dir("root/a"));
  WriteTinyCheckpoint(Dir("root/b/2"));
  WriteTinyCheckpoint(Dir("elsewhere/7"));
  fs::create_directories(Dir("root/.hidden"));
  fs::create_directories(Dir("root/not a name"));
  std::ofstream(Dir("root/README")) << "A file is no model.";
  RepositoryOptions options = OnReference();
  options.root = Dir("root").string();
  // What is configured comes before a directory of the same name.
  ModelRepository repository(options, {ModelAt("b", Dir("elsewhere"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  EXPECT_THAT(States(repository), ElementsAre("a/1 READY", "b/7 READY"));

  EXPECT_EQ(repository.Load("c").code(), absl::StatusCode::kNotFound);
  WriteTinyCheckpoint(Dir("root/c"));
  EXPECT_TRUE(repository.Load("c").ok());
  EXPECT_EQ(VersionOf(repository, "c"), "1");
  WriteTinyCheckpoint(Dir("root/d"));
  EXPECT_TRUE(repository.LoadAll().ok());
  EXPECT_EQ(VersionOf(repository, "d"), "1");
}

TEST_F(ModelRepositoryTest, AFailedLoadOnRequestDoesNotMakeTheServerUnready) {
  WriteTinyCheckpoint(Dir("root/a"));
  RepositoryOptions options = OnReference();
  options.root = Dir("root").string();
  ModelRepository repository(options, {});
  ASSERT_TRUE(repository.LoadAll().ok());
  WriteTinyCheckpoint(Dir("root/b"));
  Break(Dir("root/b"));
  EXPECT_FALSE(repository.Load("b").ok());
  EXPECT_TRUE(repository.AllReady());
  EXPECT_THAT(States(repository), ElementsAre("a/1 READY", "b/1 UNAVAILABLE -"));
}

TEST_F(ModelRepositoryTest, ANameNeverLeadsOutOfTheRoot) {
  WriteTinyCheckpoint(Dir("secret"));
  WriteTinyCheckpoint(Dir("root/a/1"));
  RepositoryOptions options = OnReference();
  options.root = Dir("root").string();
  ModelRepository repository(options, {});
  ASSERT_TRUE(repository.LoadAll().ok());
  for (const std::string& bad :
       {std::string("../secret"), Dir("secret").string(), std::string(".."), std::string("."),
        std::string(""), std::string("a/1"), std::string("a\0b", 3)}) {
    EXPECT_EQ(repository.Load(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_THAT(States(repository), ElementsAre("a/1 READY"));
}

TEST_F(ModelRepositoryTest, AMissingRootIsAnError) {
  RepositoryOptions options = OnReference();
  options.root = Dir("nowhere").string();
  ModelRepository repository(options, {});
  EXPECT_THAT(Message(repository.LoadAll()), HasSubstr("nowhere"));
}

TEST_F(ModelRepositoryTest, ModelsShareADevice) {
  WriteTinyCheckpoint(Dir("m"));
  v1::ModelConfig on_cpu = ModelAt("c", Dir("m"));
  on_cpu.set_device("cpu");
  v1::ModelConfig lost = ModelAt("d", Dir("m"));
  lost.set_device("gpu");
  ModelRepository repository(OnReference(),
                             {ModelAt("a", Dir("m")), ModelAt("b", Dir("m")), on_cpu, lost});
  EXPECT_EQ(repository.LoadAll().code(), absl::StatusCode::kNotFound);
  const auto device = [&](const char* name) { return (*repository.Find(name, ""))->model->device; };
  EXPECT_EQ(device("a"), device("b"));
  EXPECT_EQ(device("a")->description().name, "reference");
  EXPECT_EQ(device("c")->description().name, "cpu");
  EXPECT_THAT(VersionOf(repository, "d"), HasSubstr("gpu"));
  EXPECT_THAT(VersionOf(repository, "d"), HasSubstr("reference"));  // Which are known.
}

TEST_F(ModelRepositoryTest, AModelsSettingsReachIt) {
  WriteTinyCheckpoint(Dir("m"));
  RepositoryOptions options = OnReference();
  options.precision = Precision::kBF16;
  v1::ModelConfig own = ModelAt("own", Dir("m"));
  own.set_precision("f32");
  own.set_pooling("cls");
  own.set_normalize(true);
  own.set_max_tokens(9);
  ModelRepository repository(options, {ModelAt("default", Dir("m")), own});
  ASSERT_TRUE(repository.LoadAll().ok());
  const ModelInfo& plain = (*repository.Find("default", ""))->model->info;
  EXPECT_EQ(plain.precision, Precision::kBF16);
  EXPECT_EQ(plain.pooling, Pooling::kMean);
  EXPECT_EQ(plain.max_tokens, 32);
  const ModelInfo& info = (*repository.Find("own", ""))->model->info;
  EXPECT_EQ(info.precision, Precision::kF32);
  EXPECT_EQ(info.pooling, Pooling::kCls);
  EXPECT_TRUE(info.normalize);
  EXPECT_EQ(info.max_tokens, 9);
}

TEST_F(ModelRepositoryTest, AModelIsWarmBeforeItIsReady) {
  WriteTinyCheckpoint(Dir("m"));
  RepositoryOptions options = OnReference();
  ModelRepository* self = nullptr;
  int warmed = 0;
  options.warm_up = [&](LoadedModel& model) {
    ++warmed;
    EXPECT_THAT(States(*self), ElementsAre("m/1 LOADING"));
    EXPECT_EQ(self->Find("m", "").status().code(), absl::StatusCode::kUnavailable);
    return WarmUp(model);
  };
  ModelRepository repository(options, {ModelAt("m", Dir("m"))});
  self = &repository;
  EXPECT_TRUE(repository.LoadAll().ok());
  EXPECT_EQ(warmed, 1);
}

TEST_F(ModelRepositoryTest, AWarmUpThatFailsKeepsTheModelOut) {
  WriteTinyCheckpoint(Dir("m"));
  RepositoryOptions options = OnReference();
  options.warm_up = [](LoadedModel&) { return absl::InternalError("too cold"); };
  ModelRepository cold(options, {ModelAt("m", Dir("m"))});
  EXPECT_FALSE(cold.LoadAll().ok());
  EXPECT_THAT(VersionOf(cold, "m"), HasSubstr("too cold"));

  options.warm_up = [](LoadedModel&) -> absl::Status { throw std::runtime_error("thrown"); };
  ModelRepository throwing(options, {ModelAt("m", Dir("m"))});
  EXPECT_EQ(throwing.LoadAll().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(VersionOf(throwing, "m"), HasSubstr("thrown"));
}

TEST_F(ModelRepositoryTest, WeightsThatAreNotNumbersAreFoundBeforeAnyRequest) {
  WriteTinyCheckpoint(Dir("m"));
  const fs::path weights = Dir("m/model.safetensors");
  std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  file.seekp(static_cast<int64_t>(sizeof(header) + header));
  const std::string nan(fs::file_size(weights) - sizeof(header) - header, '\xff');
  file.write(nan.data(), static_cast<int64_t>(nan.size()));
  file.close();
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  EXPECT_FALSE(repository.LoadAll().ok());
  EXPECT_FALSE(repository.AllReady());
}

TEST_F(ModelRepositoryTest, LookupsNeverFailWhileModelsAreReloaded) {
  WriteTinyCheckpoint(Dir("m/1"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  std::atomic<bool> done = false;
  std::atomic<int> failures = 0;
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!done) {
        const auto served = repository.Find("m", "");
        if (!served.ok() || (*served)->model->info.hidden_size != 16) ++failures;
        repository.Index();
        if (!repository.AllReady()) ++failures;
      }
    });
  }
  std::vector<std::thread> loaders;
  for (int i = 0; i < 2; ++i) {
    loaders.emplace_back([&, i] {
      for (int round = 0; round < 4; ++round) {
        // A version appears whole, as operators should do it: the other loader may be looking.
        const std::string version = std::to_string(2 + round * 2 + i);
        WriteTinyCheckpoint(Dir("staging") / version);
        fs::rename(Dir("staging") / version, Dir("m") / version);
        EXPECT_TRUE(repository.Load("m").ok());
      }
    });
  }
  for (std::thread& loader : loaders) loader.join();
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(VersionOf(repository, "m"), "9");
}

TEST_F(ModelRepositoryTest, ChangesAreToldWithoutLocks) {
  WriteTinyCheckpoint(Dir("m"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  std::vector<std::string> seen;
  repository.OnChange([&] { seen.push_back(States(repository)[0]); });
  ASSERT_TRUE(repository.LoadAll().ok());
  ASSERT_TRUE(repository.Unload("m").ok());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  EXPECT_THAT(seen, ElementsAre("m/1 LOADING", "m/1 READY", "m/1 UNAVAILABLE -"));
}

TEST_F(ModelRepositoryTest, CancelledLoadsLeaveWhatServes) {
  WriteTinyCheckpoint(Dir("m"));
  ModelRepository repository(OnReference(), {ModelAt("m", Dir("m"))});
  ASSERT_TRUE(repository.LoadAll().ok());
  repository.CancelLoads();
  EXPECT_EQ(repository.Load("m").code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(repository.Find("m", "").ok());
}

TEST_F(ModelRepositoryTest, TheEmbeddedModelLoads) {
  ModelRepository repository(OnReference(),
                             {ModelAt("sst2", testing::SourceDir() / "models/sst2-mini")});
  const absl::Status status = repository.LoadAll();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ((*repository.Find("sst2", ""))->model->info.task, Task::kSequenceClassification);
}

TEST(ParseVersionTest, OnlyPlainWholeNumbers) {
  EXPECT_EQ(ParseVersion("1"), 1);
  EXPECT_EQ(ParseVersion("20260101"), 20260101);
  for (const char* bad : {"", "0", "01", "-1", "+1", "1.0", "v1", " 1", "9223372036854775808"}) {
    EXPECT_EQ(ParseVersion(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace thresher
