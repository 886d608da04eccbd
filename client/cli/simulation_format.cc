#include "client/cli/simulation_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "backend/device/simulator/rated/rated.h"

namespace thresher::cli {
namespace {

/// Null for what is divided by nothing.
Json Ratio(double over, double under) { return under > 0.0 ? Json(over / under) : Json(nullptr); }

double PerSecond(double amount, const v1::Simulation& simulation) {
  return simulation.seconds() > 0.0 ? amount / simulation.seconds() : 0.0;
}

/// Largest first.
template <typename Map>
std::vector<std::pair<std::string, double>> Sorted(const Map& map) {
  std::vector<std::pair<std::string, double>> items(map.begin(), map.end());
  std::ranges::sort(items, [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  return items;
}

/// "1.23 ms", "45.6 GB": three digits and the prefix that fits.
std::string Quantity(double value, std::string_view unit) {
  constexpr std::array<std::pair<double, std::string_view>, 9> kPrefixes = {{{1e15, "P"},
                                                                             {1e12, "T"},
                                                                             {1e9, "G"},
                                                                             {1e6, "M"},
                                                                             {1e3, "k"},
                                                                             {1.0, ""},
                                                                             {1e-3, "m"},
                                                                             {1e-6, "u"},
                                                                             {1e-9, "n"}}};
  if (value == 0.0) return fmt::format("0 {}", unit);
  for (const auto& [scale, prefix] : kPrefixes) {
    const double scaled = value / scale;
    if (scaled < 0.9995) continue;
    const int decimals = scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0;
    return fmt::format("{:.{}f} {}{}", scaled, decimals, prefix, unit);
  }
  return fmt::format("{:.3g} {}", value, unit);
}

int64_t RowAccesses(const v1::DramCounts& dram) {
  return dram.row_hits() + dram.row_misses() + dram.row_conflicts();
}

Json Known(double value) { return value > 0.0 ? Json(value) : Json(nullptr); }

/// Takes out what a rating can't say, and adds what it is on the common basis.
void AddRating(const v1::Preset& preset, Json* json) {
  for (const char* name : {"dram_bytes", "dram_bytes_plain", "kv_bytes", "dram_bytes_dense",
                           "reduction", "refetch_share", "softmax_rows", "utilization", "stalls",
                           "sram_bytes", "row_hit_rate", "dram"}) {
    json->erase(name);
  }
  const BasisRating basis = RatingOnBasis(preset);
  const double operations = (*json)["operations_dense"].get<double>();
  (*json)["rating"] = {{"saved_share", preset.rated().saved_share()},
                       {"accuracy_loss", preset.rated().accuracy_loss()},
                       {"seconds_on_basis", Ratio(operations, basis.operations_per_second)},
                       {"multipliers", Known(preset.rated().multipliers())},
                       {"multipliers_implied", preset.rated().multipliers_implied()},
                       {"gops_per_core_watt", Known(basis.gops_per_core_watt)},
                       {"gops_per_device_watt", Known(basis.gops_per_device_watt)},
                       {"gops_per_mm2", Known(basis.gops_per_mm2)}};
}

constexpr std::string_view kNotSaid = "-";

std::string Rounded(double value) {
  return value > 0.0 ? fmt::format("{:.0f}", value) : std::string(kNotSaid);
}

/// The ratings among them side by side; empty if there are none.
std::string RatingsTable(std::span<const SimulationRun> runs) {
  std::vector<std::vector<std::string>> rows = {{"RATED, ON ONE BASIS", "TIME", "SAVED",
                                                 "ACCURACY LOSS", "GOPS/W CORE", "GOPS/W DEVICE",
                                                 "GOPS/MM2"}};
  for (const SimulationRun& run : runs) {
    if (!run.preset.has_rated()) continue;
    const v1::RatedSpec& spec = run.preset.rated();
    const BasisRating basis = RatingOnBasis(run.preset);
    std::string time(kNotSaid);
    if (basis.operations_per_second > 0.0) {
      time = Quantity(run.total.operations_dense() / basis.operations_per_second, "s");
      if (spec.multipliers_implied()) time += " *";
    }
    rows.push_back({run.preset.name(), time, fmt::format("{:.0f} %", 100.0 * spec.saved_share()),
                    fmt::format("{:.2g} %", 100.0 * spec.accuracy_loss()),
                    Rounded(basis.gops_per_core_watt), Rounded(basis.gops_per_device_watt),
                    Rounded(basis.gops_per_mm2)});
  }
  if (rows.size() == 1) return "";
  return "\n" + Table(rows) +
         "\nRatings are published throughput and power, no models of cycles. One basis: 128 "
         "multipliers at\n1 GHz; 28 nm, 1.0 V. *: by multipliers that nobody published, as "
         "docs/simulator.md explains.\n";
}

}  // namespace

Json ToJson(const SimulationRun& run) {
  const v1::Simulation& s = run.total;
  const auto& dense = s.kv_bytes_dense();
  const auto cycles = static_cast<double>(s.cycles());
  Json utilization = Json::object(), stalls = Json::object(), energy = Json::object();
  for (const auto& [unit, busy] : Sorted(s.busy_cycles())) utilization[unit] = Ratio(busy, cycles);
  for (const auto& [cause, stalled] : Sorted(s.stall_cycles())) stalls[cause] = stalled;
  for (const auto& [part, joules] : Sorted(s.energy_by_part())) energy[part] = joules;
  Json channels = Json::array();
  for (const int64_t requests : s.dram().requests_by_channel()) channels.push_back(requests);
  Json json = {{"preset", run.preset.name()},
               {"layers", run.layers},
               {"sequences", run.sequences},
               {"cycles", s.cycles()},
               {"seconds", s.seconds()},
               {"dram_bytes", s.dram_bytes()},
               {"dram_bytes_plain", s.dram_bytes_plain()},
               {"kv_bytes", s.kv_bytes()},
               {"dram_bytes_dense",
                {{"fp32", dense.fp32()}, {"fp16", dense.fp16()}, {"int12", dense.int12()}}},
               {"reduction",
                {{"fp32", Ratio(dense.fp32(), s.kv_bytes())},
                 {"fp16", Ratio(dense.fp16(), s.kv_bytes())},
                 {"int12", Ratio(dense.int12(), s.kv_bytes())}}},
               {"refetch_share", Ratio(static_cast<double>(s.refetched_rows()),
                                       static_cast<double>(s.softmax_rows()))},
               {"softmax_rows", s.softmax_rows()},
               {"energy_joules", s.energy_joules()},
               {"energy_by_part", std::move(energy)},
               {"operations", s.operations()},
               {"operations_dense", s.operations_dense()},
               {"tflops", PerSecond(s.operations(), s) / 1e12},
               {"tflops_dense_equivalent", PerSecond(s.operations_dense(), s) / 1e12},
               {"utilization", std::move(utilization)},
               {"stalls", std::move(stalls)},
               {"sram_bytes", s.sram_bytes()},
               {"row_hit_rate", Ratio(static_cast<double>(s.dram().row_hits()),
                                      static_cast<double>(RowAccesses(s.dram())))},
               {"dram",
                {{"reads", s.dram().reads()},
                 {"writes", s.dram().writes()},
                 {"activations", s.dram().activations()},
                 {"precharges", s.dram().precharges()},
                 {"refreshes", s.dram().refreshes()},
                 {"requests_by_channel", std::move(channels)}}},
               {"host_seconds", run.host_seconds}};
  if (run.preset.has_rated()) AddRating(run.preset, &json);
  if (run.preset.area_mm2() > 0.0) json["area_mm2"] = run.preset.area_mm2();
  if (run.preset.technology_nm() > 0.0) json["technology_nm"] = run.preset.technology_nm();
  return json;
}

std::string ToText(const SimulationRun& run) {
  const v1::Simulation& s = run.total;
  const auto cycles = static_cast<double>(s.cycles());
  std::string text = fmt::format("{}  {}\n\n", run.preset.name(), run.preset.description());
  const auto line = [&text](std::string_view name, const std::string& value) {
    text += fmt::format("{:<12}{}\n", name, value);
  };
  line("workload", fmt::format("{} runs of a layer, {} {}", run.layers, run.sequences,
                               run.sequences == 1 ? "sequence" : "sequences"));
  line("time", fmt::format("{}  ({} cycles)", Quantity(s.seconds(), "s"), s.cycles()));
  line("energy", Quantity(s.energy_joules(), "J"));
  line("operations", fmt::format("{} executed, {}; {} dense", Quantity(s.operations(), "op"),
                                 Quantity(PerSecond(s.operations(), s), "op/s"),
                                 Quantity(s.operations_dense(), "op")));
  if (!run.preset.has_rated()) {
    line("memory", fmt::format("{} moved, {}; {} asked for", Quantity(s.dram_bytes(), "B"),
                               Quantity(PerSecond(s.dram_bytes(), s), "B/s"),
                               Quantity(s.dram_bytes_plain(), "B")));
  }
  const auto& dense = s.kv_bytes_dense();
  if (s.kv_bytes() > 0.0 && dense.fp32() > 0.0) {
    line("K and V",
         fmt::format("{}, of dense a part in {:.1f} (fp32), {:.1f} (fp16), {:.1f} (int12)",
                     Quantity(s.kv_bytes(), "B"), dense.fp32() / s.kv_bytes(),
                     dense.fp16() / s.kv_bytes(), dense.int12() / s.kv_bytes()));
  }
  if (s.refetched_rows() > 0) {
    line("refetched",
         fmt::format("{} of {} softmax rows, {:.1f} %", s.refetched_rows(), s.softmax_rows(),
                     100.0 * static_cast<double>(s.refetched_rows()) /
                         static_cast<double>(s.softmax_rows())));
  }
  if (const int64_t accesses = RowAccesses(s.dram()); accesses > 0) {
    line("rows", fmt::format("{:.1f} % hits, {} activations, {} refreshes",
                             100.0 * static_cast<double>(s.dram().row_hits()) /
                                 static_cast<double>(accesses),
                             s.dram().activations(), s.dram().refreshes()));
  }
  if (s.sram_bytes() > 0.0) line("SRAM", Quantity(s.sram_bytes(), "B"));
  if (run.preset.area_mm2() > 0.0) {
    line("area", fmt::format("{} mm2 in {} nm (published)", run.preset.area_mm2(),
                             run.preset.technology_nm()));
  }
  constexpr int kCells = 30;
  const auto section = [&text](std::string_view title, const auto& items, double whole,
                               const auto& value) {
    if (items.empty() || !(whole > 0.0)) return;
    std::vector<std::vector<std::string>> rows = {{std::string(title), "", ""}};
    for (const auto& [name, amount] : items) {
      rows.push_back({name, value(amount), Bar(std::min(1.0, amount / whole), kCells)});
    }
    text += "\n" + Table(rows);
  };
  const auto share = [&](double busy) { return fmt::format("{:.1f} %", 100.0 * busy / cycles); };
  section("UNIT BUSY", Sorted(s.busy_cycles()), cycles, share);
  section("STALLED", Sorted(s.stall_cycles()), cycles, share);
  section("ENERGY", Sorted(s.energy_by_part()), s.energy_joules(),
          [](double joules) { return Quantity(joules, "J"); });
  return text + RatingsTable(std::span(&run, 1));
}

std::string ToTable(std::span<const SimulationRun> runs) {
  std::vector<std::vector<std::string>> rows = {
      {"PRESET", "TIME", "CYCLES", "MEMORY", "ENERGY", "OP/S", "DENSE OP/S", "BUSIEST UNIT"}};
  for (const SimulationRun& run : runs) {
    const v1::Simulation& s = run.total;
    const auto units = Sorted(s.busy_cycles());
    const bool rated = run.preset.has_rated();
    rows.push_back(
        {run.preset.name(), Quantity(s.seconds(), "s"), fmt::format("{}", s.cycles()),
         rated ? std::string(kNotSaid) : Quantity(s.dram_bytes(), "B"),
         Quantity(s.energy_joules(), "J"), Quantity(PerSecond(s.operations(), s), "op/s"),
         Quantity(PerSecond(s.operations_dense(), s), "op/s"),
         units.empty() || s.cycles() == 0
             ? std::string(rated ? kNotSaid : "")
             : fmt::format("{} {:.0f} %", units.front().first,
                           100.0 * units.front().second / static_cast<double>(s.cycles()))});
  }
  return Table(rows) + RatingsTable(runs);
}

}  // namespace thresher::cli
