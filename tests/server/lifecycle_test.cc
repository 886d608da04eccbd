#include "server/lifecycle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "server/log.h"
#include "server/signals.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;

/// A clock that jumps to whatever is waited for.
class JumpingClock final : public Clock {
 public:
  absl::Time Now() override { return now_; }
  void WaitUntil(CondVar*, Mutex* mutex, absl::Time deadline) override {
    if (on_wait) {
      mutex->Unlock();
      on_wait();
      mutex->Lock();
    }
    now_ = std::max(now_, deadline);
  }
  std::function<void()> on_wait;

 private:
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

class LifecycleTest : public ::testing::Test {
 protected:
  std::unique_ptr<Lifecycle> Make(absl::Duration lame_duck, absl::Duration drain_timeout) {
    LifecycleOptions options;
    options.lame_duck = lame_duck;
    options.drain_timeout = drain_timeout;
    options.clock = &clock_;
    options.end_now = [this](int status) { ended_.push_back(status); };
    return std::make_unique<Lifecycle>(options);
  }

  StopActions Record(Lifecycle& lifecycle, bool drains = true) {
    const auto note = [this, &lifecycle](const std::string& what) {
      events_.push_back(what + " at " +
                        absl::FormatDuration(clock_.Now() - absl::UnixEpoch() - absl::Hours(1)) +
                        " while " + std::string(Name(lifecycle.phase())));
    };
    StopActions actions;
    actions.leave_rotation = [note] { note("leave"); };
    actions.refuse_new_work = [note] { note("refuse"); };
    actions.drain = [this, note, drains](absl::Time deadline) {
      note("drain for " + absl::FormatDuration(deadline - clock_.Now()));
      return drains;
    };
    return actions;
  }

