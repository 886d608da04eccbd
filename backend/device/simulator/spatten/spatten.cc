#include "backend/device/simulator/spatten/spatten.h"

#include <array>
#include <span>
#include <string>
#include <utility>

#include "backend/device/simulator/dram/dram.h"
#include "backend/device/simulator/simulation.h"
#include "backend/device/simulator/spatten/check.h"
#include "backend/device/simulator/spatten/linear.h"
#include "backend/device/simulator/spatten/pipeline.h"
#include "backend/device/simulator/spatten/top_k_engine.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::array<std::string_view, 2> kPolicies = {"dense", "spatten"};
constexpr double kPicojoule = 1e-12;

TopKEngine::Options TopKOptions(const v1::SpAttenTopK& spec) {
  return {
      .parallelism = spec.parallelism(), .round_cycles = spec.round_cycles(), .seed = spec.seed()};
}

class SpAtten : public Accelerator {
 public:
  SpAtten(const v1::Preset& preset, std::unique_ptr<Dram> dram)
      : preset_(preset),
        spec_(preset_.spatten()),
        dram_(std::move(dram)),
        network_(FetchOptions(spec_.fetch(), spec_.clock_hz()), dram_.get()),
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
    const DramWatch watch(dram_.get(), scope.dram_observer);

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
    *total.mutable_dram() = CountsSince(counts_before, dram_->counts());
    ChargeWork(record, pipeline, linear, dram_->energy() - energy_before, &charge);
    ChargeUnits(pipeline, linear, scope, &total);
    AddDense(record, scope.attention_only, &total);
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
      if (work.accumulated > 0) {
        add("importance", static_cast<double>(work.accumulated) * energy.accumulate() * kPicojoule);
      }
      if (linear.products() > 0) add("linear", linear_part(linear.products()) * product);
      if (linear.norms().elements() > 0) {
        add("norm", (linear_part(linear.norms().elements()) * energy.norm_element() +
                     linear_part(linear.norms().activated()) * energy.softmax_element()) *
                        kPicojoule);
      }
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
    MakeShares(&charge->shares);
  }

  void ChargeUnits(const SpAttenPipeline& pipeline, const SpAttenLinear& linear,
                   const RunScope& scope, v1::Simulation* total) const {
    for (const UnitClock& unit : pipeline.units()) AddUnit(unit, total);
    if (!scope.attention_only) AddUnit(linear.unit(), total);
    if (linear.norms().unit().busy() > 0) AddUnit(linear.norms().unit(), total);
    (*total->mutable_busy_cycles())["dram"] =
        total->dram_bytes() / dram_->peak_bandwidth() * spec_.clock_hz();
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
