// oneDNN products: which kernels are taken, and that what the probe lets through is right and
// invariant. `AnyKernel` lets the machinery run on processors without packed-weight kernels too.
#include "backend/device/cpu/onednn_product.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <vector>

#include "backend/device/cpu/highway_product.h"
#include "backend/device/cpu/isa.h"
#include "backend/device/cpu/thread_pool.h"
#include "backend/tensor/status.h"
#include "tests/device/product_testing.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using testing::kPrecisions;
using testing::MultiplyAll;
using testing::RandomData;
using testing::Stored;

bool AnyKernel(Precision, std::string_view) { return true; }

TEST(OneDnnProduct, TakesOnlyKernelsOnPackedWeightsThatAreExact) {
  struct {
    Precision precision;
    const char* name;
    bool good;
  } const cases[] = {
      {Precision::kF32, "brg:avx512_core", true},
      {Precision::kF32, "brg_matmul:avx2", true},
      {Precision::kF32, "gemm:jit", false},
      {Precision::kF32, "ref:any", false},
      {Precision::kBF16, "brg:avx512_core_amx_bf16", true},
      {Precision::kBF16, "brg_matmul:avx512_core_amx", true},
      {Precision::kBF16, "brg:avx512_core_bf16", true},
      {Precision::kBF16, "gemm:jit", false},
      {Precision::kInt8, "brg:avx512_core_amx_int8", true},
      {Precision::kInt8, "brg:avx512_core_vnni", true},
      {Precision::kInt8, "brg:avx512_core", false},
      {Precision::kInt8, "gemm:jit", false},
  };
  for (const auto& [precision, name, good] : cases) {
    EXPECT_EQ(OneDnn::AcceptGood(precision, name), good) << Name(precision) << " " << name;
  }
}

TEST(OneDnnProduct, SaysItsVersion) {
  EXPECT_THAT(OneDnn::Version(), ::testing::StartsWith("oneDNN "));
}

TEST(OneDnnProduct, WhatTheProcessorMultipliesHasAKernelForTransformerShapes) {
  const Isa& isa = *DetectedIsa();
  if (!isa.name.starts_with("avx512")) GTEST_SKIP() << "no AVX-512: " << isa.name;
  OneDnn onednn;
  for (const Precision precision : kPrecisions) {
    if (precision == Precision::kInt8 && !isa.vnni) continue;
    if (precision == Precision::kBF16 && !isa.bf16) continue;
    for (const int64_t k : {192, 768, 3072}) {
      // In pieces of K rows of the source have gaps, for which oneDNN 2.6 has none.
      if (precision == Precision::kBF16 && k > 1536) continue;
      const auto probe = onednn.ProbeKernel(precision, k, 192);
      ASSERT_TRUE(probe.ok()) << probe.status();
      EXPECT_FALSE(probe->buckets.empty()) << Name(precision) << ", K = " << k;
    }
  }
}

TEST(OneDnnProduct, NarrowWeightsAreLeftToOwnKernels) {
  RandomData random(1);
  const MatrixBuffer weight = random.Normal(4, 64);
  OneDnn onednn(AnyKernel);
  WeightRows rows(Stored(weight.view()), Precision::kF32);
  std::vector<float> scales;
  const auto product = onednn.Pack(rows, scales);
  ASSERT_TRUE(product.ok()) << product.status();
  EXPECT_EQ(*product, nullptr);
}

