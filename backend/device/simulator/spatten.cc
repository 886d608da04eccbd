#include "backend/device/simulator/spatten.h"

#include <array>
#include <span>
#include <string>
#include <utility>

#include "backend/device/simulator/dram.h"
#include "backend/device/simulator/fetch_network.h"
#include "backend/device/simulator/spatten_check.h"
#include "backend/device/simulator/spatten_linear.h"
#include "backend/device/simulator/spatten_pipeline.h"
#include "backend/device/simulator/top_k_engine.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::array<std::string_view, 2> kPolicies = {"dense", "spatten"};
constexpr double kPicojoule = 1e-12;

FetchNetwork::Options NetworkOptions(const v1::SpAttenSpec& spec) {
  return {.lanes = spec.fetch().lanes(),
          .lane_queue = spec.fetch().lane_queue(),
          .outstanding_per_channel = spec.fetch().outstanding_per_channel(),
          .crossbar_cycles = spec.fetch().crossbar_cycles(),
          .cycle_ps = 1e12 / spec.clock_hz()};
}

TopKEngine::Options TopKOptions(const v1::SpAttenTopK& spec) {
  return {
      .parallelism = spec.parallelism(), .round_cycles = spec.round_cycles(), .seed = spec.seed()};
}

v1::DramCounts Since(const v1::DramCounts& before, const v1::DramCounts& after) {
  v1::DramCounts since;
  since.set_reads(after.reads() - before.reads());
  since.set_writes(after.writes() - before.writes());
  since.set_activations(after.activations() - before.activations());
  since.set_precharges(after.precharges() - before.precharges());
  since.set_refreshes(after.refreshes() - before.refreshes());
  since.set_row_hits(after.row_hits() - before.row_hits());
  since.set_row_misses(after.row_misses() - before.row_misses());
  since.set_row_conflicts(after.row_conflicts() - before.row_conflicts());
  for (int i = 0; i < after.requests_by_channel_size(); ++i) {
    since.add_requests_by_channel(
        after.requests_by_channel(i) -
        (i < before.requests_by_channel_size() ? before.requests_by_channel(i) : 0));
  }
  return since;
}

/// Pairs of a query and a key that a dense sequence has.
double DensePairs(const SequenceRecord& sequence, bool causal) {
  const double rows = sequence.dense_rows, keys = sequence.dense_keys;
  return rows * keys - (causal ? rows * (rows - 1) / 2 : 0);
}

class SpAtten : public Accelerator {
 public:
  SpAtten(const v1::Preset& preset, std::unique_ptr<Dram> dram)
      : preset_(preset),
        spec_(preset_.spatten()),
        dram_(std::move(dram)),
        network_(NetworkOptions(spec_), dram_.get()),
        top_k_(TopKOptions(spec_.top_k())) {}

  std::span<const std::string_view> policies() const override { return kPolicies; }

  double peak_operations() const override {
    return 2.0 * 2.0 * spec_.multipliers() * spec_.clock_hz();  // Two arrays.
  }
  double peak_bandwidth() const override { return dram_->peak_bandwidth(); }

