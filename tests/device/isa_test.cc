// What the device finds on this processor. The same tests run again under THRESHER_MAX_ISA and
// under ONEDNN_MAX_CPU_ISA (CMakeLists.txt): the caps must hold for all kernels.
#include "backend/device/cpu/isa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "backend/device/cpu/kernels.h"
#include "backend/device/device.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

int RankOf(const std::string& isa) {
  const std::string ascending[] = {"baseline",    "sse4",        "avx2",      "avx512",
                                   "avx512+vnni", "avx512+bf16", "avx512+amx"};
  for (int rank = 0; rank < static_cast<int>(std::size(ascending)); ++rank) {
    if (ascending[rank] == isa) return rank;
  }
  return -1;
}

TEST(Isa, IsOneOfTheKnownAndOnlyAmxHasAmx) {
  ASSERT_TRUE(DetectedIsa().ok()) << DetectedIsa().status();
  const Isa& isa = *DetectedIsa();
  EXPECT_GE(RankOf(isa.name), 0) << isa.name;
  EXPECT_EQ(isa.amx, isa.name == "avx512+amx");
}

TEST(Isa, TheDeviceComputesInBFloat16ByDefaultOnlyWithAmx) {
  const auto device = CreateDevice("cpu", {.threads = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->description().isa, DetectedIsa()->name);
  EXPECT_EQ((*device)->description().default_precision,
            DetectedIsa()->amx ? Precision::kBF16 : Precision::kF32);
}

TEST(Isa, OwnKernelsStayWithinIt) {
  const std::string name = DetectedIsa()->name;
  const std::string target = KernelTarget();
  if (RankOf(name) < RankOf("avx512")) {
    EXPECT_EQ(target.find("AVX3"), std::string::npos);
  }
  if (RankOf(name) < RankOf("avx2")) {
    EXPECT_EQ(target.find("AVX"), std::string::npos);
  }
}

TEST(Isa, TheCapHolds) {
  const char* cap = std::getenv("THRESHER_MAX_ISA");
  if (cap == nullptr) GTEST_SKIP() << "THRESHER_MAX_ISA is not set";
  EXPECT_LE(RankOf(DetectedIsa()->name), RankOf(cap));
}

TEST(UnknownIsa, IsRefusedByName) {
  const char* cap = std::getenv("THRESHER_MAX_ISA");
  if (cap == nullptr || std::string(cap) != "mmx") GTEST_SKIP() << "THRESHER_MAX_ISA is not mmx";
  const auto device = CreateDevice("cpu", {.threads = 1});
  EXPECT_EQ(device.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(device.status()), ::testing::HasSubstr("THRESHER_MAX_ISA is 'mmx'"));
}

}  // namespace
}  // namespace thresher
