#include "client/cli/inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "client/cli/line_reader.h"
#include "tests/testing/paths.h"

namespace thresher::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe(fds_), 0); }
  ~Pipe() {
    Close();
    close(fds_[0]);
  }
  int fd() const { return fds_[0]; }
  void Write(const std::string& text) {
    EXPECT_EQ(write(fds_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void Close() {
    if (fds_[1] >= 0) close(fds_[1]);
    fds_[1] = -1;
  }

 private:
  int fds_[2];
};

TEST(LineReaderTest, GivesWholeLinesAndWaitsForTheRest) {
  Pipe pipe;
  LineReader reader(pipe.fd());
  std::string line;
  EXPECT_EQ(reader.Next(line), LineReader::Result::kWait);
  pipe.Write("one\r\n\ntw");
  EXPECT_EQ(reader.Next(line), LineReader::Result::kLine);
  EXPECT_EQ(line, "one");
  EXPECT_EQ(reader.consumed(), 5);
  EXPECT_EQ(reader.Next(line), LineReader::Result::kLine);
  EXPECT_EQ(line, "");
  EXPECT_EQ(reader.Next(line), LineReader::Result::kWait);
  pipe.Write("o");
  EXPECT_EQ(reader.Next(line), LineReader::Result::kWait);
  pipe.Close();
  EXPECT_EQ(reader.Next(line), LineReader::Result::kLine);
  EXPECT_EQ(line, "two");
  EXPECT_EQ(reader.consumed(), 9);
  EXPECT_EQ(reader.Next(line), LineReader::Result::kEnd);
}

std::string WriteFile(const testing::TempDir& directory, const std::string& text) {
  const std::string path = directory.path() / "file";
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::vector<Record> ReadAll(InputSource& source) {
  std::vector<Record> records;
  Record record;
  while (source.Next(record) == InputSource::Result::kRecord) records.push_back(record);
  return records;
}

class FileTest : public ::testing::Test {
 protected:
  std::vector<Record> Read(const std::string& text, InputFlags flags = {}) {
    flags.file = WriteFile(directory_, text);
    auto source = InputSource::Open(flags);
    EXPECT_TRUE(source.ok()) << source.status();
    auto records = ReadAll(**source);
    status_ = (*source)->status();
    size_ = (*source)->size();
    return records;
  }
  testing::TempDir directory_;
  absl::Status status_;
  int64_t size_ = 0;
};

TEST_F(FileTest, LongLineFailsAloneWithoutBeingKept) {
  const std::string longest(LineReader::kMaxLine, 'x');
  const auto records = Read("a\n" + longest + "\n" + longest + "yy\nb\n" + longest + longest);
  ASSERT_EQ(records.size(), 5u);
  EXPECT_EQ(records[1].text.size(), longest.size());
  EXPECT_THAT(std::string(records[2].status.message()), HasSubstr("line 3: longer than 16 MiB"));
  EXPECT_EQ(records[2].text, "");
  EXPECT_EQ(records[3].text, "b");
  EXPECT_FALSE(records[4].status.ok());
  EXPECT_EQ(records[4].offset, size_);
}

TEST_F(FileTest, EachLineIsAnInput) {
  const auto records = Read("\xEF\xBB\xBFone\n\nthree\twith tab");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].text, "one");
  EXPECT_EQ(records[1].text, "");
  EXPECT_EQ(records[2].text, "three\twith tab");
  EXPECT_EQ(records[2].index, 2);
  EXPECT_EQ(records[2].offset, size_);
}

TEST_F(FileTest, ColumnsByNumber) {
  const auto records = Read("a\tb\tc\nd\te\tf\n", {.column = "2", .pair_column = "1"});
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].text, "e");
  EXPECT_EQ(records[1].pair, "d");
}

TEST_F(FileTest, ColumnsByNameImplyAHeader) {
  const auto records = Read("sentence\tlabel\nfine\t1\n", {.column = "sentence"});
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].text, "fine");
  EXPECT_EQ(records[0].index, 0);
}

TEST_F(FileTest, HeaderIsSkippedOnRequest) {
  EXPECT_EQ(Read("x\ty\na\tb\n", {.column = "1", .header = true}).size(), 1u);
}

TEST_F(FileTest, MissingColumnFailsItsLineAlone) {
  const auto records = Read("a\tb\nc\nd\te\n", {.column = "2"});
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(std::string(records[1].status.message()),
            "line 2: has 1 columns, column 2 was asked for");
  EXPECT_TRUE(records[2].status.ok());
}

TEST_F(FileTest, UnknownColumnNameEndsIt) {
  EXPECT_TRUE(Read("x\ty\na\tb\n", {.column = "z"}).empty());
  EXPECT_EQ(status_.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status_.message()), HasSubstr("no column 'z' in the header: x y"));
}

TEST_F(FileTest, EmptyFileHasNoInputsButMustHaveItsHeader) {
  EXPECT_TRUE(Read("").empty());
  EXPECT_TRUE(status_.ok());
  Read("", {.header = true});
  EXPECT_EQ(status_.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FileTest, TextThatIsNotUtf8FailsAlone) {
  const auto records = Read("fine\nb\xFFz\nalso fine\n");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(std::string(records[1].status.message()), "byte 1 is not UTF-8");
  EXPECT_TRUE(records[2].status.ok());
}

TEST(InputSourceTest, ArgumentsAreInputs) {
  auto source = InputSource::Open({.texts = {"a", "b"}, .pair = "second"});
  ASSERT_TRUE(source.ok());
  EXPECT_EQ((*source)->size(), 2);
  const auto records = ReadAll(**source);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].text, "b");
  EXPECT_EQ(records[1].pair, "second");
  EXPECT_EQ(records[1].offset, 2);
}

TEST(InputSourceTest, ContradictionsAreRefused) {
  const auto message = [](const InputFlags& flags) {
    const auto source = InputSource::Open(flags);
    EXPECT_EQ(source.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(source.status().message());
  };
  EXPECT_THAT(message({.texts = {"a"}, .file = "f"}), HasSubstr("not both"));
  EXPECT_THAT(message({.texts = {"-"}, .file = "f"}), HasSubstr("not both"));
  EXPECT_THAT(message({.texts = {"a"}, .column = "1"}), HasSubstr("--column"));
  EXPECT_THAT(message({.file = "f", .column = "0"}), HasSubstr("from 1"));
  EXPECT_THAT(message({.file = "f", .pair_column = "1", .pair = "x"}), HasSubstr("not both"));
  EXPECT_THAT(message({.file = "/nowhere/at/all"}), HasSubstr("/nowhere/at/all: No such file"));
  EXPECT_THAT(message({.file = "/"}), HasSubstr("is a directory"));
}

TEST(CheckUtf8Test, SaysWhere) {
  EXPECT_TRUE(CheckUtf8("").ok());
  EXPECT_TRUE(CheckUtf8(std::string_view("a\0b \xF0\x9F\x98\x80", 8)).ok());
  EXPECT_EQ(std::string(CheckUtf8("ab\xED\xA0\x80").message()), "byte 2 is not UTF-8");
}

}  // namespace
}  // namespace thresher::cli
