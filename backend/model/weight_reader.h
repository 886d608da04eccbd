// Takes a model's tensors out of a checkpoint: finds them by name, checks type, shape and values,
// converts or packs them, and counts what was taken.
#ifndef THRESHER_BACKEND_MODEL_WEIGHT_READER_H_
#define THRESHER_BACKEND_MODEL_WEIGHT_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/model/checkpoint.h"
#include "backend/model/head_linear.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// An embedding table in memory of its own: it is read for as long as the model serves, and a
/// mapped file that is cut short in the meantime would end the process.
struct OwnedTable {
  AlignedBuffer<std::byte> memory;
  StoredMatrix matrix;  // Of `memory`.
};

/// gamma and beta of a LayerNorm, or gamma alone of an RMSNorm.
struct NormWeights {
  std::vector<float> gamma;
  std::vector<float> beta;
};

/// `module` is a module's name without ".weight" or ".bias". A name is looked for with `prefix`
/// before it, then without (for all modules but heads); an error names all that was looked for.
/// INVALID_ARGUMENT: missing, another shape, not a floating type, or a value that is not finite.
class WeightReader {
 public:
  /// All must outlive the reader.
  WeightReader(const Checkpoint& checkpoint, Device& device, Precision precision,
               std::string_view prefix)
      : checkpoint_(checkpoint), device_(device), precision_(precision), prefix_(prefix) {}

  enum class Place { kEncoder, kTop };
  enum class Bias { kStored, kNone };

  /// The linear layer x W^T + b with `weight` [out, in], left where it is mapped.
  absl::StatusOr<StoredLinear> Stored(std::string_view module, int64_t out, int64_t in,
                                      Place place = Place::kEncoder, Bias bias = Bias::kStored);
  /// The same, packed.
  absl::StatusOr<std::unique_ptr<PackedLinear>> Linear(std::string_view module, int64_t out,
                                                       int64_t in, Place place = Place::kEncoder,
                                                       Bias bias = Bias::kStored);
  /// `count` linear layers of `out` features each that share a module: `weight` [in, count * out],
  /// transposed (GPT-2's Conv1D), and `bias`, one layer's columns after the other's.
  absl::StatusOr<std::vector<std::unique_ptr<PackedLinear>>> TransposedLinears(
      std::string_view module, int64_t count, int64_t out, int64_t in);
  absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(std::string_view module,
                                                     const StoredLinear& stored);
  /// A LayerNorm, under the names weight and bias, or gamma and beta as older checkpoints have it.
  absl::StatusOr<NormWeights> Norm(std::string_view module, int64_t width);
  absl::StatusOr<NormWeights> RmsNorm(std::string_view module, int64_t width);
  /// An embedding table [rows, cols], copied as it is stored.
  absl::StatusOr<OwnedTable> Table(std::string_view module, int64_t rows, int64_t cols);

  /// Gives back the pages of what was packed.
  void ReleasePages() const { checkpoint_.ReleasePages(); }

  Device& device() const { return device_; }
  Precision precision() const { return precision_; }
  int64_t parameters() const { return parameters_; }
  /// Memory of what was packed or converted; tables are not counted.
  size_t packed_bytes() const { return packed_bytes_; }

 private:
  absl::StatusOr<StoredMatrix> Take(std::string_view module,
                                    std::span<const std::string_view> suffixes,
                                    std::span<const int64_t> shape, Place place);
  absl::StatusOr<std::vector<float>> Vector(std::string_view module,
                                            std::span<const std::string_view> suffixes,
                                            int64_t size);

  const Checkpoint& checkpoint_;
  Device& device_;
  Precision precision_;
  std::string prefix_;
  int64_t parameters_ = 0;
  size_t packed_bytes_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_WEIGHT_READER_H_
