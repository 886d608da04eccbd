// Labelled examples from a tab-separated file, one a line: a text or a pair of texts, and what is
// right. The file is hostile until it has been read; every error names its line and column.
#ifndef THRESHER_BACKEND_EVALUATION_LABELLED_DATA_H_
#define THRESHER_BACKEND_EVALUATION_LABELLED_DATA_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

/// What an answer is held against.
enum class Measure {
  kAccuracy,    // The class with the largest logit against a label.
  kSimilarity,  // The similarity of a pair of texts against a score.
};

struct LabelledExample {
  std::string text;
  std::optional<std::string> pair;
  double gold = 0;  // kAccuracy: the class's number; kSimilarity: the score.
};

/// Where the parts of a line are. A column is its number, from 1, or its name in the header; empty:
/// found by the usual names (sentence, sentence1 and sentence2, text, premise and hypothesis,
/// label, score, ...), or without a header by place: text, label; or text, pair, label.
struct DataColumns {
  std::string text;
  std::string pair;
  std::string label;
  std::optional<bool> header;  // Unset: the first line is one if it has such names.
};

struct LabelledData {
  std::string name;  // Of the file, without its directory.
  std::string sha256;
  std::vector<LabelledExample> examples;

  /// Keeps `limit` examples, evenly spread over the file; 0 or more than there are: all.
  void Limit(int64_t limit);
};

/// `labels`: the model's classes by number. A label is one of these names (in any case, if that
/// leaves no doubt) or a class's number; a score is a decimal number. Empty lines are left out;
/// cells are taken as they are, without quoting. kSimilarity needs pairs.
absl::StatusOr<std::vector<LabelledExample>> ParseLabelledData(std::string_view text,
                                                               const DataColumns& columns,
                                                               Measure measure,
                                                               std::span<const std::string> labels);

/// Reads a file. NOT_FOUND, or INVALID_ARGUMENT; the message begins with the path.
absl::StatusOr<LabelledData> ReadLabelledData(const std::string& path, const DataColumns& columns,
                                              Measure measure, std::span<const std::string> labels);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_LABELLED_DATA_H_
