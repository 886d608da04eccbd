// The controller of one HBM2 channel: its queue, the state of its two pseudo-channels, and the rule
// by which commands are chosen (FR-FCFS: of the commands that could be issued first, the one for
// the oldest request). It steps from command to command; time in which nothing can be issued costs
// nothing.
//
// Time is in clocks. A request sent at a time competes with all others sent at that time: commands
// are issued up to, and not at, the time that is asked for, which is why it makes no difference how
// often one asks.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_HBM2_CHANNEL_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_HBM2_CHANNEL_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/device/simulator/dram.h"
#include "backend/device/simulator/hbm2_address.h"
#include "backend/device/simulator/hbm2_timing.h"

namespace thresher {

class Hbm2Channel {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max() / 4;

  struct Counts {
    int64_t reads = 0;
    int64_t writes = 0;
    int64_t activations = 0;
    int64_t precharges = 0;
    int64_t refreshes = 0;
    int64_t requests = 0;
    int64_t outcomes[3] = {};  // Row hits, misses, conflicts.
  };

  Hbm2Channel(const Hbm2Config& config, int32_t channel);

  void Reset();
  /// Null: nobody watches.
  void set_observer(DramObserver* observer) { observer_ = observer; }

  /// Is there room for a request at `clock`, when what is done by `done_clock` has left? (They
  /// differ where a time is between two clocks.)
  bool MakeRoom(int64_t clock, int64_t done_clock) {
    if (held_ < depth_) return true;
    RunUntil(clock);
    if (FirstInFlight() <= done_clock) Collect(done_clock, &done_);
    return held_ < depth_;
  }
  /// MakeRoom() was true.
  void Send(const Hbm2Location& where, bool write, uint64_t tag, int64_t clock);
  /// Issues all commands before `clock`.
  void RunUntil(int64_t clock) {
    if (clock > next_step_) Run(clock);
  }
  /// Appends what is done by `clock`, up to which it has run, in order of time.
  void Collect(int64_t clock, std::vector<DramCompletion>* completions);

  /// Nothing is done before this, if nothing is sent; kNever when the channel is empty.
  int64_t EarliestDone() const {
    if (!done_.empty()) return 0;
    const int64_t earliest = FirstInFlight();
    return waiting_ == 0 ? earliest : std::min(earliest, next_step_ + least_latency_);
  }
  const Counts& counts() const { return counts_; }

 private:
  static constexpr int16_t kNone = -1;
  enum Direction : uint8_t { kRead, kWrite };
  enum Outcome : uint8_t { kHit, kMiss, kConflict };

  /// A place in the queue.
  struct Request {
    int64_t order = 0;  // Of arrival in the channel.
    int64_t arrival = 0;
    uint64_t tag = 0;
    int32_t row = 0;
    int16_t newer = kNone;  // In the bank, or among the free places.
    Direction direction = kRead;
    Outcome outcome = kHit;
  };

  /// The times are the earliest at which the command may be issued; that of an activation is of its
  /// second clock. One cache line.
  struct alignas(64) Bank {
    int64_t activation = 0;
    int64_t precharge = 0;
    int64_t column[2] = {};  // By direction.
    int64_t oldest_order = 0;
    int64_t hit_order = 0;
    int32_t open_row = -1;
    int16_t oldest = kNone, newest = kNone;
    int16_t hit = kNone;         // The oldest request for the open row,
    int16_t before_hit = kNone;  // and the one before it in the bank.
    Direction hit_direction = kRead;
  };

  enum class Kind : uint8_t { kColumn, kActivate, kPrecharge, kPrechargeAll, kRefresh };
  /// Of commands of one sort the one to issue next: the earliest, and of those the one for the
  /// oldest request. It stands as long as its bus is free when it is to be issued.
  struct Choice {
    int64_t clock = kNever;
    int64_t order = 0;  // Of the request that it serves.
    Kind kind = Kind::kColumn;
    int16_t bank = 0;

    bool Before(const Choice& other) const {
      return clock < other.clock || (clock == other.clock && order < other.order);
    }
    void MakeStale() { clock = -1; }
    void Offer(const Choice& other) {
      if (other.Before(*this)) *this = other;  // Never, where this is stale.
    }
  };

