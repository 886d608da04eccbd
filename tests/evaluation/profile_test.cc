#include "backend/evaluation/profile.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "backend/engine/loaded_model.h"
#include "backend/evaluation/fingerprint.h"
#include "backend/tensor/status.h"
#include "tests/testing/paths.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string ReadText(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

v1::SparsityProfile::Entry* AddEntry(double max_loss, const std::string& policy, double speedup,
                                     v1::SparsityProfile* profile) {
  v1::SparsityProfile::Entry* entry = profile->add_entries();
  entry->set_max_loss(max_loss);
  entry->set_policy(policy);
  entry->set_loss(max_loss / 4);
  entry->set_loss_upper(max_loss / 2);
  entry->set_speedup(speedup);
  return entry;
}

class ProfileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::RandomCheckpointOptions options;
    options.layers = 3;
    options.hidden_size = 16;
    options.heads = 2;
    options.intermediate_size = 16;
    options.vocab_size = 128;
    options.positions = 32;
    const absl::Status written = testing::WriteRandomCheckpoint(dir_.path(), options);
    ASSERT_TRUE(written.ok()) << written;
    auto device = CreateDevice("reference", {});
    ASSERT_TRUE(device.ok());
    auto model = LoadModel(dir_.path().string(), std::shared_ptr<Device>(*std::move(device)), {});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    profile_.set_metric("accuracy");
    profile_.set_precision("f32");
    profile_.set_model_sha256(*FingerprintModel(dir_.path().string()));
    AddEntry(0.01, "spatten:final=0.8", 1.2, &profile_);
    AddEntry(0.02, "spatten:final=0.5", 1.6, &profile_);
    AddEntry(0.05, "dense", 1, &profile_);
  }

  std::string path() const { return (dir_.path() / kProfileFile).string(); }
  absl::StatusOr<QualityProfile> Load() const {
    return QualityProfile::Load(dir_.path().string(), *model_->engine, model_->info.precision);
  }
  void Write() {
    const absl::Status status = WriteProfile(profile_, path());
    ASSERT_TRUE(status.ok()) << status;
  }

  testing::TempDir dir_;
  std::unique_ptr<LoadedModel> model_;
  v1::SparsityProfile profile_;
};

TEST_F(ProfileTest, ReadsWhatItWrote) {
  Write();
  const auto read = ParseProfile(ReadText(path()), "p");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*read, profile_));
  // Nothing is left beside it.
  for (const auto& file : fs::directory_iterator(dir_.path())) {
    EXPECT_FALSE(file.path().filename().string().starts_with(std::string(kProfileFile) + "."))
        << file;
  }
}

TEST_F(ProfileTest, ChoosesTheFastestThatKeepsTheBound) {
  Write();
  const auto profile = Load();
  ASSERT_TRUE(profile.ok()) << profile.status();
  const auto text = [&](double max_loss) {
    const QualityProfile::Entry* entry = profile->Choose(max_loss);
    return entry == nullptr ? std::string("none") : entry->policy->text();
  };
  EXPECT_EQ(text(0), "none");
  EXPECT_EQ(text(0.0099), "none");
  EXPECT_THAT(text(0.01), HasSubstr("final=0.8"));
  EXPECT_THAT(text(0.0199), HasSubstr("final=0.8"));
  EXPECT_THAT(text(0.02), HasSubstr("final=0.5"));
  // A looser bound never gets a slower policy.
  EXPECT_THAT(text(1), HasSubstr("final=0.5"));
}

TEST_F(ProfileTest, KeepsWhatTheLossWasMeasuredIn) {
  Write();
  EXPECT_EQ(Load()->measure(), Measure::kAccuracy);
  profile_.set_metric("spearman");
  Write();
  EXPECT_EQ(Load()->measure(), Measure::kSimilarity);
  for (const char* metric : {"", "f1"}) {
    profile_.set_metric(metric);
    Write();
    EXPECT_EQ(Load().status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(Load().status()), HasSubstr("metric"));
  }
}

TEST_F(ProfileTest, NoneIsNotFound) {
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ProfileTest, AnotherModelsIsRefused) {
  profile_.set_model_sha256("00");
  Write();
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(Load().status()), HasSubstr("another model"));
}

TEST_F(ProfileTest, AnotherPrecisionsIsRefused) {
  profile_.set_precision("bf16");
  Write();
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(Load().status()), HasSubstr("'bf16'"));
}

TEST_F(ProfileTest, APolicyThatTheModelCanNotHaveIsNamed) {
  AddEntry(0.1, "spatten:keeps=1/1", 3, &profile_);
  Write();
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(Load().status()), HasSubstr("entry 4"));
}

TEST_F(ProfileTest, BrokenTextIsNamedByPlace) {
  std::ofstream(path()) << "n: 5\nentries { max_loss: }\n";
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(Load().status()), HasSubstr(path() + ":2:"));
}

TEST_F(ProfileTest, NumbersThatMakeNoSenseAreRefused) {
  const auto message = [&](auto change) {
    v1::SparsityProfile profile = profile_;
    change(profile.mutable_entries(1));
    std::string error = "accepted";
    if (const auto parsed = ParseProfile(profile.DebugString(), "p"); !parsed.ok()) {
      error = Message(parsed.status());
    }
    return error;
  };
  using Entry = v1::SparsityProfile::Entry;
  EXPECT_THAT(message([](Entry* e) { e->set_max_loss(0); }), HasSubstr("p: entry 2: max_loss"));
  EXPECT_THAT(message([](Entry* e) { e->set_max_loss(NAN); }), HasSubstr("max_loss"));
  EXPECT_THAT(message([](Entry* e) { e->set_loss_upper(0.03); }), HasSubstr("can't promise"));
  EXPECT_THAT(message([](Entry* e) { e->set_loss_upper(NAN); }), HasSubstr("can't promise"));
  EXPECT_THAT(message([](Entry* e) { e->clear_policy(); }), HasSubstr("no policy"));
  EXPECT_THAT(message([](Entry* e) { e->set_speedup(0); }), HasSubstr("speedup"));
  EXPECT_THAT(message([](Entry* e) { e->set_speedup(INFINITY); }), HasSubstr("speedup"));
}

TEST(WriteProfile, SaysWhyItCanNot) {
  const absl::Status status = WriteProfile({}, "/no/such/directory/p.textproto");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("/no/such/directory/p.textproto"));
  // A file system that nobody writes to.
  EXPECT_FALSE(WriteProfile({}, "/proc/sparsity_profile.textproto").ok());
}

TEST(WriteProfile, AFailureLeavesTheOldFile) {
  const testing::TempDir dir;
  // A directory in its place can't be replaced by a file.
  fs::create_directories(dir.path() / "p" / "x");
  EXPECT_FALSE(WriteProfile({}, (dir.path() / "p").string()).ok());
  EXPECT_TRUE(fs::is_directory(dir.path() / "p" / "x"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace thresher
