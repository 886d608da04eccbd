#include "backend/device/simulator/spatial/mapping.h"

#include "backend/device/simulator/spatial/head_mapper.h"
#include "backend/tensor/status.h"

namespace thresher {

HeadMapper::HeadMapper(const SpatialMachine& machine, const AttentionSize& size)
    : machine_(machine), size_(size), einsums_(machine.cascade.einsums()) {
  work_.points.resize(einsums_.size());
  const Extents head = HeadExtents();
  for (size_t i = 0; i < einsums_.size(); ++i) {
    work_.points[i] = head.Points(einsums_[i].Ranks());
    // Of partitioned keys, the last chunk may be smaller.
    if (einsums_[i].Iterates("m0")) {
      work_.points[i] *= static_cast<double>(size.keys) / static_cast<double>(head.m1 * head.m0);
    }
    for (const TensorUse& use : einsums_[i].inputs) {
      if (machine.IsInput(use.tensor)) inputs_.emplace(use.tensor, use);
    }
  }
}

Extents HeadMapper::HeadExtents() const {
  return {.p = size_.queries,
          .m = size_.keys,
          .m1 = key_tiles(),
          .m0 = machine_.columns,
          .e = size_.head_dim,
          .f = size_.head_dim};
}

void HeadMapper::AddTime(const std::vector<TilePipeline::Step>& steps,
                         const std::vector<int64_t>& ticks, double times) {
  for (size_t i = 0; i < steps.size(); ++i) {
    const double held = static_cast<double>(ticks[i]) + static_cast<double>(steps[i].barrier_ticks);
    work_.cycles[steps[i].unit] += held / SpatialMachine::kTicksPerCycle * times;
  }
}

absl::Status HeadMapper::DoesNotFit(double bytes) const {
  return InvalidArgument(
      "preset '{}': spatial.buffer.bytes: a tile of a head of dimension {} with {} keys takes "
      "{:.0f}, and there are {:.0f}",
      machine_.name, size_.head_dim, size_.keys, bytes, machine_.buffer_bytes);
}

std::vector<std::pair<size_t, size_t>> PhasesOf(const SpatialMachine& machine) {
  std::vector<std::pair<size_t, size_t>> phases;
  for (size_t i = 0; i < machine.einsums.size(); ++i) {
    if (i == 0 || machine.einsums[i].array != machine.einsums[i - 1].array) {
      phases.push_back({i, i});
    }
    phases.back().second = i + 1;
  }
  return phases;
}

absl::StatusOr<HeadWork> MapHead(const SpatialMachine& machine, const AttentionSize& size) {
  switch (machine.spec.mapping_case()) {
    case v1::SpatialSpec::kChunked:
      return MapChunked(machine, size);
    case v1::SpatialSpec::kFused:
      return MapFused(machine, size);
    case v1::SpatialSpec::kUnfused:
      return MapUnfused(machine, size);
    case v1::SpatialSpec::MAPPING_NOT_SET:
      break;
  }
  return Internal("preset '{}': no mapping", machine.name);
}

}  // namespace thresher
