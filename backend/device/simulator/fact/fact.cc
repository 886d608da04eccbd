#include "backend/device/simulator/fact/fact.h"

#include <fmt/format.h>

#include <array>
#include <span>
#include <string>
#include <utility>

#include "backend/device/simulator/dram/dram.h"
#include "backend/device/simulator/fact/check.h"
#include "backend/device/simulator/fact/geometry.h"
#include "backend/device/simulator/fact/linear.h"
#include "backend/device/simulator/fact/pipeline.h"
#include "backend/device/simulator/simulation.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::array<std::string_view, 2> kPolicies = {"dense", "fact"};

class Fact final : public Accelerator {
 public:
  Fact(const v1::Preset& preset, std::unique_ptr<Dram> dram)
      : preset_(preset),
        spec_(preset_.fact()),
        dram_(std::move(dram)),
        network_(FetchOptions(spec_.fetch(), spec_.clock_hz()), dram_.get()) {}

  std::span<const std::string_view> policies() const override { return kPolicies; }
  double peak_operations() const override {
    return 2.0 * static_cast<double>(FactGeometry(spec_).multipliers()) * spec_.clock_hz();
  }
  double peak_bandwidth() const override { return dram_->peak_bandwidth(); }

  void Reset() override {
    dram_->Reset();
    network_.Reset();
    now_ = 0;
  }

  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope& scope) override {
    THRESHER_RETURN_IF_ERROR(Annotate(CheckFactRecord(record, spec_),
                                      fmt::format("{}: layer {}", preset_.name(), record.layer)));
    const v1::DramCounts counts_before = dram_->counts();
    const double energy_before = dram_->energy();
    const int64_t transactions_before = network_.transactions();
    const int64_t begin = now_;
    const DramWatch watch(dram_.get(), scope.dram_observer);

    UnitClock array("array");
    FactPipeline pipeline(spec_, record, !scope.attention_only, &network_, &array, scope.timeline);
    THRESHER_ASSIGN_OR_RETURN(now_, pipeline.Run(now_));
    FactLinear linear(spec_, &network_, &array, scope.timeline);
    if (!scope.attention_only) {
      for (const FactProduct& product : FactProducts(record, spec_)) {
        THRESHER_ASSIGN_OR_RETURN(now_, linear.Run(product, record.layer, now_));
      }
    }

    LayerCharge charge;
    v1::Simulation& total = charge.total;
    total.set_preset(preset_.name());
    total.set_cycles(now_ - begin);
    total.set_seconds(static_cast<double>(total.cycles()) / spec_.clock_hz());
    total.set_dram_bytes(static_cast<double>(network_.transactions() - transactions_before) *
                         dram_->burst_bytes());
    *total.mutable_dram() = CountsSince(counts_before, dram_->counts());
    ChargeWork(record, pipeline, linear, dram_->energy() - energy_before, &charge);
    ChargeUnits(pipeline, linear, array, &total);
    AddDense(record, scope.attention_only, &total);
    return charge;
  }

 private:
  void ChargeWork(const LayerRecord& record, const FactPipeline& pipeline, const FactLinear& linear,
                  double dram_joules, LayerCharge* charge) const {
    const v1::FactEnergy& energy = spec_.energy();
    const double scale = energy.scale() * 1e-12;
    const double product = (energy.multiply() + energy.add()) * scale;
    const double low_product = (energy.multiply_low() + energy.add()) * scale;
    const double linear_joules = static_cast<double>(linear.products()) * product +
                                 static_cast<double>(linear.low_products()) * low_product;
    v1::Simulation& total = charge->total;
    auto& parts = *total.mutable_energy_by_part();
    const RowNorms& norms = linear.norms();
    int64_t rows = 0, plain_bits = linear.plain_bits();
    for (const SequenceRecord& sequence : record.sequences) rows += sequence.rows;
    for (const FactWork& work : pipeline.work()) plain_bits += work.plain_bits;
    const auto share_of = [](double part, double whole) { return whole > 0 ? part / whole : 0; };

    for (size_t i = 0; i < record.sequences.size(); ++i) {
      const FactWork& work = pipeline.work()[i];
      // Of the linear layers, by rows.
      const double share = share_of(record.sequences[i].rows, static_cast<double>(rows));
      const double plain =
          static_cast<double>(work.plain_bits) + share * static_cast<double>(linear.plain_bits());
      const double sram_bytes =
          (static_cast<double>(work.sram_bits) + share * static_cast<double>(linear.sram_bits())) /
          8;
      double joules = 0;
      const auto add = [&](const char* part, double value) {
        if (value == 0) return;
        parts[part] += value;
        joules += value;
      };
      add("prediction", (static_cast<double>(work.predict_adds) * energy.predict_add() +
                         static_cast<double>(work.comparisons) * energy.comparison()) *
                            scale);
      add("generation", static_cast<double>(work.generation_products) * product);
      add("attention", static_cast<double>(work.attention_products) * product);
      add("softmax", static_cast<double>(work.softmax_elements) * energy.softmax_element() * scale);
      add("linear", linear_joules * share);
      add("norm", share * scale *
                      (static_cast<double>(norms.elements()) * energy.norm_element() +
                       static_cast<double>(norms.activated()) * energy.softmax_element()));
      add("sram", sram_bytes * energy.sram_byte() * scale);
      add("dram", dram_joules * share_of(plain, static_cast<double>(plain_bits)));
      charge->shares.push_back(joules);

      total.set_energy_joules(total.energy_joules() + joules);
      total.set_sram_bytes(total.sram_bytes() + sram_bytes);
      total.set_kv_bytes(total.kv_bytes() + static_cast<double>(work.kv_bits) / 8);
      total.set_operations(total.operations() + 2 * static_cast<double>(work.generation_products +
                                                                        work.attention_products));
      total.set_softmax_rows(total.softmax_rows() + work.softmax_rows);
    }
    total.set_dram_bytes_plain(static_cast<double>(plain_bits) / 8);
    total.set_operations(total.operations() +
                         2 * static_cast<double>(linear.products() + linear.low_products()));
    MakeShares(&charge->shares);
  }

  void ChargeUnits(const FactPipeline& pipeline, const FactLinear& linear, const UnitClock& array,
                   v1::Simulation* total) const {
    auto& busy = *total->mutable_busy_cycles();
    auto& stalls = *total->mutable_stall_cycles();
    AddUnit(array, total);
    if (linear.norms().unit().busy() > 0) AddUnit(linear.norms().unit(), total);
    // Without prediction queries pass through it, and it stands still for nothing.
    if (pipeline.prediction().busy() > 0) AddUnit(pipeline.prediction(), total);
    const auto conflicts =
        static_cast<double>(pipeline.conflict_cycles() + linear.conflict_cycles());
    if (conflicts > 0) stalls["array: waits for banks"] += conflicts;
    busy["array"] -= conflicts;
    busy["softmax"] += static_cast<double>(pipeline.softmax_busy());
    busy["dram"] = total->dram_bytes() / dram_->peak_bandwidth() * spec_.clock_hz();
  }

  const v1::Preset preset_;
  const v1::FactSpec& spec_;
  std::unique_ptr<Dram> dram_;
  FetchNetwork network_;
  int64_t now_ = 0;  // In cycles: when the last layer ended.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> CreateFact(const v1::Preset& preset) {
  const auto where = fmt::format("preset '{}'", preset.name());
  if (!preset.has_fact()) return InvalidArgument("{}: fact: is missing", where);
  THRESHER_RETURN_IF_ERROR(Annotate(CheckFactSpec(preset.fact()), where));
  absl::StatusOr<std::unique_ptr<Dram>> dram = CreateDram(preset.dram());
  if (!dram.ok()) return Annotate(dram.status(), where);
  return std::make_unique<Fact>(preset, *std::move(dram));
}

}  // namespace thresher
