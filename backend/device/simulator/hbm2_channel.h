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
    int64_t row_hits = 0;
    int64_t row_misses = 0;
    int64_t row_conflicts = 0;
    int64_t requests = 0;
  };

  /// `config` outlives the channel.
  Hbm2Channel(const Hbm2Config& config, int32_t channel);

  void Reset();
  /// Null: nobody watches.
  void set_observer(DramObserver* observer) { observer_ = observer; }

  /// False: the queue is full.
  bool TrySend(const Hbm2Location& where, bool write, uint64_t tag, int64_t clock);
  /// Issues all commands before `clock`.
  void RunUntil(int64_t clock) {
    if (clock > next_step_) Run(clock);
  }
  /// Appends what is done by `clock`, up to which it has run, in order of time.
  void Collect(int64_t clock, std::vector<DramCompletion>* completions);

  /// Nothing is done before this, if nothing is sent; kNever when the channel is empty.
  int64_t EarliestDone() const {
    int64_t earliest = FirstInFlight();
    if (waiting_ > 0) earliest = std::min(earliest, next_step_ + least_latency_);
    return done_.empty() ? earliest : 0;
  }
  /// Neither RunUntil nor Collect has anything to do up to this time.
  int64_t QuietUntil() const {
    return done_.empty() ? std::min(next_step_, FirstInFlight() - 1) : -1;
  }
  const Counts& counts() const { return counts_; }

 private:
  static constexpr int16_t kNone = -1;
  enum Direction : uint8_t { kRead, kWrite };
  enum class Outcome : uint8_t { kHit, kMiss, kConflict };

  /// A place in the queue.
  struct Request {
    int64_t order = 0;  // Of arrival in the channel.
    int64_t arrival = 0;
    uint64_t tag = 0;
    int32_t row = 0;
    int16_t bank = 0;
    Direction direction = kRead;
    Outcome outcome = Outcome::kHit;
    int16_t older = kNone, newer = kNone;                  // In the pseudo-channel,
    int16_t older_in_bank = kNone, newer_in_bank = kNone;  // in the bank.
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
    int16_t oldest_hit = kNone;  // The oldest request for the open row.
    Direction hit_direction = kRead;
  };

  enum class Kind : uint8_t { kColumn, kActivate, kPrecharge, kPrechargeAll, kRefresh };
  /// The command that one of a pseudo-channel's two buses would issue next.
  struct Choice {
    int64_t clock = kNever;
    int64_t order = 0;  // Of the request that it serves; the lower goes first.
    Kind kind = Kind::kColumn;
    int16_t bank = 0;

    bool Before(const Choice& other) const {
      return clock < other.clock || (clock == other.clock && order < other.order);
    }
  };

  struct PseudoChannel {
    // A choice stands until it is made or something makes it stale; what newly becomes possible is
    // held against it (Offer).
    Choice column_choice, row_choice;
    bool column_stale = true, row_stale = true;
    bool refreshing = false;  // It is due: the banks in `blocked` serve it first.
    bool urgent = false;      // The oldest request has lost patience.
    // When either will be so, if it is not yet.
    int64_t refresh_due = kNever;
    int64_t patient_until = kNever;
    // Banks by what they want next; a bank is in one of them at the most.
    uint32_t hits = 0;         // A request for the open row waits.
    uint32_t closed = 0;       // Requests wait and no row is open.
    uint32_t conflicting = 0;  // Requests wait, all for other rows than the open one.
    uint32_t open = 0;         // A row is open.
    uint32_t blocked = 0;
    int16_t oldest = kNone, newest = kNone;
    // The earliest times for any bank, and for those of a group.
    int64_t column[2] = {};  // By direction.
    int64_t group_column[kHbm2BankGroups][2] = {};
    int64_t activation = 0;
    int64_t group_activation[kHbm2BankGroups] = {};
    std::array<int64_t, 4> last_activations = {};  // A ring.
    int next_activation = 0;
    int16_t refresh_bank = 0;    // SINGLE_BANK: whose turn it is,
    int64_t single_refresh = 0;  // and when the next may be issued, as to the other banks.
    // Issued, in order of their data: a ring.
    int flight_begin = 0, flight_count = 0;
    int64_t flight_done = kNever;  // The first one's.
    std::vector<std::pair<int64_t, uint64_t>> in_flight;
    std::array<Bank, kHbm2Banks> banks;
  };

  template <int16_t Request::*Older, int16_t Request::*Newer>
  void Append(int16_t r, int16_t* oldest, int16_t* newest);
  template <int16_t Request::*Older, int16_t Request::*Newer>
  void Remove(int16_t r, int16_t* oldest, int16_t* newest);

  void Run(int64_t until);
  void MeetDeadlines(int64_t clock, int64_t until);

  int64_t ColumnFloor() const { return std::max(clock_, column_bus_); }
  int64_t RowFloor() const { return std::max(clock_, row_bus_); }
  Choice ColumnOf(const PseudoChannel& pc, int bank, int64_t floor) const;
  Choice RowOf(const PseudoChannel& pc, int bank, int64_t floor) const;
  Choice NextColumn(const PseudoChannel& pc, int64_t floor) const;
  Choice NextRow(const PseudoChannel& pc, int64_t floor) const;
  Choice RefreshChoice(const PseudoChannel& pc, int64_t floor) const;
  void Offer(PseudoChannel& pc, int bank);

  void Issue(int p, const Choice& choice);
  void IssueColumn(int p, int bank);
  void Activate(int p, int bank);
  void Precharge(int p, const Choice& choice);
  void Close(PseudoChannel& pc, int bank, int64_t precharged);
  void FinishRefresh(int p, int bank);
  bool SkipIdleRefreshes(int64_t until);
  void SetHit(PseudoChannel& pc, int bank, int16_t hit);
  void Sort(PseudoChannel& pc, int bank);
  void OldestChanged(PseudoChannel& pc);
  int64_t FirstInFlight() const { return std::min(pcs_[0].flight_done, pcs_[1].flight_done); }
  void Show(DramCommand::Kind kind, int p, int bank, int32_t row, bool auto_precharge = false);

  const Hbm2Config& config_;
  const Hbm2Timing& timing_;
  const int32_t channel_;
  const int32_t least_latency_;
  DramObserver* observer_ = nullptr;
  Counts counts_;

  std::array<PseudoChannel, kHbm2PseudoChannels> pcs_;
  std::vector<Request> queue_;
  std::vector<int16_t> free_;
  int32_t waiting_ = 0;  // Not issued.
  int32_t held_ = 0;     // Nor completed.
  int64_t next_order_ = 0;
  int64_t clock_ = 0;       // Of the latest decision; no command comes before it.
  int64_t column_bus_ = 0;  // Free from here.
  int64_t row_bus_ = 0;
  int64_t next_step_ = 0;             // Run has nothing to do up to here.
  std::vector<DramCompletion> done_;  // Completed to make room, and not yet collected.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_HBM2_CHANNEL_H_
