#include "client/cli/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/sparsity/report.h"
#include "backend/tensor/status.h"
#include "client/cli/gnuplot.h"

namespace thresher::cli {
namespace {

double Metric(const Quality& quality) {
  return quality.accuracy ? 100 * *quality.accuracy : quality.spearman.value_or(0);
}

std::string AxisLabel(std::string_view axis) {
  if (axis == "speedup") return "speedup over dense";
  if (axis == "requests_per_second") return "requests/s";
  if (axis == "bytes") return "share of bytes of K and V read";
  return fmt::format("share of {}s kept", axis);
}

}  // namespace

std::vector<std::string> PoliciesIn(std::span<const Sweep> sweeps) {
  std::vector<std::string> policies;
  for (const Sweep& sweep : sweeps) {
    for (const std::string& policy : sweep.policies) {
      if (std::ranges::count(policies, policy) == 0) policies.push_back(policy);
    }
  }
  return policies;
}

std::vector<std::string> PlotAxes() {
  std::vector<std::string> axes = {"speedup", "requests_per_second"};
  for (const auto& [kind, share] : KeepRatios({})) axes.emplace_back(kind);
  axes.emplace_back("bytes");
  return axes;
}

double AxisValue(const PolicyResult& result, std::string_view axis) {
  if (axis == "requests_per_second") return result.requests_per_second;
  if (axis == "bytes") return KeepRatio(result.work.bytes());
  for (const auto& [kind, share] : KeepRatios(result.work)) {
    if (kind == axis) return share;
  }
  return result.speedup;
}

namespace {

double AxisValue(const PerplexityResult& result, const PerplexityResult& dense,
                 std::string_view axis) {
  if (axis == "bytes") return KeepRatio(result.decode.bytes());
  for (const auto& [kind, share] : KeepRatios(result.decode)) {
    if (kind == axis) return share;
  }
  const auto rate = [](const PerplexityResult& of) {
    return static_cast<double>(of.tokens) / of.seconds;
  };
  return rate(result) / rate(dense);
}

struct Point {
  double x = 0;
  double metric = 0;
  double drift = 0;  // Drawn where it is above 0.
};

/// One picture: a metric above, and below, if some point has it, the drift.
struct Curves {
  std::vector<SeriesOf<Point>> series;
  Point dense;
  std::string metric_label, drift_label;
  double least_margin = 0;  // Of the metric's axis.
};

absl::StatusOr<std::string> Script(const Curves& curves, const PlotOptions& options) {
  // The drift's axis is logarithmic: it needs one that is not zero.
  bool drift = false;
  double low = curves.dense.metric;
  double high = low;
  for (const auto& line : curves.series) {
    for (const Point& point : line.points) {
      drift |= point.drift > 0;
      low = std::min(low, point.metric);
      high = std::max(high, point.metric);
    }
  }
  const double margin = std::max(0.1 * (high - low), curves.least_margin);
  const int height = drift ? 840 : 480;
  THRESHER_ASSIGN_OR_RETURN(std::string script, PlotTerminal(options.path, 900, height));
  for (size_t i = 0; i < curves.series.size(); ++i) {
    script += fmt::format("$series{} << EOD\n", i);
    std::vector<Point> points = curves.series[i].points;
    // A curve begins where nothing is left out.
    if (points.size() > 1) points.insert(points.begin(), curves.dense);
    for (const Point& point : points) {
      script += fmt::format("{} {} {}\n", point.x, point.metric,
                            point.drift > 0 ? fmt::format("{}", point.drift) : "NaN");
    }
    script += "EOD\n";
  }
  script +=
      fmt::format("set multiplot layout {},1 title {}\n", drift ? 2 : 1, Quoted(options.title));
  const bool falling = options.x != "speedup" && options.x != "requests_per_second";
  if (falling) script += "set xrange [*:*] reverse\n";
  script += fmt::format("set grid\nset key outside bottom center horizontal\nset xlabel {}\n",
                        Quoted(AxisLabel(options.x)));
  const auto plot = [&](int column, std::string_view label, bool with_dense) {
    script += fmt::format("set ylabel {}\nplot ", Quoted(label));
    for (size_t i = 0; i < curves.series.size(); ++i) {
      script +=
          fmt::format("{}$series{} using 1:{} with linespoints linetype {} linewidth 2 title {}",
                      i == 0 ? "" : ", ", i, column, i + 1, Quoted(curves.series[i].name));
    }
    if (with_dense) {
      script += fmt::format("{}{} with lines dashtype 2 linecolor rgb 'gray' title 'dense'",
                            curves.series.empty() ? "" : ", ", curves.dense.metric);
    }
    script += "\n";
  };
  script += fmt::format("set yrange [{}:{}]\n", low - margin, high + margin);
  plot(2, curves.metric_label, true);
  if (drift) {
    script += "set yrange [*:*]\nset logscale y\nset format y '%g'\nset key off\n";
    plot(3, curves.drift_label, false);
  }
  script += "unset multiplot\nunset output\n";
  return script;
}

template <typename Result, typename PointOf>
std::vector<SeriesOf<Point>> PointsOf(const std::vector<SeriesOf<Result>>& series,
                                      const PointOf& point_of) {
  std::vector<SeriesOf<Point>> lines;
  for (const auto& line : series) {
    lines.push_back({.name = line.name});
    for (const Result& result : line.points) lines.back().points.push_back(point_of(result));
  }
  return lines;
}

}  // namespace

absl::StatusOr<std::string> PlotScript(const PolicyResult& dense, const std::vector<Series>& series,
                                       const PlotOptions& asked) {
  PlotOptions options = asked;
  if (options.x.empty()) options.x = "speedup";
  const auto point = [&](const PolicyResult& result) {
    return Point{.x = AxisValue(result, options.x),
                 .metric = Metric(result.quality),
                 .drift = result.quality.kl.value_or(0)};
  };
  const bool accuracy = dense.quality.accuracy.has_value();
  return Script({.series = PointsOf(series, point),
                 .dense = point(dense),
                 .metric_label = accuracy ? "accuracy, %" : "Spearman's correlation",
                 .drift_label = "KL from dense, nats",
                 .least_margin = accuracy ? 0.5 : 0.005},
                options);
}

absl::StatusOr<std::string> TextPlotScript(const PerplexityResult& dense,
                                           const std::vector<TextSeries>& series,
                                           const PlotOptions& asked) {
  PlotOptions options = asked;
  if (options.x.empty()) options.x = "bytes";
  if (options.x == "requests_per_second") {
    return InvalidArgument("--plot-x requests_per_second: a text is no requests; take speedup");
  }
  const auto point = [&](const PerplexityResult& result) {
    return Point{.x = AxisValue(result, dense, options.x),
                 .metric = std::exp(result.loss),
                 .drift = result.loss - dense.loss};
  };
  return Script({.series = PointsOf(series, point),
                 .dense = point(dense),
                 .metric_label = "perplexity",
                 .drift_label = "loss over dense, nats a token",
                 .least_margin = 0.05},
                options);
}

}  // namespace thresher::cli
