#include "backend/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "backend/tensor/status.h"
#include "tests/model/safetensors_builder.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using testing::Bytes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::SafetensorsFile;

absl::StatusOr<StoredTensors> Parse(const std::string& file) {
  return ParseSafetensors(Bytes(file), "f.safetensors");
}

/// The error of a file with that header and that much data.
std::string ErrorOf(std::string_view header, size_t data_bytes) {
  const std::string file = SafetensorsFile(header, data_bytes);
  const auto tensors = Parse(file);
  if (tensors.ok()) return "no error";
  EXPECT_EQ(tensors.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(tensors.status()), HasSubstr("f.safetensors"));
  return Message(tensors.status());
}

TEST(Safetensors, ReadsTensorsWhereTheyLie) {
  std::string file = SafetensorsFile(
      R"({"__metadata__":{"format":"pt"},
          "b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},
          "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
          "s":{"shape":[],"data_offsets":[22,24],"dtype":"F16"}}   )",
      24);
  const auto tensors = Parse(file);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  const StoredTensor& a = tensors->at("a");
  const StoredTensor& b = tensors->at("b");
  EXPECT_EQ(a.type, DType::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 2));
  EXPECT_EQ(a.bytes, 16u);
  EXPECT_EQ(a.data, file.data() + file.size() - 24);
  EXPECT_EQ(b.type, DType::kBF16);
  EXPECT_EQ(static_cast<const char*>(b.data) - static_cast<const char*>(a.data), 16);
  EXPECT_THAT(tensors->at("s").shape, IsEmpty());
}

TEST(Safetensors, TakesAFileWithoutTensorsAndEmptyTensors) {
  EXPECT_TRUE(Parse(SafetensorsFile("{}", 0)).ok());
  EXPECT_TRUE(Parse(SafetensorsFile(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},
                                        "u":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                                    2))
                  .ok());
}

TEST(Safetensors, RefusesOverlap) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                          "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                      12),
              AllOf(HasSubstr("tensor 'b'"), HasSubstr("overlap tensor 'a'")));
}

TEST(Safetensors, RefusesHoles) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
              AllOf(HasSubstr("tensor 'a'"), HasSubstr("4 bytes before it")));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 9),
              AllOf(HasSubstr("5 bytes after"), HasSubstr("'a'")));
  EXPECT_THAT(ErrorOf("{}", 1), HasSubstr("1 bytes after"));
}

TEST(Safetensors, RefusesOffsetsOutsideTheFile) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 12),
              AllOf(HasSubstr("tensor 'a'"), HasSubstr("[0, 16)"), HasSubstr("12 bytes of data")));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],
                          "data_offsets":[18446744073709551615,0]}})",
                      4),
              HasSubstr("not within"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}})", 4),
              HasSubstr("not within"));
}

TEST(Safetensors, RefusesSizesThatDoNotFitTheShape) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", 20),
              AllOf(HasSubstr("tensor 'a': 20 bytes"), HasSubstr("F32 [2, 3] needs 24")));
  // A dtype that lies about the data.
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}})", 8),
              HasSubstr("needs 16"));
}

TEST(Safetensors, RefusesAbsurdShapes) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],
                          "data_offsets":[0,0]}})",
                      0),
              AllOf(HasSubstr("tensor 'a'"), HasSubstr("overflows")));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[18446744073709551615],
                          "data_offsets":[0,0]}})",
                      0),
              HasSubstr("overflows"));
  // Zero elements do not excuse the other extents.
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F64","shape":[0,9223372036854775807],
                          "data_offsets":[0,0]}})",
                      0),
              HasSubstr("overflows"));
  EXPECT_THAT(
      ErrorOf(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1),
      HasSubstr("more than 8"));
}

TEST(Safetensors, RefusesWhatTheFieldsMayNotHold) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1),
              AllOf(HasSubstr("tensor 'a'"), HasSubstr("dtype 'F8_E4M3' is not known")));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("a number in field 'dtype'"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1),
              HasSubstr("a negative number"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", 1),
              HasSubstr("a fraction"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1),
              HasSubstr("a list in field 'shape'"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1),
              HasSubstr("two numbers"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":{}}})", 1),
              HasSubstr("an object in field 'data_offsets'"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1]}})", 1), HasSubstr("needs the fields"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1),
              HasSubstr("unknown field 'x'"));
  EXPECT_THAT(ErrorOf(R"({"a":7})", 1), HasSubstr("where an object should be"));
  EXPECT_THAT(ErrorOf(R"({"__metadata__":{"k":{}}})", 0), HasSubstr("an object"));
}

TEST(Safetensors, RefusesDuplicates) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                          "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                      2),
              AllOf(HasSubstr("tensor 'a'"), HasSubstr("given twice")));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("field 'dtype' given twice"));
}

TEST(Safetensors, RefusesHeadersThatAreNotObjects) {
  EXPECT_THAT(ErrorOf("", 0), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf("[]", 0), HasSubstr("not an object"));
  EXPECT_THAT(ErrorOf("{\"a\":", 0), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf("{} {}", 0), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf("{\"\xff\":1}", 0), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(std::string(1 << 20, '['), 0), HasSubstr("not an object"));
}

TEST(Safetensors, RefusesFilesThatAreCutShort) {
  const std::string whole =
      SafetensorsFile(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 16);
  ASSERT_TRUE(Parse(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(Parse(whole.substr(0, size)).ok()) << "cut to " << size;
  }
}

TEST(Safetensors, RefusesAbsurdHeaderSizes) {
  for (const uint64_t size : {uint64_t{100}, kMaxSafetensorsHeader, kMaxSafetensorsHeader + 1,
                              ~uint64_t{0}, ~uint64_t{7}}) {
    std::string file = SafetensorsFile("{}", 0);
    std::memcpy(file.data(), &size, sizeof(size));
    const auto tensors = Parse(file);
    ASSERT_FALSE(tensors.ok());
    EXPECT_THAT(Message(tensors.status()), HasSubstr("header of"));
  }
}

TEST(Safetensors, LongNamesDoNotFillTheMessage) {
  const std::string name(100'000, 'n');
  EXPECT_LT(ErrorOf("{\"" + name + "\":1}", 0).size(), 400u);
}

}  // namespace
}  // namespace thresher
