#include "backend/evaluation/labelled_data.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <system_error>

#include "backend/evaluation/fingerprint.h"
#include "backend/evaluation/tab_separated.h"
#include "backend/model/files.h"
#include "backend/tensor/status.h"
#include "backend/text/unicode.h"

namespace thresher {
namespace {

constexpr size_t kLargestFile = size_t{1} << 30;

/// Names of columns in the data sets of the field, the likelier first.
struct TextNames {
  std::string_view text;
  std::string_view pair;  // Empty: a text alone.
};
constexpr TextNames kTextNames[] = {{"sentence1", "sentence2"},
                                    {"premise", "hypothesis"},
                                    {"question1", "question2"},
                                    {"question", "sentence"},
                                    {"text1", "text2"},
                                    {"text", "text_pair"},
                                    {"sentence", ""},
                                    {"text", ""},
                                    {"review", ""},
                                    {"content", ""}};
constexpr std::string_view kLabelNames[] = {"label", "gold_label", "class",     "category",
                                            "score", "similarity", "sentiment", "target"};

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

/// A value for an error message: short, and without what could drive a terminal.
std::string Quote(std::string_view text) {
  std::string shown = text::ReplaceInvalidUtf8(Shorten(text));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return fmt::format("'{}'", shown);
}

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (text.empty() || error != std::errc() || rest != end) return std::nullopt;
  return number;
}

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

/// Numbers from 0.
struct Columns {
  size_t text = 0;
  std::optional<size_t> pair;
  size_t label = 0;
};

/// Finds the columns in the first line.
class ColumnFinder {
 public:
  ColumnFinder(const DataColumns& wanted, std::vector<std::string_view> first_line)
      : wanted_(wanted), cells_(std::move(first_line)) {
    for (const std::string_view cell : cells_) names_.push_back(Lower(Trim(cell)));
  }

  absl::StatusOr<Columns> Find(bool* has_header) {
    // A column that is not written as a number is asked for by name, so there must be names.
    for (const std::string* column : {&wanted_.text, &wanted_.pair, &wanted_.label}) {
      named_ |= !column->empty() && !ParseNumber<size_t>(*column);
    }
    if (named_ && wanted_.header == false) {
      return InvalidArgument("a column is asked for by name, but the file is said to have none");
    }
    *has_header = wanted_.header.value_or(named_ || LooksLikeHeader());
    Columns columns;
    THRESHER_RETURN_IF_ERROR(FindLabel(*has_header, &columns));
    THRESHER_RETURN_IF_ERROR(FindTexts(*has_header, &columns));
    if (columns.text == columns.label || columns.pair == columns.text ||
        columns.pair == columns.label) {
      return InvalidArgument("text, second text and label must be different columns");
    }
    return columns;
  }

 private:
  std::optional<size_t> Named(std::string_view name) const {
    const auto found = std::ranges::find(names_, name);
    if (found == names_.end()) return std::nullopt;
    return found - names_.begin();
  }

  bool LooksLikeHeader() const {
    const auto is_there = [&](std::string_view name) { return Named(name).has_value(); };
    return std::ranges::any_of(kLabelNames, is_there) &&
           std::ranges::any_of(kTextNames, is_there, &TextNames::text);
  }

  absl::StatusOr<size_t> Given(const std::string& column) const {
    if (const auto number = ParseNumber<size_t>(column)) {
      if (*number == 0) return InvalidArgument("columns are counted from 1");
      if (*number > cells_.size()) {
        return InvalidArgument("line 1: has {} columns, column {} was asked for", cells_.size(),
                               *number);
      }
      return *number - 1;
    }
    // As it is written; else in any case.
    const auto found = std::ranges::find(cells_, std::string_view(column));
    if (found != cells_.end()) return found - cells_.begin();
    if (const auto named = Named(Lower(column))) return *named;
    return InvalidArgument("line 1: no column {} in the header: {}", Quote(column),
                           Quote(fmt::format("{}", fmt::join(cells_, ", "))));
  }

  absl::Status FindLabel(bool has_header, Columns* columns) const {
    if (!wanted_.label.empty()) {
      THRESHER_ASSIGN_OR_RETURN(columns->label, Given(wanted_.label));
      return absl::OkStatus();
    }
    if (has_header) {
      for (const std::string_view name : kLabelNames) {
        if (const auto found = Named(name)) {
          columns->label = *found;
          return absl::OkStatus();
        }
      }
    } else if (cells_.size() == 2 || cells_.size() == 3) {
      columns->label = cells_.size() - 1;
      return absl::OkStatus();
    }
    return InvalidArgument("line 1: {} columns{}: which is the label? Say it by number or name",
                           cells_.size(), has_header ? ", none with the usual name" : "");
  }

  absl::Status FindTexts(bool has_header, Columns* columns) const {
    if (!wanted_.pair.empty()) {
      THRESHER_ASSIGN_OR_RETURN(columns->pair, Given(wanted_.pair));
    }
    if (!wanted_.text.empty()) {
      THRESHER_ASSIGN_OR_RETURN(columns->text, Given(wanted_.text));
      return absl::OkStatus();
    }
    if (has_header) {
      for (const TextNames& names : kTextNames) {
        const auto text = Named(names.text);
        const auto pair = names.pair.empty() ? std::nullopt : Named(names.pair);
        if (!text || *text == columns->label || (!names.pair.empty() && !pair)) continue;
        columns->text = *text;
        if (!columns->pair) columns->pair = pair;
        return absl::OkStatus();
      }
      return InvalidArgument("line 1: which column is the text? Say it by number or name: {}",
                             Quote(fmt::format("{}", fmt::join(cells_, ", "))));
    }
    for (columns->text = 0; columns->text == columns->label || columns->text == columns->pair;) {
      ++columns->text;
    }
    if (columns->text >= cells_.size()) return InvalidArgument("line 1: no column with a text");
    if (cells_.size() == 3 && wanted_.label.empty() && !columns->pair) columns->pair = 1;
    return absl::OkStatus();
  }

