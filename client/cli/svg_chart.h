// Small charts as SVG text, to stand within an HTML page: no program, no font, no script needed.
// Colours are the page's: .c0 to .c7 for series (`--c` of the page's style), currentColor for text.
#ifndef THRESHER_CLIENT_CLI_SVG_CHART_H_
#define THRESHER_CLIENT_CLI_SVG_CHART_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thresher::cli {

/// The text with the characters that HTML gives a meaning replaced, and control characters too.
std::string EscapeHtml(std::string_view text);

struct ChartAxis {
  std::string label;
  bool log = false;   // All values must then be positive; others are left out.
  bool time = false;  // Values are seconds, and told with a unit.
  /// Instead of ticks of its own: values and what is written at them.
  std::vector<std::pair<double, std::string>> ticks;
};

struct ChartSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // In the order in which the line goes.
  int color = 0;
  bool dashed = false;
};

struct Chart {
  std::string title;
  ChartAxis x, y;
  std::vector<ChartSeries> series;
  std::optional<std::pair<double, std::string>> limit;  // A horizontal line and its name.
};

/// Lines with a dot at each point, which tells its values under the mouse. Linear axes begin at
/// zero. Without any point that can be drawn: a note that says so.
std::string DrawChart(const Chart& chart);

struct BarChart {
  std::string title;
  std::vector<std::string> parts;  // Names; the colours are in this order.
  struct Row {
    std::string name;
    std::vector<double> seconds;  // Of each part.
  };
  std::vector<Row> rows;
};

/// Horizontal bars whose parts follow each other.
std::string DrawBars(const BarChart& chart);

/// Round values of an axis from `low` to `high`, about `count` of them.
std::vector<double> LinearTicks(double low, double high, int count);
/// Powers of ten, and where these are few also 2 and 5 of each.
std::vector<double> LogTicks(double low, double high);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SVG_CHART_H_
