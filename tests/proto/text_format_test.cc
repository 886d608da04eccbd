#include "proto/text_format.h"

#include <gtest/gtest.h>

#include "backend/tensor/status.h"
#include "thresher/v1/profile.pb.h"

namespace thresher {
namespace {

TEST(TextFormat, ReadsAMessage) {
  v1::SparsityProfile profile;
  ASSERT_TRUE(ParseText("metric: 'accuracy' entries { max_loss: 0.5 }", "p", &profile).ok());
  EXPECT_EQ(profile.metric(), "accuracy");
  ASSERT_EQ(profile.entries_size(), 1);
  EXPECT_EQ(profile.entries(0).max_loss(), 0.5);
}

TEST(TextFormat, SaysWhereTheFirstErrorIs) {
  v1::SparsityProfile profile;
  const auto status = ParseText("metric: 'a'\n  metrik: 'b'\nentries {", "dir/p.txtpb", &profile);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Message(status).starts_with("dir/p.txtpb:2:")) << status;
  EXPECT_NE(Message(status).find("metrik"), std::string::npos) << status;
}

}  // namespace
}  // namespace thresher
