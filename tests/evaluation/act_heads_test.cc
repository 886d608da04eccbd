#include "backend/evaluation/act_heads.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A model of five layers of two heads and four examples of class 0, of which it has the first
/// `RightUnder` a policy right.
class FakeModel final : public Runner {
 public:
  explicit FakeModel(int (*right_under)(std::string_view)) : right_under_(right_under) {}

  absl::StatusOr<Pass> Run(std::string_view policy, const PassProgress&) override {
    asked.emplace_back(policy);
    Pass pass{.policy = std::string(policy), .seconds = 1};
    for (int i = 0; i < 4; ++i) {
      const bool right = i < right_under_(policy);
      pass.answers.push_back({.output = {right ? 1.0f : 0.0f, 0.5f}, .pooled = {1.0f}});
    }
    return pass;
  }

  std::vector<std::string> asked;

 private:
  int (*right_under_)(std::string_view);
};

std::vector<LabelledExample> FourExamples() {
  return std::vector<LabelledExample>(4, LabelledExample{.text = "x"});
}

TEST(ActHeads, KeepsThoseThatGainAloneAndTriesThemTogether) {
  FakeModel model([](std::string_view policy) {
    if (policy == "act:alpha=3,heads=4" || policy == "act:alpha=3,heads=7") return 3;
    if (policy == "act:alpha=3,heads=5") return 1;
    return policy == "act:alpha=3,heads=4/7" ? 4 : 2;
  });
  const auto examples = FourExamples();
  const auto found = FindActHeads(model, Measure::kAccuracy, examples, 5, 2, "act:alpha=3", {});
  ASSERT_TRUE(found.ok()) << found.status();
  // Layers 2 and 3 of 0 to 4.
  EXPECT_THAT(model.asked, ElementsAre("dense", "act:alpha=3,heads=4", "act:alpha=3,heads=5",
                                       "act:alpha=3,heads=6", "act:alpha=3,heads=7", "dense",
                                       "act:alpha=3,heads=4/7"));
  ASSERT_EQ(found->tried.size(), 4u);
  EXPECT_EQ(found->tried[3].layer, 3);
  EXPECT_EQ(found->tried[3].head, 1);
  EXPECT_DOUBLE_EQ(found->tried[0].gain, 0.25);
  EXPECT_DOUBLE_EQ(found->tried[1].gain, -0.25);
  EXPECT_DOUBLE_EQ(found->tried[2].gain, 0.0);
  EXPECT_EQ(found->policy, "act:alpha=3,heads=4/7");
  EXPECT_DOUBLE_EQ(found->dense, 0.5);
  EXPECT_DOUBLE_EQ(found->together, 1.0);
}

TEST(ActHeads, WhereNoneGainsThereIsNoPolicy) {
  FakeModel model([](std::string_view) { return 2; });
  const auto examples = FourExamples();
  const auto found = FindActHeads(model, Measure::kAccuracy, examples, 4, 1, "act", {});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_THAT(model.asked, ElementsAre("dense", "act:heads=2"));
  EXPECT_EQ(found->policy, "");
  EXPECT_EQ(found->together, found->dense);
}

TEST(ActHeads, AModelThatHasTooFewLayersIsRefused) {
  FakeModel model([](std::string_view) { return 2; });
  const auto examples = FourExamples();
  const auto found = FindActHeads(model, Measure::kAccuracy, examples, 3, 1, "act", {});
  EXPECT_EQ(found.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(found.status()), HasSubstr("the model has 3 layers"));
}

}  // namespace
}  // namespace thresher
