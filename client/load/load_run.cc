#include "client/load/load_run.h"

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>

namespace thresher::load {
namespace {

constexpr absl::Duration kShowEvery = absl::Milliseconds(100);
constexpr size_t kMostWindows = 100'000;
constexpr int kMostAtOnce = 256;  // Requests that are sent before answers are looked at.

class LevelRun {
 public:
  LevelRun(Port& port, const RunOptions& options)
      : port_(port),
        options_(options),
        begin_(port.Now()),
        measure_(begin_ + options.warmup),
        end_(measure_ + options.duration) {
    result_.parts.resize(options.parts);
    if (options.schedule != nullptr) {
      next_due_ = options.schedule->Next();
    } else if (!options.due_at_begin) {
      free_.assign(options.concurrency, begin_);
    }
  }

  RunResult Go() {
    const std::stop_callback wake(options_.stop, [this] { port_.Wake(); });
    std::vector<Completion> ended;
    for (;;) {
      if (!stopped_ && options_.stop.stop_requested()) {
        result_.interrupted = true;
        Stop();
      }
      const absl::Duration now = port_.Now();
      if (!measuring_ && now >= measure_) {
        measuring_ = true;
        cpu_ = port_.Cpu();
        cpu_from_ = now;
      }
      if (!over_) options_.schedule != nullptr ? SendDue(now) : SendFree();
      // What was due before the end is sent still, however late.
      const bool behind = next_due_ && begin_ + *next_due_ < end_;
      if (!over_ && now >= end_ && !behind) {
        by_time_ = true;
        Over();
      }
      Show();
      if (over_ && flights_.empty()) break;
      ended.clear();
      port_.Wait(WaitUntil(), &ended);
      for (const Completion& call : ended) End(call);
    }
    Finish();
    return std::move(result_);
  }

 private:
  struct Flight {
    absl::Duration due;
    absl::Duration ready;  // When it could have been sent at the earliest.
    bool counts = false;
  };

  int64_t InFlight() const { return static_cast<int64_t>(flights_.size()); }

  /// Nothing more is sent from here on.
  void Over() {
    over_ = true;
    over_at_ = port_.Now();
    if (!measuring_) return;
    const CpuTime cpu = port_.Cpu();
    const double seconds = absl::ToDoubleSeconds(over_at_ - cpu_from_);
    if (seconds <= 0) return;
    result_.generator.process_cpu = (cpu.process - cpu_.process) / seconds;
    result_.generator.thread_cpu = (cpu.thread - cpu_.thread) / seconds;
  }

  void Stop() {
    stopped_ = true;
    if (!over_) Over();
    port_.Cancel();
  }

  /// Whether a request that is due then may be sent still; counts it.
  bool Take(absl::Duration due, bool* counts) {
    *counts = due >= measure_;
    if (due >= end_ || (*counts && result_.due == options_.max_calls)) {
      by_time_ = due >= end_;
      Over();
      return false;
    }
    if (*counts) {
      ++result_.due;
      if (result_.due == 1) first_due_ = due;
      last_due_ = due;
      if (TimePoint* point = PointAt(due)) ++point->due;
    }
    return true;
  }

  void Send(const Flight& flight) {
    const int64_t id = next_id_++;
    flights_.emplace(id, flight);
    if (flight.counts) ++result_.sent;
    port_.Send(id);
  }

  void SendFree() {
    while (InFlight() < options_.concurrency) {
      const absl::Duration now = port_.Now();
      Flight flight = {.due = options_.due_at_begin ? begin_ : now, .ready = now};
      if (now >= end_) flight.due = now;  // The time is over for those that wait, too.
      if (!Take(flight.due, &flight.counts)) return;
      if (!free_.empty()) {
        flight.ready = free_.front();
        free_.pop_front();
      }
      Send(flight);
    }
  }

  void SendDue(absl::Duration now) {
    // A generator that has fallen behind still looks at answers, and at a stop, now and then.
    for (int i = 0; i < kMostAtOnce && next_due_ && begin_ + *next_due_ <= now; ++i) {
      Flight flight = {.due = begin_ + *next_due_};
      flight.ready = flight.due;
      next_due_ = options_.schedule->Next();
      if (!Take(flight.due, &flight.counts)) return;
      if (InFlight() < options_.concurrency) {
        Send(flight);
      } else if (flight.counts) {
        ++result_.generator.dropped;
      }
    }
    // With a duration the run lasts until that is over.
    if (!next_due_ && end_ == absl::InfiniteDuration()) Over();
  }

  absl::Duration WaitUntil() const {
    absl::Duration until = absl::InfiniteDuration();
    if (!measuring_) until = measure_;
    if (!over_) until = std::min(until, end_);
    if (!over_ && next_due_) until = std::min(until, begin_ + *next_due_);
    if (options_.show) until = std::min(until, shown_ + kShowEvery);
    return until;
  }

  /// Nothing before the measured time, and after it.
  TimePoint* PointAt(absl::Duration time) {
    if (time < measure_ || time >= end_) return nullptr;
    const auto index = static_cast<size_t>((time - measure_) / options_.window);
    if (index >= kMostWindows) return nullptr;
    while (result_.timeline.size() <= index) {
      result_.timeline.push_back({.seconds = absl::ToDoubleSeconds(options_.window) *
                                             static_cast<double>(result_.timeline.size())});
    }
    return &result_.timeline[index];
  }

