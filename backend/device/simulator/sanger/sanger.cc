#include "backend/device/simulator/sanger/sanger.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/device/simulator/sanger/check.h"
#include "backend/device/simulator/sanger/head_work.h"
#include "backend/device/simulator/simulation.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::array<std::string_view, 2> kPolicies = {"dense", "sanger"};
constexpr const char* kWaitsForMask = "array: waits for the mask";
constexpr const char* kWaitsForMemory = "array: waits for memory";

class Sanger final : public Accelerator {
 public:
  explicit Sanger(const v1::Preset& preset)
      : preset_(preset), spec_(preset_.sanger()), memory_(preset_.dram().flat()) {}

  std::span<const std::string_view> policies() const override { return kPolicies; }
  double peak_operations() const override { return 2.0 * Elements() * spec_.clock_hz(); }
  double peak_bandwidth() const override { return memory_.bytes_per_second(); }

  void Reset() override { now_ = 0; }

  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope& scope) override {
    THRESHER_RETURN_IF_ERROR(Annotate(CheckSangerRecord(record),
                                      fmt::format("{}: layer {}", preset_.name(), record.layer)));
    Layer layer{.scope = scope, .number = record.layer};
    const int64_t begin = now_;
    const LayerShape& shape = record.shape;
    const int64_t width = int64_t{shape.head_dim} * shape.heads;
    const int64_t kv_width = 2 * int64_t{shape.head_dim} * shape.kv_heads;
    int64_t rows = 0;
    for (const SequenceRecord& sequence : record.sequences) rows += sequence.rows;
    if (!scope.attention_only) {
      RunProduct("Q, K, V", rows, shape.hidden_size, width + kv_width, &layer);
    }
    const std::vector<SangerWork> work = RunAttention(record, &layer);
    if (!scope.attention_only) {
      RunProduct("output", rows, width, shape.hidden_size, &layer);
      const int64_t up = int64_t{shape.ffn_size} * (shape.ffn_matrices - 1);
      RunProduct("feed-forward up", rows, shape.hidden_size, up, &layer);
      RunProduct("feed-forward down", rows, shape.ffn_size, shape.hidden_size, &layer);
    }
    LayerCharge charge;
    v1::Simulation& total = charge.total;
    total.set_preset(preset_.name());
    total.set_cycles(now_ - begin);
    total.set_seconds(static_cast<double>(total.cycles()) / spec_.clock_hz());
    ChargeWork(record, work, layer, static_cast<double>(rows), &charge);
    AddDense(record, scope.attention_only, &total);
    return charge;
  }

 private:
  /// What a layer adds up to.
  struct Layer {
    const RunScope& scope;
    int32_t number = 0;
    int64_t array_busy = 0;
    int64_t prediction_busy = 0;
    int64_t waits_for_mask = 0;
    int64_t waits_for_memory = 0;
    double linear_products = 0;
    double linear_bits = 0;
  };

  double Elements() const { return static_cast<double>(spec_.array_rows()) * spec_.row_elements(); }
  int64_t MemoryCycles(int64_t bits) const {
    return static_cast<int64_t>(
        std::ceil(static_cast<double>(bits) / 8 / memory_.bytes_per_second() * spec_.clock_hz()));
  }

  void Draw(const Layer& layer, const char* unit, const std::string& what, int64_t cycles) const {
    if (layer.scope.timeline == nullptr || cycles == 0) return;
    const double cycle_ps = 1e12 / spec_.clock_hz();
    const auto at = [&](int64_t cycle) {
      return std::llround(static_cast<double>(cycle) * cycle_ps);
    };
    layer.scope.timeline->Add(unit, fmt::format("layer {} {}", layer.number, what), at(now_),
                              at(now_ + cycles));
  }

  void RunProduct(const char* name, int64_t rows, int64_t in, int64_t out, Layer* layer) {
    const SangerProduct product = ProductOf(rows, in, out, spec_);
    const int64_t memory = MemoryCycles(product.bits);
    Draw(*layer, "array", name, product.cycles);
    Draw(*layer, "dram", name, memory);
    now_ += std::max(product.cycles, memory);
    layer->array_busy += product.cycles;
    layer->waits_for_memory += std::max<int64_t>(0, memory - product.cycles);
    layer->linear_products += static_cast<double>(product.products);
    layer->linear_bits += static_cast<double>(product.bits);
  }

  /// Step by step: the array has one head, the prediction the next one, and the memory feeds both.
  std::vector<SangerWork> RunAttention(const LayerRecord& record, Layer* layer) {
    struct Item {
      SangerWork work;
      std::string name;
    };
    std::vector<SangerWork> sums(record.sequences.size());
    Item in_array;
    const auto step = [&](const Item& next) {
      const SangerWork& work = in_array.work;
      const int64_t memory =
          MemoryCycles(work.stream_bits + work.row_bits + next.work.prediction_bits);
      const int64_t prediction = next.work.prediction_cycles;
      const int64_t cycles = std::max({work.array_cycles, prediction, memory});
      Draw(*layer, "array", in_array.name, work.array_cycles);
      Draw(*layer, "prediction", next.name, prediction);
      Draw(*layer, "dram", in_array.name.empty() ? next.name : in_array.name, memory);
      (prediction >= memory ? layer->waits_for_mask : layer->waits_for_memory) +=
          cycles - work.array_cycles;
      layer->array_busy += work.array_cycles;
      layer->prediction_busy += prediction;
      now_ += cycles;
    };
    for (size_t s = 0; s < record.sequences.size(); ++s) {
      for (const HeadRecord& head : record.sequences[s].heads) {
        Item next{.work = WorkOf(record.sequences[s], head, record.shape, spec_),
                  .name = fmt::format("sequence {} head {}", s, head.head)};
        step(next);
        sums[s].Add(next.work);
        in_array = std::move(next);
      }
    }
    step({});
    return sums;
  }

  void ChargeWork(const LayerRecord& record, const std::vector<SangerWork>& work,
                  const Layer& layer, double rows, LayerCharge* charge) const {
    const v1::SangerEnergy& energy = spec_.energy();
    const double scale = energy.scale() * 1e-12;
    const double product = energy.multiply() + energy.add();
    const double dim = record.shape.head_dim;
    const double element_bits = spec_.element_bits();
    v1::Simulation& total = charge->total;
    auto& parts = *total.mutable_energy_by_part();
    SangerWork sum;
    double bits = layer.linear_bits;
    for (size_t s = 0; s < work.size(); ++s) {
      sum.Add(work[s]);
      const double share = rows > 0 ? record.sequences[s].rows / rows : 0;  // Of linear layers.
      const auto scores = static_cast<double>(work[s].scores);
      const auto queries = static_cast<double>(work[s].queries);
      const auto predicted = static_cast<double>(work[s].predicted_scores);
      // A sub-row's outputs are added to those of its query.
      const double partial = static_cast<double>(work[s].sub_rows) * dim;
      const auto attention_bits =
          static_cast<double>(work[s].prediction_bits + work[s].stream_bits + work[s].row_bits);
      const double moved = attention_bits + share * layer.linear_bits;
      bits += attention_bits;
      // What comes from memory or goes there is written and read once; partial outputs as well.
      const double sram_bytes = 2 * (moved + partial * element_bits) / 8;
      double joules = 0;
      const auto add = [&](const char* part, double value) {
        if (value == 0) return;
        parts[part] += value;
        joules += value;
      };
      add("prediction", predicted * (dim * energy.predict() + energy.exponent()) * scale);
      add("attention", (2 * scores * dim * product + partial * energy.add()) * scale);
      add("softmax", (scores * energy.exponent() + queries * dim * energy.divide()) * scale);
      add("linear", share * layer.linear_products * product * scale);
      add("sram", sram_bytes * energy.sram_byte() * scale);
      add("dram", moved * memory_.picojoules_per_bit() * 1e-12);
      charge->shares.push_back(joules);
      total.set_energy_joules(total.energy_joules() + joules);
      total.set_sram_bytes(total.sram_bytes() + sram_bytes);
    }
    MakeShares(&charge->shares);
    total.set_dram_bytes(bits / 8);
    total.set_dram_bytes_plain(bits / 8);
    total.set_kv_bytes(static_cast<double>(sum.stream_bits) / 8);
    total.set_softmax_rows(sum.queries);
    total.set_operations(4 * static_cast<double>(sum.scores) * dim + 2 * layer.linear_products);
    ChargeUnits(sum, layer, &total);
  }

  void ChargeUnits(const SangerWork& sum, const Layer& layer, v1::Simulation* total) const {
    auto& busy = *total->mutable_busy_cycles();
    auto& stalls = *total->mutable_stall_cycles();
    const auto pass = sum.passes > 0
                          ? static_cast<double>(sum.array_cycles) / static_cast<double>(sum.passes)
                          : 0.0;
    busy["array"] = static_cast<double>(layer.array_busy);
    busy["array.attention"] = static_cast<double>(sum.array_cycles);
    busy["array.rows"] = pass * static_cast<double>(sum.sub_rows) / spec_.array_rows();
    busy["array.elements"] = pass * static_cast<double>(sum.scores) / Elements();
    if (layer.prediction_busy > 0) busy["prediction"] = static_cast<double>(layer.prediction_busy);
    busy["dram"] = total->dram_bytes() / memory_.bytes_per_second() * spec_.clock_hz();
    if (layer.waits_for_mask > 0) {
      stalls[kWaitsForMask] = static_cast<double>(layer.waits_for_mask);
    }
    if (layer.waits_for_memory > 0) {
      stalls[kWaitsForMemory] = static_cast<double>(layer.waits_for_memory);
    }
  }

  const v1::Preset preset_;
  const v1::SangerSpec& spec_;
  const v1::FlatMemorySpec& memory_;
  int64_t now_ = 0;  // In cycles: when the last layer ended.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> CreateSanger(const v1::Preset& preset) {
  const auto where = fmt::format("preset '{}'", preset.name());
  if (!preset.has_sanger()) return InvalidArgument("{}: sanger: is missing", where);
  THRESHER_RETURN_IF_ERROR(Annotate(CheckSangerPreset(preset), where));
  return std::make_unique<Sanger>(preset);
}

}  // namespace thresher
