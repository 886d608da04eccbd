#include "client/load/tally.h"

#include <gtest/gtest.h>

namespace thresher::load {
namespace {

constexpr absl::Duration Ms(int64_t n) { return absl::Milliseconds(n); }

TEST(TallyTest, TheSplitAddsUpToTheMeanLatency) {
  Tally tally;
  // Due at 0, sent at 1, received at 21: 20 ms outside, of which the server accounts for 15.
  tally.Add(
      {.sent = Ms(1),
       .received = Ms(21),
       .server = ServerTimes{.queue = Ms(4), .tokenize = Ms(1), .compute = Ms(8), .total = Ms(15)}},
      Ms(0), std::nullopt);
  tally.Add(
      {.sent = Ms(100),
       .received = Ms(109),
       .server = ServerTimes{.queue = Ms(0), .tokenize = Ms(1), .compute = Ms(4), .total = Ms(6)}},
      Ms(97), std::nullopt);
  const Split split = tally.MeanSplit();
  EXPECT_EQ(split.client, Ms(2));
  EXPECT_EQ(split.network, Ms(4));
  EXPECT_EQ(split.queue, Ms(2));
  EXPECT_EQ(split.tokenize, Ms(1));
  EXPECT_EQ(split.compute, Ms(6));
  EXPECT_EQ(split.other, absl::Microseconds(1500));
  EXPECT_EQ(split.client + *split.network + *split.queue + *split.tokenize + *split.compute +
                *split.other,
            tally.latency.mean());
}

TEST(TallyTest, WhatTheServerDoesNotTellIsAbsent) {
  Tally tally;
  tally.Add({.sent = Ms(1), .received = Ms(2)}, Ms(0), std::nullopt);
  EXPECT_EQ(tally.MeanSplit().client, Ms(1));
  EXPECT_FALSE(tally.MeanSplit().network);
  EXPECT_FALSE(tally.MeanSplit().queue);
}

TEST(TallyTest, OutcomesAreCountedAndOnlyAnswersHaveLatency) {
  Tally tally;
  const Bound bound = {.limit = Ms(10)};
  tally.Add({.received = Ms(10)}, Ms(0), bound);
  tally.Add({.received = Ms(11)}, Ms(0), bound);
  tally.Add({.code = absl::StatusCode::kResourceExhausted, .message = "full", .received = Ms(1)},
            Ms(0), bound);
  tally.Add({.code = absl::StatusCode::kResourceExhausted, .message = "still", .received = Ms(1)},
            Ms(0), bound);
  EXPECT_EQ(tally.ended(), 4);
  EXPECT_EQ(tally.ok(), 2);
  EXPECT_EQ(tally.good, 1);
  EXPECT_EQ(tally.outcomes[absl::StatusCode::kResourceExhausted], 2);
  EXPECT_EQ(tally.messages[absl::StatusCode::kResourceExhausted], "full");
  EXPECT_EQ(tally.latency.max(), Ms(11));
}

TEST(TallyTest, ABoundOnTheFirstTokenForgivesALongText) {
  const Bound bound = {.of = Bound::Of::kFirstToken, .limit = Ms(10)};
  Tally tally;
  tally.Add({.received = Ms(500),
             .output_tokens = 3,
             .first_token = Ms(10),
             .token_gaps = {Ms(245), Ms(245)}},
            Ms(0), bound);
  tally.Add({.received = Ms(500), .first_token = Ms(11)}, Ms(0), bound);
  EXPECT_EQ(tally.good, 1);
  EXPECT_EQ(tally.first_token.max(), Ms(11));
  EXPECT_EQ(tally.inter_token.count(), 2);
  EXPECT_EQ(tally.output_tokens, 3);
}

TEST(TallyTest, FailedCallsCountAsEndlessWhenAPercentileIsPromised) {
  Tally tally;
  for (int i = 1; i <= 64; ++i) tally.Add({.received = Ms(i)}, Ms(0), std::nullopt);
  // LoadGen's 64 queries for p90: the largest of all.
  EXPECT_EQ(tally.AtMost(0.9), Ms(64));
  EXPECT_FALSE(tally.AtMost(0.99));
  EXPECT_LT(tally.AtMost(0.5), Ms(64));
  tally.Add({.code = absl::StatusCode::kUnavailable}, Ms(0), std::nullopt);
  EXPECT_FALSE(tally.AtMost(0.9));
  EXPECT_TRUE(tally.AtMost(0.5));
}

}  // namespace
}  // namespace thresher::load
