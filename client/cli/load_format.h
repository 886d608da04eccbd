// What a load test found, for people and for programs.
#ifndef THRESHER_CLIENT_CLI_LOAD_FORMAT_H_
#define THRESHER_CLIENT_CLI_LOAD_FORMAT_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/load/load_report.h"
#include "proto/json.h"

namespace thresher::cli {

/// Times in seconds.
Json ToJson(const load::LoadReport& report, const load::LevelReport& level);
Json ToJson(const load::LoadReport& report, const load::Peak& peak);
/// One line for each level.
std::string ToCsv(const load::LoadReport& report);
/// A table of the levels, and below it what is to be said of each.
std::string ToText(const load::LoadReport& report);
/// What ToText is made of: the table with its heading, what is said of one level, and of a search.
std::vector<std::vector<std::string>> LoadRows(const load::LoadReport& report);
std::vector<std::string> LoadNotes(const load::LoadReport& report, const load::LevelReport& level);
std::string PeakText(const load::LoadReport& report, const load::Peak& peak);
/// The line that is shown while a level runs.
std::string LiveLine(const std::string& name, const load::LiveView& view);

/// "3.20 ms", with three digits that count.
std::string TimeText(absl::Duration time);

/// "ok", "resource_exhausted": how outcomes are called.
std::string OutcomeName(absl::StatusCode code);

/// The share of labelled inputs that got their class, with the exact 95 % interval of Clopper and
/// Pearson. Nothing without labels.
struct Accuracy {
  double value = 0;
  double low = 0;
  double high = 0;
  int64_t n = 0;
};
std::optional<Accuracy> AccuracyOf(const load::RunResult& run);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_LOAD_FORMAT_H_
