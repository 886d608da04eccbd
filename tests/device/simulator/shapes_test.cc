#include "backend/device/simulator/shapes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::HasSubstr;

TEST(Shapes, AreKnownByName) {
  const auto shape = ParseShape("xlm");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->layers, 12);
  EXPECT_EQ(shape->heads, 16);
  EXPECT_EQ(shape->kv_heads, 16);
  EXPECT_EQ(shape->head_dim, 128);
  EXPECT_EQ(shape->hidden_size, 2048);
  EXPECT_EQ(shape->ffn_size, 8192);
  EXPECT_FALSE(shape->causal);
}

TEST(Shapes, AreReadAsNumbers) {
  const auto shape = ParseShape("heads=12,head_dim=64,layers=6,ffn=3072");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->layers, 6);
  EXPECT_EQ(shape->kv_heads, 12);
  EXPECT_EQ(shape->hidden_size, 768);
  EXPECT_EQ(shape->ffn_matrices, 2);
  const auto gated = ParseShape(
      "causal=1,ffn_matrices=3,kv_heads=8,hidden=4096,ffn=14336,layers=32,head_dim=128,heads=32");
  ASSERT_TRUE(gated.ok()) << gated.status();
  EXPECT_EQ(gated->kv_heads, 8);
  EXPECT_EQ(gated->hidden_size, 4096);
  EXPECT_EQ(gated->ffn_matrices, 3);
  EXPECT_TRUE(gated->causal);
}

TEST(Shapes, WhatCannotBeIsRefusedByName) {
  const struct {
    std::string text;
    std::string why;
  } kCases[] = {
      {"", "bert-base, trxl, t5-small, xlm"},
      {"bert", "bert-base, trxl, t5-small, xlm"},
      {"heads=12,head_dim=64,layers=6", "ffn is missing"},
      {"heads=12,head_dim=64,layers=6,ffn=3072,", "'' is none of heads=1..512"},
      {"heads=12,head_dim=64,layers=6,ffn=3072,colour=3", "'colour=3' is none of"},
      {"heads=12,head_dim=64,layers=6,ffn=3072,causal", "'causal' is none of"},
      {"heads=12,heads=12,head_dim=64,layers=6,ffn=3072", "heads is given twice"},
      {"heads=0,head_dim=64,layers=6,ffn=3072", "heads='0' is not a whole number from 1 to 512"},
      {"heads=-1,head_dim=64,layers=6,ffn=3072", "heads='-1'"},
      {"heads=12x,head_dim=64,layers=6,ffn=3072", "heads='12x'"},
      {"heads=99999999999,head_dim=64,layers=6,ffn=3072", "heads='99999999999'"},
      {"heads=,head_dim=64,layers=6,ffn=3072", "heads=''"},
      {"heads=12,head_dim=64,layers=6,ffn=3072,kv_heads=5", "not a multiple of kv_heads=5"},
      {"heads=12,head_dim=64,layers=6,ffn=3072,ffn_matrices=1", "from 2 to 3"},
  };
  for (const auto& refused : kCases) {
    const auto shape = ParseShape(refused.text);
    ASSERT_EQ(shape.status().code(), absl::StatusCode::kInvalidArgument) << refused.text;
    EXPECT_THAT(Message(shape.status()), HasSubstr(refused.why)) << refused.text;
  }
  EXPECT_LT(Message(ParseShape(std::string(1 << 20, 'x')).status()).size(), 1000u);
}

TEST(Shapes, DenseRecordsReadAllThatIsInSight) {
  LayerRecord record = DenseRecordOf(*ParseShape("bert-base"), 1000, 3);
  ASSERT_EQ(record.sequences.size(), 3u);
  ASSERT_EQ(record.sequences[2].heads.size(), 12u);
  EXPECT_EQ(record.sequences[2].rows, 1000);
  EXPECT_EQ(record.sequences[2].heads[11].head, 11);
  EXPECT_EQ(record.sequences[2].heads[11].keys, 1000);
  EXPECT_EQ(record.sequences[2].heads[11].scores, 1000 * 1000);
  record = DenseRecordOf(*ParseShape("gpt2-small"), 4, 1);
  EXPECT_EQ(record.sequences[0].heads[0].scores, 1 + 2 + 3 + 4);
  EXPECT_EQ(record.sequences[0].heads[0].values, 1 + 2 + 3 + 4);
}

TEST(Shapes, AMillionTokensAreOneRecord) {
  const LayerRecord record = DenseRecordOf(*ParseShape("xlm"), 1 << 20, 64);
  EXPECT_EQ(record.sequences.size(), 64u);
  EXPECT_EQ(record.sequences[0].heads[0].scores, int64_t{1} << 40);
}

}  // namespace
}  // namespace thresher
