#include "backend/device/simulator/dram/hbm2_channel.h"

#include <bit>

namespace thresher {
namespace {

constexpr uint32_t kAllBanks = (1u << kHbm2Banks) - 1;
constexpr uint32_t kGroupBanks = (1u << kHbm2BanksPerGroup) - 1;
// Before all times: what never happened holds nothing up.
constexpr int64_t kLongAgo = -(int64_t{1} << 40);

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
      page_policy_(config.page_policy),
      refresh_(config.refresh),
      depth_(config.queue_depth),
      patience_(config.patience),
      channel_(channel),
      groups_hold_rows_(config.timing.rrd_l > config.timing.rrd_s),
      flight_mask_(std::bit_ceil(static_cast<uint32_t>(config.queue_depth)) - 1),
      least_latency_(std::min(timing_.read_data(), timing_.write_data())) {
  Reset();
}

void Hbm2Channel::Reset() {
  counts_ = {};
  int8_t index = 0;
  for (PseudoChannel& pc : pcs_) {
    pc = {};
    pc.index = index++;
    pc.last_activations.fill(kLongAgo);
    if (refresh_ == v1::Hbm2Spec::ALL_BANK) pc.refresh_due = timing_.refi;
    if (refresh_ == v1::Hbm2Spec::SINGLE_BANK) pc.refresh_due = timing_.refi_sb;
  }
  queue_.assign(depth_, {});
  for (int r = 0; r + 1 < depth_; ++r) queue_[r].newer = static_cast<int16_t>(r + 1);
  free_ = 0;
  waiting_ = held_ = 0;
  next_order_ = 1;
  clock_ = column_bus_ = row_bus_ = 0;
  next_step_ = 0;
  row_clock_ = -1;
  flights_.resize(flight_mask_ + 1);
  flight_begin_ = flight_end_ = 0;
  flight_done_ = kNever;
  done_.clear();
  SetDeadline();
}

// ---- Requests come and go ----

void Hbm2Channel::Send(const Hbm2Location& where, bool write, uint64_t tag, int64_t clock) {
  RunUntil(clock);
  clock_ = std::max(clock_, clock);
  next_step_ = clock;
  ++held_;
  ++waiting_;
  ++counts_.requests;
  PseudoChannel& pc = pcs_[where.pseudo_channel];
  Bank& bank = pc.banks[where.bank];
  const int16_t r = free_;
  Request& request = queue_[r];
  free_ = request.newer;
  request = {.order = next_order_++,
             .arrival = clock,
             .tag = tag,
             .row = where.row,
             .direction = write ? kWrite : kRead};
  if (pc.patient_until == kNever) {
    pc.patient_until = clock + patience_;
    SetDeadline();
  }
  const int16_t before = bank.newest;
  bank.newest = r;
  (before == kNone ? bank.oldest : queue_[before].newer) = r;
  const bool hit = bank.open_row == where.row && bank.hit == kNone;
  if (hit) bank.hit = r, bank.before_hit = before;
  if (hit || before == kNone) {
    // Its row is wanted again.
    if (before != kNone && bank.want == kPrecharge) pc.precharge.MakeStale(), row_clock_ = -1;
    File(pc, where.bank);
    Offer(pc, where.bank);
  }
}

/// Files the bank under what it wants next.
void Hbm2Channel::File(PseudoChannel& pc, int b) {
  Bank& bank = pc.banks[b];
  pc.lines[bank.want].ready &= ~Bit(b);
  pc.lines[bank.want].settling &= ~Bit(b);
  if (bank.oldest == kNone) return;
  bank.want = kPrecharge;
  int16_t request = bank.oldest;
  if (bank.open_row < 0) {
    bank.want = kActivate;
  } else if (bank.hit != kNone && (pc.urgent_bank != b || bank.hit == bank.oldest)) {
    // A row with requests waiting is closed only when the bank's oldest is out of patience.
    request = bank.hit;
    bank.want = queue_[request].direction;
  }
  pc.place[b] = PlaceOf(request, b);
  const int64_t from = bank.from[bank.want];
  pc.from[b] = from;
  Line& line = pc.lines[bank.want];
  if (from <= clock_) {
    line.ready |= Bit(b);
  } else {
    line.settling |= Bit(b);
    line.settles = std::min(line.settles, from);
  }
}

void Hbm2Channel::Collect(int64_t clock, std::vector<DramCompletion>* completions) {
  if (!done_.empty() && completions != &done_) {
    completions->insert(completions->end(), done_.begin(), done_.end());
    done_.clear();
  }
  while (flight_done_ <= clock) {
    const uint64_t tag = flights_[flight_begin_++ & flight_mask_].tag;
    completions->push_back({.tag = tag, .time_ps = flight_done_ * timing_.clock_ps});
    --held_;
    flight_done_ =
        flight_begin_ == flight_end_ ? kNever : flights_[flight_begin_ & flight_mask_].done;
  }
}

/// Most are done in the order in which they are issued. Of two at the same time the first
/// pseudo-channel's goes first.
inline void Hbm2Channel::Fly(const PseudoChannel& pc, uint64_t tag, int64_t done) {
  uint32_t at = flight_end_++;
  for (; at != flight_begin_; --at) {
    const Flight& before = flights_[(at - 1) & flight_mask_];
    if (before.done < done || (before.done == done && before.pc <= pc.index)) break;
    flights_[at & flight_mask_] = before;
  }
  flights_[at & flight_mask_] = {.tag = tag, .done = done, .pc = pc.index};
  flight_done_ = std::min(flight_done_, done);
}

// ---- Choosing ----

/// When timings allow what the bank wants.
inline int64_t Hbm2Channel::From(const PseudoChannel& pc, Want want, int b) {
  return std::max({pc.from[b], pc.any_from[want], pc.group_from[want][GroupOf(b)]});
}

/// Banks of the line that are ready by `clock` become so, and are told of.
template <typename OnReady>
inline void Hbm2Channel::Settle(PseudoChannel& pc, Line& line, int64_t clock,
                                const OnReady& on_ready) {
  if (clock < line.settles) return;
  line.settles = kNever;
  ForEachBank(line.settling, [&](int b) {
    if (pc.from[b] > clock) {
      line.settles = std::min(line.settles, pc.from[b]);
      return;
    }
    line.settling &= ~Bit(b);
    line.ready |= Bit(b);
    on_ready(b);
  });
}

/// Of `banks` that want it the one whose command could be issued first, from `floor` on; of those
/// the one with the oldest request.
template <Hbm2Channel::Want kWant>
inline Hbm2Channel::Choice Hbm2Channel::Earliest(PseudoChannel& pc, Kind kind, uint32_t banks,
                                                 int64_t floor) {
  floor = std::max(floor, pc.any_from[kWant]);
  Line& line = pc.lines[kWant];
  Settle(pc, line, floor, [](int) {});
  uint32_t ready = line.ready & banks;
  if constexpr (kWant != kPrecharge) {
    static_assert(kHbm2BankGroups == 4);
    const auto held = [&](int group) {
      return static_cast<uint32_t>(pc.group_from[kWant][group] > floor)
             << (group * kHbm2BanksPerGroup);
    };
    ready &= ~((held(0) | held(1) | held(2) | held(3)) * kGroupBanks);
  }
  Choice choice{.clock = floor, .place = kNever, .kind = kind};
  if (ready != 0) {
    ForEachBank(ready, [&](int b) { choice.place = std::min(choice.place, pc.place[b]); });
  } else {
    choice.clock = kNever;
    ForEachBank((line.ready | line.settling) & banks, [&](int b) {
      const int64_t clock = From(pc, kWant, b);
      if (clock > choice.clock || (clock == choice.clock && pc.place[b] > choice.place)) return;
      choice.clock = clock;
      choice.place = pc.place[b];
    });
  }
  choice.bank = static_cast<int16_t>(choice.place % kHbm2Banks);
  return choice;
}

Hbm2Channel::Choice Hbm2Channel::NextColumn(PseudoChannel& pc, int64_t floor) {
  const Line& reads = pc.lines[kRead];
  const Line& writes = pc.lines[kWrite];
  uint32_t banks = ~pc.blocked;
  if (pc.urgent_bank != kNone) {
    // Its oldest request goes next, or nothing holds its row up any longer.
    const uint32_t urgent = Bit(pc.urgent_bank) & banks;
    const uint32_t hits = reads.ready | reads.settling | writes.ready | writes.settling;
    if ((hits & urgent) != 0) banks = urgent;
  }
  Choice choice;
  if ((reads.ready | reads.settling) != 0) {
    choice = Earliest<kRead>(pc, Kind::kColumn, banks, floor);
  }
  if ((writes.ready | writes.settling) != 0) {
    choice.Offer(Earliest<kWrite>(pc, Kind::kColumn, banks, floor));
  }
  return choice;
}

/// Closes the rows, then refreshes; before all else.
Hbm2Channel::Choice Hbm2Channel::NextRefresh(const PseudoChannel& pc, int64_t floor) const {
  const bool single = refresh_ == v1::Hbm2Spec::SINGLE_BANK;
  Choice choice{.clock = floor, .place = 0, .bank = single ? pc.refresh_bank : int16_t{0}};
  if (const uint32_t open = pc.open & pc.blocked; open != 0) {
    choice.kind = single ? Kind::kPrecharge : Kind::kPrechargeAll;
    ForEachBank(open, [&](int b) { Raise(pc.banks[b].from[kPrecharge], &choice.clock); });
  } else {
    choice.kind = Kind::kRefresh;
    const int64_t first = timing_.activation_cycles - 1;
    ForEachBank(pc.blocked,
                [&](int b) { Raise(pc.banks[b].from[kActivate] + first, &choice.clock); });
    if (single) Raise(pc.single_refresh_from, &choice.clock);
  }
  return choice;
}

/// The choice did not come about before `floor`.
template <Hbm2Channel::Want kWant>
inline void Hbm2Channel::RenewRow(PseudoChannel& pc, int64_t floor, Choice* choice) const {
  constexpr Kind kind = kWant == kActivate ? Kind::kActivate : Kind::kPrecharge;
  if (choice->stale() || choice->kind != kind || (kWant == kActivate && groups_hold_rows_)) {
    *choice = Earliest<kWant>(pc, kind, ~pc.blocked, floor);
    return;
  }
  // Nothing but what became ready in the meantime can go before it.
  choice->clock = floor;
  Settle(pc, pc.lines[kWant], floor, [&](int b) {
    if (pc.place[b] > choice->place || (pc.blocked & Bit(b)) != 0) return;
    choice->place = pc.place[b];
    choice->bank = static_cast<int16_t>(b);
  });
}

/// Between the pseudo-channels, and between opening and closing.
void Hbm2Channel::ChooseRow(int64_t floor) {
  for (PseudoChannel& pc : pcs_) {
    if (pc.activate.clock < floor) RenewRow<kActivate>(pc, floor, &pc.activate);
    if (pc.precharge.clock < floor) {
      RenewRow<kPrecharge>(pc, floor, &pc.precharge);
      if (pc.refreshing) pc.precharge.Offer(NextRefresh(pc, floor));
    }
  }
  const auto first = [](const Choice* a, const Choice* b) { return b->Before(*a) ? b : a; };
  const Choice* const of_first = first(&pcs_[0].activate, &pcs_[0].precharge);
  const Choice* const of_second = first(&pcs_[1].activate, &pcs_[1].precharge);
  row_ = first(of_first, of_second);
  row_pc_ = &pcs_[row_ == of_second];
  row_clock_ = row_->clock;
}

/// The bank has something new to do.
void Hbm2Channel::Offer(PseudoChannel& pc, int b) {
  if (pc.urgent_bank != kNone) {
    MakeStale(pc);
    return;
  }
  const Want want = pc.banks[b].want;
  if (pc.banks[b].oldest == kNone || (pc.blocked & Bit(b)) != 0) return;
  Choice choice{.clock = From(pc, want, b), .place = pc.place[b], .bank = static_cast<int16_t>(b)};
  if (want <= kWrite) {
    Raise(ColumnFloor(), &choice.clock);
    pc.column.Offer(choice);
    return;
  }
  Raise(RowFloor(), &choice.clock);
  choice.kind = want == kActivate ? Kind::kActivate : Kind::kPrecharge;
  (want == kActivate ? pc.activate : pc.precharge).Offer(choice);
  row_clock_ = -1;
}

// Flattened: a tenth fewer instructions for each command.
[[gnu::flatten]] void Hbm2Channel::Run(int64_t until) {
  PseudoChannel& first = pcs_[0];
  PseudoChannel& second = pcs_[1];
  for (;;) {
    const int64_t column_floor = ColumnFloor();
    if (first.column.clock < column_floor) first.column = NextColumn(first, column_floor);
    if (second.column.clock < column_floor) second.column = NextColumn(second, column_floor);
    if (const int64_t row_floor = RowFloor(); row_clock_ < row_floor) ChooseRow(row_floor);
    const bool is_second =
        second.column.clock < first.column.clock ||
        (second.column.clock == first.column.clock && second.column.place < first.column.place);
    PseudoChannel& pc = is_second ? second : first;
    const int64_t step = std::min(std::min(pc.column.clock, row_clock_), deadline_);
    if (step >= until) {
      next_step_ = step;
      return;
    }
    if (deadline_ == step) {
      MeetDeadlines(step, until);
    } else if (pc.column.clock == step) {
      clock_ = step;
      column_bus_ = step + 1;
      IssueColumn(pc, pc.column.bank);
    } else {
      clock_ = step;
      IssueRow(*row_pc_, *row_);
    }
  }
}

void Hbm2Channel::SetDeadline() {
  deadline_ = kNever;
  for (const PseudoChannel& pc : pcs_) {
    if (!pc.refreshing) deadline_ = std::min(deadline_, pc.refresh_due);
    if (pc.urgent_bank == kNone) deadline_ = std::min(deadline_, pc.patient_until);
  }
}

void Hbm2Channel::MakeStale(PseudoChannel& pc) {
  pc.column.MakeStale();
  pc.activate.MakeStale();
  pc.precharge.MakeStale();
  row_clock_ = -1;
}

void Hbm2Channel::MeetDeadlines(int64_t clock, int64_t until) {
  clock_ = std::max(clock_, clock);
  if (waiting_ == 0 && SkipIdleRefreshes(until)) return;
  for (PseudoChannel& pc : pcs_) {
    if (!pc.refreshing && pc.refresh_due <= clock) {
      pc.refreshing = true;
      pc.blocked = refresh_ == v1::Hbm2Spec::ALL_BANK ? kAllBanks : Bit(pc.refresh_bank);
      MakeStale(pc);
    }
    if (pc.urgent_bank == kNone && pc.patient_until <= clock) {
      // The request that it was set for may be gone: whose is the oldest now?
      const Request* oldest = nullptr;
      uint32_t waiting = 0;
      for (const Line& line : pc.lines) waiting |= line.ready | line.settling;
      ForEachBank(waiting, [&](int b) {
        const Request& request = queue_[pc.banks[b].oldest];
        if (oldest != nullptr && oldest->order < request.order) return;
        oldest = &request;
        pc.urgent_bank = static_cast<int16_t>(b);
      });
      pc.patient_until = oldest == nullptr ? kNever : oldest->arrival + patience_;
      if (pc.patient_until <= clock) {
        File(pc, pc.urgent_bank);
        MakeStale(pc);
      } else {
        pc.urgent_bank = kNone;
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
    if (pc.refreshing || pc.open != 0 || pc.refresh_due == kNever) return false;
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

// ---- Issuing ----

void Hbm2Channel::IssueColumn(PseudoChannel& pc, int b) {
  Bank& bank = pc.banks[b];
  const int16_t r = bank.hit;
  Request& request = queue_[r];
  const int64_t now = clock_;

  // What must wait for it.
  const unsigned group = GroupOf(b);
  int64_t done = 0;
  if (request.direction == kWrite) {
    ++counts_.writes;
    done = now + timing_.write_data();
    Raise(now + timing_.column_gap(), &pc.any_from[kWrite]);
    Raise(now + timing_.ccd_l, &pc.group_from[kWrite][group]);
    Raise(done + timing_.wtr_s, &pc.any_from[kRead]);
    Raise(done + timing_.wtr_l, &pc.group_from[kRead][group]);
    Raise(done + timing_.wr, &bank.from[kPrecharge]);
  } else {
    ++counts_.reads;
    done = now + timing_.read_data();
    Raise(now + timing_.column_gap(), &pc.any_from[kRead]);
    Raise(now + timing_.ccd_l, &pc.group_from[kRead][group]);
    Raise(now + timing_.read_to_write(), &pc.any_from[kWrite]);
    Raise(now + timing_.rtp, &bank.from[kPrecharge]);
  }
  ++counts_.outcomes[request.outcome];
  Fly(pc, request.tag, done);

  // It leaves the queue, and the next one for the row is looked for.
  const int16_t newer = request.newer;
  int16_t before = bank.before_hit;
  if (bank.newest == r) bank.newest = before;
  if (before != kNone) {
    queue_[before].newer = newer;
  } else {
    bank.oldest = newer;
    if (pc.urgent_bank == b) {  // Its wait is over.
      pc.urgent_bank = kNone;
      pc.patient_until = now;
      SetDeadline();
      MakeStale(pc);
    }
  }
  int16_t hit = newer;
  for (; hit != kNone && queue_[hit].row != bank.open_row; hit = queue_[hit].newer) before = hit;
  bank.hit = hit;
  bank.before_hit = before;
  const bool close = hit == kNone && page_policy_ == v1::Hbm2Spec::CLOSED;
  if (observer_) {
    const bool write = request.direction == kWrite;
    Show(write ? DramCommand::Kind::kWrite : DramCommand::Kind::kRead, pc, b, request.row, close);
  }
  request.newer = free_;
  free_ = r;
  --waiting_;
  pc.column.MakeStale();
  if (hit != kNone) {
    if (queue_[hit].direction == bank.want && pc.urgent_bank == kNone) {
      pc.place[b] = PlaceOf(hit, b);  // All else is as it was.
    } else {
      File(pc, b);
      MakeStale(pc);
    }
    return;
  }
  if (close) {
    Close(pc, b, bank.from[kPrecharge]);
  } else {
    File(pc, b);
  }
  Offer(pc, b);
}

void Hbm2Channel::IssueRow(PseudoChannel& pc, const Choice& choice) {
  row_bus_ = clock_ + (choice.kind == Kind::kActivate ? timing_.activation_cycles : 1);
  switch (choice.kind) {
    case Kind::kActivate:
      Activate(pc, choice.bank);
      break;
    case Kind::kPrecharge:
      // A refresh closes the row for nobody's sake.
      Precharge(pc, choice.bank, /*refresh=*/choice.place == 0);
      break;
    case Kind::kPrechargeAll:
      if (observer_) Show(DramCommand::Kind::kPrechargeAll, pc, 0, 0);
      ForEachBank(pc.open, [&](int b) { Close(pc, b, clock_); });
      pc.precharge.MakeStale();
      break;
    case Kind::kRefresh:
      Refresh(pc, choice.bank);
      break;
    case Kind::kColumn:
      break;
  }
  row_clock_ = -1;
}

void Hbm2Channel::Activate(PseudoChannel& pc, int b) {
  Bank& bank = pc.banks[b];
  Request& request = queue_[bank.oldest];
  if (request.outcome == kHit) request.outcome = kMiss;
  if (observer_) Show(DramCommand::Kind::kActivate, pc, b, request.row);
  ++counts_.activations;
  const int64_t activated = clock_ + timing_.activation_cycles - 1;
  bank.from[kRead] = activated + timing_.rcd_read;
  bank.from[kWrite] = activated + timing_.rcd_write;
  bank.from[kPrecharge] = activated + timing_.ras;
  bank.from[kActivate] = clock_ + timing_.rc;
  Raise(clock_ + timing_.rrd_s, &pc.any_from[kActivate]);
  Raise(activated + timing_.rrd_s, &pc.single_refresh_from);
  Raise(clock_ + timing_.rrd_l, &pc.group_from[kActivate][GroupOf(b)]);
  pc.last_activations[pc.next_activation] = clock_;
  pc.next_activation = (pc.next_activation + 1) % 4;
  Raise(pc.last_activations[pc.next_activation] + timing_.faw, &pc.any_from[kActivate]);

  bank.open_row = request.row;
  pc.open |= Bit(b);
  bank.hit = bank.oldest;
  bank.before_hit = kNone;
  File(pc, b);
  pc.activate.MakeStale();
  if (pc.refreshing) pc.precharge.MakeStale();
  Offer(pc, b);
}

void Hbm2Channel::Precharge(PseudoChannel& pc, int b, bool refresh) {
  const Bank& bank = pc.banks[b];
  if (observer_) Show(DramCommand::Kind::kPrecharge, pc, b, bank.open_row);
  if (!refresh) queue_[bank.oldest].outcome = kConflict;
  Close(pc, b, clock_);
  pc.precharge.MakeStale();
  Offer(pc, b);
}

/// The row is closed by a precharge at `precharged`.
void Hbm2Channel::Close(PseudoChannel& pc, int b, int64_t precharged) {
  Bank& bank = pc.banks[b];
  if (bank.hit != kNone) pc.column.MakeStale();
  bank.open_row = -1;
  bank.hit = bank.before_hit = kNone;
  pc.open &= ~Bit(b);
  Raise(ActivationOf(precharged + timing_.rp), &bank.from[kActivate]);
  ++counts_.precharges;
  File(pc, b);
}

void Hbm2Channel::Refresh(PseudoChannel& pc, int b) {
  ++counts_.refreshes;
  if (refresh_ == v1::Hbm2Spec::ALL_BANK) {
    if (observer_) Show(DramCommand::Kind::kRefresh, pc, 0, 0);
    for (int bank = 0; bank < kHbm2Banks; ++bank) {
      pc.banks[bank].from[kActivate] = ActivationOf(clock_ + timing_.rfc);
      File(pc, bank);
    }
    pc.refresh_due += timing_.refi;
  } else {
    if (observer_) Show(DramCommand::Kind::kRefreshBank, pc, b, 0);
    pc.banks[b].from[kActivate] = ActivationOf(clock_ + timing_.rfc_sb);
    File(pc, b);
    Raise(ActivationOf(clock_ + timing_.rrefd), &pc.any_from[kActivate]);
    Raise(clock_ + timing_.rrefd, &pc.single_refresh_from);
    pc.refresh_bank = static_cast<int16_t>((b + 1) % kHbm2Banks);
    pc.refresh_due += timing_.refi_sb;
  }
  pc.refreshing = false;
  pc.blocked = 0;
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
                      .clock = clock_});
}

}  // namespace thresher