TEST(OneDnnProduct, WhatTheProbePassesIsRightAndInvariant) {
  RandomData random(2);
  for (const auto accept : {&OneDnn::AcceptGood, &AnyKernel}) {
    OneDnn onednn(accept);
    for (const auto& shape : {std::pair(64, 48), std::pair(192, 400), std::pair(1600, 192)}) {
      const int64_t in = shape.first, out = shape.second;
      // Integers so small that nothing rounds, and (since kernels without VNNI add pairs of
      // products with x + 128 in 16 bits) nothing saturates either.
      const int64_t total = 300;
      std::vector<int> weight_values(static_cast<size_t>(in * out)), x_values(total * in);
      for (int& v : weight_values) v = random.Integer(-63, 63);
      for (int& v : x_values) v = random.Integer(-63, -1);
      for (int64_t o = 0; o < out; ++o) weight_values[o * in] = 127;  // A scale of 1.
      const std::vector<float> weight(weight_values.begin(), weight_values.end());
      for (const Precision precision : kPrecisions) {
        SCOPED_TRACE(fmt::format("{} -> {} in {}", in, out, Name(precision)));
        WeightRows rows({DType::kF32, weight.data(), out, in}, precision);
        std::vector<float> scales;
        const auto packed = onednn.Pack(rows, scales);
        ASSERT_TRUE(packed.ok()) << packed.status();
        if (*packed == nullptr) continue;  // Refused by the probe, or none on this processor.
        const Product& product = **packed;
        ASSERT_EQ(product.source_cols(), in);
        EXPECT_GE(product.bytes(), weight.size() * rows.element_size());

        const size_t element = SourceElementSize(product.source_form());
        const int64_t stride = in + 3;  // Rows need not be contiguous.
        std::vector<std::byte> source(static_cast<size_t>(total * stride) * element);
        for (int64_t r = 0; r < total; ++r) {
          for (int64_t i = 0; i < in; ++i) {
            const int value = x_values[r * in + i];
            std::byte* to = source.data() + static_cast<size_t>(r * stride + i) * element;
            const auto f = static_cast<float>(value);
            const uint16_t half = ToBF16(f);
            if (element == 4) std::memcpy(to, &f, 4);
            if (element == 2) std::memcpy(to, &half, 2);
            if (element == 1) *to = static_cast<std::byte>(value);
          }
        }
        const auto check = [&]<typename T>(T) {
          const std::vector<T> all = MultiplyAll<T>(product, source, stride, 0, total, out);
          for (int64_t r = 0; r < total; ++r) {
            for (int64_t o = 0; o < out; ++o) {
              int64_t exact = 0;
              for (int64_t i = 0; i < in; ++i) {
                exact += int64_t{x_values[r * in + i]} * weight_values[o * in + i];
              }
              ASSERT_EQ(static_cast<int64_t>(all[r * out + o]), exact) << r << ", " << o;
            }
          }
          for (const int64_t count : {1, 7, 16, 31, 100}) {
            const auto part = MultiplyAll<T>(product, source, stride, 9, count, out);
            EXPECT_EQ(std::memcmp(part.data(), all.data() + 9 * out, part.size() * sizeof(T)), 0);
          }
        };
        precision == Precision::kInt8 ? check(int32_t{}) : check(float{});
      }
    }
  }
}

TEST(OneDnnProduct, TheProbeFindsKernelsThatSumInAnotherOrder) {
  // Without packed weights oneDNN changes kernels with the number of rows; whatever it does here,
  // only buckets that agree may be left, and the largest is one of them.
  OneDnn onednn(AnyKernel);
  for (const int64_t k : {192, 768, 3072}) {
    const auto probe = onednn.ProbeKernel(Precision::kF32, k, 192);
    ASSERT_TRUE(probe.ok()) << probe.status();
    EXPECT_TRUE(probe->buckets.empty() || probe->buckets.back() == kMaxChunkRows);
    EXPECT_EQ(probe->buckets.empty(), probe->implementation.empty());
  }
}

int ThreadsOfThisProcess() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

TEST(OneDnnProduct, ThreadsShareAProductAndOpenMpStartsNone) {
  RandomData random(4);
  const int64_t in = 128, out = 192, rows = 40;
  const MatrixBuffer weight = random.Normal(out, in);
  WeightRows weight_rows(Stored(weight.view()), Precision::kInt8);
  std::vector<float> scales;
  OneDnn onednn(AnyKernel);
  const auto packed = onednn.Pack(weight_rows, scales);
  ASSERT_TRUE(packed.ok()) << packed.status();
  ASSERT_NE(*packed, nullptr);
  std::vector<std::byte> source(static_cast<size_t>(rows * in));
  for (std::byte& value : source) value = static_cast<std::byte>(random.Integer(-63, 63));
  const auto expected = MultiplyAll<int32_t>(**packed, source, in, 0, rows, out);
  ThreadPool pool(4);
  std::atomic<int> different = 0;
  const int before = ThreadsOfThisProcess();
  pool.ParallelFor(100, [&](int64_t, int) {
    if (MultiplyAll<int32_t>(**packed, source, in, 0, rows, out) != expected) ++different;
  });
  EXPECT_EQ(different, 0);
  EXPECT_EQ(ThreadsOfThisProcess(), before);
}

TEST(OneDnnProduct, Int8AgreesWithOwnKernelsBitForBit) {
  RandomData random(3);
  const MatrixBuffer weight = random.Normal(192, 256);
  WeightRows rows(Stored(weight.view()), Precision::kInt8);
  std::vector<float> scales, own_scales;
  OneDnn onednn;
  const auto packed = onednn.Pack(rows, scales);
  ASSERT_TRUE(packed.ok()) << packed.status();
  const auto own = PackHighwayProduct(rows, own_scales);
  if (*packed == nullptr)
    GTEST_SKIP() << "no exact int8 kernel in oneDNN for " << DetectedIsa()->name;
  EXPECT_EQ(scales, own_scales);
  std::vector<std::byte> bytes(50 * 256), shorts(50 * 256 * 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto value = static_cast<int16_t>(random.Integer(-127, 127));
    bytes[i] = static_cast<std::byte>(value);
    std::memcpy(&shorts[i * 2], &value, 2);
  }
  EXPECT_EQ(MultiplyAll<int32_t>(**packed, bytes, 256, 0, 50, 192),
            MultiplyAll<int32_t>(*own, shorts, 256, 0, 50, 192));
}

}  // namespace
}  // namespace thresher
