// The controller of one HBM2 channel: its queue, the state of its two pseudo-channels, and the rule
// by which commands are chosen (FR-FCFS: of the commands that could be issued first, the one for
// the oldest request). It steps from command to command; time in which nothing can be issued costs
// nothing.
//
// Time is in clocks. A request sent at a time competes with all others sent at that time: commands
// are issued up to, and not at, the time that is asked for, which is why it makes no difference how
// often one asks. Nor when they are issued: that is put off for as long as nobody can tell, and
// then done for many at once.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_CHANNEL_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_CHANNEL_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/device/simulator/dram/bank_lanes.h"
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
  Hbm2Channel(Hbm2Channel&&) = default;  // Never copied: requests know each other.

  void Reset();
  /// Null: nobody watches.
  void set_observer(DramObserver* observer) { observer_ = observer; }

  /// Is there room for a request at `clock`, when what is done by `done_clock` has left? (They
  /// differ where a time is between two clocks.)
  bool MakeRoom(int64_t clock, int64_t done_clock) {
    if (held_ < depth_) return true;
    RunToKnow(done_clock, clock);
    if (flight_done_ <= done_clock) LandEarly(done_clock);
    return held_ < depth_;
  }
  /// MakeRoom() was true.
  void Send(const Hbm2Location& where, bool write, uint64_t tag, int64_t clock) {
    Request& request = *free_;
    free_ = request.newer;
    request.tag = tag;
    request.arrival = clock;
    request.newer = nullptr;
    request.row = where.row;
    request.pc = static_cast<int8_t>(where.pseudo_channel);
    request.bank = static_cast<int8_t>(where.bank);
    request.direction = write ? kWrite : kRead;
    request.outcome = kHit;
    if (new_oldest_ == nullptr) {
      new_oldest_ = &request;
      next_arrival_ = clock;
    } else {
      new_newest_->newer = &request;
    }
    new_newest_ = &request;
    ++held_;
    writes_waiting_ += write;
    next_step_ = std::min(next_step_, clock);
  }
  /// Issues all commands before `clock`.
  void RunUntil(int64_t clock) {
    if (clock > next_step_) Run(clock);
  }
  /// Appends what is done by `done_clock`, of what is sent before `clock`, in order of time.
  void Collect(int64_t done_clock, int64_t clock, std::vector<DramCompletion>* completions) {
    RunToKnow(done_clock, clock);
    if (!done_.empty()) {
      completions->insert(completions->end(), done_.begin(), done_.end());
      done_.clear();
    }
    Land(done_clock, completions);
  }

  /// Nothing is done before this, if nothing is sent after `clock`, which is now; kNever when the
  /// channel is empty.
  int64_t EarliestDone(int64_t clock) {
    if (!done_.empty()) return 0;
    if (flight_done_ <= std::min(Horizon(), clock + least_latency_)) return flight_done_;
    return EarliestDoneAfterRun(clock);
  }
  Counts counts() const {
    Counts counts = counts_;
    counts.requests = counts.reads + counts.writes + Waiting();
    return counts;
  }

 private:
  static constexpr int16_t kNone = -1;
  /// How far the clock goes from the base of times. Beyond it are, at the most, the timings of a
  /// write, from its command to an activation after it: all times of banks fit in their lanes.
  static constexpr int64_t kWindow = 8192;
  static_assert(kWindow + 5 * kHbm2MaxTiming < BankLanes::kMost);

  /// What a bank wants next. The first two are the directions of a request, too.
  enum Want : uint8_t { kRead, kWrite, kActivate, kPrecharge, kWants };
  using Direction = Want;
  enum Outcome : uint8_t { kHit, kMiss, kConflict };

  /// A place in the queue.
  struct alignas(64) Request {
    Request* newer = nullptr;  // In the bank, among those that have just come, or the free places.
    Request* older_in_pc = nullptr;
    Request* newer_in_pc = nullptr;
    uint64_t tag = 0;
    int64_t arrival = 0;
    int32_t row = 0;
    int16_t order = 0;  // Of arrival in the channel, among those in the queue.
    int8_t pc = 0;
    int8_t bank = 0;
    Direction direction = kRead;
    Outcome outcome = kHit;
  };

  struct Bank {
    Request* oldest = nullptr;
    Request* newest = nullptr;
    Request* hit = nullptr;         // The oldest request for the open row,
    Request* before_hit = nullptr;  // and the one before it in the bank.
    int32_t open_row = -1;
    Want want = kRead;  // What it is listed for, if it has requests.
  };

  enum Bus : uint8_t { kColumnBus, kRowBus };
  /// Of some commands the one to issue next: the earliest, of those on both buses the one for a
  /// column, and of those the one for the oldest request. As one number, the least of which is the
  /// choice between two.
  class Choice {
   public:
    /// `order` is that of the request that it serves; 0: a refresh, which goes before all others.
    Choice(int64_t clock, Bus bus, int64_t order, int64_t pc)
        : rank_(clock << 32 | int64_t{bus} << 31 | order << 16 | pc) {}
    static Choice Never() { return Choice(std::numeric_limits<int64_t>::max()); }
    static Choice Stale() { return Choice(-1); }

    bool StaleAt(int64_t floor) const { return rank_ < floor << 32; }
    bool never() const { return rank_ == Never().rank_; }
    int64_t clock() const { return rank_ >> 32; }
    Bus bus() const { return static_cast<Bus>(rank_ >> 31 & 1); }
    int16_t order() const { return static_cast<int16_t>(rank_ >> 16 & BankLanes::kMost); }
    int pc() const { return rank_ & 1; }
    friend Choice First(Choice a, Choice b) { return Choice(std::min(a.rank_, b.rank_)); }

   private:
    explicit Choice(int64_t rank) : rank_(rank) {}

    int64_t rank_;
  };

  struct PseudoChannel {
    Choice column = Choice::Stale();
    Choice row = Choice::Stale();  // Or refresh.
    // Of each bank when its own timings allow each command,
    std::array<BankLanes, kWants> from = {};
    // the same of the command it wants next and kMost of all else, the order of the request that
    // wants it,
    std::array<BankLanes, kWants> wanted = {};
    BankLanes order = {};
    // and when the timings of its group allow a command.
    std::array<BankLanes, kWants> group_from = {};
    int64_t any_from[kWants] = {};  // And those of the pseudo-channel.
    int64_t single_refresh_from = 0;
    std::array<int64_t, 4> fifth_from = {};  // A ring: four activations on, the next may come.
    uint32_t next_activation = 0;
    Request* oldest = nullptr;
    Request* newest = nullptr;
    uint32_t open = 0;     // Banks with an open row.
    uint32_t blocked = 0;  // Refresh is due, and comes first.
    int8_t index = 0;      // In the channel.
    bool refreshing = false;
    int16_t refresh_bank = 0;     // SINGLE_BANK: whose turn it is.
    int16_t urgent_bank = kNone;  // Whose oldest request is out of patience.
    int64_t refresh_due = kNever;
    int64_t patient_until = kNever;  // No request is out of patience before this.
    std::array<Bank, kHbm2Banks> banks;
  };

  /// An issued request.
  struct Flight {
    uint64_t tag = 0;
    int64_t key = 0;  // When it is done and, below, the pseudo-channel.
  };

  /// Requests that are not issued.
  int32_t Waiting() const { return held_ - static_cast<int32_t>(flight_end_ - flight_begin_); }
  int64_t EarliestDoneAfterRun(int64_t clock);
  void Run(int64_t until);
  /// Issues all commands before `clock`, unless what is done by `done_clock` is known without.
  void RunToKnow(int64_t done_clock, int64_t clock) {
    if (Horizon() <= done_clock) RunUntil(clock);
  }
  /// No request that is not issued is done before this.
  int64_t Horizon() const {
    return next_step_ + (writes_waiting_ == 0 ? read_latency_ : least_latency_);
  }
  /// Hands out what is done by `clock`.
  [[gnu::always_inline]] void Land(int64_t clock, std::vector<DramCompletion>* completions) {
    int64_t done = flight_done_;
    if (done > clock) return;
    uint32_t next = flight_begin_;
    do {
      const uint64_t tag = flights_[next & flight_mask_].tag;
      completions->push_back({.tag = tag, .time_ps = done * timing_.clock_ps});
      done = ++next == flight_end_ ? kNever : flights_[next & flight_mask_].key >> 1;
    } while (done <= clock);
    held_ -= static_cast<int32_t>(next - flight_begin_);
    flight_begin_ = next;
    flight_done_ = done;
  }
  void LandEarly(int64_t clock);

  bool Admit();
  bool AdmitWithCare(PseudoChannel& pc, Request& request, Request* before, bool hit);
  /// Whether admitting a request to it is more than adding it to the queue.
  bool NeedsCare(const PseudoChannel& pc) const {
    return pc.patient_until == kNever || clock_ > kWindow || next_order_ == BankLanes::kMost;
  }
  int64_t PatientUntil(const Request& oldest) const { return oldest.arrival - base_ + patience_; }
  void Renumber();
  void MoveBase();
  void MeetDeadline(int64_t until);
  bool SkipIdleRefreshes(int64_t until);

  int64_t ColumnFloor() const { return std::max(clock_, column_bus_); }
  int64_t RowFloor() const { return std::max(clock_, row_bus_); }
  /// The first clock of an activation whose second one, from which its timings count, is `clock`.
  int64_t ActivationOf(int64_t clock) const { return clock - timing_.activation_cycles + 1; }
  static int64_t From(const PseudoChannel& pc, Want want, int bank);
  template <Want kWant>
  static BankLanes Times(const PseudoChannel& pc, int64_t floor);
  static Choice ChoiceOf(const PseudoChannel& pc, Bus bus, const BankLanes& times);
  Choice NextColumn(const PseudoChannel& pc, int64_t floor) const;
  Choice NextRow(const PseudoChannel& pc, int64_t floor) const;
  Choice NextRefresh(const PseudoChannel& pc, int64_t floor) const;
  void Offer(PseudoChannel& pc, int bank);

  void IssueColumn(PseudoChannel& pc, int bank);
  void IssuedUrgent(PseudoChannel& pc);
  void IssuedLast(PseudoChannel& pc, int bank);
  void IssueRow(PseudoChannel& pc, int16_t order);
  void IssueRefresh(PseudoChannel& pc);
  void Activate(PseudoChannel& pc, int bank);
  void Precharge(PseudoChannel& pc, int bank);
  void Refresh(PseudoChannel& pc, int bank);
  void Close(PseudoChannel& pc, int bank, int64_t precharged);
  void List(PseudoChannel& pc, int bank);
  void SetDeadline();
  static void MakeStale(PseudoChannel& pc);
  void Fly(const PseudoChannel& pc, uint64_t tag, int64_t done);
  void Show(DramCommand::Kind kind, const PseudoChannel& pc, int bank, int32_t row,
            bool auto_precharge = false);

  /// What must wait for a read or write, from its command on.
  struct Turn {
    int64_t done;
    int64_t next;                     // The same of any bank,
    int64_t next_in_group;            // and of its group.
    int64_t turned, turned_in_group;  // The other direction, likewise.
    int64_t precharge;
  };

  const Hbm2Timing timing_;
  const std::array<Turn, 2> turns_;  // By direction.
  const v1::Hbm2Spec::PagePolicy page_policy_;
  const v1::Hbm2Spec::Refresh refresh_;
  const int32_t depth_;
  const int32_t patience_;
  const int32_t channel_;
  const uint32_t flight_mask_;
  const int64_t read_latency_;
  const int64_t least_latency_;
  DramObserver* observer_ = nullptr;

  // Times of the pseudo-channels, and these, count from `base_`, which moves along with them.
  int64_t base_ = 0;
  int64_t clock_ = 0;       // Of the latest decision; no command comes before it.
  int64_t column_bus_ = 0;  // Free from here.
  int64_t row_bus_ = 0;
  int64_t deadline_ = 0;  // When a refresh is due or patience may end.
  std::array<PseudoChannel, kHbm2PseudoChannels> pcs_;

  // All others count from the last Reset.
  std::vector<Request> queue_;
  Request* free_ = nullptr;        // The first free place.
  Request* new_oldest_ = nullptr;  // Sent, and unknown to the banks.
  Request* new_newest_ = nullptr;
  int16_t next_order_ = 0;
  int32_t held_ = 0;            // Not completed.
  int32_t writes_waiting_ = 0;  // Not issued.
  int64_t next_arrival_ = kNever;
  int64_t next_step_ = 0;  // Nothing is issued before this.
  // Issued, in the order in which they are done: a ring.
  std::vector<Flight> flights_;
  uint32_t flight_begin_ = 0;
  uint32_t flight_end_ = 0;
  int64_t flight_done_ = kNever;  // The first one's.
  int64_t latest_key_ = 0;        // No key was later.
  Counts counts_;
  std::vector<DramCompletion> done_;  // Completed to make room, and not yet collected.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_CHANNEL_H_