  const DataColumns& wanted_;
  const std::vector<std::string_view> cells_;
  std::vector<std::string> names_;  // Lower-case.
  bool named_ = false;
};

absl::StatusOr<double> ReadScore(std::string_view cell) {
  const auto score = ParseNumber<double>(Trim(cell));
  if (!score || !std::isfinite(*score)) {
    return InvalidArgument("{} is not a decimal number", Quote(cell));
  }
  return *score;
}

absl::StatusOr<double> ReadLabel(std::string_view cell, std::span<const std::string> labels) {
  const std::string_view label = Trim(cell);
  const auto exact = std::ranges::find(labels, label);
  if (exact != labels.end()) return static_cast<double>(exact - labels.begin());
  const auto number = ParseNumber<int64_t>(label);
  if (number && *number >= 0 && *number < static_cast<int64_t>(labels.size())) {
    return static_cast<double>(*number);
  }
  const auto same = [lower = Lower(label)](const std::string& name) {
    return Lower(name) == lower;
  };
  if (std::ranges::count_if(labels, same) == 1) {
    return static_cast<double>(std::ranges::find_if(labels, same) - labels.begin());
  }
  constexpr size_t kShown = 20;
  return InvalidArgument("{} is no label of the model: 0 to {}, or {}{}", Quote(cell),
                         labels.size() - 1,
                         fmt::join(labels.first(std::min(labels.size(), kShown)), ", "),
                         labels.size() > kShown ? ", ..." : "");
}

absl::StatusOr<std::string> ReadText(std::string_view cell) {
  if (const auto bad = text::FindInvalidUtf8(cell)) {
    return InvalidArgument("byte {} of the text is not UTF-8", *bad);
  }
  if (cell.find_first_not_of(' ') == std::string_view::npos) {
    return InvalidArgument("the text is empty");
  }
  return std::string(cell);
}

}  // namespace

absl::StatusOr<std::vector<LabelledExample>> ParseLabelledData(
    std::string_view text, const DataColumns& wanted, Measure measure,
    std::span<const std::string> labels) {
  if (measure == Measure::kAccuracy && labels.size() < 2) {
    return InvalidArgument("accuracy needs a model with at least two classes; this one has {}",
                           labels.size());
  }
  // Some editors begin a file with a byte order mark, which is no part of its text.
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<LabelledExample> examples;
  std::optional<Columns> columns;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    const std::vector<std::string_view> cells = SplitCells(line);
    if (!columns) {
      bool has_header = false;
      THRESHER_ASSIGN_OR_RETURN(columns, ColumnFinder(wanted, cells).Find(&has_header));
      if (measure == Measure::kSimilarity && !columns->pair) {
        return InvalidArgument("line {}: similarity needs a column with the second text", number);
      }
      if (has_header) continue;
    }
    const size_t last = std::max({columns->text, columns->pair.value_or(0), columns->label});
    if (last >= cells.size()) {
      return InvalidArgument("line {}: has {} columns, column {} is needed", number, cells.size(),
                             last + 1);
    }
    const auto at = [&](const absl::Status& status, size_t column) {
      return Annotate(status, fmt::format("line {}, column {}", number, column + 1));
    };
    LabelledExample example;
    auto first = ReadText(cells[columns->text]);
    if (!first.ok()) return at(first.status(), columns->text);
    example.text = *std::move(first);
    if (columns->pair) {
      auto second = ReadText(cells[*columns->pair]);
      if (!second.ok()) return at(second.status(), *columns->pair);
      example.pair = *std::move(second);
    }
    const std::string_view gold = cells[columns->label];
    const auto value = measure == Measure::kAccuracy ? ReadLabel(gold, labels) : ReadScore(gold);
    if (!value.ok()) return at(value.status(), columns->label);
    example.gold = *value;
    examples.push_back(std::move(example));
  }
  if (examples.empty()) return InvalidArgument("no example in it");
  return examples;
}

absl::StatusOr<LabelledData> ReadLabelledData(const std::string& path, const DataColumns& columns,
                                              Measure measure,
                                              std::span<const std::string> labels) {
  THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kLargestFile));
  LabelledData data;
  data.name = std::filesystem::path(path).filename().string();
  data.sha256 = Sha256(text);
  auto examples = ParseLabelledData(text, columns, measure, labels);
  if (!examples.ok()) return Annotate(examples.status(), path);
  data.examples = *std::move(examples);
  return data;
}

void LabelledData::Limit(int64_t limit) {
  const auto size = static_cast<int64_t>(examples.size());
  if (limit <= 0 || limit >= size) return;
  for (int64_t i = 0; i < limit; ++i) {
    const auto from = static_cast<size_t>(static_cast<__int128>(i) * size / limit);
    if (from != static_cast<size_t>(i)) examples[i] = std::move(examples[from]);
  }
  examples.resize(limit);
}

}  // namespace thresher
