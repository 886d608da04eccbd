#include "backend/device/simulator/spatial/einsum_cascade.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

EinsumCascade Parse(std::string_view text) {
  auto cascade = EinsumCascade::Parse(text);
  EXPECT_TRUE(cascade.ok()) << cascade.status();
  return *std::move(cascade);
}

TEST(EinsumCascade, IsReadFromText) {
  const auto einsum = ParseEinsum("SLN[p,m1,m0] = exp(QK[p,m1,m0] - RM[p,m1+1])");
  ASSERT_TRUE(einsum.ok()) << einsum.status();
  EXPECT_EQ(einsum->output.tensor, "SLN");
  EXPECT_THAT(einsum->output.ranks, ElementsAre("p", "m1", "m0"));
  ASSERT_EQ(einsum->inputs.size(), 2u);
  EXPECT_EQ(einsum->inputs[0].tensor, "QK");
  EXPECT_FALSE(einsum->inputs[0].next);
  EXPECT_EQ(einsum->inputs[1].tensor, "RM");
  EXPECT_TRUE(einsum->inputs[1].next);
  EXPECT_THAT(einsum->Ranks(), ElementsAre("p", "m1", "m0"));
}

TEST(EinsumCascade, PassesAreCounted) {
  EXPECT_EQ(Parse(kThreePassAttention).Passes("m"), 3);
  EXPECT_EQ(Parse(kTwoPassAttention).Passes("m"), 2);
  EXPECT_EQ(Parse(kOnePassAttention).Passes("m"), 1);
  // QK, GM | SN, SD | A, AV.
  EXPECT_THAT(Parse(kThreePassAttention).PassOfEinsums("m"), ElementsAre(1, 1, 2, 2, 3, 3));
}

TEST(EinsumCascade, ANewCascadeIsAFewLines) {
  // Dividing the output rather than the scores saves three-pass attention a pass.
  EXPECT_EQ(Parse(R"(
    QK[p,m] = Q[p,e] * K[m,e]
    GM[p] = max(QK[p,m])
    SN[p,m] = exp(QK[p,m] - GM[p])
    SD[p] = sum(SN[p,m])
    SNV[p,f] = SN[p,m] * V[m,f]
    AV[p,f] = SNV[p,f] / SD[p]
  )")
                .Passes("m"),
            2);
  // Without a maximum to take off, so does the exponential another.
  EXPECT_EQ(Parse(R"(
    SN[p,m] = exp(Q[p,e] * K[m,e])
    SD[p] = sum(SN[p,m])
    SNV[p,f] = SN[p,m] * V[m,f]
    AV[p,f] = SNV[p,f] / SD[p]
  )")
                .Passes("m"),
            1);
  // The mean, the deviations from it, and the division by their norm.
  EXPECT_EQ(Parse(R"(
    S[b] = sum(X[b,d])
    D[b,d] = X[b,d] - S[b]
    N[b] = sum(D[b,d])
    Y[b,d] = D[b,d] / N[b]
  )")
                .Passes("d"),
            3);
  // Over another rank there is but one pass.
  EXPECT_EQ(Parse(kThreePassAttention).Passes("p"), 1);
}

TEST(EinsumCascade, WhatIsVisitedAgainStaysLive) {
  const std::map<std::string, int64_t, std::less<>> extents = {{"p", 2},    {"m", 1000}, {"m1", 10},
                                                               {"m0", 100}, {"e", 4},    {"f", 8}};
  auto live = Parse(kThreePassAttention).LiveWords("m", extents);
  EXPECT_EQ(live["Q"], 2 * 4);
  EXPECT_EQ(live["K"], 4);          // One key.
  EXPECT_EQ(live["QK"], 2 * 1000);  // In passes 1 and 2.
  EXPECT_EQ(live["SN"], 2 * 1000);  // In passes 2 and 3.
  EXPECT_EQ(live["A"], 2);
  EXPECT_EQ(live["AV"], 2 * 8);
  live = Parse(kTwoPassAttention).LiveWords("m", extents);
  EXPECT_EQ(live["SLN"], 2 * 1000);
  EXPECT_EQ(live["LM"], 2 * 10);
  EXPECT_EQ(live["QK"], 2 * 100);  // One chunk.
  live = Parse(kOnePassAttention).LiveWords("m", extents);
  EXPECT_EQ(live["K"], 100 * 4);
  EXPECT_EQ(live["SLN"], 2 * 100);
  EXPECT_EQ(live["RNV"], 2 * 8);
  EXPECT_EQ(live["RM"], 2);
}

TEST(EinsumCascade, WhatCannotBeIsRefused) {
  const struct {
    std::string text;
    std::string why;
  } kCases[] = {
      {"", "at least one Einsum"},
      {"A", "expected an output and '='"},
      {"A[p]", "expected an output and '='"},
      {"A[p] = 3", "expected inputs"},
      {"A[p = Q[p]", "expected ',' or ']'"},
      {"A[] = Q[p]", "expected a rank"},
      {"A[p,p] = Q[p]", "a rank is there twice"},
      {"A[p+1,m+1] = Q[p,m]", "one rank alone can run"},
      {"A[p] = Q[p]\nA[p] = Q[p]", "'A' is made twice"},
      {"A[p] = B[p]\nB[p] = Q[p]", "'A' reads B before it is made"},
      {"A[p] = A[p] + Q[p]", "'A' reads A before it is made"},
      {"A[p] = Q[p,e]\nB[p] = A[p,e]", "with rank e, which it does not have"},
      {"A[p] = Q[" + std::string(2000, 'p'), "at most 1024"},
  };
  for (const auto& refused : kCases) {
    const auto cascade = EinsumCascade::Parse(refused.text);
    ASSERT_EQ(cascade.status().code(), absl::StatusCode::kInvalidArgument) << refused.text;
    EXPECT_THAT(Message(cascade.status()), HasSubstr(refused.why)) << refused.text;
  }
}

}  // namespace
}  // namespace thresher
