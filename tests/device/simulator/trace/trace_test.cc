#include "backend/device/simulator/trace/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "backend/tensor/status.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kHeader[] =
    "iteration_id,layer_id,head_id,embedding_length_D,sentence_length_L,key_fetch_num,"
    "quant_key_bit,quant_query_bit,auto_requant_thres,if_requant,auto_requant_incre,"
    "value_fetch_num,quant_value_bit,if_accumulate_importance,if_rescale_previous_importance,"
    "if_topk,topk\n";
constexpr char kLast[] = "name.yml,,,,,,,,,,,,,,,,\n";

class TraceTest : public ::testing::Test {
 protected:
  static absl::StatusOr<std::unique_ptr<TraceReader>> Open(const std::string& text) {
    return TraceReader::Read(std::make_unique<std::istringstream>(text), "trace.csv");
  }
  std::vector<LayerRecord> Records(const std::string& text) {
    auto reader = Open(text);
    EXPECT_TRUE(reader.ok()) << reader.status();
    if (!reader.ok()) return {};
    return All(**reader);
  }
  static std::vector<LayerRecord> All(TraceReader& reader) {
    std::vector<LayerRecord> records;
    while (true) {
      auto record = reader.Next();
      EXPECT_TRUE(record.ok()) << record.status();
      if (!record.ok() || !record->has_value()) return records;
      records.push_back(**std::move(record));
    }
  }
  std::string ErrorOf(const std::string& text) {
    auto reader = Open(text);
    if (reader.ok()) return "";
    EXPECT_EQ(reader.status().code(), absl::StatusCode::kInvalidArgument);
    return Message(reader.status());
  }
  /// The error of a trace with one row.
  std::string ErrorOfRow(const std::string& row) {
    return ErrorOf(std::string(kHeader) + row + "\n" + kLast);
  }
};

TEST_F(TraceTest, AStepsLayerIsOneRecord) {
  const auto records = Records(std::string(kHeader) +
                               "7,0,0,64.0,100,50,6,16,0.05,True,4,10,6,True,False,False,-1\n"
                               "7,0,2,64.0,100,40,6,16,0.05,False,4,8,6,True,True,True,30\n"
                               "7,1,3,64.0,100,30,6,16,0.05,False,4,6,6,False,False,True,90\n" +
                               kLast);
  ASSERT_EQ(records.size(), 2);
  EXPECT_EQ(records[0].shape.layers, 2);
  EXPECT_EQ(records[0].shape.heads, 4) << "a head without a row was pruned, but is there";
  EXPECT_EQ(records[0].shape.kv_heads, 4);
  EXPECT_EQ(records[0].shape.head_dim, 64);
  EXPECT_EQ(records[0].shape.hidden_size, 256);
  const SequenceRecord& sequence = records[0].sequences.at(0);
  EXPECT_TRUE(sequence.decode);
  EXPECT_EQ(sequence.rows, 1);
  EXPECT_EQ(sequence.dense_keys, 100);
  EXPECT_EQ(sequence.bits.key, 6);
  EXPECT_EQ(sequence.bits.key_refetch, 4);
  EXPECT_EQ(sequence.bits.query, 16);
  EXPECT_EQ(sequence.refetch_threshold, 0.05);
  ASSERT_EQ(sequence.heads.size(), 2);
  EXPECT_EQ(sequence.heads[0].keys, 50);
  EXPECT_EQ(sequence.heads[0].refetched, 1);
  EXPECT_EQ(sequence.heads[1].head, 2);
  EXPECT_EQ(sequence.heads[1].values, 8);
  EXPECT_EQ(sequence.heads[1].refetched, 0);
  EXPECT_TRUE(sequence.accumulates_importance);
  EXPECT_TRUE(sequence.rescales_importance);
  EXPECT_EQ(sequence.top_k, 30);
  EXPECT_EQ(sequence.top_k_from, 50);
  EXPECT_EQ(records[1].layer, 1);
  EXPECT_EQ(records[1].sequences[0].top_k_from, 100) << "tokens come back: ranked among all";
}