  struct PseudoChannel {
    Choice column;
    Choice activate;
    Choice precharge;  // Or refresh.
    // Banks by what they want next; a bank is in one of them at the most.
    uint32_t hits = 0;         // A request for the open row waits.
    uint32_t closed = 0;       // Requests wait and no row is open.
    uint32_t conflicting = 0;  // Requests wait, all for other rows than the open one.
    uint32_t open = 0;         // A row is open.
    uint32_t blocked = 0;      // Refresh is due, and comes first.
    int8_t index = 0;          // In the channel.
    bool refreshing = false;
    int16_t refresh_bank = 0;     // SINGLE_BANK: whose turn it is.
    int16_t urgent_bank = kNone;  // Whose oldest request is out of patience.
    int64_t refresh_due = kNever;
    int64_t patient_until = kNever;  // No request is out of patience before this.
    // The earliest times for any bank, and for those of a group.
    int64_t column_from[2] = {};  // By direction.
    int64_t group_column_from[kHbm2BankGroups][2] = {};
    int64_t activate_from = 0;
    int64_t group_activate_from[kHbm2BankGroups] = {};
    int64_t single_refresh_from = 0;
    std::array<int64_t, 4> last_activations = {};  // A ring.
    uint32_t next_activation = 0;
    // Issued, in order of their data: a ring.
    uint32_t flight_begin = 0;
    uint32_t flight_end = 0;
    int64_t flight_done = kNever;           // The first one's.
    std::vector<DramCompletion> in_flight;  // With clocks for times.
    std::array<Bank, kHbm2Banks> banks;
  };

  void Run(int64_t until);
  void MeetDeadlines(int64_t clock, int64_t until);
  bool SkipIdleRefreshes(int64_t until);

  int64_t ColumnFloor() const { return std::max(clock_, column_bus_); }
  int64_t RowFloor() const { return std::max(clock_, row_bus_); }
  template <Kind kKind, typename ClockOf>
  Choice Earliest(const PseudoChannel& pc, uint32_t banks, const ClockOf& clock_of) const;
  Choice NextColumn(const PseudoChannel& pc, uint32_t banks, int64_t floor) const;
  Choice NextActivate(const PseudoChannel& pc, uint32_t banks, int64_t floor) const;
  Choice NextPrecharge(const PseudoChannel& pc, uint32_t banks, int64_t floor) const;
  Choice NextColumn(const PseudoChannel& pc, int64_t floor) const;
  Choice NextActivate(const PseudoChannel& pc, int64_t floor) const;
  Choice NextPrecharge(const PseudoChannel& pc, int64_t floor) const;
  Choice NextRefresh(const PseudoChannel& pc, int64_t floor) const;
  void ChooseRow(int64_t floor);
  void Offer(PseudoChannel& pc, int bank);

  void IssueColumn(PseudoChannel& pc, int bank);
  void IssueRow(PseudoChannel& pc, const Choice& choice);
  void Activate(PseudoChannel& pc, int bank);
  void Precharge(PseudoChannel& pc, int bank, bool refresh);
  void Refresh(PseudoChannel& pc, int bank);
  void Close(PseudoChannel& pc, int bank, int64_t precharged);
  void SetHit(Bank& bank, int16_t before, int16_t hit);
  static void Sort(PseudoChannel& pc, int bank);
  void SetDeadline();
  void MakeStale(PseudoChannel& pc);
  int64_t FirstInFlight() const { return std::min(pcs_[0].flight_done, pcs_[1].flight_done); }
  void Show(DramCommand::Kind kind, const PseudoChannel& pc, int bank, int32_t row,
            bool auto_precharge = false);

  const Hbm2Timing timing_;
  const v1::Hbm2Spec::PagePolicy page_policy_;
  const v1::Hbm2Spec::Refresh refresh_;
  const int32_t depth_;
  const int32_t patience_;
  const int32_t channel_;
  const uint32_t flight_mask_;
  const int64_t least_latency_;
  DramObserver* observer_ = nullptr;

  std::array<PseudoChannel, kHbm2PseudoChannels> pcs_;
  std::vector<Request> queue_;
  int16_t free_ = kNone;  // The first free place.
  int32_t waiting_ = 0;   // Not issued.
  int32_t held_ = 0;      // Nor completed.
  int64_t next_order_ = 0;
  int64_t clock_ = 0;       // Of the latest decision; no command comes before it.
  int64_t column_bus_ = 0;  // Free from here.
  int64_t row_bus_ = 0;
  int64_t deadline_ = 0;   // When a refresh is due or patience may end.
  int64_t next_step_ = 0;  // Run has nothing to do up to here.
  // The next command of the row bus, unless stale.
  Choice row_;
  int row_pc_ = 0;
  Counts counts_;
  std::vector<DramCompletion> done_;  // Completed to make room, and not yet collected.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_HBM2_CHANNEL_H_
