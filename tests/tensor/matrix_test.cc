#include "backend/tensor/matrix.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace thresher {
namespace {

TEST(MatrixView, RowsFollowTheStride) {
  std::vector<float> data = {1, 2, 9, 3, 4, 9};
  const Matrix m(data.data(), 2, 2, 3);
  EXPECT_EQ(m.row(1)[0], 3);
  EXPECT_EQ(m.row_span(1).size(), 2u);
  const ConstMatrix last = m.Rows(1, 1);
  EXPECT_EQ(last.rows, 1);
  EXPECT_EQ(last.row(0)[1], 4);
}

TEST(MatrixView, IsEmptyWithoutRowsOrColumns) {
  EXPECT_TRUE(ConstMatrix().empty());
  float x = 0;
  EXPECT_TRUE(Matrix(&x, 0, 5).empty());
  EXPECT_FALSE(Matrix(&x, 1, 1).empty());
}

TEST(AlignedBuffer, IsAlignedAndKeepsItsMemoryWhenItShrinks) {
  AlignedBuffer<int8_t> buffer(100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  const int8_t* before = buffer.data();
  buffer.Resize(10);
  EXPECT_EQ(buffer.data(), before);
  EXPECT_EQ(buffer.size(), 10u);
  buffer.Resize(128);  // Still within the rounded-up allocation.
  EXPECT_EQ(buffer.data(), before);
  buffer.Resize(100000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
}

TEST(AlignedBuffer, IsEmptyOnceItWasMovedAndMayBeUsedAgain) {
  MatrixBuffer from(3, 5);
  const float* const memory = from.view().data;
  const MatrixBuffer to = std::move(from);
  EXPECT_EQ(to.view().data, memory);
  EXPECT_TRUE(from.view().empty());  // NOLINT: what a moved one is, is what is tested
  from.Resize(2, 2);
  from.view().row(1)[1] = 1.0f;
  EXPECT_NE(from.view().data, memory);
}

TEST(AlignedBuffer, LargeMemoryIsWritableToItsEnd) {
  AlignedBuffer<uint8_t> buffer((size_t{5} << 20) + 7);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % (size_t{2} << 20), 0u);
  buffer[0] = 1;
  buffer[buffer.size() - 1] = 2;
}

TEST(StoredMatrix, ConvertsOneRow) {
  const std::vector<uint16_t> bf16 = {ToBF16(1), ToBF16(2), ToBF16(3), ToBF16(4)};
  const StoredMatrix stored{DType::kBF16, bf16.data(), 2, 2};
  std::vector<float> row(2);
  stored.RowToFloat(1, row.data());
  EXPECT_EQ(row, (std::vector<float>{3, 4}));
  EXPECT_EQ(stored.bytes(), 8u);
  EXPECT_TRUE(StoredMatrix().empty());
}

}  // namespace
}  // namespace thresher
