// Any bytes as labelled data. What is read must be sound, whatever columns are asked for.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "backend/evaluation/labelled_data.h"
#include "backend/evaluation/profile.h"
#include "backend/text/unicode.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // The first byte chooses the columns and the measure.
  const uint8_t choice = data[0];
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  thresher::DataColumns columns;
  if ((choice & 1) != 0) columns.text = (choice & 2) != 0 ? "2" : "text";
  if ((choice & 4) != 0) columns.label = (choice & 2) != 0 ? "1" : "label";
  if ((choice & 8) != 0) columns.pair = "3";
  if ((choice & 16) != 0) columns.header = (choice & 2) != 0;
  const auto measure =
      (choice & 32) != 0 ? thresher::Measure::kSimilarity : thresher::Measure::kAccuracy;
  const std::vector<std::string> labels = {"bad", "good", "2"};
  const auto examples = thresher::ParseLabelledData(text, columns, measure, labels);
  if (!examples.ok()) {
    Require(examples.status().code() == absl::StatusCode::kInvalidArgument);
    Require(examples.status().message().size() < 2000);
  } else {
    Require(!examples->empty());
    for (const thresher::LabelledExample& example : *examples) {
      Require(!example.text.empty() && !thresher::text::FindInvalidUtf8(example.text));
      Require(!example.pair || !thresher::text::FindInvalidUtf8(*example.pair));
      Require(measure == thresher::Measure::kSimilarity ? std::isfinite(example.gold)
                                                        : example.gold >= 0 && example.gold < 3);
    }
  }
  // The same bytes as a profile.
  const auto profile = thresher::ParseProfile(std::string(text), "p");
  Require(profile.ok() || profile.status().code() == absl::StatusCode::kInvalidArgument);
  return 0;
}
