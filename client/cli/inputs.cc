#include "client/cli/inputs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "backend/evaluation/tab_separated.h"
#include "backend/tensor/status.h"
#include "backend/text/unicode.h"
#include "client/cli/format.h"
#include "client/cli/line_reader.h"

namespace thresher::cli {
namespace {

/// A column by number, once it is known: from 0.
std::optional<size_t> ColumnNumber(const std::string& column) {
  size_t number = 0;
  const char* end = column.data() + column.size();
  const auto [rest, error] = std::from_chars(column.data(), end, number);
  if (error != std::errc() || rest != end || number == 0) return std::nullopt;
  return number - 1;
}

void Check(Record& record) {
  if (!record.status.ok()) return;
  record.status = CheckUtf8(record.text);
  if (record.status.ok() && record.pair) {
    record.status = Annotate(CheckUtf8(*record.pair), "second text");
  }
}

class ArgumentSource final : public InputSource {
 public:
  explicit ArgumentSource(const InputFlags& flags) : texts_(flags.texts), pair_(flags.pair) {}

  Result Next(Record& record) override {
    if (next_ == texts_.size()) return Result::kEnd;
    record = {.index = static_cast<int64_t>(next_), .text = texts_[next_], .pair = pair_};
    record.offset = static_cast<int64_t>(++next_);
    Check(record);
    return Result::kRecord;
  }
  int64_t size() const override { return static_cast<int64_t>(texts_.size()); }

 private:
  const std::vector<std::string> texts_;
  const std::optional<std::string> pair_;
  size_t next_ = 0;
};

class FileSource final : public InputSource {
 public:
  FileSource(const InputFlags& flags, int fd, std::string name)
      : flags_(flags), fd_(fd), name_(std::move(name)), reader_(fd) {
    struct stat facts {};
    if (fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode)) size_ = facts.st_size;
    text_column_ = ColumnNumber(flags.column);
    pair_column_ = ColumnNumber(flags.pair_column);
    const bool named =
        (!flags.column.empty() && !text_column_) || (!flags.pair_column.empty() && !pair_column_);
    header_ = flags.header || named;
  }
  ~FileSource() override {
    if (fd_ != STDIN_FILENO) close(fd_);
  }

