// What all mappings of a head count alike: points, time, words to the buffer and to the memory.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_HEAD_MAPPER_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_HEAD_MAPPER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/simulator/spatial/extents.h"
#include "backend/device/simulator/spatial/mapping.h"

namespace thresher {

class HeadMapper {
 public:
  HeadMapper(const SpatialMachine& machine, const AttentionSize& size);

 protected:
  // Memory is never asked for more tiles ahead: more would hide nothing more.
  static constexpr int64_t kMostAhead = 8;

  static bool HasKeys(const TensorUse& use) {
    return use.Has("m") || use.Has("m1") || use.Has("m0");
  }
  int64_t query_tiles() const { return CeilDiv(size_.queries, machine_.rows); }
  int64_t key_tiles() const { return CeilDiv(size_.keys, machine_.columns); }
  Extents HeadExtents() const;

  void Read(double words) { work_.buffer_reads += words / machine_.buffer_row_words; }
  void Write(double words) { work_.buffer_writes += words / machine_.buffer_row_words; }
  // `times` tiles that hold the units of those steps so long.
  void AddTime(const std::vector<TilePipeline::Step>& steps, const std::vector<int64_t>& ticks,
               double times);
  absl::Status DoesNotFit(double bytes) const;

  const SpatialMachine& machine_;
  const AttentionSize size_;
  const std::vector<Einsum>& einsums_;
  std::map<std::string, TensorUse> inputs_;  // Of the cascade, as one of the Einsums reads them.
  HeadWork work_;
};

absl::StatusOr<HeadWork> MapChunked(const SpatialMachine& machine, const AttentionSize& size);
absl::StatusOr<HeadWork> MapFused(const SpatialMachine& machine, const AttentionSize& size);
absl::StatusOr<HeadWork> MapUnfused(const SpatialMachine& machine, const AttentionSize& size);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_HEAD_MAPPER_H_