TEST_F(TraceTest, ColumnsMayComeInAnyOrderAndLinesEndAsTheyLike) {
  const auto records = Records(
      "topk,layer_id,head_id,embedding_length_D,sentence_length_L,key_fetch_num,quant_key_bit,"
      "quant_query_bit,auto_requant_thres,if_requant,auto_requant_incre,value_fetch_num,"
      "quant_value_bit,if_accumulate_importance,if_rescale_previous_importance,if_topk,"
      "iteration_id\r\n"
      "-1,0,0,32,9,8,-1,-1,-1,False,-1,7,-1,False,False,False,5\r\n"
      "name,,,,,,,,,,,,,,,,");
  ASSERT_EQ(records.size(), 1);
  EXPECT_EQ(records[0].shape.head_dim, 32);
  EXPECT_EQ(records[0].sequences[0].heads[0].values, 7);
  EXPECT_EQ(records[0].sequences[0].bits.key, 0);
}

TEST_F(TraceTest, ErrorsNameLineAndField) {
  const std::string good = "0,0,0,64.0,9,8,6,16,0.05,False,4,7,6,True,False,False,-1";
  EXPECT_EQ(ErrorOfRow(good), "");
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string row = good;
    row.replace(row.find(from), from.size(), to);
    return ErrorOfRow(row);
  };
  EXPECT_THAT(error("9,8,", "9,-8,"), AllOf(HasSubstr("line 2"), HasSubstr("'key_fetch_num'")));
  EXPECT_THAT(error("9,8,", "9,10,"), HasSubstr("key_fetch_num': '10' is more than sentence"));
  EXPECT_THAT(error("4,7,", "4,9,"), HasSubstr("'value_fetch_num': '9' is more than key_fetch"));
  EXPECT_THAT(error("64.0", "64.5"), HasSubstr("'embedding_length_D'"));
  EXPECT_THAT(error("64.0", "nan"), HasSubstr("'embedding_length_D'"));
  EXPECT_THAT(error("64.0", "1e300"), HasSubstr("'embedding_length_D'"));
  EXPECT_THAT(error("9,8,", "99999999999999999999,8,"), HasSubstr("'sentence_length_L'"));
  EXPECT_THAT(error("6,16", "0,16"), HasSubstr("'quant_key_bit'"));
  EXPECT_THAT(error("6,16", "33,16"), HasSubstr("'quant_key_bit'"));
  EXPECT_THAT(error("16,0.05", "x,0.05"), HasSubstr("'quant_query_bit': 'x' is not a whole"));
  EXPECT_THAT(error("0.05", "1.5"), HasSubstr("'auto_requant_thres'"));
  EXPECT_THAT(error("False,4", "false,4"), HasSubstr("'if_requant'"));
  EXPECT_THAT(error("False,4", "True,-1"), HasSubstr("'if_requant'"));
  EXPECT_THAT(error("False,-1", "False,3"), HasSubstr("'topk'"));
  EXPECT_THAT(error("False,-1", "True,10"), HasSubstr("'topk'"));
  EXPECT_THAT(error("False,-1", "True"), HasSubstr("17 fields"));
  EXPECT_THAT(error("0,0,0,", "0,-1,0,"), HasSubstr("'layer_id'"));
  EXPECT_THAT(error("0,0,0,", "0,0,9999999,"), HasSubstr("'head_id'"));
  EXPECT_THAT(error("0,0,0,", ",0,0,"), HasSubstr("'iteration_id'"));
  EXPECT_THAT(ErrorOfRow(good + "\n" + "0,0,0,64.0,8,8,6,16,0.05,False,4,7,6,True,False,False,-1"),
              AllOf(HasSubstr("line 3"), HasSubstr("'sentence_length_L'")));
  EXPECT_THAT(ErrorOfRow("0,0,1,64.0,9,8,6,16,0.05,False,4,7,6,True,False,False,-1\n" + good),
              HasSubstr("must ascend"));
}