  Result Next(Record& record) override {
    if (!status_.ok()) return Result::kError;
    std::string line;
    for (;;) {
      const LineReader::Result result = reader_.Next(line);
      if (result == LineReader::Result::kWait) return Result::kWait;
      if (result == LineReader::Result::kError) {
        return Broken(Annotate(reader_.status(), name_));
      }
      if (result == LineReader::Result::kEnd) {
        return header_ ? Broken(InvalidArgument("{}: empty, not even a header", name_))
                       : Result::kEnd;
      }
      ++line_number_;
      // Some editors begin a file with a byte order mark, which is no part of its text.
      if (line_number_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
      if (header_) {
        header_ = false;
        if (absl::Status status = ReadHeader(line); !status.ok()) return Broken(status);
        continue;
      }
      record = {.index = next_++, .offset = reader_.consumed()};
      if (result == LineReader::Result::kTooLong) {
        record.status = InvalidArgument("line {}: longer than {} MiB", line_number_,
                                        LineReader::kMaxLine >> 20);
      } else {
        Parse(std::move(line), record);
      }
      return Result::kRecord;
    }
  }
  int fd() const override { return fd_; }
  int64_t size() const override { return size_; }
  absl::Status status() const override { return status_; }

 private:
  Result Broken(const absl::Status& status) {
    status_ = status;
    return Result::kError;
  }

  absl::Status ReadHeader(const std::string& line) {
    const auto names = SplitCells(line);
    const auto find = [&](const std::string& column,
                          std::optional<size_t>& number) -> absl::Status {
      if (column.empty() || number) return absl::OkStatus();
      const auto found = std::find(names.begin(), names.end(), column);
      if (found == names.end()) {
        return InvalidArgument("{}: no column '{}' in the header: {}", name_, column,
                               Printable(line));
      }
      number = found - names.begin();
      return absl::OkStatus();
    };
    THRESHER_RETURN_IF_ERROR(find(flags_.column, text_column_));
    return find(flags_.pair_column, pair_column_);
  }

  void Parse(std::string line, Record& record) const {
    record.pair = flags_.pair;
    if (!text_column_ && !pair_column_) {
      record.text = std::move(line);
    } else {
      const auto cells = SplitCells(line);
      const auto cell = [&](size_t number) -> std::string {
        if (number < cells.size()) return std::string(cells[number]);
        if (record.status.ok()) {
          record.status = InvalidArgument("line {}: has {} columns, column {} was asked for",
                                          line_number_, cells.size(), number + 1);
        }
        return "";
      };
      record.text = cell(text_column_.value_or(0));
      if (pair_column_) record.pair = cell(*pair_column_);
    }
    Check(record);
  }

  const InputFlags flags_;
  const int fd_;
  const std::string name_;
  LineReader reader_;
  int64_t size_ = 0;
  bool header_ = false;  // The next line is the header.
  std::optional<size_t> text_column_, pair_column_;
  int64_t line_number_ = 0;
  int64_t next_ = 0;
  absl::Status status_;
};

}  // namespace

void AddInputFlags(CLI::App& app, InputFlags& flags, const std::string& what) {
  app.add_option(what, flags.texts, "Without any: --file, else standard input (as '-')")
      ->option_text(" ");
  app.add_option("--file", flags.file, "Read one input a line; '-' is standard input")
      ->option_text("PATH")
      ->group("Input");
  app.add_option("--column", flags.column, "The lines are tab-separated: take this column")
      ->option_text("N|NAME")
      ->group("Input");
  app.add_option("--pair-column", flags.pair_column, "The second text of each pair, likewise")
      ->option_text("N|NAME")
      ->group("Input");
  app.add_flag("--header", flags.header, "Skip the first line (a column name implies it)")
      ->group("Input");
}

absl::StatusOr<std::unique_ptr<InputSource>> InputSource::Open(const InputFlags& flags) {
  const bool dash = flags.texts.size() == 1 && flags.texts[0] == "-";
  if (!flags.texts.empty() && !dash) {
    if (!flags.file.empty()) return InvalidArgument("give texts or --file, not both");
    if (!flags.column.empty() || !flags.pair_column.empty() || flags.header) {
      return InvalidArgument(
          "--column, --pair-column and --header go with --file or standard input");
    }
    return std::make_unique<ArgumentSource>(flags);
  }
  if (dash && !flags.file.empty() && flags.file != "-") {
    return InvalidArgument("give '-' or --file, not both");
  }
  for (const std::string& column : {flags.column, flags.pair_column}) {
    if (column == "0") return InvalidArgument("columns are counted from 1");
  }
  if (flags.pair && !flags.pair_column.empty()) {
    return InvalidArgument("the second text comes from one flag or from --pair-column, not both");
  }
  if (flags.file.empty() && !dash && isatty(STDIN_FILENO) != 0) {
    return InvalidArgument("no text: give some as arguments, with --file, or on standard input");
  }
  if (dash || flags.file.empty() || flags.file == "-") {
    return std::make_unique<FileSource>(flags, STDIN_FILENO, "standard input");
  }
  const int fd = open(flags.file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return InvalidArgument("{}: {}", flags.file, std::strerror(errno));
  struct stat facts {};
  if (fstat(fd, &facts) == 0 && S_ISDIR(facts.st_mode)) {
    close(fd);
    return InvalidArgument("{}: is a directory", flags.file);
  }
  return std::make_unique<FileSource>(flags, fd, flags.file);
}

absl::Status CheckUtf8(std::string_view text) {
  if (const auto bad = text::FindInvalidUtf8(text)) {
    return InvalidArgument("byte {} is not UTF-8", *bad);
  }
  return absl::OkStatus();
}

}  // namespace thresher::cli
