// Batch invariance: a row's bits are the same alone, in any batch, and at any number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/device.h"
#include "backend/tensor/status.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using testing::kPrecisions;
using testing::Offsets;
using testing::RandomData;
using testing::Stored;

constexpr int kMaxThreads = 4;

bool SameBits(ConstMatrix a, ConstMatrix b) {
  for (int64_t r = 0; r < a.rows; ++r) {
    if (std::memcmp(a.row(r), b.row(r), static_cast<size_t>(a.cols) * sizeof(float)) != 0) {
      return false;
    }
  }
  return true;
}

class Invariance : public ::testing::TestWithParam<std::string> {
 protected:
  Invariance() {
    const int most = GetParam() == "reference" ? 1 : kMaxThreads;
    for (int threads = 1; threads <= most; ++threads) {
      devices_.push_back(*CreateDevice(GetParam(), {.threads = threads}));
    }
  }
  std::vector<std::unique_ptr<Device>> devices_;  // One for each number of threads.
};

INSTANTIATE_TEST_SUITE_P(Devices, Invariance, ::testing::Values("reference", "cpu", "cpu:onednn"),
                         [](const auto& info) {
                           return info.param == "cpu:onednn" ? "oneDNN" : info.param;
                         });

/// Every row of one large product must come out the same from slices of it.
void ExpectInvariantLinear(std::span<const std::unique_ptr<Device>> devices, int64_t in,
                           int64_t out, Precision precision, int64_t total) {
  SCOPED_TRACE(fmt::format("{} -> {} in {}", in, out, Name(precision)));
  RandomData random(1);
  const MatrixBuffer weight = random.Normal(out, in, 0.05f), bias = random.Normal(1, out);
  const MatrixBuffer x = random.Normal(total, in);
  MatrixBuffer expected(total, out), y(total, out);
  for (const auto& device : devices) {
    const auto weights = device->Pack(Stored(weight.view()), Stored(bias.view()), precision);
    ASSERT_TRUE(weights.ok()) << weights.status();
    if (device == devices.front()) {
      ASSERT_TRUE(device->Linear(**weights, x.view(), Activation::kGelu, expected.view()).ok());
    }
    for (const int64_t rows : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{17}, int64_t{33},
                               int64_t{100}, int64_t{257}, total}) {
      if (rows > total) continue;
      // Some slice, at another place within the kernels' tiles than in the whole.
      const int64_t first = std::min<int64_t>(rows + 2, total - rows);
      const Matrix part = y.view().Rows(0, rows);
      ASSERT_TRUE(
          device->Linear(**weights, x.view().Rows(first, rows), Activation::kGelu, part).ok());
      ASSERT_TRUE(SameBits(part, expected.view().Rows(first, rows)))
          << rows << " rows from " << first << ", " << device->description().threads << " threads";
    }
  }
}

TEST_P(Invariance, LinearRowsDoNotDependOnTheirBatch) {
  for (const int64_t in : {32, 192}) {
    for (const int64_t out : {2, 3, 100, 192, 400}) {
      for (const Precision precision : kPrecisions) {
        ExpectInvariantLinear(devices_, in, out, precision, GetParam() == "reference" ? 40 : 300);
      }
    }
  }
}

TEST_P(Invariance, LinearRowsOfLargeShapesDoNotDependOnTheirBatch) {
  if (GetParam() == "reference") GTEST_SKIP() << "computes row by row whatever the shape";
  // One thread, and more than there are chunks to share evenly.
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::move(devices_[0]));
  devices.push_back(std::move(devices_[2]));
  for (const auto& [in, out] : {std::pair(768, 2), std::pair(768, 768), std::pair(768, 2304),
                                std::pair(768, 3072), std::pair(3072, 3), std::pair(3072, 768)}) {
    for (const Precision precision : kPrecisions) {
      ExpectInvariantLinear(devices, in, out, precision, 260);
    }
  }
}

