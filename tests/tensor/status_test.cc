#include "backend/tensor/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace thresher {
namespace {

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return InvalidArgument("{} is odd", x);
  return x / 2;
}

absl::StatusOr<int> Quarter(int x) {
  THRESHER_ASSIGN_OR_RETURN(const int half, Half(x));
  THRESHER_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

absl::Status Check(int x) {
  THRESHER_RETURN_IF_ERROR(Quarter(x).status());
  return absl::OkStatus();
}

TEST(Status, MacrosPassValuesAndErrorsUp) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Message(Quarter(6).status()), "3 is odd");
  EXPECT_TRUE(Check(4).ok());
  EXPECT_EQ(Check(5).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Status, AnnotateKeepsTheCodeAndSaysWhere) {
  const absl::Status status = Annotate(NotFound("no '{}'", "x"), "model m");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(status), "model m: no 'x'");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "anywhere").ok());
}

TEST(Status, MoveOnlyValuesPassThrough) {
  const auto make = []() -> absl::StatusOr<std::unique_ptr<int>> {
    return std::make_unique<int>(7);
  };
  const auto use = [&]() -> absl::StatusOr<int> {
    THRESHER_ASSIGN_OR_RETURN(const std::unique_ptr<int> p, make());
    return *p;
  };
  EXPECT_EQ(*use(), 7);
}

}  // namespace
}  // namespace thresher
