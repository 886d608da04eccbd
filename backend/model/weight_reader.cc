#include "backend/model/weight_reader.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr std::array<std::string_view, 1> kWeight = {"weight"};
constexpr std::array<std::string_view, 1> kBias = {"bias"};
constexpr std::array<std::string_view, 2> kGamma = {"weight", "gamma"};
constexpr std::array<std::string_view, 2> kBeta = {"bias", "beta"};

/// True if an element's exponent bits are all ones: an infinity or a NaN.
template <typename Bits>
bool AnyNotFinite(const void* data, size_t count, Bits exponent) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  unsigned found = 0;  // Not a bool and no early exit, so that the loop is vectorized.
  for (size_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * sizeof(Bits), sizeof(Bits));
    found |= static_cast<unsigned>((bits & exponent) == exponent);
  }
  return found != 0;
}

bool AnyNotFinite(const StoredMatrix& matrix) {
  const auto count = static_cast<size_t>(matrix.rows * matrix.cols);
  switch (matrix.type) {
    case DType::kF64:
      return AnyNotFinite<uint64_t>(matrix.data, count, 0x7ff0'0000'0000'0000u);
    case DType::kF32:
      return AnyNotFinite<uint32_t>(matrix.data, count, 0x7f80'0000u);
    case DType::kBF16:
      return AnyNotFinite<uint16_t>(matrix.data, count, uint16_t{0x7f80});
    default:
      return AnyNotFinite<uint16_t>(matrix.data, count, uint16_t{0x7c00});
  }
}

bool IsFloating(DType type) {
  return type == DType::kF64 || type == DType::kF32 || type == DType::kF16 || type == DType::kBF16;
}

/// Element by element of `Size` bytes, in squares that fit the first cache.
template <size_t Size>
void Transpose(const std::byte* from, size_t from_stride, size_t rows, size_t cols, std::byte* to) {
  constexpr size_t kSquare = 32;
  for (size_t row = 0; row < rows; row += kSquare) {
    for (size_t col = 0; col < cols; col += kSquare) {
      for (size_t c = col; c < std::min(cols, col + kSquare); ++c) {
        for (size_t r = row; r < std::min(rows, row + kSquare); ++r) {
          std::memcpy(to + (c * rows + r) * Size, from + (r * from_stride + c) * Size, Size);
        }
      }
    }
  }
}

/// Columns [first, first + count) as rows, in `memory`.
StoredMatrix TransposeColumns(const StoredMatrix& matrix, int64_t first, int64_t count,
                              AlignedBuffer<std::byte>& memory) {
  const size_t size = ElementSize(matrix.type);
  const auto rows = static_cast<size_t>(matrix.rows);
  const auto cols = static_cast<size_t>(count);
  const auto stride = static_cast<size_t>(matrix.cols);
  memory.Resize(rows * cols * size);
  const auto* from = static_cast<const std::byte*>(matrix.data) + static_cast<size_t>(first) * size;
  const auto transpose = size == 8 ? Transpose<8> : size == 4 ? Transpose<4> : Transpose<2>;
  transpose(from, stride, rows, cols, memory.data());
  return {matrix.type, memory.data(), count, matrix.rows};
}

}  // namespace

absl::StatusOr<StoredMatrix> WeightReader::Take(std::string_view module,
                                                std::span<const std::string_view> suffixes,
                                                std::span<const int64_t> shape, Place place) {
  std::vector<std::string> names;
  for (const std::string_view suffix : suffixes) {
    if (place == Place::kEncoder) names.push_back(fmt::format("{}{}.{}", prefix_, module, suffix));
    names.push_back(fmt::format("{}.{}", module, suffix));
  }
  const auto found = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
    return checkpoint_.Find(name) != nullptr;
  });
  if (found == names.end()) {
    return InvalidArgument("{}: tensor '{}' is missing", checkpoint_.name(),
                           fmt::join(names, "' or '"));
  }
  const std::string where = fmt::format("{}: tensor '{}'", checkpoint_.name(), *found);
  const StoredTensor& tensor = *checkpoint_.Find(*found);
  if (!IsFloating(tensor.type)) {
    return InvalidArgument("{}: dtype {} where F32, F16, BF16 or F64 should be", where,
                           Name(tensor.type));
  }
  if (!std::equal(tensor.shape.begin(), tensor.shape.end(), shape.begin(), shape.end())) {
    return InvalidArgument("{}: shape {}, but config.json asks for {}", where,
                           ShapeText(tensor.shape), ShapeText(shape));
  }
  const StoredMatrix matrix{tensor.type, tensor.data, shape.size() == 2 ? shape[0] : 1,
                            shape.back()};
  if (AnyNotFinite(matrix)) {
    return InvalidArgument("{}: it holds NaN or infinity; the checkpoint is damaged", where);
  }
  parameters_ += matrix.rows * matrix.cols;
  return matrix;
}

