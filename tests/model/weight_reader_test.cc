#include "backend/model/weight_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "backend/tensor/status.h"
#include "tests/model/safetensors_builder.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::string_view kHeader =
    R"({"net.l.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "net.l.bias":{"dtype":"F32","shape":[2],"data_offsets":[24,32]},
        "n.gamma":{"dtype":"F16","shape":[2],"data_offsets":[32,36]},
        "n.beta":{"dtype":"BF16","shape":[2],"data_offsets":[36,40]},
        "i.weight":{"dtype":"I64","shape":[1,1],"data_offsets":[40,48]},
        "d.weight":{"dtype":"F64","shape":[1,2],"data_offsets":[48,64]}})";

class WeightReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = testing::SafetensorsFile(kHeader, 64);
    data_ = file_.data() + file_.size() - 64;
    Put(32, uint16_t{0x3c00});  // 1.0 in F16.
    Put(34, uint16_t{0x4000});  // 2.0
    Put(36, uint16_t{0x3f80});  // 1.0 in BF16.
    device_ = *CreateDevice("reference", {});
  }
  template <typename T>
  void Put(size_t offset, T value) {
    std::memcpy(data_ + offset, &value, sizeof(value));
  }
  WeightReader Reader() {
    testing::WriteText(temp_.path() / "model.safetensors", file_);
    checkpoint_.emplace(*Checkpoint::Open(temp_.path().string()));
    return WeightReader(*checkpoint_, *device_, Precision::kF32, "net.");
  }

 private:
  testing::TempDir temp_;
  std::string file_;
  char* data_ = nullptr;
  std::unique_ptr<Device> device_;
  std::optional<Checkpoint> checkpoint_;
};

TEST_F(WeightReaderTest, FindsNamesWithAndWithoutThePrefix) {
  WeightReader reader = Reader();
  EXPECT_TRUE(reader.Linear("l", 2, 3).ok());
  EXPECT_TRUE(reader.Linear("net.l", 2, 3, WeightReader::Place::kTop).ok());
  EXPECT_EQ(reader.parameters(), 16);
  EXPECT_GT(reader.packed_bytes(), 0u);
}

TEST_F(WeightReaderTest, TakesOldNamesOfNorms) {
  WeightReader reader = Reader();
  const auto norm = reader.Norm("n", 2);
  ASSERT_TRUE(norm.ok()) << norm.status();
  EXPECT_THAT(norm->gamma, ElementsAre(1.0f, 2.0f));
  EXPECT_THAT(norm->beta, ElementsAre(1.0f, 0.0f));
}

TEST_F(WeightReaderTest, ANormMayHaveNoBias) {
  WeightReader reader = Reader();
  const auto norm = reader.RmsNorm("n", 2);
  ASSERT_TRUE(norm.ok()) << norm.status();
  EXPECT_THAT(norm->gamma, ElementsAre(1.0f, 2.0f));
  EXPECT_THAT(norm->beta, IsEmpty());
}

TEST_F(WeightReaderTest, ALinearLayerMayHaveNoBias) {
  WeightReader reader = Reader();
  const auto linear =
      reader.Linear("d", 1, 2, WeightReader::Place::kTop, WeightReader::Bias::kNone);
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(reader.parameters(), 2);
  EXPECT_THAT(Message(reader.Linear("d", 1, 2, WeightReader::Place::kTop).status()),
              HasSubstr("'d.bias' is missing"));
}

TEST_F(WeightReaderTest, TransposedLayersStandSideBySide) {
  // Two inputs, two layers of one output each: columns of [[1, 2], [3, 4]], with biases 5 and 6.
  const std::string header = R"({"c.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
                                 "c.bias":{"dtype":"BF16","shape":[2],"data_offsets":[16,20]}})";
  std::string file = testing::SafetensorsFile(header, 20);
  const float weight[] = {1, 2, 3, 4};
  const uint16_t bias[] = {ToBF16(5), ToBF16(6)};
  std::memcpy(file.data() + file.size() - 20, weight, 16);
  std::memcpy(file.data() + file.size() - 4, bias, 4);
  const testing::TempDir temp;
  testing::WriteText(temp.path() / "model.safetensors", file);
  const auto device = *CreateDevice("reference", {});
  const auto checkpoint = Checkpoint::Open(temp.path().string());
  WeightReader reader(*checkpoint, *device, Precision::kF32, "");
  const auto layers = reader.TransposedLinears("c", 2, 1, 2);
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_EQ(reader.parameters(), 6);
  float x[] = {10, 1}, y[2];
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(
        device->Linear(*(*layers)[i], ConstMatrix(x, 1, 2), Activation::kNone, Matrix(y + i, 1, 1))
            .ok());
  }
  EXPECT_THAT(y, ElementsAre(10 * 1 + 3 + 5, 10 * 2 + 4 + 6));
  EXPECT_THAT(Message(reader.TransposedLinears("c", 2, 2, 2).status()),
              HasSubstr("shape [2, 2], but config.json asks for [2, 4]"));
}

TEST_F(WeightReaderTest, AMissingTensorTellsEveryNameItLookedFor) {
  WeightReader reader = Reader();
  EXPECT_THAT(Message(reader.Norm("x", 2).status()),
              AllOf(HasSubstr("'net.x.weight'"), HasSubstr("'x.weight'"), HasSubstr("'x.gamma'"),
                    HasSubstr("model.safetensors")));
  // The prefix is the encoder's alone.
  EXPECT_THAT(Message(reader.Linear("l", 2, 3, WeightReader::Place::kTop).status()),
              AllOf(HasSubstr("'l.weight' is missing")));
}

TEST_F(WeightReaderTest, RefusesAnotherShape) {
  WeightReader reader = Reader();
  EXPECT_THAT(Message(reader.Linear("l", 3, 2).status()),
              AllOf(HasSubstr("'net.l.weight'"), HasSubstr("shape [2, 3]"), HasSubstr("[3, 2]")));
  EXPECT_THAT(Message(reader.Table("l", 2, 4).status()), HasSubstr("asks for [2, 4]"));
  EXPECT_THAT(Message(reader.Norm("l", 2).status()), HasSubstr("asks for [2]"));
}

TEST_F(WeightReaderTest, RefusesIntegers) {
  WeightReader reader = Reader();
  EXPECT_THAT(Message(reader.Table("i", 1, 1).status()),
              AllOf(HasSubstr("'i.weight'"), HasSubstr("dtype I64")));
}

TEST_F(WeightReaderTest, RefusesNaNAndInfinityInEveryType) {
  Put(8, 0x7fc00000u);                     // F32 NaN in net.l.weight.
  Put(34, uint16_t{0x7c00});               // F16 infinity in n.gamma.
  Put(48, uint64_t{0xfff0000000000000u});  // F64 -infinity in d.weight.
  WeightReader reader = Reader();
  EXPECT_THAT(Message(reader.Linear("l", 2, 3).status()),
              AllOf(HasSubstr("'net.l.weight'"), HasSubstr("NaN")));
  EXPECT_THAT(Message(reader.Norm("n", 2).status()), HasSubstr("'n.gamma'"));
  EXPECT_THAT(Message(reader.Table("d", 1, 2).status()), HasSubstr("'d.weight'"));
  Put(34, uint16_t{0});
  Put(38, uint16_t{0x7f81});  // BF16 NaN in n.beta.
  WeightReader second = Reader();
  EXPECT_THAT(Message(second.Norm("n", 2).status()), HasSubstr("'n.beta'"));
}

}  // namespace
}  // namespace thresher
