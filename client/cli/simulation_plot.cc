#include "client/cli/simulation_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "backend/tensor/status.h"
#include "client/cli/gnuplot.h"

namespace thresher::cli {
namespace {

/// A string within a block of data.
std::string InData(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == '"' ? ' ' : c;
  return out + "\"";
}

/// As many blocks of a row for each run as there are names: one column for each name.
template <typename Value>
std::string Stacks(std::span<const SimulationRun> runs, const std::set<std::string>& names,
                   Value value) {
  std::string data;
  for (const SimulationRun& run : runs) {
    data += InData(run.preset.name());
    for (const std::string& name : names) data += fmt::format(" {}", value(run, name));
    data += "\n";
  }
  return data;
}

double Of(const google::protobuf::Map<std::string, double>& map, const std::string& name) {
  const auto found = map.find(name);
  return found == map.end() ? 0.0 : found->second;
}

std::string Roofline(std::span<const SimulationRun> runs) {
  double low = 1e300, high = 0.0, top = 0.0;
  for (const SimulationRun& run : runs) {
    const v1::Simulation& s = run.total;
    if (!(s.dram_bytes() > 0.0) || !(s.operations() > 0.0)) continue;
    const double intensity = s.operations() / s.dram_bytes();
    const double ridge =
        run.peak_bandwidth > 0.0 ? run.peak_operations / run.peak_bandwidth : intensity;
    low = std::min({low, intensity, ridge});
    high = std::max({high, intensity, ridge});
    top = std::max({top, run.peak_operations, s.operations() / s.seconds()});
  }
  if (high == 0.0) return "";
  std::string script = fmt::format(
      "set logscale xy\nset xrange [{}:{}]\nset yrange [*:{}]\n"
      "set xlabel 'operations for each byte moved'\nset ylabel 'operations a second'\n"
      "set format y '%.0s%c'\nset grid\nset key outside right top\nplot ",
      low / 4.0, high * 4.0, top * 2.0);
  bool first = true;
  for (size_t i = 0; i < runs.size(); ++i) {
    const v1::Simulation& s = runs[i].total;
    if (!(s.dram_bytes() > 0.0) || !(s.operations() > 0.0)) continue;
    if (runs[i].peak_operations > 0.0 && runs[i].peak_bandwidth > 0.0) {
      script += fmt::format("{}(x*{} < {} ? x*{} : {}) with lines linetype {} notitle",
                            first ? "" : ", ", runs[i].peak_bandwidth, runs[i].peak_operations,
                            runs[i].peak_bandwidth, runs[i].peak_operations, i + 1);
      first = false;
    }
    script +=
        fmt::format("{}'-' using 1:2 with points pointtype 7 pointsize 1.5 linetype {} title {}",
                    first ? "" : ", ", i + 1, Quoted(runs[i].preset.name()));
    first = false;
  }
  script += "\n";
  for (const SimulationRun& run : runs) {
    const v1::Simulation& s = run.total;
    if (!(s.dram_bytes() > 0.0) || !(s.operations() > 0.0)) continue;
    script +=
        fmt::format("{} {}\ne\n", s.operations() / s.dram_bytes(), s.operations() / s.seconds());
  }
  return script + "unset logscale\nset format y '%g'\nset xrange [*:*]\nset yrange [*:*]\n";
}

/// A group of bars for each run, one bar (or layer of a stack) for each name.
std::string Bars(std::string_view block, std::string_view label, std::string_view style,
                 const std::set<std::string>& names) {
  std::string script = fmt::format(
      "set style data histograms\nset style histogram {}\nset style fill solid 0.8 border -1\n"
      "set boxwidth 0.9\nset xlabel ''\nset ylabel {}\nset yrange [0:*]\nplot ",
      style, Quoted(label));
  int column = 2;
  for (const std::string& name : names) {
    script += fmt::format("{}{} using {}:xtic(1) title {}", column > 2 ? ", " : "", block, column,
                          Quoted(name));
    ++column;
  }
  return script + "\n";
}

}  // namespace

absl::StatusOr<std::string> SimulationPlot(std::span<const SimulationRun> runs,
                                           const std::string& path, const std::string& title) {
  THRESHER_ASSIGN_OR_RETURN(std::string script, PlotTerminal(path, 900, 1080));
  std::set<std::string> units, parts;
  for (const SimulationRun& run : runs) {
    for (const auto& [unit, cycles] : run.total.busy_cycles()) {
      if (unit.find('.') == std::string::npos) units.insert(unit);  // Not parts of units.
    }
    for (const auto& [part, joules] : run.total.energy_by_part()) parts.insert(part);
  }
  script += "$busy << EOD\n" +
            Stacks(runs, units,
                   [](const SimulationRun& run, const std::string& unit) {
                     const double cycles = std::max(1.0, static_cast<double>(run.total.cycles()));
                     return 100.0 * Of(run.total.busy_cycles(), unit) / cycles;
                   }) +
            "EOD\n$energy << EOD\n" +
            Stacks(runs, parts,
                   [](const SimulationRun& run, const std::string& part) {
                     return 1e3 * Of(run.total.energy_by_part(), part);
                   }) +
            "EOD\n";
  script += fmt::format("set multiplot layout 3,1 title {}\n", Quoted(title));
  script += Roofline(runs);
  if (!units.empty()) script += Bars("$busy", "busy, %", "clustered gap 1", units);
  if (!parts.empty()) script += Bars("$energy", "energy, mJ", "rowstacked", parts);
  return script + "unset multiplot\nunset output\n";
}

}  // namespace thresher::cli
