#include "backend/device/simulator/dram/hbm2.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "backend/device/simulator/dram/hbm2_address.h"
#include "backend/device/simulator/dram/hbm2_channel.h"
#include "backend/device/simulator/dram/hbm2_timing.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

class Hbm2 final : public Dram {
 public:
  Hbm2(const Hbm2Config& config, const Hbm2AddressMap& map) : config_(config), map_(map) {
    channels_.reserve(config_.channels);
    for (int32_t c = 0; c < config_.channels; ++c) channels_.emplace_back(config_, c);
    earliest_done_.assign(config_.channels, Hbm2Channel::kNever);
  }

  int32_t burst_bytes() const override { return kHbm2BurstBytes; }
  int32_t channels() const override { return config_.channels; }
  int32_t ChannelOf(uint64_t address) const override { return map_.Channel(address); }
  double peak_bandwidth() const override {
    const double burst_seconds = config_.timing.burst * config_.timing.clock_ps * 1e-12;
    return config_.channels * kHbm2PseudoChannels * kHbm2BurstBytes / burst_seconds;
  }

  bool TrySend(const DramRequest& request, int64_t now_ps) override {
    SetTime(now_ps);
    const Hbm2Location where = map_.Locate(request.address);
    Hbm2Channel& channel = channels_[where.channel];
    if (!channel.MakeRoom(next_clock_, clock_)) return false;
    channel.Send(where, request.write, request.tag, next_clock_);
    earliest_done_[where.channel] = channel.EarliestDone(next_clock_);
    return true;
  }

  void AdvanceTo(int64_t now_ps, std::vector<DramCompletion>* completions) override {
    SetTime(now_ps);
    const size_t before = completions->size();
    const int64_t done_clock = clock_, clock = next_clock_;
    int sources = 0;
    Hbm2Channel* channel = channels_.data();
    for (int64_t& earliest : earliest_done_) {
      if (earliest <= done_clock) {
        channel->Collect(done_clock, clock, completions);
        earliest = channel->EarliestDone(clock);
        ++sources;
      }
      ++channel;
    }
    if (sources > 1) SortByTime(completions->begin() + before, completions->end());
  }

  int64_t NextEvent() const override {
    int64_t earliest = Hbm2Channel::kNever;
    for (const int64_t clock : earliest_done_) earliest = std::min(earliest, clock);
    if (earliest == Hbm2Channel::kNever) return kNever;
    event_clock_ = earliest;
    event_ps_ = earliest * config_.timing.clock_ps;
    return std::max(event_ps_, now_ps_);
  }

  void Reset() override {
    now_ps_ = clock_ = next_clock_ = 0;
    for (Hbm2Channel& channel : channels_) channel.Reset();
    std::ranges::fill(earliest_done_, Hbm2Channel::kNever);
  }

  void set_observer(DramObserver* observer) override {
    for (Hbm2Channel& channel : channels_) {
      channel.RunUntil(next_clock_);
      channel.set_observer(observer);
    }
  }

  const v1::DramCounts& counts() const override {
    counts_.Clear();
    for (Hbm2Channel& channel : channels_) {
      channel.RunUntil(next_clock_);
      const Hbm2Channel::Counts counts = channel.counts();
      counts_.set_reads(counts_.reads() + counts.reads);
      counts_.set_writes(counts_.writes() + counts.writes);
      counts_.set_activations(counts_.activations() + counts.activations);
      counts_.set_precharges(counts_.precharges() + counts.precharges);
      counts_.set_refreshes(counts_.refreshes() + counts.refreshes);
      counts_.set_row_hits(counts_.row_hits() + counts.outcomes[0]);
      counts_.set_row_misses(counts_.row_misses() + counts.outcomes[1]);
      counts_.set_row_conflicts(counts_.row_conflicts() + counts.outcomes[2]);
      counts_.add_requests_by_channel(counts.requests);
    }
    return counts_;
  }

  double energy() const override {
    double joules = 0;
    for (Hbm2Channel& channel : channels_) {
      channel.RunUntil(next_clock_);
      const Hbm2Channel::Counts counts = channel.counts();
      const auto bits = static_cast<double>((counts.reads + counts.writes) * kHbm2BurstBytes * 8);
      joules += static_cast<double>(counts.activations) * config_.joules_per_activation +
                bits * config_.joules_per_bit;
    }
    return joules;
  }

 private:
  /// Never goes back.
  void SetTime(int64_t now_ps) {
    if (now_ps <= now_ps_) return;
    now_ps_ = now_ps;
    if (now_ps == event_ps_) {
      clock_ = next_clock_ = event_clock_;
      return;
    }
    clock_ = now_ps / config_.timing.clock_ps;
    next_clock_ = clock_ + (clock_ * config_.timing.clock_ps != now_ps);
  }

  /// Each channel's are in order already; of two at one time the first channel's goes first.
  template <typename Iterator>
  static void SortByTime(Iterator begin, Iterator end) {
    constexpr ptrdiff_t kFew = 64;
    if (end - begin > kFew) {
      std::stable_sort(begin, end, [](const DramCompletion& a, const DramCompletion& b) {
        return a.time_ps < b.time_ps;
      });
      return;
    }
    // Mostly in order, and without the memory that stable_sort allocates.
    for (Iterator i = begin; i != end; ++i) {
      for (Iterator j = i; j != begin && j->time_ps < (j - 1)->time_ps; --j)
        std::swap(*j, *(j - 1));
    }
  }

  const Hbm2Config config_;
  const Hbm2AddressMap map_;
  int64_t now_ps_ = 0;
  int64_t clock_ = 0;       // The last one that has begun by now,
  int64_t next_clock_ = 0;  // and the first that begins at or after now.
  // The latest answer of NextEvent(): mostly the next time, which then need not be divided.
  mutable int64_t event_ps_ = 0;
  mutable int64_t event_clock_ = 0;
  /// They are behind `now` where nothing is to come out of them.
  mutable std::vector<Hbm2Channel> channels_;
  std::vector<int64_t> earliest_done_;  // By channel, side by side, for a quick look.
  mutable v1::DramCounts counts_;       // Summed when asked for.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Dram>> CreateHbm2(const v1::Hbm2Spec& spec) {
  THRESHER_ASSIGN_OR_RETURN(const Hbm2Config config, ResolveHbm2(spec));
  const std::string_view text =
      spec.address_map().empty() ? std::string_view("RoBaCoBgPcCh") : spec.address_map();
  THRESHER_ASSIGN_OR_RETURN(
      const Hbm2AddressMap map,
      Hbm2AddressMap::Parse(text, std::countr_zero(static_cast<uint32_t>(config.channels)),
                            config.row_bits));
  return std::make_unique<Hbm2>(config, map);
}

}  // namespace thresher
