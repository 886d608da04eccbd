// Views of row-major matrices and the aligned memory behind them.
#ifndef THRESHER_BACKEND_TENSOR_MATRIX_H_
#define THRESHER_BACKEND_TENSOR_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "backend/tensor/aligned_memory.h"
#include "backend/tensor/dtype.h"

namespace thresher {

/// A view of `rows` x `cols` elements; row i starts at data + i * stride. Owns nothing.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  MatrixView() = default;
  MatrixView(T* data, int64_t rows, int64_t cols) : MatrixView(data, rows, cols, cols) {}
  MatrixView(T* data, int64_t rows, int64_t cols, int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}
  /// A mutable view is a constant view.
  template <typename U>
  requires(std::is_same_v<const U, T>)
      MatrixView(MatrixView<U> other)  // NOLINT: implicit on purpose, as for std::span
      : MatrixView(other.data, other.rows, other.cols, other.stride) {}

  T* row(int64_t i) const { return data + i * stride; }
  std::span<T> row_span(int64_t i) const { return {row(i), static_cast<size_t>(cols)}; }
  bool empty() const { return rows == 0 || cols == 0; }
  /// Rows [begin, begin + count).
  MatrixView Rows(int64_t begin, int64_t count) const { return {row(begin), count, cols, stride}; }
};

using Matrix = MatrixView<float>;
using ConstMatrix = MatrixView<const float>;

/// Memory aligned to 64 bytes that grows and never shrinks. Contents are undefined after Resize.
template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size) { Resize(size); }

  AlignedBuffer(AlignedBuffer&& other) noexcept { *this = std::move(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    memory_ = std::move(other.memory_);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    return *this;
  }

  void Resize(size_t size) {
    if (size > capacity_) {
      capacity_ = size_ = 0;
      memory_ = nullptr;  // First, so that the two are never there together.
      const size_t bytes = (size * sizeof(T) + 63) / 64 * 64;
      memory_ = AllocateAligned(bytes);
      capacity_ = bytes / sizeof(T);
    }
    size_ = size;
  }
  T* data() { return static_cast<T*>(memory_.get()); }
  const T* data() const { return static_cast<const T*>(memory_.get()); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  std::span<T> span() { return {data(), size()}; }
  std::span<const T> span() const { return {data(), size()}; }

 private:
  AlignedMemory memory_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

/// A matrix that owns its memory; Resize leaves contents undefined.
class MatrixBuffer {
 public:
  MatrixBuffer() = default;
  MatrixBuffer(int64_t rows, int64_t cols) { Resize(rows, cols); }
  MatrixBuffer(MatrixBuffer&& other) noexcept { *this = std::move(other); }
  MatrixBuffer& operator=(MatrixBuffer&& other) noexcept {
    buffer_ = std::move(other.buffer_);
    rows_ = std::exchange(other.rows_, 0);
    cols_ = std::exchange(other.cols_, 0);
    return *this;
  }
  void Resize(int64_t rows, int64_t cols) {
    buffer_.Resize(static_cast<size_t>(rows * cols));
    rows_ = rows;
    cols_ = cols;
  }
  Matrix view() { return {buffer_.data(), rows_, cols_}; }
  ConstMatrix view() const { return {buffer_.data(), rows_, cols_}; }

 private:
  AlignedBuffer<float> buffer_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
};

/// A stored matrix or vector (rows = 1) in its own element type, such as a checkpoint's mapped
/// tensor: row-major, contiguous, any alignment. Owns nothing.
struct StoredMatrix {
  DType type = DType::kF32;
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  bool empty() const { return data == nullptr; }
  size_t bytes() const { return static_cast<size_t>(rows * cols) * ElementSize(type); }
  /// Row i converted to float; `out` holds `cols` elements.
  void RowToFloat(int64_t i, float* out) const {
    const size_t row_bytes = static_cast<size_t>(cols) * ElementSize(type);
    ToFloat(type, static_cast<const char*>(data) + static_cast<size_t>(i) * row_bytes,
            static_cast<size_t>(cols), out);
  }
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_TENSOR_MATRIX_H_