absl::StatusOr<std::vector<float>> WeightReader::Vector(std::string_view module,
                                                        std::span<const std::string_view> suffixes,
                                                        int64_t size) {
  THRESHER_ASSIGN_OR_RETURN(const StoredMatrix stored,
                            Take(module, suffixes, std::array{size}, Place::kEncoder));
  std::vector<float> values(static_cast<size_t>(size));
  stored.RowToFloat(0, values.data());
  packed_bytes_ += values.size() * sizeof(float);
  return values;
}

absl::StatusOr<StoredLinear> WeightReader::Stored(std::string_view module, int64_t out, int64_t in,
                                                  Place place, Bias bias) {
  StoredLinear stored;
  THRESHER_ASSIGN_OR_RETURN(stored.weight, Take(module, kWeight, std::array{out, in}, place));
  if (bias == Bias::kStored) {
    THRESHER_ASSIGN_OR_RETURN(stored.bias, Take(module, kBias, std::array{out}, place));
  }
  return stored;
}

absl::StatusOr<std::unique_ptr<PackedLinear>> WeightReader::Pack(std::string_view module,
                                                                 const StoredLinear& stored) {
  auto packed = device_.Pack(stored.weight, stored.bias, precision_);
  if (!packed.ok()) {
    return Annotate(packed.status(), fmt::format("{}: packing '{}'", checkpoint_.name(), module));
  }
  packed_bytes_ += (*packed)->bytes();
  return packed;
}

absl::StatusOr<std::unique_ptr<PackedLinear>> WeightReader::Linear(std::string_view module,
                                                                   int64_t out, int64_t in,
                                                                   Place place, Bias bias) {
  THRESHER_ASSIGN_OR_RETURN(const StoredLinear stored, Stored(module, out, in, place, bias));
  return Pack(module, stored);
}

absl::StatusOr<std::vector<std::unique_ptr<PackedLinear>>> WeightReader::TransposedLinears(
    std::string_view module, int64_t count, int64_t out, int64_t in) {
  THRESHER_ASSIGN_OR_RETURN(const StoredMatrix weight,
                            Take(module, kWeight, std::array{in, count * out}, Place::kEncoder));
  THRESHER_ASSIGN_OR_RETURN(const StoredMatrix bias,
                            Take(module, kBias, std::array{count * out}, Place::kEncoder));
  AlignedBuffer<std::byte> memory;  // Of one layer at a time.
  std::vector<std::unique_ptr<PackedLinear>> layers;
  for (int64_t n = 0; n < count; ++n) {
    const auto* first = static_cast<const std::byte*>(bias.data) +
                        static_cast<size_t>(n * out) * ElementSize(bias.type);
    const StoredLinear stored = {.weight = TransposeColumns(weight, n * out, out, memory),
                                 .bias = {bias.type, first, 1, out}};
    THRESHER_ASSIGN_OR_RETURN(std::unique_ptr<PackedLinear> packed, Pack(module, stored));
    layers.push_back(std::move(packed));
  }
  return layers;
}

absl::StatusOr<NormWeights> WeightReader::Norm(std::string_view module, int64_t width) {
  NormWeights norm;
  THRESHER_ASSIGN_OR_RETURN(norm.gamma, Vector(module, kGamma, width));
  THRESHER_ASSIGN_OR_RETURN(norm.beta, Vector(module, kBeta, width));
  return norm;
}

absl::StatusOr<NormWeights> WeightReader::RmsNorm(std::string_view module, int64_t width) {
  NormWeights norm;
  THRESHER_ASSIGN_OR_RETURN(norm.gamma, Vector(module, kGamma, width));
  return norm;
}

absl::StatusOr<OwnedTable> WeightReader::Table(std::string_view module, int64_t rows,
                                               int64_t cols) {
  OwnedTable table;
  THRESHER_ASSIGN_OR_RETURN(table.matrix,
                            Take(module, kWeight, std::array{rows, cols}, Place::kEncoder));
  table.memory.Resize(static_cast<size_t>(rows * cols) * ElementSize(table.matrix.type));
  std::memcpy(table.memory.data(), table.matrix.data, table.memory.size());
  table.matrix.data = table.memory.data();
  return table;
}

}  // namespace thresher
