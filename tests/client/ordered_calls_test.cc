#include "client/cli/ordered_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace thresher::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

/// Inputs 0..count-1; `pause_before` makes it wait there until its pipe is written to.
class Numbers final : public InputSource {
 public:
  explicit Numbers(int64_t count, int64_t pause_before = -1)
      : count_(count), pause_before_(pause_before) {
    EXPECT_EQ(pipe(fds_), 0);
  }
  ~Numbers() override {
    close(fds_[0]);
    close(fds_[1]);
  }
  Result Next(Record& record) override {
    if (next_ == pause_before_ && !resumed_) return Result::kWait;
    if (next_ == count_) return status_.ok() ? Result::kEnd : Result::kError;
    record.index = next_++;
    return Result::kRecord;
  }
  int fd() const override { return fds_[0]; }
  absl::Status status() const override { return status_; }

  void Resume() {
    resumed_ = true;
    EXPECT_EQ(write(fds_[1], "x", 1), 1);
  }
  void FailAtTheEnd(absl::Status status) { status_ = std::move(status); }
  int64_t given() const { return next_; }

 private:
  const int64_t count_, pause_before_;
  int64_t next_ = 0;
  bool resumed_ = false;
  absl::Status status_;
  int fds_[2];
};

std::vector<int64_t> UpTo(int64_t count) {
  std::vector<int64_t> numbers(count);
  for (int64_t i = 0; i < count; ++i) numbers[i] = i;
  return numbers;
}

/// Remembers calls; the test ends them.
struct Server {
  std::vector<std::function<void()>> open;
  std::vector<size_t> sizes;
  std::vector<int64_t> shown;

  ShowCall Receive(std::vector<Record> records, std::function<void()> done) {
    sizes.push_back(records.size());
    open.push_back(std::move(done));
    return [this, records = std::move(records)] {
      for (const Record& record : records) shown.push_back(record.index);
    };
  }
  void End(size_t which) {
    const auto done = std::move(open[which]);
    open.erase(open.begin() + static_cast<ptrdiff_t>(which));
    done();
  }
};

TEST(OrderedCallsTest, ShowsEveryInputInOrder) {
  Numbers source(100);
  Server server;
  const SendCall send = [&](auto records, auto done) {
    auto show = server.Receive(std::move(records), std::move(done));
    server.End(0);
    return show;
  };
  EXPECT_TRUE(RunOrdered(source, {.batch = 7, .concurrency = 3}, send, {}).ok());
  EXPECT_EQ(server.shown, UpTo(100));
  EXPECT_THAT(server.sizes, SizeIs(15));
  EXPECT_EQ(server.sizes.front(), 7u);
  EXPECT_EQ(server.sizes.back(), 2u);
}

TEST(OrderedCallsTest, AnswersThatComeInAnyOrderFromAnyThreadAreShownInOrder) {
  Numbers source(200);
  Server server;
  std::vector<std::thread> threads;
  const SendCall send = [&](auto records, auto done) {
    auto show = server.Receive(std::move(records), [] {});
    threads.emplace_back(std::move(done));
    return show;
  };
  EXPECT_TRUE(RunOrdered(source, {.batch = 3, .concurrency = 8}, send, {}).ok());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(server.shown, UpTo(200));
}

TEST(OrderedCallsTest, CallsInFlightAndAnswersKeptAreBounded) {
  Numbers source(1000);
  Server server;
  size_t most_open = 0;
  int64_t most_kept = 0;
  const SendCall send = [&](auto records, auto done) {
    auto show = server.Receive(std::move(records), std::move(done));
    most_open = std::max(most_open, server.open.size());
    most_kept = std::max(most_kept, source.given() - static_cast<int64_t>(server.shown.size()));
    // The first call stays open as long as any other can be ended.
    if (server.open.size() == 3) server.End(2);
    if (source.given() - static_cast<int64_t>(server.shown.size()) >= 12 * 2) {
      while (!server.open.empty()) server.End(0);
    }
    if (source.given() == 1000) {
      while (!server.open.empty()) server.End(0);
    }
    return show;
  };
  EXPECT_TRUE(RunOrdered(source, {.batch = 2, .concurrency = 3}, send, {}).ok());
  EXPECT_EQ(server.shown, UpTo(1000));
  EXPECT_EQ(most_open, 3u);
  EXPECT_LE(most_kept, 4 * 3 * 2);
}

TEST(OrderedCallsTest, PauseOfTheInputSendsWhatThereIs) {
  Numbers source(5, /*pause_before=*/2);
  Server server;
  const SendCall send = [&](auto records, auto done) {
    if (server.sizes.empty()) source.Resume();
    auto show = server.Receive(std::move(records), std::move(done));
    server.End(0);
    return show;
  };
  EXPECT_TRUE(RunOrdered(source, {.batch = 32, .concurrency = 4}, send, {}).ok());
  EXPECT_THAT(server.sizes, ElementsAre(2, 3));
  EXPECT_EQ(server.shown, UpTo(5));
}

TEST(OrderedCallsTest, ErrorOfTheSourceComesAfterWhatItGave) {
  Numbers source(3);
  source.FailAtTheEnd(absl::InternalError("can't read"));
  Server server;
  const SendCall send = [&](auto records, auto done) {
    auto show = server.Receive(std::move(records), std::move(done));
    server.End(0);
    return show;
  };
  EXPECT_EQ(RunOrdered(source, {}, send, {}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(server.shown, UpTo(3));
}

TEST(OrderedCallsTest, StopWaitsForCallsInFlightAndShowsNothingMore) {
  Numbers source(10);
  Server server;
  std::stop_source stop;
  const std::stop_callback end_calls(stop.get_token(), [&] {
    while (!server.open.empty()) server.End(0);
  });
  const SendCall send = [&](auto records, auto done) {
    auto show = server.Receive(std::move(records), std::move(done));
    if (server.sizes.size() == 2) stop.request_stop();
    return show;
  };
  EXPECT_TRUE(RunOrdered(source, {.batch = 1, .concurrency = 4}, send, stop.get_token()).ok());
  EXPECT_THAT(server.sizes, SizeIs(2));
  EXPECT_THAT(server.shown, SizeIs(0));
}

TEST(OrderedCallsTest, StopEndsAWaitForInput) {
  Numbers source(10, /*pause_before=*/0);
  std::stop_source stop;
  std::thread interrupt([&] { stop.request_stop(); });
  const SendCall send = [](auto, auto) -> ShowCall { return [] {}; };
  EXPECT_TRUE(RunOrdered(source, {}, send, stop.get_token()).ok());
  interrupt.join();
}

TEST(OrderedCallsTest, NoInputsIsNoCalls) {
  Numbers source(0);
  Server server;
  const SendCall send = [&](auto records, auto done) {
    return server.Receive(std::move(records), std::move(done));
  };
  EXPECT_TRUE(RunOrdered(source, {}, send, {}).ok());
  EXPECT_THAT(server.sizes, SizeIs(0));
}

}  // namespace
}  // namespace thresher::cli
