// The controller of one HBM2 channel: its queue, the state of its two pseudo-channels, and the rule
// by which commands are chosen (FR-FCFS: of the commands that could be issued first, the one for
// the oldest request). It steps from command to command; time in which nothing can be issued costs
// nothing.
//
// Time is in clocks. A request sent at a time competes with all others sent at that time: commands
// are issued up to, and not at, the time that is asked for, which is why it makes no difference how
// often one asks.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_CHANNEL_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_CHANNEL_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/device/simulator/dram/dram.h"
#include "backend/device/simulator/dram/hbm2_address.h"
#include "backend/device/simulator/dram/hbm2_timing.h"

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
    if (flight_done_ <= done_clock) Collect(done_clock, &done_);
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
    return waiting_ == 0 ? flight_done_ : std::min(flight_done_, next_step_ + least_latency_);
  }
  const Counts& counts() const { return counts_; }

 private:
  static constexpr int16_t kNone = -1;
  /// What a bank wants next. The first two are the directions of a request, too.
  enum Want : uint8_t { kRead, kWrite, kActivate, kPrecharge, kWants };
  using Direction = Want;
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

  /// One cache line.
  struct alignas(64) Bank {
    int64_t from[kWants] = {};  // When its own timings allow each command.
    int32_t open_row = -1;
    int16_t oldest = kNone, newest = kNone;
    int16_t hit = kNone;         // The oldest request for the open row,
    int16_t before_hit = kNone;  // and the one before it in the bank.
    Want want = kRead;           // What it is filed under, if it has requests.
  };
  /// Banks that want the same.
  struct Line {
    uint32_t ready = 0;        // Their own timings allow it.
    uint32_t settling = 0;     // They must wait for these;
    int64_t settles = kNever;  // the first is ready then, or later.
  };

  enum class Kind : uint8_t { kColumn, kActivate, kPrecharge, kPrechargeAll, kRefresh };
  /// Of commands of one sort the one to issue next: the earliest, and of those the one for the
  /// oldest request.
  struct Choice {
    int64_t clock = kNever;
    int64_t place = 0;  // In the order of requests, of the one that it serves; 0: a refresh.
    Kind kind = Kind::kColumn;
    int16_t bank = 0;

    /// As one number, so that no branch depends on it.
    bool Before(const Choice& other) const { return Rank() < other.Rank(); }
    __int128 Rank() const {
      return static_cast<__int128>(clock) << 64 | static_cast<uint64_t>(place);
    }
    void MakeStale() { clock = -1; }
    bool stale() const { return clock < 0; }
    void Offer(const Choice& other) {
      if (other.Before(*this)) *this = other;  // Never, where this is stale.
    }
  };

  struct PseudoChannel {
    Choice column;
    Choice activate;
    Choice precharge;  // Or refresh.
    // Banks with requests, by what they want next; of each bank, from when its own timings allow it
    // and the place of the request that it is for.
    std::array<Line, kWants> lines;
    std::array<int64_t, kHbm2Banks> from = {};
    std::array<int64_t, kHbm2Banks> place = {};
    uint32_t open = 0;     // Banks with an open row.
    uint32_t blocked = 0;  // Refresh is due, and comes first.
    int8_t index = 0;      // In the channel.
    bool refreshing = false;
    int16_t refresh_bank = 0;     // SINGLE_BANK: whose turn it is.
    int16_t urgent_bank = kNone;  // Whose oldest request is out of patience.
    int64_t refresh_due = kNever;
    int64_t patient_until = kNever;  // No request is out of patience before this.
    // The earliest times for any bank, and for those of a group.
    int64_t any_from[kWants] = {};
    int64_t group_from[kWants][kHbm2BankGroups] = {};
    int64_t single_refresh_from = 0;
    std::array<int64_t, 4> last_activations = {};  // A ring.
    uint32_t next_activation = 0;
    std::array<Bank, kHbm2Banks> banks;
  };

  struct Flight {
    uint64_t tag = 0;
    int64_t done = 0;
    int8_t pc = 0;
  };

  void Run(int64_t until);
  void MeetDeadlines(int64_t clock, int64_t until);
  bool SkipIdleRefreshes(int64_t until);

  int64_t ColumnFloor() const { return std::max(clock_, column_bus_); }
  int64_t RowFloor() const { return std::max(clock_, row_bus_); }
  /// The first clock of an activation whose second one, from which its timings count, is `clock`.
  int64_t ActivationOf(int64_t clock) const { return clock - timing_.activation_cycles + 1; }
  static int64_t From(const PseudoChannel& pc, Want want, int bank);
  template <typename OnReady>
  static void Settle(PseudoChannel& pc, Line& line, int64_t clock, const OnReady& on_ready);
  template <Want kWant>
  static Choice Earliest(PseudoChannel& pc, Kind kind, uint32_t banks, int64_t floor);
  static Choice NextColumn(PseudoChannel& pc, int64_t floor);
  Choice NextRefresh(const PseudoChannel& pc, int64_t floor) const;
  template <Want kWant>
  void RenewRow(PseudoChannel& pc, int64_t floor, Choice* choice) const;
  void ChooseRow(int64_t floor);
  void Offer(PseudoChannel& pc, int bank);

  void IssueColumn(PseudoChannel& pc, int bank);
  void IssueRow(PseudoChannel& pc, const Choice& choice);
  void Activate(PseudoChannel& pc, int bank);
  void Precharge(PseudoChannel& pc, int bank, bool refresh);
  void Refresh(PseudoChannel& pc, int bank);
  void Close(PseudoChannel& pc, int bank, int64_t precharged);
  void File(PseudoChannel& pc, int bank);
  int64_t PlaceOf(int16_t request, int bank) const {
    return queue_[request].order * kHbm2Banks + bank;
  }
  void SetDeadline();
  void MakeStale(PseudoChannel& pc);
  void Fly(const PseudoChannel& pc, uint64_t tag, int64_t done);
  void Show(DramCommand::Kind kind, const PseudoChannel& pc, int bank, int32_t row,
            bool auto_precharge = false);

  const Hbm2Timing timing_;
  const v1::Hbm2Spec::PagePolicy page_policy_;
  const v1::Hbm2Spec::Refresh refresh_;
  const int32_t depth_;
  const int32_t patience_;
  const int32_t channel_;
  const bool groups_hold_rows_;  // Whether an activation holds up its own group for longer.
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
  const Choice* row_ = nullptr;
  PseudoChannel* row_pc_ = nullptr;
  int64_t row_clock_ = -1;
  // Issued, in the order in which they are done: a ring.
  std::vector<Flight> flights_;
  uint32_t flight_begin_ = 0;
  uint32_t flight_end_ = 0;
  int64_t flight_done_ = kNever;  // The first one's.
  Counts counts_;
  std::vector<DramCompletion> done_;  // Completed to make room, and not yet collected.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_CHANNEL_H_
