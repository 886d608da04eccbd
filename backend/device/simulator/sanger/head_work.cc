#include "backend/device/simulator/sanger/head_work.h"

#include <algorithm>

namespace thresher {
namespace {

int64_t Up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A dense trace and a dense run have no mask to make.
bool IsPredicted(const SequenceRecord& sequence, const HeadRecord& head, int64_t sight) {
  return sequence.candidates != nullptr || sequence.predicted_scores > 0 || head.scores < sight;
}

void Predict(const SequenceRecord& sequence, const LayerShape& shape, const PackedHead& packed,
             const v1::SangerSpec& spec, SangerWork* work) {
  const v1::SangerPrediction& prediction = spec.prediction();
  const int64_t rows = sequence.rows, band = prediction.array_rows();
  int64_t tiles = 0, keys = 0;
  for (int64_t begin = 0; begin < rows; begin += band) {
    // As many keys as the last of them sees.
    const int64_t last = std::min(begin + band, rows) - 1;
    const int64_t sight = SangerSight(sequence, shape.causal, last);
    tiles += Up(sight, prediction.array_columns());
    keys += sight;
  }
  for (int64_t row = 0; row < rows; ++row) {
    work->predicted_scores += SangerSight(sequence, shape.causal, row);
  }
  const int64_t packing = Up(packed.vectors + packed.empty, prediction.vectors_each_cycle());
  work->prediction_cycles = std::max(tiles * (shape.head_dim + prediction.turn_cycles()), packing);
  work->prediction_bits = (rows + keys) * shape.head_dim * prediction.bits();
}

}  // namespace

void SangerWork::Add(const SangerWork& part) {
  prediction_cycles += part.prediction_cycles;
  predicted_scores += part.predicted_scores;
  prediction_bits += part.prediction_bits;
  passes += part.passes;
  array_cycles += part.array_cycles;
  sub_rows += part.sub_rows;
  scores += part.scores;
  queries += part.queries;
  stream_bits += part.stream_bits;
  row_bits += part.row_bits;
}

int64_t SangerPassCycles(int64_t head_dim, const v1::SangerSpec& spec) {
  return 2 * (head_dim + spec.skew_cycles()) + spec.exponent_cycles() + spec.sum_cycles();
}

SangerWork WorkOf(const SequenceRecord& sequence, const HeadRecord& head, const LayerShape& shape,
                  const v1::SangerSpec& spec) {
  SangerWork work;
  const PackedHead packed = Pack(sequence, head, shape.causal, spec);
  int64_t sight = 0;
  for (int64_t row = 0; row < sequence.rows; ++row) {
    sight += SangerSight(sequence, shape.causal, row);
  }
  if (IsPredicted(sequence, head, sight)) Predict(sequence, shape, packed, spec, &work);
  const int64_t dim = shape.head_dim, bits = spec.element_bits();
  for (size_t i = 0; i < packed.sub_rows.size(); ++i) {
    const int64_t begin = static_cast<int64_t>(i) * spec.vector_keys();
    const int64_t keys = std::min<int64_t>(spec.vector_keys(), sequence.keys - begin);
    const int64_t passes = Up(packed.sub_rows[i], spec.array_rows());
    work.passes += passes;
    work.sub_rows += packed.sub_rows[i];
    work.stream_bits += passes * keys * dim * bits * 2;
  }
  work.array_cycles = work.passes * SangerPassCycles(dim, spec);
  work.scores = packed.kept;
  work.queries = head.queries;
  work.row_bits = 2 * head.queries * dim * bits;
  return work;
}

SangerProduct ProductOf(int64_t rows, int64_t in, int64_t out, const v1::SangerSpec& spec) {
  const int64_t bands = Up(rows, spec.array_rows());
  return {.cycles = bands * Up(out, spec.row_elements()) * in,
          .products = rows * in * out,
          .bits = (bands * in * out + rows * (in + out)) * spec.element_bits()};
}

}  // namespace thresher
