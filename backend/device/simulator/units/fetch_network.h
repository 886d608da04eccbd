// What brings data to an accelerator: address generators (lanes), a crossbar from lanes to the
// memory's channels, and the memory. Each cycle each lane takes one transaction of the most urgent
// job, each channel takes one from the lanes whose first transaction is its own, in turn, and a
// lane that waits for a busy channel holds up what is behind it. Jobs of one class keep their
// order; a class that comes first here goes before the others, so that what is nearer to the end
// of the pipeline never waits for what is nearer to its start.
//
// Time is in the accelerator's cycles and never runs backwards. One thread at a time.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_FETCH_NETWORK_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_FETCH_NETWORK_H_

#include <array>
#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>
#include <span>
#include <vector>

#include "backend/device/simulator/dram/dram.h"

namespace thresher {

/// Words at equal distances, or at those of them that `positions` lists. Of word i the position is
/// positions[first + i], or i-th of `count` spread evenly over `spread` places; an empty list
/// stands for 0, 1, 2, ...
struct FetchPart {
  uint64_t base = 0;    // Of position 0; a multiple of the burst.
  uint64_t stride = 0;  // Bytes from a position to the next.
  int64_t count = 0;    // Words.
  int32_t bursts = 0;   // Of each, one after the other.
  bool write = false;
  std::span<const int32_t> positions;
  int64_t first = 0;
  int64_t spread = 0;  // At least `count`; 0: one after the other.

  uint64_t Address(int64_t word) const {
    const int64_t place = first + (spread > 0 ? (2 * word + 1) * spread / (2 * count) : word);
    return base + stride * static_cast<uint64_t>(positions.empty() ? place : positions[place]);
  }
};

struct FetchJob {
  std::vector<FetchPart> parts;
  uint64_t cookie = 0;
};

enum class FetchClass { kOutput, kRefetch, kValue, kQuery, kKey, kClasses };

/// `bytes` of memory from the burst that holds `address` on.
FetchPart BytesAt(uint64_t address, int64_t bytes, bool write, int32_t burst_bytes);

class FetchNetwork {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  struct Options {
    int32_t lanes = 32;
    int32_t lane_queue = 4;
    int32_t outstanding_per_channel = 16;
    int32_t crossbar_cycles = 1;  // Each way.
    double cycle_ps = 1000;
  };
  /// What ended, and when its last data are there.
  struct Completion {
    uint64_t cookie = 0;
    int64_t cycle = 0;
  };

  /// `dram` must outlive the network.
  FetchNetwork(const Options& options, Dram* dram);

  /// From now on. A job without transactions completes at the next Tick.
  void Submit(FetchClass fetch_class, FetchJob job);

  /// Does what happens in cycle `now`; appends what has ended in the memory by then.
  void Tick(int64_t now, std::vector<Completion>* completions);
  /// The next cycle after `now` in which a Tick does something; kNever when all is done.
  int64_t NextTick(int64_t now) const;
  /// Whether no transaction is waiting or under way.
  bool idle() const { return waiting_ == 0 && outstanding_ == 0; }

  void Reset();

  int32_t burst_bytes() const { return burst_bytes_; }
  int64_t transactions() const { return transactions_; }  // Since the last Reset.

 private:
  /// A job under way: where its next transaction is, and how many are not complete.
  struct Active {
    FetchJob job;
    int64_t part = 0;
    int64_t word = 0;
    int32_t burst = 0;
    int64_t left = 0;
  };
  struct Transaction {
    DramRequest request;
    int32_t channel = 0;
    int64_t cycle = 0;  // From which on it is at the crossbar.
  };
  /// The transactions of a lane, a ring.
  struct Lane {
    std::vector<Transaction> ring;
    size_t head = 0;
    size_t size = 0;

    bool full() const { return size == ring.size(); }
    const Transaction& front() const { return ring[head]; }
    void Push(const Transaction& transaction) {
      const size_t end = head + size++;
      ring[end < ring.size() ? end : end - ring.size()] = transaction;
    }
    void Pop() {
      if (++head == ring.size()) head = 0;
      --size;
    }
  };

  int64_t Picoseconds(int64_t cycle) const {
    return std::llround(static_cast<double>(cycle) * options_.cycle_ps);
  }
  size_t After(size_t lane) const { return lane + 1 == lanes_.size() ? 0 : lane + 1; }
  void Collect(int64_t now, std::vector<Completion>* completions);
  void Cross(int64_t now);
  void Generate(int64_t now);
  Transaction NextOf(uint32_t slot);

  Options options_;
  Dram* dram_;
  int32_t burst_bytes_;
  std::array<std::deque<uint32_t>, static_cast<size_t>(FetchClass::kClasses)> queues_;
  std::vector<Active> slots_;
  std::vector<uint32_t> free_slots_;
  std::vector<Lane> lanes_;
  std::vector<int32_t> on_channel_;
  std::vector<int64_t> granted_;      // The last cycle in which the channel took one.
  std::vector<uint64_t> empty_jobs_;  // Their cookies.
  std::vector<DramCompletion> dram_completions_;
  size_t next_lane_ = 0;     // That takes the next transaction generated,
  size_t first_lane_ = 0;    // that the crossbar looks at first.
  int64_t waiting_ = 0;      // Transactions not given to the memory yet.
  int64_t outstanding_ = 0;  // Given to the memory and not complete.
  int64_t transactions_ = 0;
  bool moved_ = false;  // Whether the last Tick moved anything on.
};

/// Of a preset's SpAttenFetch or FactFetch, beside a unit of that clock.
template <typename Fetch>
FetchNetwork::Options FetchOptions(const Fetch& fetch, double clock_hz) {
  return {.lanes = fetch.lanes(),
          .lane_queue = fetch.lane_queue(),
          .outstanding_per_channel = fetch.outstanding_per_channel(),
          .crossbar_cycles = fetch.crossbar_cycles(),
          .cycle_ps = 1e12 / clock_hz};
}

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_FETCH_NETWORK_H_