  JumpingClock clock_;
  std::vector<std::string> events_;
  std::vector<int> ended_;
};

TEST_F(LifecycleTest, StopsInOrder) {
  auto lifecycle = Make(absl::ZeroDuration(), absl::Seconds(30));
  EXPECT_EQ(lifecycle->phase(), Phase::kStarting);
  lifecycle->SetServing();
  EXPECT_EQ(lifecycle->phase(), Phase::kServing);
  lifecycle->OnSignal(SIGTERM);
  EXPECT_EQ(lifecycle->Wait(), Lifecycle::Request::kStop);
  EXPECT_TRUE(lifecycle->Stop(Record(*lifecycle)));
  EXPECT_THAT(events_, ElementsAre("leave at 0 while draining", "refuse at 0 while draining",
                                   "drain for 30s at 0 while draining"));
  EXPECT_THAT(ended_, ElementsAre());
}

TEST_F(LifecycleTest, ALameDuckServesOnAfterReadinessHasGone) {
  auto lifecycle = Make(absl::Seconds(5), absl::Seconds(30));
  lifecycle->SetServing();
  lifecycle->OnSignal(SIGINT);
  EXPECT_EQ(lifecycle->Wait(), Lifecycle::Request::kStop);
  EXPECT_TRUE(lifecycle->Stop(Record(*lifecycle)));
  EXPECT_THAT(events_, ElementsAre("leave at 0 while lame duck", "refuse at 5s while draining",
                                   "drain for 30s at 5s while draining"));
}

TEST_F(LifecycleTest, TellsThatADrainTimedOut) {
  auto lifecycle = Make(absl::ZeroDuration(), absl::Seconds(1));
  lifecycle->SetServing();
  EXPECT_FALSE(lifecycle->Stop(Record(*lifecycle, /*drains=*/false)));
}

TEST_F(LifecycleTest, ASecondSignalEndsNow) {
  auto lifecycle = Make(absl::Seconds(5), absl::Seconds(30));
  lifecycle->SetServing();
  lifecycle->OnSignal(SIGTERM);
  lifecycle->OnSignal(SIGTERM);  // Even before the main thread has noticed the first.
  EXPECT_THAT(ended_, ElementsAre(143));
}

TEST_F(LifecycleTest, ASecondSignalEndsALameDuck) {
  auto lifecycle = Make(absl::Seconds(5), absl::Seconds(30));
  lifecycle->SetServing();
  lifecycle->OnSignal(SIGTERM);
  clock_.on_wait = [&] { lifecycle->OnSignal(SIGINT); };
  lifecycle->Stop(Record(*lifecycle));
  EXPECT_THAT(ended_, ElementsAre(130));
}

TEST_F(LifecycleTest, ASecondSignalEndsADrain) {
  auto lifecycle = Make(absl::ZeroDuration(), absl::Seconds(30));
  lifecycle->SetServing();
  lifecycle->OnSignal(SIGTERM);
  StopActions actions = Record(*lifecycle);
  actions.drain = [&](absl::Time) {
    lifecycle->OnSignal(SIGINT);
    return true;
  };
  lifecycle->Stop(actions);
  EXPECT_THAT(ended_, ElementsAre(130));
}

TEST_F(LifecycleTest, ASignalWhileStartingEndsNow) {
  auto lifecycle = Make(absl::ZeroDuration(), absl::Seconds(30));
  lifecycle->OnSignal(SIGTERM);
  EXPECT_THAT(ended_, ElementsAre(0));
}

TEST_F(LifecycleTest, HangUpAsksForAReloadWhileServingOnly) {
  auto lifecycle = Make(absl::ZeroDuration(), absl::Seconds(30));
  lifecycle->OnSignal(SIGHUP);  // Ignored: the start loads everything anyway.
  lifecycle->SetServing();
  lifecycle->OnSignal(SIGHUP);
  lifecycle->OnSignal(SIGHUP);  // Two are one.
  EXPECT_EQ(lifecycle->Wait(), Lifecycle::Request::kReload);
  lifecycle->OnSignal(SIGHUP);
  lifecycle->OnSignal(SIGTERM);
  EXPECT_EQ(lifecycle->Wait(), Lifecycle::Request::kStop);
  lifecycle->OnSignal(SIGHUP);
  EXPECT_THAT(ended_, ElementsAre());
}

TEST_F(LifecycleTest, WaitReturnsWhenASignalComes) {
  auto lifecycle = Make(absl::ZeroDuration(), absl::Seconds(30));
  lifecycle->SetServing();
  std::thread signaller([&] { lifecycle->OnSignal(SIGTERM); });
  EXPECT_EQ(lifecycle->Wait(), Lifecycle::Request::kStop);
  signaller.join();
}

TEST(SignalWatcherTest, SignalsBecomeCalls) {
  Mutex mutex;
  CondVar changed;
  std::vector<int> seen;
  auto watcher = SignalWatcher::Start({SIGUSR1, SIGUSR2}, [&](int signal) {
    MutexLock lock(&mutex);
    seen.push_back(signal);
    changed.SignalAll();
  });
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  for (const int signal : {SIGUSR1, SIGUSR2}) {
    ASSERT_EQ(kill(getpid(), signal), 0);
    MutexLock lock(&mutex);
    while (seen.empty() || seen.back() != signal) changed.Wait(&mutex);
  }
  EXPECT_THAT(seen, ElementsAre(SIGUSR1, SIGUSR2));
}

TEST(SignalWatcherTest, EndsWithoutASignalAndRestoresTheMask) {
  {
    auto watcher = SignalWatcher::Start({SIGUSR1}, [](int) {});
    ASSERT_TRUE(watcher.ok());
  }
  sigset_t mask;
  pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  EXPECT_EQ(sigismember(&mask, SIGUSR1), 0);
}

std::string Format(LogFormat format, std::string_view message) {
  const spdlog::details::log_msg record(spdlog::log_clock::from_time_t(0), {}, "name",
                                        spdlog::level::warn,
                                        spdlog::string_view_t(message.data(), message.size()));
  spdlog::memory_buf_t out;
  MakeLogFormatter(format)->format(record, out);
  return std::string(out.data(), out.size());
}

TEST(LogTest, AMessageCanNotForgeARecord) {
  EXPECT_EQ(Format(LogFormat::kText, "a\nb\x1b[2J\x7f ä"),
            "1970-01-01T00:00:00.000000Z warning a\\x0ab\\x1b[2J\\x7f ä\n");
}

TEST(LogTest, JsonIsOneObjectALine) {
  const std::string line = Format(LogFormat::kJson, "a \"b\"\n\xff");
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["level"], "warning");
  EXPECT_EQ(json["time"], "1970-01-01T00:00:00.000000Z");
  EXPECT_EQ(json["message"], "a \"b\"\n\xef\xbf\xbd");
}

}  // namespace
}  // namespace thresher
