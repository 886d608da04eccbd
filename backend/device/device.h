// What a device must do: hold packed weights and compute the operations of a transformer layer on
// ragged batches. Implementations: reference/ (plain float, the oracle), cpu/ (oneDNN, Highway) and
// simulator/ (through one of those, with an accelerator modelled beside it).
//
// Matrices are row-major float; a row is a token. Rows of a batch's sequences follow one another
// and `offsets` (n + 1 values, offsets[0] = 0) says where each begins; nothing is ever padded.
//
// **Batch invariance.** Each output row depends on its own input row (in Attention: on the rows of
// its own sequence) and on the weights alone: the same bits whatever else is in the batch and
// however many threads there are.
//
// Threading: Pack may be called at any time from any thread. The operations of one Device are
// called by one thread at a time: engines of several models share a device, so each holds `mutex()`
// for a whole run. Operations run on the device's own threads inside.
//
// Errors: operations return INVALID_ARGUMENT for shapes that do not fit each other and INTERNAL
// when the library below fails; no exception leaves a device.
#ifndef THRESHER_BACKEND_DEVICE_DEVICE_H_
#define THRESHER_BACKEND_DEVICE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/eager_prediction.h"
#include "backend/device/kv_cache.h"
#include "backend/device/plan.h"
#include "backend/device/vector_codes.h"
#include "backend/tensor/matrix.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// The precision of matrix products. Norms, softmax and activations are always float. The integers
/// are symmetric, by row of the activations and of the weight. kInt4 is emulated: values of 4 bits
/// where those of 8 would stand, no faster; for the low-precision feed-forward network alone.
enum class Precision { kF32, kBF16, kInt8, kInt4 };

/// The largest magnitude of a quantised value; 0 for the floats.
inline int32_t QuantizedLimit(Precision precision) {
  return precision == Precision::kInt8 ? 127 : precision == Precision::kInt4 ? 7 : 0;
}

std::string_view Name(Precision precision);  // "f32", "bf16", "int8", "int4"
/// What a whole model may run in: all but int4.
absl::StatusOr<Precision> ParsePrecision(std::string_view name);

/// kGelu is x * Phi(x) with the exact Gaussian CDF (erf); kGeluTanh its tanh approximation.
enum class Activation { kNone, kGelu, kGeluTanh, kRelu, kTanh, kSilu };

/// A linear layer's weights in a device's own layout. Immutable; outlives every use.
class PackedLinear {
 public:
  virtual ~PackedLinear() = default;
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;
  virtual Precision precision() const = 0;
  /// Memory held by the packed form.
  virtual size_t bytes() const = 0;
};

/// Columns [begin, end) of a matrix.
struct ColumnRange {
  int64_t begin = 0;
  int64_t end = 0;
};

struct AttentionShape {
  int32_t heads = 0;
  int32_t kv_heads = 0;  // = heads, or fewer for grouped-query attention.
  int32_t head_dim = 0;
};

struct AttentionInput {
  AttentionShape shape;
  ConstMatrix query;  // [tokens, heads * head_dim]
  ConstMatrix key;    // [tokens, kv_heads * head_dim]
  ConstMatrix value;  // [tokens, kv_heads * head_dim]
  std::span<const int32_t> offsets;
  float scale = 1.0f;  // Scores are scale * q.k.
  bool causal = false;
  // The factors of both products may be rounded to it, but to no less than bfloat16; sums and
  // softmax are float.
  Precision precision = Precision::kF32;
};

struct CachedAttentionInput {
  AttentionShape shape;
  ConstMatrix query;  // [rows, heads * head_dim], rotated.
  const KvLayout* layout = nullptr;
  int32_t layer = 0;
  std::span<const CachedSequence> sequences;
  const RotaryTable* rotary = nullptr;  // For keys that are rotated on read.
  float scale = 1.0f;
  Precision precision = Precision::kF32;  // As AttentionInput has it, for rows of prompts.
};

struct DeviceDescription {
  std::string name;     // As --device names it: "cpu", "cpu:onednn", "reference".
  std::string isa;      // What was chosen at run time, such as "avx512+amx".
  std::string library;  // Such as "oneDNN 2.6.3".
  int threads = 1;
  Precision default_precision = Precision::kF32;
};

struct SimulatedHardware;