TEST_F(TraceTest, AFileThatIsNotATraceIsRefused) {
  const std::string row = "0,0,0,64.0,9,8,6,16,0.05,False,4,7,6,True,False,False,-1\n";
  const testing::TempDir directory;
  EXPECT_EQ(TraceReader::Open(directory.path() / "absent.csv").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(TraceReader::Open(directory.path()).ok()) << "a directory";
  EXPECT_THAT(ErrorOf(""), HasSubstr("empty"));
  EXPECT_THAT(ErrorOf("iteration_id,layer_id\n"), HasSubstr("'head_id' is missing"));
  EXPECT_THAT(ErrorOf("iteration_id,iteration_id\n"), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf("hello\n"), HasSubstr("'hello'"));
  EXPECT_THAT(ErrorOf(kHeader), HasSubstr("cut off"));
  EXPECT_THAT(ErrorOf(std::string(kHeader) + kLast), HasSubstr("no rows"));
  EXPECT_THAT(ErrorOf(std::string(kHeader) + row), HasSubstr("cut off"));
  EXPECT_THAT(ErrorOf(std::string(kHeader) + row + kLast + row), HasSubstr("line 4: follows"));
  EXPECT_THAT(ErrorOf(std::string(kHeader) + std::string(100000, '1')), HasSubstr("longer than"));
  EXPECT_THAT(ErrorOf(std::string(kHeader) + row + "name;shape:layers=0:,,,,,,,,,,,,,,,,\n"),
              HasSubstr("layers=N"));
}

LayerRecord Encoder() {
  LayerRecord record;
  record.layer = 1;
  record.shape = {.layers = 3,
                  .heads = 8,
                  .kv_heads = 4,
                  .head_dim = 32,
                  .hidden_size = 256,
                  .ffn_size = 700,
                  .ffn_matrices = 3,
                  .causal = false};
  for (int i = 0; i < 2; ++i) {
    SequenceRecord sequence;
    sequence.rows = sequence.keys = 7;
    sequence.dense_rows = sequence.dense_keys = 12;
    sequence.heads = {{.head = 1, .queries = 7, .keys = 7, .scores = 30, .values = 11},
                      {.head = 6, .queries = 5, .keys = 5, .scores = 25, .values = 25}};
    sequence.bits = {.query = 12, .key = 8, .key_refetch = 4, .value = 12};
    sequence.heads[0].refetched = 3;
    sequence.top_k_from = 7;
    sequence.top_k = 4 + i;
    sequence.accumulates_importance = true;
    record.sequences.push_back(sequence);
  }
  return record;
}

std::string Written(const std::vector<LayerRecord>& records, const std::string& name = "mine") {
  std::ostringstream text;
  auto writer = TraceWriter::Create(&text, name);
  EXPECT_TRUE(writer.ok());
  for (const LayerRecord& record : records) {
    const absl::Status status = writer->Write(record);
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_TRUE(writer->Finish().ok());
  return text.str();
}

TEST_F(TraceTest, AnEncodersLayerComesBack) {
  const LayerRecord encoder = Encoder();
  auto reader = Open(Written({encoder}));
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->configuration(), "mine");
  EXPECT_EQ((*reader)->shape(), encoder.shape);
  EXPECT_EQ((*reader)->rows(), 24);
  const auto records = All(**reader);
  ASSERT_EQ(records.size(), 2) << "a sequence each";
  for (int i = 0; i < 2; ++i) {
    const SequenceRecord& sequence = records[i].sequences.at(0);
    EXPECT_EQ(records[i].layer, 1);
    EXPECT_FALSE(sequence.decode);
    EXPECT_EQ(sequence.rows, 7);
    EXPECT_EQ(sequence.keys, 7);
    EXPECT_EQ(sequence.dense_rows, 12);
    EXPECT_EQ(sequence.dense_keys, 12);
    EXPECT_EQ(sequence.top_k_from, 7);
    EXPECT_EQ(sequence.top_k, 4 + i);
    ASSERT_EQ(sequence.heads.size(), 2);
    for (int h = 0; h < 2; ++h) {
      const HeadRecord& expected = encoder.sequences[i].heads[h];
      EXPECT_EQ(sequence.heads[h].head, expected.head);
      EXPECT_EQ(sequence.heads[h].queries, expected.queries);
      EXPECT_EQ(sequence.heads[h].keys, expected.keys);
      EXPECT_EQ(sequence.heads[h].scores, expected.scores);
      EXPECT_EQ(sequence.heads[h].values, expected.values);
      EXPECT_EQ(sequence.heads[h].refetched, expected.refetched);
    }
  }
  EXPECT_EQ(All(**reader).size(), 0) << "at the end";
  (*reader)->Rewind();
  EXPECT_EQ(All(**reader).size(), 2);
}

TEST_F(TraceTest, WhatWasReadIsWrittenAgainAlike) {
  const std::string text = Written({Encoder()});
  EXPECT_EQ(Written(Records(text)), text);
}

TEST_F(TraceTest, RowsAreInSightThoughNoQueryReadsTheirKeys) {
  LayerRecord record = Encoder();
  for (SequenceRecord& sequence : record.sequences) {
    for (HeadRecord& head : sequence.heads) head.keys = 4, head.scores = head.values = 16;
    sequence.top_k = sequence.top_k_from = 0;
  }
  const auto records = Records(Written({record}));
  ASSERT_EQ(records.size(), 2);
  EXPECT_EQ(records[0].sequences[0].heads[0].keys, 4);
  EXPECT_EQ(records[0].sequences[0].rows, 7);
  EXPECT_EQ(records[0].sequences[0].keys, 7);
}

TEST_F(TraceTest, OneHotQueriesLeaveNoLine) {
  LayerRecord record = Encoder();
  // Two of seven queries copy a V row; the other five read 25 keys and as many values.
  for (SequenceRecord& sequence : record.sequences) sequence.heads[1].values = 27;
  const auto records = Records(Written({record}));
  ASSERT_EQ(records.size(), 2);
  EXPECT_EQ(records[0].sequences[0].heads[1].queries, 5);
  EXPECT_EQ(records[0].sequences[0].heads[1].values, 25);
}

TEST_F(TraceTest, StepsOfABatchAreIterationsOfTheirOwn) {
  LayerRecord first = Encoder(), second = Encoder();
  first.layer = 0;
  const std::string text = Written({first, second, first});
  EXPECT_THAT(text, HasSubstr("\n0,0,1,"));
  EXPECT_THAT(text, HasSubstr("\n1,0,1,"));
  EXPECT_THAT(text, HasSubstr("\n1,1,1,"));
  EXPECT_THAT(text, HasSubstr("\n2,0,1,")) << "the next step";
  EXPECT_THAT(text, HasSubstr("\n3,0,1,"));
}

TEST_F(TraceTest, WhatTheFormatCannotHoldIsRefused) {
  std::ostringstream text;
  EXPECT_FALSE(TraceWriter::Create(&text, "a,b").ok());
  EXPECT_FALSE(TraceWriter::Create(&text, "").ok());
  auto writer = TraceWriter::Create(&text, "name");
  ASSERT_TRUE(writer.ok());
  LayerRecord record = Encoder();
  record.sequences[1].heads[0].values = 1000;
  EXPECT_THAT(Message(writer->Write(record)), HasSubstr("layer 1, sequence 1: head 1"));
  record = Encoder();
  ASSERT_TRUE(writer->Write(record).ok());
  record.shape.heads = 12;
  EXPECT_THAT(Message(writer->Write(record)), HasSubstr("another model"));
}

TEST_F(TraceTest, PublicTracesAreReadAndWrittenLineByLine) {
  for (const char* name :
       {"gpt2-small-wikitext2-per8.csv", "gpt2-small-wikitext2-per8-step1+dedic.csv"}) {
    const auto path = testing::SharedPath(std::string("golden/spatten/") + name);
    THRESHER_REQUIRE_SHARED(path);
    auto reader = TraceReader::Open(path);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->rows(), 32 * 12 * 12);
    EXPECT_EQ((*reader)->shape().layers, 12);
    EXPECT_EQ((*reader)->shape().heads, 12);
    const auto records = All(**reader);
    EXPECT_EQ(records.size(), 32 * 12);
    std::ostringstream original;
    original << std::ifstream(path).rdbuf();
    std::string rows = original.str();
    rows.resize(rows.rfind('\n', rows.size() - 2) + 1);  // Without the last line.
    const std::string written = Written(records);
    EXPECT_EQ(written.substr(0, rows.size()), rows);
  }
}

}  // namespace
}  // namespace thresher
