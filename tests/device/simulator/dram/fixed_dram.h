// A memory for tests whose every request takes the same time, for hand-worked cases.
#ifndef THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_FIXED_DRAM_H_
#define THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_FIXED_DRAM_H_

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "backend/device/simulator/dram/dram.h"

namespace thresher::testing {

class FixedDram : public Dram {
 public:
  FixedDram(int32_t channels, int64_t latency_ps) : channels_(channels), latency_ps_(latency_ps) {}

  int32_t burst_bytes() const override { return 32; }
  int32_t channels() const override { return channels_; }
  int32_t ChannelOf(uint64_t address) const override {
    return static_cast<int32_t>(address / 32 % channels_);
  }
  double peak_bandwidth() const override { return 32e9 * channels_; }
  bool TrySend(const DramRequest& request, int64_t now_ps) override {
    ++asked[request.address];
    sent.push_back({request, now_ps});
    under_way_.push_back({request.tag, now_ps + latency_ps_});
    (request.write ? counts_.set_writes(counts_.writes() + 1)
                   : counts_.set_reads(counts_.reads() + 1));
    return true;
  }
  void AdvanceTo(int64_t now_ps, std::vector<DramCompletion>* completions) override {
    while (!under_way_.empty() && under_way_.front().time_ps <= now_ps) {
      completions->push_back(under_way_.front());
      under_way_.pop_front();
    }
  }
  int64_t NextEvent() const override {
    return under_way_.empty() ? kNever : under_way_.front().time_ps;
  }
  void Reset() override { *this = FixedDram(channels_, latency_ps_); }
  const v1::DramCounts& counts() const override { return counts_; }
  double energy() const override { return 0; }

  struct Sent {
    DramRequest request;
    int64_t time_ps = 0;
  };
  std::vector<Sent> sent;
  std::map<uint64_t, int> asked;  // How often, by address.

 private:
  int32_t channels_;
  int64_t latency_ps_;
  std::deque<DramCompletion> under_way_;
  v1::DramCounts counts_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_FIXED_DRAM_H_