  /// Answers come in the order of time, but for what several threads received at once.
  void AddToTimeline(const Completion& call, absl::Duration due) {
    TimePoint* point = PointAt(call.received);
    if (point == nullptr) return;
    if (call.code != absl::StatusCode::kOk) {
      ++point->failed;
      return;
    }
    ++point->ok;
    const auto index = static_cast<size_t>(point - result_.timeline.data());
    if (index > window_) {
      CloseWindow();
      window_ = index;
    }
    in_window_.Add(call.received - due);
  }

  void CloseWindow() {
    if (in_window_.count() == 0) return;
    result_.timeline[window_].p50 = in_window_.Percentile(0.5);
    result_.timeline[window_].p99 = in_window_.Percentile(0.99);
    in_window_.Clear();
  }

  void End(const Completion& call) {
    const auto found = flights_.find(call.id);
    if (found == flights_.end()) return;
    const Flight flight = found->second;
    flights_.erase(found);
    if (options_.schedule == nullptr && !options_.due_at_begin) free_.push_back(call.received);
    if (!stopped_ && call.received >= measure_ && call.received < end_) {
      AddToTimeline(call, flight.due);
      last_received_ = std::max(last_received_, call.received);
      if (call.code == absl::StatusCode::kOk) {
        ++in_time_.ok;
        if (IsGood(call, flight.due, options_.bound)) ++in_time_.good;
        in_time_.inputs += call.inputs;
        in_time_.output_tokens += call.output_tokens;
      }
    }
    if (!flight.counts) return;
    result_.generator.lateness.Add(call.sent - flight.ready);
    result_.all.Add(call, flight.due, options_.bound);
    if (result_.parts.size() > 1) result_.parts[call.part].Add(call, flight.due, options_.bound);
    if (options_.bound && options_.expected_calls > 0 && !stopped_ &&
        static_cast<double>(Late()) >
            (1 - options_.bound->percentile) * options_.expected_calls + 1) {
      result_.gave_up = true;
      Stop();
    }
  }

  int64_t Late() const {
    return result_.all.ended() - result_.all.good + result_.generator.dropped;
  }

  void Show() {
    if (!options_.show) return;
    const absl::Duration now = port_.Now();
    if (now < shown_ + kShowEvery) return;
    shown_ = now;
    recent_.emplace_back(now, in_time_.ok);
    while (recent_.size() > 1 && now - recent_.front().first > absl::Seconds(1)) {
      recent_.pop_front();
    }
    LiveView view = {.elapsed = now - begin_, .total = options_.warmup + options_.duration};
    view.warming_up = now < measure_;
    const double seconds = absl::ToDoubleSeconds(now - recent_.front().first);
    if (seconds > 0) {
      view.rate = static_cast<double>(in_time_.ok - recent_.front().second) / seconds;
    }
    view.ok = result_.all.ok();
    view.failed = result_.all.ended() - result_.all.ok() + result_.generator.dropped;
    view.in_flight = InFlight();
    view.p50 = result_.all.latency.Percentile(0.5);
    view.p99 = result_.all.latency.Percentile(0.99);
    options_.show(view);
  }

  void Finish() {
    CloseWindow();
    result_.generator.cpus = options_.cpus;
    absl::Duration end = last_received_;
    if (by_time_) end = end_;
    if (stopped_) end = over_at_;
    const double seconds = std::max(absl::ToDoubleSeconds(end - measure_), 0.0);
    result_.seconds = seconds;
    if (seconds > 0) {
      result_.throughput = static_cast<double>(in_time_.ok) / seconds;
      result_.goodput = static_cast<double>(in_time_.good) / seconds;
      result_.inputs_per_second = static_cast<double>(in_time_.inputs) / seconds;
      result_.output_tokens_per_second = static_cast<double>(in_time_.output_tokens) / seconds;
    }
    // n requests of a schedule that ends with the last of them have n - 1 gaps.
    const double due_in = absl::ToDoubleSeconds(last_due_ - first_due_);
    if (options_.schedule != nullptr && !by_time_ && !stopped_ && due_in > 0) {
      result_.offered_rate = static_cast<double>(result_.due - 1) / due_in;
    } else if (seconds > 0) {
      result_.offered_rate = static_cast<double>(result_.due) / seconds;
    }
    if (options_.bound && !result_.interrupted) {
      result_.verdict = Judge(*options_.bound, result_.due, Late());
    }
  }

  Port& port_;
  const RunOptions& options_;
  const absl::Duration begin_, measure_, end_;
  bool measuring_ = false;
  bool over_ = false;
  bool by_time_ = false;  // It was the end of the time that ended it.
  bool stopped_ = false;  // Before that.
  absl::Duration over_at_, first_due_, last_due_, last_received_;
  CpuTime cpu_;
  absl::Duration cpu_from_;

  std::optional<absl::Duration> next_due_;  // Of the schedule.
  std::deque<absl::Duration> free_;         // Since when each free place of a closed loop is.
  std::unordered_map<int64_t, Flight> flights_;
  int64_t next_id_ = 0;

  struct {  // Of answers that came in the measured time, whenever they were due.
    int64_t ok = 0, good = 0, inputs = 0, output_tokens = 0;
  } in_time_;
  size_t window_ = 0;
  LatencyHistogram in_window_;
  absl::Duration shown_ = -absl::InfiniteDuration();
  std::deque<std::pair<absl::Duration, int64_t>> recent_;
  RunResult result_;
};

}  // namespace

RunResult RunLoad(Port& port, const RunOptions& options) { return LevelRun(port, options).Go(); }

}  // namespace thresher::load
