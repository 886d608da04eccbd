#include "backend/device/simulator/dram/hbm2_channel.h"

#include <bit>
#include <utility>

namespace thresher {
namespace {

constexpr uint32_t kAllBanks = (1u << kHbm2Banks) - 1;
// Before all times that matter.
constexpr int64_t kLongAgo = -kHbm2MaxTiming;

constexpr uint32_t Bit(int bank) { return 1u << bank; }
constexpr unsigned GroupOf(int bank) { return static_cast<unsigned>(bank) / kHbm2BanksPerGroup; }

template <typename Body>
inline void ForEachBank(uint32_t banks, const Body& body) {
  for (; banks != 0; banks &= banks - 1) body(std::countr_zero(banks));
}

inline void Raise(int64_t value, int64_t* least) { *least = std::max(*least, value); }

}  // namespace

Hbm2Channel::Hbm2Channel(const Hbm2Config& config, int32_t channel)
    : timing_(config.timing),
      turns_{{{.done = timing_.read_data(),
               .next = timing_.column_gap(),
               .next_in_group = timing_.ccd_l,
               .turned = timing_.read_to_write(),
               .turned_in_group = timing_.read_to_write(),
               .precharge = timing_.rtp},
              {.done = timing_.write_data(),
               .next = timing_.column_gap(),
               .next_in_group = timing_.ccd_l,
               .turned = timing_.write_data() + timing_.wtr_s,
               .turned_in_group = timing_.write_data() + timing_.wtr_l,
               .precharge = timing_.write_data() + timing_.wr}}},
      page_policy_(config.page_policy),
      refresh_(config.refresh),
      depth_(config.queue_depth),
      patience_(config.patience),
      channel_(channel),
      flight_mask_(std::bit_ceil(static_cast<uint32_t>(config.queue_depth)) - 1),
      read_latency_(timing_.read_data()),
      least_latency_(std::min(timing_.read_data(), timing_.write_data())) {
  Reset();
}

void Hbm2Channel::Reset() {
  counts_ = {};
  int8_t index = 0;
  for (PseudoChannel& pc : pcs_) {
    pc = {};
    pc.index = index++;
    for (BankLanes& lanes : pc.wanted) lanes.Fill(BankLanes::kMost);
    if (refresh_ == v1::Hbm2Spec::ALL_BANK) pc.refresh_due = timing_.refi;
    if (refresh_ == v1::Hbm2Spec::SINGLE_BANK) pc.refresh_due = timing_.refi_sb;
  }
  queue_.assign(depth_, {});
  for (int r = 0; r + 1 < depth_; ++r) queue_[r].newer = &queue_[r + 1];
  free_ = queue_.data();
  new_oldest_ = new_newest_ = nullptr;
  writes_waiting_ = held_ = 0;
  next_order_ = 1;
  next_arrival_ = kNever;
  base_ = clock_ = column_bus_ = row_bus_ = 0;
  next_step_ = 0;
  flights_.resize(flight_mask_ + 1);
  flight_begin_ = flight_end_ = 0;
  latest_key_ = 0;
  flight_done_ = kNever;
  done_.clear();
  SetDeadline();
}

// ---- Requests come and go ----

/// Makes the oldest of the new requests known to its bank. False if that changes no choice.
inline bool Hbm2Channel::Admit() {
  Request& request = *new_oldest_;
  new_oldest_ = request.newer;
  next_arrival_ = new_oldest_ == nullptr ? kNever : new_oldest_->arrival;
  clock_ = std::max(clock_, request.arrival - base_);
  request.newer = nullptr;
  request.order = next_order_++;
  PseudoChannel& pc = pcs_[request.pc];
  request.older_in_pc = pc.newest;
  request.newer_in_pc = nullptr;
  (pc.newest == nullptr ? pc.oldest : pc.newest->newer_in_pc) = &request;
  pc.newest = &request;
  Bank& bank = pc.banks[request.bank];
  Request* const before = bank.newest;
  bank.newest = &request;
  const bool hit = bank.open_row == request.row && bank.hit == nullptr;
  if (before != nullptr) {
    before->newer = &request;
    if (!hit && !NeedsCare(pc)) return false;
  } else {
    bank.oldest = &request;
  }
  return AdmitWithCare(pc, request, before, hit);
}

bool Hbm2Channel::AdmitWithCare(PseudoChannel& pc, Request& request, Request* before, bool hit) {
  Bank& bank = pc.banks[request.bank];
  if (clock_ > kWindow) MoveBase();
  if (pc.patient_until == kNever) {
    pc.patient_until = PatientUntil(request);
    SetDeadline();
  }
  if (hit) bank.hit = bank.newest, bank.before_hit = before;
  if (hit || before == nullptr) {
    // Its row is wanted again.
    if (before != nullptr && bank.want == kPrecharge) pc.row = Choice::Stale();
    List(pc, request.bank);
    Offer(pc, request.bank);
  }
  if (next_order_ == BankLanes::kMost) Renumber();
  return true;
}

/// Orders begin at 1 again.
void Hbm2Channel::Renumber() {
  std::vector<Request*> requests;
  for (PseudoChannel& pc : pcs_) {
    for (Request* r = pc.oldest; r != nullptr; r = r->newer_in_pc) requests.push_back(r);
  }
  std::ranges::sort(requests, {}, &Request::order);
  next_order_ = 1;
  for (Request* request : requests) request->order = next_order_++;
  for (PseudoChannel& pc : pcs_) {
    pc.order.Fill(0);
    for (int b = 0; b < kHbm2Banks; ++b) List(pc, b);
    MakeStale(pc);
  }
}

/// Lists the bank for what it wants next.
void Hbm2Channel::List(PseudoChannel& pc, int b) {
  Bank& bank = pc.banks[b];
  pc.wanted[bank.want].Set(b, BankLanes::kMost);
  if (bank.oldest == nullptr || (pc.blocked & Bit(b)) != 0) return;
  bank.want = kPrecharge;
  const Request* request = bank.oldest;
  if (bank.open_row < 0) {
    bank.want = kActivate;
  } else if (bank.hit != nullptr && (pc.urgent_bank != b || bank.hit == bank.oldest)) {
    // A row with requests waiting is closed only when the bank's oldest is out of patience.
    request = bank.hit;
    bank.want = request->direction;
  }
  pc.order.Set(b, request->order);
  pc.wanted[bank.want].Set(b, pc.from[bank.want][b]);
}

int64_t Hbm2Channel::EarliestDoneAfterRun(int64_t clock) {
  if (Waiting() == 0) return flight_done_;
  RunUntil(clock);
  return Waiting() == 0 ? flight_done_ : std::min(flight_done_, next_step_ + least_latency_);
}

void Hbm2Channel::LandEarly(int64_t clock) { Land(clock, &done_); }

/// Most are done in the order in which they are issued. Of two at the same time the first
/// pseudo-channel's goes first.
inline void Hbm2Channel::Fly(const PseudoChannel& pc, uint64_t tag, int64_t done) {
  const int64_t key = done << 1 | pc.index;
  uint32_t at = flight_end_++;
  if (key < latest_key_) {
    for (; at != flight_begin_; --at) {
      const Flight& before = flights_[(at - 1) & flight_mask_];
      if (before.key < key) break;
      flights_[at & flight_mask_] = before;
    }
  } else {
    latest_key_ = key;
  }
  flights_[at & flight_mask_] = {.tag = tag, .key = key};
  flight_done_ = std::min(flight_done_, done);
}

// ---- Time ----

void Hbm2Channel::MoveBase() {
  const int64_t by = clock_;
  const auto moved = [by](int64_t time) { return std::max(time - by, kLongAgo); };
  const auto move = [&](int64_t* time) { *time = moved(*time); };
  const auto move_due = [by](int64_t* time) { *time -= *time == kNever ? 0 : by; };
  base_ += by;
  clock_ = 0;
  move(&column_bus_);
  move(&row_bus_);
  for (PseudoChannel& pc : pcs_) {
    for (int want = 0; want < kWants; ++want) {
      move(&pc.any_from[want]);
      for (int b = 0; b < kHbm2Banks; ++b) {
        pc.from[want].Set(b, moved(pc.from[want][b]));
        pc.group_from[want].Set(b, moved(pc.group_from[want][b]));
      }
    }
    for (int b = 0; b < kHbm2Banks; ++b) List(pc, b);
    move(&pc.single_refresh_from);
    for (int64_t& time : pc.fifth_from) move(&time);
    move_due(&pc.refresh_due);
    move_due(&pc.patient_until);
    MakeStale(pc);
  }
  move_due(&deadline_);
}

void Hbm2Channel::SetDeadline() {
  deadline_ = kNever;
  for (const PseudoChannel& pc : pcs_) {
    if (!pc.refreshing) deadline_ = std::min(deadline_, pc.refresh_due);
    if (pc.urgent_bank == kNone) deadline_ = std::min(deadline_, pc.patient_until);
  }
}

void Hbm2Channel::MakeStale(PseudoChannel& pc) { pc.column = pc.row = Choice::Stale(); }

/// The earliest has come. Nobody sends before `until`.
void Hbm2Channel::MeetDeadline(int64_t until) {
  clock_ = std::max(clock_, deadline_);
  if (clock_ > kWindow) MoveBase();
  if (SkipIdleRefreshes(until - base_)) return;
  for (PseudoChannel& pc : pcs_) {
    if (!pc.refreshing && pc.refresh_due <= deadline_) {
      pc.refreshing = true;
      pc.blocked = refresh_ == v1::Hbm2Spec::ALL_BANK ? kAllBanks : Bit(pc.refresh_bank);
      ForEachBank(pc.blocked, [&](int b) { List(pc, b); });
      MakeStale(pc);
    }
    if (pc.urgent_bank == kNone && pc.patient_until <= deadline_) {
      // The request that it was set for may be gone.
      pc.patient_until = pc.oldest == nullptr ? kNever : PatientUntil(*pc.oldest);
      if (pc.patient_until <= deadline_) {
        pc.urgent_bank = pc.oldest->bank;
        List(pc, pc.urgent_bank);
        MakeStale(pc);
      }
    }
  }
  SetDeadline();
}

/// Refreshes of a memory that nobody uses follow each other at their interval. All but the last
/// need only be counted, unless somebody watches. True if there were such.
bool Hbm2Channel::SkipIdleRefreshes(int64_t until) {
  if (observer_ != nullptr) return false;
  for (const PseudoChannel& pc : pcs_) {
    const bool idle = pc.oldest == nullptr && pc.open == 0;
    if (!idle || pc.refreshing || pc.refresh_due == kNever) return false;
  }
  // All banks once.
  const bool single = refresh_ == v1::Hbm2Spec::SINGLE_BANK;
  const int64_t round = single ? timing_.refi_sb * kHbm2Banks : timing_.refi;
  bool skipped = false;
  for (PseudoChannel& pc : pcs_) {
    const int64_t rounds = (until - pc.refresh_due) / round - 1;
    if (rounds <= 0) continue;
    counts_.refreshes += rounds * (single ? kHbm2Banks : 1);
    pc.refresh_due += rounds * round;
    skipped = true;
  }
  SetDeadline();
  return skipped;
}

// ---- Choosing ----

/// When timings allow what the bank wants.
inline int64_t Hbm2Channel::From(const PseudoChannel& pc, Want want, int b) {
  return std::max<int64_t>({pc.from[want][b], pc.any_from[want], pc.group_from[want][b]});
}

/// When each bank that wants it can have it, from `floor` on.
template <Hbm2Channel::Want kWant>
inline BankLanes Hbm2Channel::Times(const PseudoChannel& pc, int64_t floor) {
  const BankLanes times = Max(pc.wanted[kWant], BankLanes(std::max(floor, pc.any_from[kWant])));
  return kWant == kPrecharge ? times : Max(times, pc.group_from[kWant]);
}

inline Hbm2Channel::Choice Hbm2Channel::ChoiceOf(const PseudoChannel& pc, Bus bus,
                                                 const BankLanes& times) {
  const BankLanes::First first = times.FirstBy(pc.order);
  return first.least == BankLanes::kMost ? Choice::Never()
                                         : Choice(first.least, bus, first.order, pc.index);
}

inline Hbm2Channel::Choice Hbm2Channel::NextColumn(const PseudoChannel& pc, int64_t floor) const {
  if (const int b = pc.urgent_bank; b != kNone) [[unlikely]] {
    // Its oldest request goes next, or nothing holds its row up any longer.
    const Want want = pc.banks[b].want;
    if (want <= kWrite && pc.wanted[want][b] != BankLanes::kMost) {
      return Choice(std::max(floor, From(pc, want, b)), kColumnBus, pc.order[b], pc.index);
    }
  }
  // In most streams it is the oldest of all.
  if (pc.oldest != nullptr) {
    const Request& request = *pc.oldest;
    const int b = request.bank;
    const Direction direction = request.direction;
    const int64_t clock = std::max(floor, pc.any_from[direction]);
    if (pc.banks[b].hit == pc.oldest && pc.wanted[direction][b] <= clock &&
        pc.group_from[direction][b] <= clock &&
        clock <= std::max(floor, pc.any_from[1 - direction])) {
      return Choice(clock, kColumnBus, request.order, pc.index);
    }
  }
  return ChoiceOf(pc, kColumnBus, Min(Times<kRead>(pc, floor), Times<kWrite>(pc, floor)));
}

inline Hbm2Channel::Choice Hbm2Channel::NextRow(const PseudoChannel& pc, int64_t floor) const {
  const Choice choice =
      ChoiceOf(pc, kRowBus, Min(Times<kActivate>(pc, floor), Times<kPrecharge>(pc, floor)));
  return pc.refreshing ? First(choice, NextRefresh(pc, floor)) : choice;
}

/// Closes the rows, then refreshes; before all else.
Hbm2Channel::Choice Hbm2Channel::NextRefresh(const PseudoChannel& pc, int64_t floor) const {
  int64_t clock = floor;
  if (const uint32_t open = pc.open & pc.blocked; open != 0) {
    ForEachBank(open, [&](int b) { Raise(pc.from[kPrecharge][b], &clock); });
  } else {
    const int64_t first = timing_.activation_cycles - 1;
    ForEachBank(pc.blocked, [&](int b) { Raise(pc.from[kActivate][b] + first, &clock); });
    if (refresh_ == v1::Hbm2Spec::SINGLE_BANK) Raise(pc.single_refresh_from, &clock);
  }
  return Choice(clock, kRowBus, 0, pc.index);
}

/// The bank has something new to do.
inline void Hbm2Channel::Offer(PseudoChannel& pc, int b) {
  if (pc.urgent_bank != kNone) {
    MakeStale(pc);
    return;
  }
  const Want want = pc.banks[b].want;
  if (pc.banks[b].oldest == nullptr || (pc.blocked & Bit(b)) != 0) return;
  const Bus bus = want <= kWrite ? kColumnBus : kRowBus;
  const int64_t floor = bus == kColumnBus ? ColumnFloor() : RowFloor();
  Choice& choice = bus == kColumnBus ? pc.column : pc.row;  // Stays stale, if it is.
  choice = First(choice, Choice(std::max(From(pc, want, b), floor), bus, pc.order[b], pc.index));
}

// ---- Issuing ----

inline void Hbm2Channel::IssueColumn(PseudoChannel& pc, int b) {
  Bank& bank = pc.banks[b];
  Request& request = *bank.hit;
  const int64_t now = clock_;

  // What must wait for it.
  const unsigned group = GroupOf(b);
  const Direction direction = request.direction;
  const Direction other = direction == kRead ? kWrite : kRead;
  const Turn& turn = turns_[direction];
  pc.any_from[direction] = now + turn.next;
  pc.group_from[direction].SetGroup(group, now + turn.next_in_group);
  Raise(now + turn.turned, &pc.any_from[other]);
  if (direction == kWrite) {
    ++counts_.writes;
    --writes_waiting_;
    pc.group_from[other].RaiseGroup(group, now + turn.turned_in_group);
  } else {
    ++counts_.reads;
  }
  pc.from[kPrecharge].Raise(b, now + turn.precharge);
  ++counts_.outcomes[request.outcome];
  Fly(pc, request.tag, base_ + now + turn.done);

  // It leaves the queue, and the next one for the row is looked for.
  Request* const older_in_pc = request.older_in_pc;
  Request* const newer_in_pc = request.newer_in_pc;
  (older_in_pc == nullptr ? pc.oldest : older_in_pc->newer_in_pc) = newer_in_pc;
  (newer_in_pc == nullptr ? pc.newest : newer_in_pc->older_in_pc) = older_in_pc;
  Request* const newer = request.newer;
  Request* before = bank.before_hit;
  if (newer == nullptr) bank.newest = before;
  if (before != nullptr) {
    before->newer = newer;
  } else {
    bank.oldest = newer;
    if (pc.urgent_bank == b) IssuedUrgent(pc);
  }
  Request* hit = newer;
  for (; hit != nullptr && hit->row != bank.open_row; hit = hit->newer) before = hit;
  bank.hit = hit;
  bank.before_hit = before;
  if (observer_) {
    Show(direction == kWrite ? DramCommand::Kind::kWrite : DramCommand::Kind::kRead, pc, b,
         request.row, hit == nullptr && page_policy_ == v1::Hbm2Spec::CLOSED);
  }
  request.newer = free_;
  free_ = &request;
  pc.column = Choice::Stale();
  if (hit == nullptr) {
    IssuedLast(pc, b);
  } else if (hit->direction == bank.want && pc.urgent_bank == kNone) {
    pc.order.Set(b, hit->order);  // All else is as it was.
  } else {
    List(pc, b);
    MakeStale(pc);
  }
}

/// The wait of the oldest request is over.
void Hbm2Channel::IssuedUrgent(PseudoChannel& pc) {
  pc.urgent_bank = kNone;
  pc.patient_until = clock_;
  SetDeadline();
  MakeStale(pc);
}

/// No request waits for the bank's row any longer.
void Hbm2Channel::IssuedLast(PseudoChannel& pc, int b) {
  if (page_policy_ == v1::Hbm2Spec::CLOSED) {
    Close(pc, b, pc.from[kPrecharge][b]);
  } else {
    List(pc, b);
  }
  Offer(pc, b);
}

void Hbm2Channel::Run(int64_t until) {
  PseudoChannel& first = pcs_[0];
  PseudoChannel& second = pcs_[1];
  int64_t stop = std::min(until, next_arrival_);
  for (;;) {
    Choice column = First(first.column, second.column);
    if (const int64_t floor = ColumnFloor(); column.StaleAt(floor)) {
      if (first.column.StaleAt(floor)) first.column = NextColumn(first, floor);
      if (second.column.StaleAt(floor)) second.column = NextColumn(second, floor);
      column = First(first.column, second.column);
    }
    Choice row = First(first.row, second.row);
    if (const int64_t floor = RowFloor(); row.StaleAt(floor)) {
      if (first.row.StaleAt(floor)) first.row = NextRow(first, floor);
      if (second.row.StaleAt(floor)) second.row = NextRow(second, floor);
      row = First(first.row, second.row);
    }
    const Choice next = First(column, row);
    const int64_t step = std::min(next.never() ? kNever : next.clock(), deadline_);
    bool changed = false;
    while (!changed && step + base_ >= stop) {
      if (until <= next_arrival_) {
        next_step_ = std::min(step + base_, next_arrival_);
        return;
      }
      changed = Admit();
      stop = std::min(until, next_arrival_);
    }
    if (changed) continue;
    if (deadline_ == step) {
      MeetDeadline(stop);
      continue;
    }
    clock_ = step;
    if (clock_ > kWindow) MoveBase();
    PseudoChannel& pc = pcs_[next.pc()];
    if (next.bus() == kRowBus) {
      IssueRow(pc, next.order());
    } else {
      column_bus_ = clock_ + 1;
      const int16_t order = next.order();
      IssueColumn(pc, order == pc.oldest->order ? pc.oldest->bank : pc.order.Find(order));
    }
  }
}

void Hbm2Channel::IssueRow(PseudoChannel& pc, int16_t order) {
  row_bus_ = clock_ + 1;
  if (order == 0) {
    IssueRefresh(pc);
    return;
  }
  const int b = pc.order.Find(order);
  if (pc.banks[b].want == kActivate) {
    row_bus_ = clock_ + timing_.activation_cycles;
    Activate(pc, b);
  } else {
    pc.banks[b].oldest->outcome = kConflict;
    Precharge(pc, b);
  }
}

/// Or what must come before it.
void Hbm2Channel::IssueRefresh(PseudoChannel& pc) {
  const uint32_t open = pc.open & pc.blocked;
  if (open == 0) {
    Refresh(pc, pc.refresh_bank);
  } else if (refresh_ == v1::Hbm2Spec::SINGLE_BANK) {
    Precharge(pc, pc.refresh_bank);
  } else {
    if (observer_) Show(DramCommand::Kind::kPrechargeAll, pc, 0, 0);
    ForEachBank(open, [&](int b) { Close(pc, b, clock_); });
    pc.row = Choice::Stale();
  }
}

void Hbm2Channel::Activate(PseudoChannel& pc, int b) {
  Bank& bank = pc.banks[b];
  Request& request = *bank.oldest;
  if (request.outcome == kHit) request.outcome = kMiss;
  if (observer_) Show(DramCommand::Kind::kActivate, pc, b, request.row);
  ++counts_.activations;
  const int64_t activated = clock_ + timing_.activation_cycles - 1;
  pc.from[kRead].Set(b, activated + timing_.rcd_read);
  pc.from[kWrite].Set(b, activated + timing_.rcd_write);
  pc.from[kPrecharge].Set(b, activated + timing_.ras);
  pc.from[kActivate].Set(b, clock_ + timing_.rc);
  pc.group_from[kActivate].SetGroup(GroupOf(b), clock_ + timing_.rrd_l);
  Raise(activated + timing_.rrd_s, &pc.single_refresh_from);
  pc.fifth_from[pc.next_activation] = clock_ + timing_.faw;
  pc.next_activation = (pc.next_activation + 1) % 4;
  Raise(std::max(clock_ + timing_.rrd_s, pc.fifth_from[pc.next_activation]),
        &pc.any_from[kActivate]);

  bank.open_row = request.row;
  pc.open |= Bit(b);
  bank.hit = bank.oldest;
  bank.before_hit = nullptr;
  List(pc, b);
  pc.row = Choice::Stale();
  Offer(pc, b);
}

void Hbm2Channel::Precharge(PseudoChannel& pc, int b) {
  const Bank& bank = pc.banks[b];
  if (observer_) Show(DramCommand::Kind::kPrecharge, pc, b, bank.open_row);
  Close(pc, b, clock_);
  pc.row = Choice::Stale();
  Offer(pc, b);
}

/// The row is closed by a precharge at `precharged`.
void Hbm2Channel::Close(PseudoChannel& pc, int b, int64_t precharged) {
  Bank& bank = pc.banks[b];
  if (bank.hit != nullptr) pc.column = Choice::Stale();
  bank.open_row = -1;
  bank.hit = bank.before_hit = nullptr;
  pc.open &= ~Bit(b);
  pc.from[kActivate].Raise(b, ActivationOf(precharged + timing_.rp));
  ++counts_.precharges;
  List(pc, b);
}

void Hbm2Channel::Refresh(PseudoChannel& pc, int b) {
  ++counts_.refreshes;
  if (refresh_ == v1::Hbm2Spec::ALL_BANK) {
    if (observer_) Show(DramCommand::Kind::kRefresh, pc, 0, 0);
    pc.from[kActivate].Fill(ActivationOf(clock_ + timing_.rfc));
    pc.refresh_due += timing_.refi;
  } else {
    if (observer_) Show(DramCommand::Kind::kRefreshBank, pc, b, 0);
    pc.from[kActivate].Set(b, ActivationOf(clock_ + timing_.rfc_sb));
    Raise(ActivationOf(clock_ + timing_.rrefd), &pc.any_from[kActivate]);
    Raise(clock_ + timing_.rrefd, &pc.single_refresh_from);
    pc.refresh_bank = static_cast<int16_t>((b + 1) % kHbm2Banks);
    pc.refresh_due += timing_.refi_sb;
  }
  pc.refreshing = false;
  const uint32_t refreshed = std::exchange(pc.blocked, 0);
  ForEachBank(refreshed, [&](int bank) { List(pc, bank); });
  SetDeadline();
  MakeStale(pc);
}

void Hbm2Channel::Show(DramCommand::Kind kind, const PseudoChannel& pc, int bank, int32_t row,
                       bool auto_precharge) {
  observer_->Observe({.kind = kind,
                      .auto_precharge = auto_precharge,
                      .channel = channel_,
                      .pseudo_channel = pc.index,
                      .bank = bank,
                      .row = row,
                      .clock = base_ + clock_});
}

}  // namespace thresher
