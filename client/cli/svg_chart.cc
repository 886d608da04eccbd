#include "client/cli/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "client/cli/format.h"
#include "client/cli/load_format.h"

namespace thresher::cli {
namespace {

constexpr double kWidth = 640, kHeight = 320;
constexpr double kLeft = 74, kRight = 16, kTop = 34, kBottom = 48;
constexpr double kLegendLine = 17;

std::string Value(double value, const ChartAxis& axis) {
  if (axis.time) return TimeText(absl::Seconds(value));
  return fmt::format("{:.4g}", value);
}

/// Where values of one axis are on the page.
class Scale {
 public:
  Scale(const ChartAxis& axis, double low, double high, double from, double to)
      : log_(axis.log), from_(from), to_(to) {
    if (log_) {
      low_ = std::log10(low);
      high_ = std::log10(high);
      const double room = std::max((high_ - low_) * 0.04, 0.02);
      low_ -= room;
      high_ += room;
    } else {
      low_ = axis.ticks.empty() ? std::min(0.0, low) : low;
      high_ = high + (high - low_) * 0.04;
      if (high_ <= low_) high_ = low_ + 1;
    }
  }
  double operator()(double value) const {
    const double place = log_ ? std::log10(value) : value;
    return from_ + (place - low_) / (high_ - low_) * (to_ - from_);
  }
  std::vector<double> Ticks() const {
    return log_ ? LogTicks(std::pow(10, low_), std::pow(10, high_)) : LinearTicks(low_, high_, 6);
  }

 private:
  const bool log_;
  const double from_, to_;
  double low_ = 0, high_ = 0;
};

bool Drawable(const Chart& chart, const std::pair<double, double>& point) {
  const auto fits = [](double value, const ChartAxis& axis) {
    return std::isfinite(value) && (!axis.log || value > 0);
  };
  return fits(point.first, chart.x) && fits(point.second, chart.y);
}

void DrawAxes(const Chart& chart, const Scale& x, const Scale& y, std::string* svg) {
  const double bottom = kHeight - kBottom;
  const auto ticks = [](const ChartAxis& axis, const Scale& scale) {
    if (!axis.ticks.empty()) return axis.ticks;
    std::vector<std::pair<double, std::string>> ticks;
    for (const double value : scale.Ticks()) ticks.emplace_back(value, Value(value, axis));
    return ticks;
  };
  for (const auto& [value, text] : ticks(chart.x, x)) {
    *svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4}</text>\n",
        x(value), kTop, bottom, bottom + 16, EscapeHtml(text));
  }
  for (const auto& [value, text] : ticks(chart.y, y)) {
    *svg += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
        kLeft, kWidth - kRight, y(value), kLeft - 6, y(value) + 4, EscapeHtml(text));
  }
  *svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                      (kLeft + kWidth - kRight) / 2, kHeight - 10, EscapeHtml(chart.x.label));
  *svg += fmt::format(
      "<text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      (kTop + bottom) / 2, EscapeHtml(chart.y.label));
}

std::string Begin(const std::string& title, double height) {
  return fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n"
      "<text class=\"title\" x=\"{}\" y=\"18\">{}</text>\n",
      kWidth, height, EscapeHtml(title), kLeft, EscapeHtml(title));
}

void DrawSeries(const Chart& chart, const ChartSeries& series, const Scale& x, const Scale& y,
                std::string* svg) {
  std::string path;
  std::string dots;
  for (const auto& point : series.points) {
    if (!Drawable(chart, point)) continue;
    path +=
        fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x(point.first), y(point.second));
    dots += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}: {}, {}</title></circle>",
        x(point.first), y(point.second), series.points.size() > 40 ? 2 : 3, EscapeHtml(series.name),
        EscapeHtml(Value(point.first, chart.x)), EscapeHtml(Value(point.second, chart.y)));
  }
  *svg += fmt::format("<g class=\"c{}{}\"><path d=\"{}\"/>{}</g>\n", series.color % 8,
                      series.dashed ? " dashed" : "", path, dots);
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : Printable(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::vector<double> LinearTicks(double low, double high, int count) {
  std::vector<double> ticks;
  if (!(high > low) || count < 1) return {low};
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double step = rough / power > 5   ? 10 * power
                      : rough / power > 2 ? 5 * power
                      : rough / power > 1 ? 2 * power
                                          : power;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); ++i) {
    ticks.push_back(i * step + 0.0);  // No "-0".
  }
  return ticks;
}

std::vector<double> LogTicks(double low, double high) {
  const int first = static_cast<int>(std::floor(std::log10(low)));
  const int last = static_cast<int>(std::ceil(std::log10(high)));
  const bool few = last - first <= 4;
  std::vector<double> ticks;
  for (int power = first; power <= last; ++power) {
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double value = digit * std::pow(10, power);
      if ((digit == 1 || few) && value >= low && value <= high) ticks.push_back(value);
    }
  }
  return ticks;
}

