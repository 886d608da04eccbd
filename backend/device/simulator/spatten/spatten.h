// SpAtten: cascade token and head pruning, local value pruning and progressive quantization in
// hardware (Wang, Zhang and Han, "SpAtten: Efficient Sparse Attention Architecture with Cascade
// Token and Head Pruning", HPCA 2021). Its units are in spatten_pipeline.h, what reads memory is in
// fetch_network.h, linear layers in spatten_linear.h.
//
// Counted as traffic: K and V (and K's lower bits), the query that each row reads and the output
// that it writes; kv_bytes are the first alone, to the bit, as the papers' ratios are. Importance
// scores stay on the chip. The record's positions say where rows of K lie; where V rows that a
// query chose lie nobody recorded: they are spread evenly over its keys. Heads whose rows share
// words (6 bits) choose their V rows together.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_SPATTEN_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_SPATTEN_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/device/simulator/accelerator.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

/// `preset` must hold a spatten. INVALID_ARGUMENT for one that can't work, naming the field.
absl::StatusOr<std::unique_ptr<Accelerator>> CreateSpAtten(const v1::Preset& preset);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_SPATTEN_H_