TEST_P(Invariance, AttentionOfASequenceDoesNotDependOnItsBatch) {
  RandomData random(2);
  const std::vector<int32_t> lengths = {1, 40, 7, 200, 96, 0, 129, 13, 2};
  const std::vector<int32_t> offsets = Offsets(lengths);
  for (const AttentionShape shape : {AttentionShape{4, 4, 32}, AttentionShape{6, 2, 20}}) {
    const int64_t width = int64_t{shape.heads} * shape.head_dim;
    const int64_t kv_width = int64_t{shape.kv_heads} * shape.head_dim;
    const MatrixBuffer q = random.Normal(offsets.back(), width),
                       k = random.Normal(offsets.back(), kv_width),
                       v = random.Normal(offsets.back(), kv_width);
    for (const int which : {0, 1, 2, 3}) {
      const bool causal = which % 2 == 1;
      const Precision precision = which / 2 == 0 ? Precision::kF32 : Precision::kBF16;
      MatrixBuffer expected(offsets.back(), width), y(offsets.back(), width);
      const auto run = [&](Device& device, std::span<const int32_t> part_offsets, int64_t first,
                           Matrix out) {
        return device
            .Attention({.shape = shape,
                        .query = q.view().Rows(first, out.rows),
                        .key = k.view().Rows(first, out.rows),
                        .value = v.view().Rows(first, out.rows),
                        .offsets = part_offsets,
                        .scale = 0.2f,
                        .causal = causal,
                        .precision = precision},
                       out)
            .ok();
      };
      ASSERT_TRUE(run(*devices_[0], offsets, 0, expected.view()));
      for (const auto& device : devices_) {
        ASSERT_TRUE(run(*device, offsets, 0, y.view()));
        ASSERT_TRUE(SameBits(y.view(), expected.view()));
        for (size_t s = 0; s < lengths.size(); ++s) {
          const int32_t alone[] = {0, lengths[s]};
          const Matrix out = y.view().Rows(0, lengths[s]);
          ASSERT_TRUE(run(*device, alone, offsets[s], out));
          ASSERT_TRUE(SameBits(out, expected.view().Rows(offsets[s], lengths[s])))
              << "sequence " << s << ", " << device->description().threads << " threads";
        }
      }
    }
  }
}

TEST_P(Invariance, CausalRowsDoNotDependOnWhatFollows) {
  RandomData random(3);
  const int32_t whole[] = {0, 300};
  const AttentionShape shape{2, 2, 24};
  const MatrixBuffer q = random.Normal(300, 48), k = random.Normal(300, 48),
                     v = random.Normal(300, 48);
  const auto run = [&](std::span<const int32_t> offsets, Matrix out) {
    return devices_.back()
        ->Attention({.shape = shape,
                     .query = q.view().Rows(0, out.rows),
                     .key = k.view().Rows(0, out.rows),
                     .value = v.view().Rows(0, out.rows),
                     .offsets = offsets,
                     .causal = true},
                    out)
        .ok();
  };
  MatrixBuffer expected(300, 48), y(300, 48);
  ASSERT_TRUE(run(whole, expected.view()));
  for (const int32_t length : {1, 5, 97, 128, 130, 299}) {
    const int32_t part[] = {0, length};
    const Matrix out = y.view().Rows(0, length);
    ASSERT_TRUE(run(part, out));
    EXPECT_TRUE(SameBits(out, expected.view().Rows(0, length))) << length;
  }
}

TEST_P(Invariance, LayerNormAndMeanPoolDoNotDependOnTheBatch) {
  RandomData random(4);
  const int32_t lengths[] = {3, 200, 1, 77};
  const std::vector<int32_t> offsets = Offsets(lengths);
  const int64_t cols = 771;
  const MatrixBuffer x = random.Normal(offsets.back(), cols),
                     other = random.Normal(offsets.back(), cols);
  const MatrixBuffer gamma = random.Normal(1, cols), beta = random.Normal(1, cols);
  MatrixBuffer expected(offsets.back(), cols), y(offsets.back(), cols);
  MatrixBuffer pooled(4, cols), pooled_alone(1, cols);
  const auto norm = [&](Device& device, int64_t first, Matrix out) {
    return device
        .LayerNorm(x.view().Rows(first, out.rows), other.view().Rows(first, out.rows),
                   gamma.view().row_span(0), beta.view().row_span(0), 1e-5f, out)
        .ok();
  };
  ASSERT_TRUE(norm(*devices_[0], 0, expected.view()));
  ASSERT_TRUE(devices_[0]->MeanPool(x.view(), offsets, pooled.view()).ok());
  for (const auto& device : devices_) {
    ASSERT_TRUE(norm(*device, 0, y.view()));
    EXPECT_TRUE(SameBits(y.view(), expected.view()));
    ASSERT_TRUE(norm(*device, 100, y.view().Rows(0, 1)));
    EXPECT_TRUE(SameBits(y.view().Rows(0, 1), expected.view().Rows(100, 1)));
    const int32_t alone[] = {0, 200};
    ASSERT_TRUE(device->MeanPool(x.view().Rows(3, 200), alone, pooled_alone.view()).ok());
    EXPECT_TRUE(SameBits(pooled_alone.view(), pooled.view().Rows(1, 1)));
  }
}

}  // namespace
}  // namespace thresher