  void Reset() override {
    dram_->Reset();
    network_.Reset();
    top_k_.Reset();
    now_ = 0;
  }

  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope& scope) override {
    const std::string where = fmt::format("{}: layer {}", preset_.name(), record.layer);
    THRESHER_RETURN_IF_ERROR(Annotate(CheckSpAttenRecord(record, spec_), where));
    if (!scope.attention_only) {
      THRESHER_RETURN_IF_ERROR(Annotate(CheckSpAttenLinear(record, spec_), where));
    }
    const v1::DramCounts counts_before = dram_->counts();
    const double energy_before = dram_->energy();
    const int64_t transactions_before = network_.transactions();
    const int64_t begin = now_;

    SpAttenLinear linear(spec_, &network_, scope.timeline);
    const auto run_linear = [&](const std::vector<LinearProduct>& products) -> absl::Status {
      if (scope.attention_only) return absl::OkStatus();
      for (const LinearProduct& product : products) {
        THRESHER_ASSIGN_OR_RETURN(now_, linear.Run(product, record.layer, now_));
      }
      return absl::OkStatus();
    };
    THRESHER_RETURN_IF_ERROR(run_linear(ProductsBefore(record)));
    SpAttenPipeline pipeline(spec_, record, &network_, &top_k_, scope.timeline);
    THRESHER_ASSIGN_OR_RETURN(now_, pipeline.Run(now_));
    THRESHER_RETURN_IF_ERROR(run_linear(ProductsAfter(record)));

    LayerCharge charge;
    v1::Simulation& total = charge.total;
    total.set_preset(preset_.name());
    total.set_cycles(now_ - begin);
    total.set_seconds(static_cast<double>(total.cycles()) / spec_.clock_hz());
    total.set_dram_bytes(static_cast<double>(network_.transactions() - transactions_before) *
                         dram_->burst_bytes());
    *total.mutable_dram() = Since(counts_before, dram_->counts());
    ChargeWork(record, pipeline, linear, dram_->energy() - energy_before, &charge);
    ChargeUnits(pipeline, linear, scope, &total);
    ChargeDense(record, scope, &total);
    return charge;
  }

 private:
  void ChargeWork(const LayerRecord& record, const SpAttenPipeline& pipeline,
                  const SpAttenLinear& linear, double dram_joules, LayerCharge* charge) const {
    const v1::SpAttenEnergy& energy = spec_.energy();
    v1::Simulation& total = charge->total;
    auto& parts = *total.mutable_energy_by_part();
    const double product = (energy.multiply() + energy.add()) * kPicojoule;
    int64_t rows = 0, plain_bits = linear.plain_bits();
    for (const SequenceRecord& sequence : record.sequences) rows += sequence.rows;
    for (const SpAttenWork& work : pipeline.work()) plain_bits += work.plain_bits;
    const auto share_of = [](double part, double whole) { return whole > 0 ? part / whole : 0; };

    for (size_t i = 0; i < record.sequences.size(); ++i) {
      const SequenceRecord& sequence = record.sequences[i];
      const SpAttenWork& work = pipeline.work()[i];
      const double linear_share = share_of(sequence.rows, static_cast<double>(rows));
      const auto linear_part = [&](int64_t count) {
        return static_cast<double>(count) * linear_share;
      };
      const double plain = static_cast<double>(work.plain_bits) + linear_part(linear.plain_bits());
      const double sram_bytes =
          (static_cast<double>(work.sram_bits) + linear_part(linear.sram_bits())) / 8;
      double joules = 0;
      const auto add = [&](const char* part, double value) {
        parts[part] += value;
        joules += value;
      };
      add("qk", static_cast<double>(work.key_products) * product);
      add("softmax",
          static_cast<double>(work.softmax_elements) * energy.softmax_element() * kPicojoule);
      add("top_k", static_cast<double>(work.comparisons) * energy.comparison() * kPicojoule);
      add("pv", static_cast<double>(work.value_products) * product);
      if (linear.products() > 0) add("linear", linear_part(linear.products()) * product);
      add("sram", sram_bytes * energy.sram_byte() * kPicojoule);
      add("dram", dram_joules * share_of(plain, static_cast<double>(plain_bits)));
      charge->shares.push_back(joules);

      total.set_energy_joules(total.energy_joules() + joules);
      total.set_sram_bytes(total.sram_bytes() + sram_bytes);
      total.set_kv_bytes(total.kv_bytes() + static_cast<double>(work.kv_bits) / 8);
      total.set_operations(total.operations() +
                           2 * static_cast<double>(work.key_products + work.value_products));
      for (const HeadRecord& head : sequence.heads) {
        total.set_softmax_rows(total.softmax_rows() + head.queries);
        total.set_refetched_rows(total.refetched_rows() + head.refetched);
      }
    }
    total.set_dram_bytes_plain(static_cast<double>(plain_bits) / 8);
    total.set_operations(total.operations() + 2 * static_cast<double>(linear.products()));
    // A layer that costs nothing is shared evenly.
    for (double& share : charge->shares) {
      share = total.energy_joules() > 0 ? share / total.energy_joules()
                                        : 1.0 / static_cast<double>(charge->shares.size());
    }
  }

  void ChargeUnits(const SpAttenPipeline& pipeline, const SpAttenLinear& linear,
                   const RunScope& scope, v1::Simulation* total) const {
    const auto add = [&](const UnitClock& unit) {
      (*total->mutable_busy_cycles())[unit.name()] += static_cast<double>(unit.busy());
      for (const auto& [cause, cycles] : unit.stalls()) {
        if (cycles == 0) continue;
        (*total->mutable_stall_cycles())[fmt::format("{}: {}", unit.name(), cause)] +=
            static_cast<double>(cycles);
      }
    };
    for (const UnitClock& unit : pipeline.units()) add(unit);
    if (!scope.attention_only) add(linear.unit());
    (*total->mutable_busy_cycles())["dram"] =
        total->dram_bytes() / dram_->peak_bandwidth() * spec_.clock_hz();
  }

  void ChargeDense(const LayerRecord& record, const RunScope& scope, v1::Simulation* total) const {
    const LayerShape& shape = record.shape;
    const double dim = shape.head_dim, hidden = shape.hidden_size;
    for (const SequenceRecord& sequence : record.sequences) {
      const double elements = 2 * dim * shape.kv_heads * sequence.dense_keys;
      auto* dense = total->mutable_kv_bytes_dense();
      dense->set_fp32(dense->fp32() + elements * 4);
      dense->set_fp16(dense->fp16() + elements * 2);
      dense->set_int12(dense->int12() + elements * 1.5);
      double operations = 4 * dim * shape.heads * DensePairs(sequence, shape.causal);
      if (!scope.attention_only) {
        operations += 2 * static_cast<double>(sequence.dense_rows) * hidden *
                      (2 * dim * (shape.heads + shape.kv_heads) +
                       static_cast<double>(shape.ffn_matrices) * shape.ffn_size);
      }
      total->set_operations_dense(total->operations_dense() + operations);
    }
  }

  const v1::Preset preset_;
  const v1::SpAttenSpec& spec_;
  std::unique_ptr<Dram> dram_;
  FetchNetwork network_;
  TopKEngine top_k_;
  int64_t now_ = 0;  // In cycles: when the last layer ended.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> CreateSpAtten(const v1::Preset& preset) {
  const auto where = fmt::format("preset '{}'", preset.name());
  if (!preset.has_spatten()) return InvalidArgument("{}: spatten: is missing", where);
  THRESHER_RETURN_IF_ERROR(Annotate(CheckSpAttenSpec(preset.spatten()), where));
  absl::StatusOr<std::unique_ptr<Dram>> dram = CreateDram(preset.dram());
  if (!dram.ok()) return Annotate(dram.status(), where);
  return std::make_unique<SpAtten>(preset, *std::move(dram));
}

}  // namespace thresher
