// What a model of BERT-base's shape costs in memory, and (printed, not tested) in time to load.
#include <gtest/gtest.h>
#include <malloc.h>

#include <chrono>
#include <cstddef>
#include <fstream>
#include <iostream>
#include <string>

#include "backend/engine/loaded_model.h"
#include "tests/engine/engine_testing.h"
#include "tests/testing/paths.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

/// Resident memory of this process, in bytes.
size_t ResidentBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    size_t kilobytes = 0;
    if (word == "VmRSS:" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

class Memory : public ::testing::TestWithParam<std::tuple<DType, Precision>> {};

TEST_P(Memory, StaysNearThePackedWeights) {
  if (testing::kSanitized) GTEST_SKIP() << "skipped: sanitizers keep memory of their own";
  const auto [stored, precision] = GetParam();
  malloc_trim(0);  // What an earlier test has freed is not this model's.
  const testing::TempDir temp;
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp.path(), {.dtype = stored}).ok());
  const auto start = std::chrono::steady_clock::now();
  auto model =
      LoadModel(temp.path().string(), testing::MakeDevice("cpu", 2), {.precision = precision});
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_GT((*model)->info.parameters, 100'000'000);
  const size_t packed = (*model)->info.packed_bytes;
  const size_t resident = ResidentBytes();
  std::cout << "BERT-base's shape, stored " << Name(stored) << ", computed " << Name(precision)
            << ": loaded in " << seconds.count() << " s, packed " << packed / 1'000'000
            << " MB, resident " << resident / 1'000'000 << " MB\n";
  EXPECT_LT(static_cast<double>(resident), 1.3 * static_cast<double>(packed) + 150e6);
}

INSTANTIATE_TEST_SUITE_P(All, Memory,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16),
                                            ::testing::Values(Precision::kF32, Precision::kBF16)),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) + "_as_" +
                                  std::string(Name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace thresher
