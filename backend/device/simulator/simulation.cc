#include "backend/device/simulator/simulation.h"

#include <fmt/format.h>

#include <cmath>

namespace thresher {
namespace {

void AddCounts(const v1::DramCounts& part, v1::DramCounts* total) {
  total->set_reads(total->reads() + part.reads());
  total->set_writes(total->writes() + part.writes());
  total->set_activations(total->activations() + part.activations());
  total->set_precharges(total->precharges() + part.precharges());
  total->set_refreshes(total->refreshes() + part.refreshes());
  total->set_row_hits(total->row_hits() + part.row_hits());
  total->set_row_misses(total->row_misses() + part.row_misses());
  total->set_row_conflicts(total->row_conflicts() + part.row_conflicts());
  for (int i = 0; i < part.requests_by_channel_size(); ++i) {
    if (i == total->requests_by_channel_size()) total->add_requests_by_channel(0);
    total->set_requests_by_channel(i, total->requests_by_channel(i) + part.requests_by_channel(i));
  }
}

template <typename Map>
void AddMap(const Map& part, Map* total) {
  for (const auto& [name, value] : part) (*total)[name] += value;
}

int64_t Scaled(int64_t count, double share) {
  return std::llround(static_cast<double>(count) * share);
}

}  // namespace

void AddSimulation(const v1::Simulation& part, v1::Simulation* total) {
  if (total->preset().empty()) total->set_preset(part.preset());
  total->set_cycles(total->cycles() + part.cycles());
  total->set_seconds(total->seconds() + part.seconds());
  total->set_dram_bytes(total->dram_bytes() + part.dram_bytes());
  total->set_dram_bytes_plain(total->dram_bytes_plain() + part.dram_bytes_plain());
  total->set_kv_bytes(total->kv_bytes() + part.kv_bytes());
  auto* dense = total->mutable_kv_bytes_dense();
  dense->set_fp32(dense->fp32() + part.kv_bytes_dense().fp32());
  dense->set_fp16(dense->fp16() + part.kv_bytes_dense().fp16());
  dense->set_int12(dense->int12() + part.kv_bytes_dense().int12());
  total->set_sram_bytes(total->sram_bytes() + part.sram_bytes());
  total->set_energy_joules(total->energy_joules() + part.energy_joules());
  AddMap(part.energy_by_part(), total->mutable_energy_by_part());
  AddMap(part.busy_cycles(), total->mutable_busy_cycles());
  AddMap(part.stall_cycles(), total->mutable_stall_cycles());
  total->set_operations(total->operations() + part.operations());
  total->set_operations_dense(total->operations_dense() + part.operations_dense());
  total->set_softmax_rows(total->softmax_rows() + part.softmax_rows());
  total->set_refetched_rows(total->refetched_rows() + part.refetched_rows());
  AddCounts(part.dram(), total->mutable_dram());
}

v1::Simulation ShareOf(const v1::Simulation& total, double share) {
  v1::Simulation part = total;
  part.set_dram_bytes(total.dram_bytes() * share);
  part.set_dram_bytes_plain(total.dram_bytes_plain() * share);
  part.set_kv_bytes(total.kv_bytes() * share);
  auto* dense = part.mutable_kv_bytes_dense();
  dense->set_fp32(dense->fp32() * share);
  dense->set_fp16(dense->fp16() * share);
  dense->set_int12(dense->int12() * share);
  part.set_sram_bytes(total.sram_bytes() * share);
  part.set_energy_joules(total.energy_joules() * share);
  for (auto& [name, joules] : *part.mutable_energy_by_part()) joules *= share;
  part.set_operations(total.operations() * share);
  part.set_operations_dense(total.operations_dense() * share);
  part.set_softmax_rows(Scaled(total.softmax_rows(), share));
  part.set_refetched_rows(Scaled(total.refetched_rows(), share));
  return part;
}

v1::DramCounts CountsSince(const v1::DramCounts& before, const v1::DramCounts& after) {
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
    const bool had = i < before.requests_by_channel_size();
    since.add_requests_by_channel(after.requests_by_channel(i) -
                                  (had ? before.requests_by_channel(i) : 0));
  }
  return since;
}

double DenseAttentionOperations(const LayerShape& shape, const SequenceRecord& sequence) {
  const double rows = sequence.dense_rows, keys = sequence.dense_keys;
  const double pairs = rows * keys - (shape.causal ? rows * (rows - 1) / 2 : 0);
  return 4.0 * shape.head_dim * shape.heads * pairs;
}

void AddDense(const LayerRecord& record, bool attention_only, v1::Simulation* total) {
  const LayerShape& shape = record.shape;
  const double dim = shape.head_dim, hidden = shape.hidden_size;
  for (const SequenceRecord& sequence : record.sequences) {
    const double rows = sequence.dense_rows, keys = sequence.dense_keys;
    const double elements = 2 * dim * shape.kv_heads * keys;
    auto* dense = total->mutable_kv_bytes_dense();
    dense->set_fp32(dense->fp32() + elements * 4);
    dense->set_fp16(dense->fp16() + elements * 2);
    dense->set_int12(dense->int12() + elements * 1.5);
    double operations = DenseAttentionOperations(shape, sequence);
    if (!attention_only) {
      operations += 2 * rows * hidden *
                    (2 * dim * (shape.heads + shape.kv_heads) +
                     static_cast<double>(shape.ffn_matrices) * shape.ffn_size);
    }
    total->set_operations_dense(total->operations_dense() + operations);
  }
}

void AddUnit(const UnitClock& unit, v1::Simulation* total) {
  (*total->mutable_busy_cycles())[unit.name()] += static_cast<double>(unit.busy());
  for (const auto& [cause, cycles] : unit.stalls()) {
    if (cycles == 0) continue;
    (*total->mutable_stall_cycles())[fmt::format("{}: {}", unit.name(), cause)] +=
        static_cast<double>(cycles);
  }
}

void MakeShares(std::vector<double>* costs) {
  double all = 0;
  for (const double cost : *costs) all += cost;
  for (double& cost : *costs) {
    cost = all > 0 ? cost / all : 1.0 / static_cast<double>(costs->size());
  }
}

}  // namespace thresher
