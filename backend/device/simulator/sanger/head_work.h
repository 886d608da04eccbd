// What one head asks of each part of Sanger: cycles, bytes, counts.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_HEAD_WORK_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_HEAD_WORK_H_

#include <cstdint>

#include "backend/device/layer_record.h"
#include "backend/device/simulator/sanger/pack.h"
#include "thresher/v1/simulator_sanger.pb.h"

namespace thresher {

struct SangerWork {
  // Prediction and packing, which keep step with each other. 0 where nothing is predicted.
  int64_t prediction_cycles = 0;
  int64_t predicted_scores = 0;
  int64_t prediction_bits = 0;  // Of Q and K, from memory.
  // The score-stationary array.
  int64_t passes = 0;
  int64_t array_cycles = 0;
  int64_t sub_rows = 0;
  int64_t scores = 0;
  int64_t queries = 0;
  int64_t stream_bits = 0;  // Of K and V, from memory,
  int64_t row_bits = 0;     // and of Q and outputs.

  void Add(const SangerWork& part);
};

SangerWork WorkOf(const SequenceRecord& sequence, const HeadRecord& head, const LayerShape& shape,
                  const v1::SangerSpec& spec);

/// Cycles of one pass of the array.
int64_t SangerPassCycles(int64_t head_dim, const v1::SangerSpec& spec);

/// [rows, in] x [in, out] on the array, a tile of outputs in each pass. Weights come again for each
/// band of rows; inputs and outputs move once.
struct SangerProduct {
  int64_t cycles = 0;
  int64_t products = 0;
  int64_t bits = 0;  // Of memory.
};
SangerProduct ProductOf(int64_t rows, int64_t in, int64_t out, const v1::SangerSpec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_HEAD_WORK_H_