std::string DrawChart(const Chart& chart) {
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
  for (const ChartSeries& series : chart.series) {
    for (const auto& point : series.points) {
      if (!Drawable(chart, point)) continue;
      x_low = std::min(x_low, point.first);
      x_high = std::max(x_high, point.first);
      y_low = std::min(y_low, point.second);
      y_high = std::max(y_high, point.second);
    }
  }
  if (x_low > x_high) {
    return fmt::format("<p class=\"note\">{}: nothing was answered.</p>\n",
                       EscapeHtml(chart.title));
  }
  if (chart.limit) {
    y_low = std::min(y_low, chart.limit->first);
    y_high = std::max(y_high, chart.limit->first);
  }
  for (const auto& [value, text] : chart.x.ticks) {
    x_low = std::min(x_low, value);
    x_high = std::max(x_high, value);
  }
  for (const auto& [value, text] : chart.y.ticks) {
    y_low = std::min(y_low, value);
    y_high = std::max(y_high, value);
  }
  const Scale x(chart.x, x_low, x_high, kLeft, kWidth - kRight);
  const Scale y(chart.y, y_low, y_high, kHeight - kBottom, kTop);
  const auto rows = static_cast<double>((chart.series.size() + 1) / 2);
  std::string svg = Begin(chart.title, kHeight + rows * kLegendLine + 4);
  DrawAxes(chart, x, y, &svg);
  if (chart.limit) {
    svg += fmt::format(
        "<line class=\"limit\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{1}\" y=\"{3:.1f}\" text-anchor=\"end\">{4}</text>\n",
        kLeft, kWidth - kRight, y(chart.limit->first), y(chart.limit->first) - 4,
        EscapeHtml(chart.limit->second));
  }
  for (const ChartSeries& series : chart.series) DrawSeries(chart, series, x, y, &svg);
  // The legend, in two columns.
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const ChartSeries& series = chart.series[i];
    const double left = kLeft + static_cast<double>(i % 2) * (kWidth - kLeft) / 2;
    const double top = kHeight + static_cast<double>(i / 2) * kLegendLine + 4;
    svg += fmt::format(
        "<g class=\"c{}{}\"><path d=\"M{} {}h22\"/></g><text x=\"{}\" y=\"{}\">{}</text>\n",
        series.color % 8, series.dashed ? " dashed" : "", left, top, left + 28, top + 4,
        EscapeHtml(Shorten(series.name, 44)));
  }
  return svg + "</svg>\n";
}

std::string DrawBars(const BarChart& chart) {
  constexpr double kRow = 26, kNames = 190;
  double longest = 0;
  for (const BarChart::Row& row : chart.rows) {
    double sum = 0;
    for (const double part : row.seconds) sum += part;
    longest = std::max(longest, sum);
  }
  if (!(longest > 0)) return "";
  const double height = kTop + static_cast<double>(chart.rows.size()) * kRow + 28;
  std::string svg = Begin(chart.title, height);
  const double scale = (kWidth - kNames - 80) / longest;
  for (size_t r = 0; r < chart.rows.size(); ++r) {
    const BarChart::Row& row = chart.rows[r];
    const double top = kTop + static_cast<double>(r) * kRow;
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", kNames - 8,
                       top + 14, EscapeHtml(Shorten(row.name, 28)));
    double left = kNames;
    double sum = 0;
    for (size_t i = 0; i < row.seconds.size() && i < chart.parts.size(); ++i) {
      const double width = row.seconds[i] * scale;
      svg += fmt::format(
          "<rect class=\"c{}\" x=\"{:.1f}\" y=\"{}\" width=\"{:.2f}\" height=\"18\">"
          "<title>{}: {}</title></rect>",
          i % 8, left, top, width, EscapeHtml(chart.parts[i]),
          EscapeHtml(TimeText(absl::Seconds(row.seconds[i]))));
      left += width;
      sum += row.seconds[i];
    }
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\">{}</text>\n", left + 6, top + 14,
                       EscapeHtml(TimeText(absl::Seconds(sum))));
  }
  double left = kNames;
  for (size_t i = 0; i < chart.parts.size(); ++i) {
    svg += fmt::format(
        "<rect class=\"c{}\" x=\"{}\" y=\"{}\" width=\"10\" height=\"10\"/>"
        "<text x=\"{}\" y=\"{}\">{}</text>",
        i % 8, left, height - 18, left + 14, height - 9, EscapeHtml(chart.parts[i]));
    left += 24 + 7.0 * static_cast<double>(chart.parts[i].size());
  }
  return svg + "\n</svg>\n";
}

}  // namespace thresher::cli
