#include "client/cli/plot.h"

#include <fmt/format.h>

#include <algorithm>

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

absl::StatusOr<std::string> PlotScript(const PolicyResult& dense, const std::vector<Series>& series,
                                       const PlotOptions& options) {
  // The drift's axis is logarithmic: it needs one that is not zero.
  bool drift = false;
  double low = Metric(dense.quality);
  double high = low;
  for (const Series& line : series) {
    for (const PolicyResult& point : line.points) {
      drift |= point.quality.kl.value_or(0) > 0;
      low = std::min(low, Metric(point.quality));
      high = std::max(high, Metric(point.quality));
    }
  }
  const double margin = std::max(0.1 * (high - low), dense.quality.accuracy ? 0.5 : 0.005);
  const int height = drift ? 840 : 480;
  THRESHER_ASSIGN_OR_RETURN(std::string script, PlotTerminal(options.path, 900, height));
  for (size_t i = 0; i < series.size(); ++i) {
    script += fmt::format("$series{} << EOD\n", i);
    std::vector<PolicyResult> points = series[i].points;
    // A curve begins where nothing is left out.
    if (points.size() > 1) points.insert(points.begin(), dense);
    for (const PolicyResult& point : points) {
      const double kl = point.quality.kl.value_or(0);
      script += fmt::format("{} {} {}\n", AxisValue(point, options.x), Metric(point.quality),
                            kl > 0 ? fmt::format("{}", kl) : "NaN");
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
    for (size_t i = 0; i < series.size(); ++i) {
      script +=
          fmt::format("{}$series{} using 1:{} with linespoints linetype {} linewidth 2 title {}",
                      i == 0 ? "" : ", ", i, column, i + 1, Quoted(series[i].name));
    }
    if (with_dense) {
      script += fmt::format("{}{} with lines dashtype 2 linecolor rgb 'gray' title 'dense'",
                            series.empty() ? "" : ", ", Metric(dense.quality));
    }
    script += "\n";
  };
  script += fmt::format("set yrange [{}:{}]\n", low - margin, high + margin);
  plot(2, dense.quality.accuracy ? "accuracy, %" : "Spearman's correlation", true);
  if (drift) {
    script += "set yrange [*:*]\nset logscale y\nset format y '%g'\nset key off\n";
    plot(3, "KL from dense, nats", false);
  }
  script += "unset multiplot\nunset output\n";
  return script;
}

}  // namespace thresher::cli
