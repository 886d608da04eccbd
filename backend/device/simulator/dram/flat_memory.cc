#include "backend/device/simulator/dram/flat_memory.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <deque>
#include <limits>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kDefaultBurst = 64;
constexpr int32_t kMaxBurst = 1 << 20;
constexpr int32_t kDefaultDepth = 64;
constexpr int32_t kMaxDepth = 1 << 20;
constexpr double kMinRate = 1;
constexpr double kMaxRate = 1e18;
constexpr double kMaxLatency = 1e9;
constexpr double kMaxPicojoules = 1e9;

class FlatMemory final : public Dram {
 public:
  FlatMemory(const v1::FlatMemorySpec& spec, int32_t burst, int32_t depth)
      : rate_(spec.bytes_per_second()),
        joules_per_bit_(spec.picojoules_per_bit() * 1e-12),
        latency_ps_(std::llround(spec.latency_nanoseconds() * 1000)),
        burst_(burst),
        depth_(static_cast<size_t>(depth)) {
    counts_.add_requests_by_channel(0);
  }

  int32_t burst_bytes() const override { return burst_; }
  int32_t channels() const override { return 1; }
  int32_t ChannelOf(uint64_t /*address*/) const override { return 0; }
  double peak_bandwidth() const override { return rate_; }

  bool TrySend(const DramRequest& request, int64_t now_ps) override {
    now_ps_ = std::max(now_ps_, now_ps);
    while (!waiting_.empty() && waiting_.front().time_ps <= now_ps_) {
      done_.push_back(waiting_.front());
      waiting_.pop_front();
    }
    if (waiting_.size() == depth_) return false;
    if (free_ps_ <= now_ps_) {
      busy_from_ps_ = now_ps_;
      bursts_ = 0;
    }
    // Reckoned from the start of the busy time, so that fractions of picoseconds don't add up.
    ++bursts_;
    const double busy = static_cast<double>(bursts_) * burst_ / rate_ * 1e12;
    free_ps_ = busy_from_ps_ + std::llround(busy);
    waiting_.push_back({.tag = request.tag, .time_ps = free_ps_ + latency_ps_});
    request.write ? counts_.set_writes(counts_.writes() + 1)
                  : counts_.set_reads(counts_.reads() + 1);
    counts_.set_requests_by_channel(0, counts_.requests_by_channel(0) + 1);
    return true;
  }

  void AdvanceTo(int64_t now_ps, std::vector<DramCompletion>* completions) override {
    now_ps_ = std::max(now_ps_, now_ps);
    completions->insert(completions->end(), done_.begin(), done_.end());
    done_.clear();
    while (!waiting_.empty() && waiting_.front().time_ps <= now_ps_) {
      completions->push_back(waiting_.front());
      waiting_.pop_front();
    }
  }

  int64_t NextEvent() const override {
    if (!done_.empty()) return now_ps_;
    return waiting_.empty() ? kNever : waiting_.front().time_ps;
  }

  void Reset() override {
    now_ps_ = busy_from_ps_ = free_ps_ = bursts_ = 0;
    waiting_.clear();
    done_.clear();
    counts_.Clear();
    counts_.add_requests_by_channel(0);
  }

  const v1::DramCounts& counts() const override { return counts_; }
  double energy() const override {
    return static_cast<double>(counts_.reads() + counts_.writes()) * burst_ * 8 * joules_per_bit_;
  }

 private:
  const double rate_;
  const double joules_per_bit_;
  const int64_t latency_ps_;
  const int32_t burst_;
  const size_t depth_;
  int64_t now_ps_ = 0;
  int64_t busy_from_ps_ = 0;
  int64_t bursts_ = 0;  // Since then.
  int64_t free_ps_ = 0;
  std::deque<DramCompletion> waiting_;
  std::vector<DramCompletion> done_;  // Completed to make room, and not yet told.
  v1::DramCounts counts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Dram>> CreateFlatMemory(const v1::FlatMemorySpec& spec) {
  if (!(spec.bytes_per_second() >= kMinRate && spec.bytes_per_second() <= kMaxRate)) {
    return InvalidArgument("dram.flat.bytes_per_second: {} is not in {}..{}",
                           spec.bytes_per_second(), kMinRate, kMaxRate);
  }
  if (!(spec.picojoules_per_bit() >= 0 && spec.picojoules_per_bit() <= kMaxPicojoules)) {
    return InvalidArgument("dram.flat.picojoules_per_bit: {} is not in 0..{}",
                           spec.picojoules_per_bit(), kMaxPicojoules);
  }
  if (!(spec.latency_nanoseconds() >= 0 && spec.latency_nanoseconds() <= kMaxLatency)) {
    return InvalidArgument("dram.flat.latency_nanoseconds: {} is not in 0..{}",
                           spec.latency_nanoseconds(), kMaxLatency);
  }
  const int32_t burst = spec.burst_bytes() == 0 ? kDefaultBurst : spec.burst_bytes();
  if (burst < 1 || burst > kMaxBurst || !std::has_single_bit(static_cast<uint32_t>(burst))) {
    return InvalidArgument("dram.flat.burst_bytes: {} is not a power of two in 1..{}", burst,
                           kMaxBurst);
  }
  const int32_t depth = spec.queue_depth() == 0 ? kDefaultDepth : spec.queue_depth();
  if (depth < 1 || depth > kMaxDepth) {
    return InvalidArgument("dram.flat.queue_depth: {} is not in 1..{}", depth, kMaxDepth);
  }
  return std::make_unique<FlatMemory>(spec, burst, depth);
}

}  // namespace thresher
