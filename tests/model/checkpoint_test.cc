#include "backend/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "backend/tensor/status.h"
#include "tests/model/safetensors_builder.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::SafetensorsFile;
using testing::WriteText;

/// A file with one tensor of four bytes.
std::string OneTensor(const std::string& name) {
  return SafetensorsFile(
      "{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
}

class CheckpointTest : public ::testing::Test {
 protected:
  std::string dir() const { return temp_.path().string(); }
  void Write(const std::string& name, const std::string& text) {
    WriteText(temp_.path() / name, text);
  }
  std::string Error(absl::StatusCode code) {
    const auto checkpoint = Checkpoint::Open(dir());
    EXPECT_EQ(checkpoint.status().code(), code) << checkpoint.status();
    return Message(checkpoint.status());
  }

 private:
  testing::TempDir temp_;
};

TEST_F(CheckpointTest, OpensOneFile) {
  Write("model.safetensors", OneTensor("a"));
  const auto checkpoint = Checkpoint::Open(dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_NE(checkpoint->Find("a"), nullptr);
  EXPECT_EQ(checkpoint->Find("b"), nullptr);
}

TEST_F(CheckpointTest, OpensShards) {
  Write("one.safetensors", OneTensor("a"));
  Write("two.safetensors", OneTensor("b"));
  Write("model.safetensors.index.json",
        R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_NE(checkpoint->Find("a"), nullptr);
  EXPECT_NE(checkpoint->Find("b"), nullptr);
}

TEST_F(CheckpointTest, ReadsTheSameAfterItsPagesWereReleased) {
  std::string file = OneTensor("a");
  file.back() = 'x';
  Write("model.safetensors", file);
  const auto checkpoint = Checkpoint::Open(dir());
  ASSERT_TRUE(checkpoint.ok());
  const auto* data = static_cast<const char*>(checkpoint->Find("a")->data);
  EXPECT_EQ(data[3], 'x');
  checkpoint->ReleasePages();
  EXPECT_EQ(data[3], 'x');
}

TEST_F(CheckpointTest, TellsThatItsFileWasWrittenTo) {
  using std::filesystem::last_write_time;
  using std::filesystem::resize_file;
  const std::string file = dir() + "/model.safetensors";
  const std::string text = OneTensor("a");
  Write("model.safetensors", text);
  const auto checkpoint = Checkpoint::Open(dir());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_TRUE(checkpoint->CheckUnchanged().ok());

  // Times are set by hand, since a clock may stand still between two writes.
  const auto opened = last_write_time(file);
  const auto expect_changed = [&] {
    const absl::Status status = checkpoint->CheckUnchanged();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(status), AllOf(HasSubstr(file + ": "), HasSubstr("load the model again")));
  };
  resize_file(file, text.size() - 1);
  last_write_time(file, opened);
  expect_changed();
  Write("model.safetensors", text);
  last_write_time(file, opened + std::chrono::seconds(1));
  expect_changed();
  last_write_time(file, opened);
  EXPECT_TRUE(checkpoint->CheckUnchanged().ok());
}

TEST_F(CheckpointTest, IsUnchangedWhereItsNameIsGivenToAnotherFile) {
  Write("model.safetensors", OneTensor("a"));
  const auto checkpoint = Checkpoint::Open(dir());
  ASSERT_TRUE(checkpoint.ok());
  Write("new", OneTensor("another"));
  std::filesystem::rename(dir() + "/new", dir() + "/model.safetensors");
  EXPECT_TRUE(checkpoint->CheckUnchanged().ok());
}

TEST_F(CheckpointTest, TellsWhichShardWasWrittenTo) {
  Write("one.safetensors", OneTensor("a"));
  Write("two.safetensors", OneTensor("b"));
  Write("model.safetensors.index.json",
        R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(dir());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_TRUE(checkpoint->CheckUnchanged().ok());
  std::filesystem::resize_file(dir() + "/two.safetensors", 4);
  const absl::Status status = checkpoint->CheckUnchanged();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr(dir() + "/two.safetensors: "));
}

TEST_F(CheckpointTest, SaysWhatIsMissing) {
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("neither model.safetensors nor"));
  Write("pytorch_model.bin", "x");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr("save it as safetensors"));
}

TEST_F(CheckpointTest, SaysWhichShardIsMissing) {
  Write("model.safetensors.index.json", R"({"weight_map": {"a": "gone.safetensors"}})");
  EXPECT_THAT(Error(absl::StatusCode::kNotFound),
              AllOf(HasSubstr("gone.safetensors"), HasSubstr("tensor 'a'")));
}

TEST_F(CheckpointTest, RefusesShardsOutsideItsDirectory) {
  for (const char* shard : {"../secret", "/etc/passwd", "..", ".", "", "sub/x.safetensors"}) {
    Write("model.safetensors.index.json",
          std::string(R"({"weight_map": {"a": ")") + shard + "\"}}");
    EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument),
                AllOf(HasSubstr("tensor 'a'"), HasSubstr("same directory")))
        << shard;
  }
  Write("model.safetensors.index.json", R"({"weight_map": {"a": "x\u0000y"}})");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("same directory"));
  Write("model.safetensors.index.json", R"({"weight_map": {"a": 3}})");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("same directory"));
}

TEST_F(CheckpointTest, RefusesAnIndexThatDoesNotFitItsShards) {
  Write("one.safetensors", OneTensor("a"));
  Write("model.safetensors.index.json", R"({"weight_map": {"b": "one.safetensors"}})");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument),
              HasSubstr("tensor 'b' is not in its shard 'one.safetensors'"));
  for (const char* index : {"{}", "[]", R"({"weight_map": []})", R"({"weight_map": {}})"}) {
    Write("model.safetensors.index.json", index);
    EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("weight_map")) << index;
  }
  Write("model.safetensors.index.json", "{");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("not JSON"));
}

TEST_F(CheckpointTest, RefusesWhatIsNoFile) {
  const std::string path = dir() + "/one.safetensors";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  Write("model.safetensors.index.json", R"({"weight_map": {"a": "one.safetensors"}})");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("not a regular file"));
  Write("model.safetensors", "");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("empty"));
}

}  // namespace
}  // namespace thresher
