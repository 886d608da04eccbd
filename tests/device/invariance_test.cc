// Batch invariance: a row's bits are the same alone, in any batch, and at any number of threads.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
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

INSTANTIATE_TEST_SUITE_P(Devices, Invariance, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

TEST_P(Invariance, LinearRowsDoNotDependOnTheirBatch) {
  // `reference` needs no large shapes: its rows are computed one by one.
  const bool small = GetParam() == "reference";
  RandomData random(1);
  const int64_t total = small ? 40 : 600;
  for (const int64_t in : {32, 192, 768, 3072}) {
    for (const int64_t out : {2, 3, 192, 768, 2304, 3072}) {
      if (small && in * out > 192 * 192) continue;
      const MatrixBuffer weight = random.Normal(out, in, 0.05f), bias = random.Normal(1, out);
      const MatrixBuffer x = random.Normal(total, in);
      for (const Precision precision : kPrecisions) {
        // The largest shapes take turns, to spare time.
        if (in * out > 768 * 2304 && (in == 3072) != (precision == Precision::kBF16)) continue;
        SCOPED_TRACE(fmt::format("{} -> {} in {}", in, out, Name(precision)));
        const auto expected_weights =
            devices_[0]->Pack(Stored(weight.view()), Stored(bias.view()), precision);
        ASSERT_TRUE(expected_weights.ok()) << expected_weights.status();
        MatrixBuffer expected(total, out);
        ASSERT_TRUE(devices_[0]
                        ->Linear(**expected_weights, x.view(), Activation::kGelu, expected.view())
                        .ok());
        for (const auto& device : devices_) {
          const auto weights = device->Pack(Stored(weight.view()), Stored(bias.view()), precision);
          MatrixBuffer y(total, out);
          for (const int64_t rows : {1, 2, 5, 17, 33, 100, 257}) {
            if (rows > total) continue;
            for (const int64_t first : {int64_t{0}, int64_t{3}, total - rows}) {
              if (first + rows > total) continue;
              const Matrix part = y.view().Rows(0, rows);
              ASSERT_TRUE(
                  device->Linear(**weights, x.view().Rows(first, rows), Activation::kGelu, part)
                      .ok());
              ASSERT_TRUE(SameBits(part, expected.view().Rows(first, rows)))
                  << rows << " rows from " << first << ", " << device->description().threads
                  << " threads";
            }
          }
        }
      }
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
    for (const bool causal : {false, true}) {
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
                        .causal = causal},
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