class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceDescription& description() const = 0;

  /// Held by an engine for a whole run of operations. The device itself never takes it.
  Mutex& mutex() { return mutex_; }

  /// What the layers that run here are priced on (simulator/simulated_device.h); null: nothing.
  /// Used under mutex().
  virtual SimulatedHardware* simulated() { return nullptr; }

  /// Packs y = x W^T + b. `weight` is [out_features, in_features] as in a checkpoint; `bias` is
  /// [1, out_features] or empty. The sources are not referenced afterwards.
  virtual absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(const StoredMatrix& weight,
                                                             const StoredMatrix& bias,
                                                             Precision precision) = 0;

  /// y = activation(x W^T + b): x [m, in], y [m, out], not overlapping; m = 0 does nothing.
  virtual absl::Status Linear(const PackedLinear& weights, ConstMatrix x, Activation activation,
                              Matrix y) = 0;

  /// As Linear with no activation, where x is zero outside `columns` (ascending, not overlapping):
  /// a device may pass over the rest of x and of the weights. The result does not depend on it,
  /// but for the sign of a zero.
  virtual absl::Status LinearOfColumns(const PackedLinear& weights, ConstMatrix x,
                                       std::span<const ColumnRange> columns, Matrix y) {
    return Linear(weights, x, Activation::kNone, y);
  }

  /// As Linear, of the outputs alone that are flagged in `wanted` [x.rows * y.cols], row by row;
  /// the others are zero. A device may compute more than it must: the result does not depend on it.
  virtual absl::Status LinearOfOutputs(const PackedLinear& weights, ConstMatrix x,
                                       std::span<const uint8_t> wanted, Activation activation,
                                       Matrix y);

  /// For each sequence and head: softmax(scale * Q K^T) V, into out [tokens, heads * head_dim].
  virtual absl::Status Attention(const AttentionInput& input, Matrix out) = 0;

  /// As Attention, but sequence s obeys *plans[s] (null: dense), and records[s] receives what it
  /// did and the statistics that its plan asked for. Without causal, queries are keys. The meaning
  /// of each rule is stated in reference/planned_attention.h; this default is that, one sequence
  /// after the other. A plan that leaves nothing out has the bits of Attention, whatever statistics
  /// it asks for.
  virtual absl::Status PlannedAttention(const AttentionInput& input,
                                        std::span<const SequencePlan* const> plans, Matrix out,
                                        std::span<AttentionRecord> records);

  /// Flow-attention instead (Flowformer, ICML 2022): what it is stands in
  /// reference/flow_attention.h. `scale` is not read.
  virtual absl::Status FlowAttention(const AttentionInput& input, Matrix out);

  /// The estimators of eager_prediction.h, here in plain loops. Encode: codes [rows, cols], scales
  /// [rows, cols / group], of the whole input.
  virtual absl::Status EncodeLeadingOne(const LeadingOneInput& input, int32_t bits, int64_t group,
                                        Matrix codes, Matrix scales);
  /// The codes of vector_codes.h: encoder.Encode of the whole input.
  virtual absl::Status EncodeVectors(const VectorCodes& encoder, ConstMatrix x,
                                     std::span<const float> center, Matrix codes, Matrix scales);
  /// Calls `body` once for each block of queries of each of `heads`, in no order, perhaps on
  /// several threads at once. The sums are exact, so that devices agree bit for bit.
  virtual absl::Status PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                                     ScoreBlockBody body);

  /// y = gamma * (z - mean(z)) / sqrt(var(z) + epsilon) + beta by row, z = x + residual; `residual`
  /// may be empty; y may be x or residual. Variance is the mean of squares (not the sample
  /// variance).
  virtual absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                                 std::span<const float> beta, float epsilon, Matrix y) = 0;

  /// y = gamma * z / sqrt(mean(z^2) + epsilon) by row (arXiv 1910.07467); y may be x.
  virtual absl::Status RmsNorm(ConstMatrix x, std::span<const float> gamma, float epsilon,
                               Matrix y);

  /// y += x, and y *= x, element by element.
  virtual absl::Status Add(ConstMatrix x, Matrix y);
  virtual absl::Status Multiply(ConstMatrix x, Matrix y);

  /// Rotates every head of row r of x [rows, heads * head_dim] to positions[r] (RotateRow).
  virtual absl::Status Rotate(const RotaryTable& table, std::span<const int32_t> positions,
                              int32_t heads, Matrix x);

  /// Writes K and V rows [rows, kv_heads * head_dim] of one layer to their sequences' caches.
  virtual absl::Status StoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                                       ConstMatrix value,
                                       std::span<const CachedSequence> sequences);

  /// Causal attention over caches, which hold the new rows already: for each row and head
  /// softmax(scale * q K^T) V over the slots that it reads, into out [rows, heads * head_dim].
  /// records[s] says what sequence s did. The meaning of each rule is stated in
  /// reference/cached_attention.h. A prompt row has the same bits however its prompt was cut into
  /// chunks, and a decode row whatever else is in the batch; a prompt row and a decode row that see
  /// the same need not have the same bits.
  virtual absl::Status CachedAttention(const CachedAttentionInput& input, Matrix out,
                                       std::span<CachedRecord> records);

  /// y[i] = sum over tables t of tables[t][ids[t][i]]: word, position and token type embeddings.
  /// All tables have y.cols columns, all id lists y.rows entries, every id within its table.
  struct Lookup {
    StoredMatrix table;
    std::span<const int32_t> ids;
  };
  virtual absl::Status Embed(std::span<const Lookup> lookups, Matrix y) = 0;

  /// y[s] = mean of rows [offsets[s], offsets[s + 1]) of x (zeros when there are none):
  /// y [sequences, x.cols].
  virtual absl::Status MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) = 0;

 private:
  Mutex mutex_;
};

struct DeviceOptions {
  int threads = 1;
  /// Of a simulated device: SimulatedHardware::pace.
  double pace = 0.0;
};

/// What CreateDevice would say of the name: NOT_FOUND, with the known names, of a device, an inner
/// device or a preset that there is not; INVALID_ARGUMENT of a preset that can't work.
absl::Status CheckDeviceName(std::string_view name);

/// By name as --device gives it: "cpu", "cpu:onednn" (the same, with oneDNN's matrix products where
/// it has any that keep batches invariant), "reference", or "sim:PRESET[@INNER]": the accelerator
/// of that preset (simulator/presets.h: a name or a file) beside the inner device, "cpu" if none
/// is named.
absl::StatusOr<std::unique_ptr<Device>> CreateDevice(std::string_view name,
                                                     const DeviceOptions& options);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_DEVICE_H_
