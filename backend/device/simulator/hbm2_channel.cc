#include "backend/device/simulator/hbm2_channel.h"

#include <bit>

namespace thresher {
namespace {

constexpr uint32_t kAllBanks = (1u << kHbm2Banks) - 1;
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
    pc.in_flight.resize(flight_mask_ + 1);
    if (refresh_ == v1::Hbm2Spec::ALL_BANK) pc.refresh_due = timing_.refi;
    if (refresh_ == v1::Hbm2Spec::SINGLE_BANK) pc.refresh_due = timing_.refi_sb;
  }
  queue_.assign(depth_, {});
  for (int r = 0; r + 1 < depth_; ++r) queue_[r].newer = static_cast<int16_t>(r + 1);
  free_ = 0;
  waiting_ = held_ = 0;
  next_order_ = 0;
  clock_ = column_bus_ = row_bus_ = 0;
  next_step_ = 0;
  row_ = {};
  row_pc_ = 0;
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
  if (before == kNone) {
    bank.oldest = r;
    bank.oldest_order = request.order;
  } else {
    queue_[before].newer = r;
  }
  const bool hit = bank.open_row == where.row && bank.hit == kNone;
  if (hit) SetHit(bank, before, r);
  if (hit || before == kNone) {
    // Its row is wanted again.
    if ((pc.conflicting & Bit(where.bank)) != 0) pc.precharge.MakeStale(), row_.MakeStale();
    Sort(pc, where.bank);
    Offer(pc, where.bank);
  }
}

void Hbm2Channel::SetHit(Bank& bank, int16_t before, int16_t hit) {
  bank.hit = hit;
  bank.before_hit = before;
  if (hit == kNone) return;
  bank.hit_order = queue_[hit].order;
  bank.hit_direction = queue_[hit].direction;
}

/// Files the bank under what it wants next.
void Hbm2Channel::Sort(PseudoChannel& pc, int b) {
  const Bank& bank = pc.banks[b];
  const uint32_t bit = Bit(b);
  pc.hits &= ~bit;
  pc.closed &= ~bit;
  pc.conflicting &= ~bit;
  if (bank.oldest == kNone) return;
  (bank.open_row < 0 ? pc.closed : bank.hit != kNone ? pc.hits : pc.conflicting) |= bit;
}

void Hbm2Channel::Collect(int64_t clock, std::vector<DramCompletion>* completions) {
  if (!done_.empty() && completions != &done_) {
    completions->insert(completions->end(), done_.begin(), done_.end());
    done_.clear();
  }
  for (;;) {
    // Of two at the same time the first pseudo-channel's goes first.
    PseudoChannel& pc = pcs_[pcs_[1].flight_done < pcs_[0].flight_done];
    if (pc.flight_done > clock) break;
    const uint64_t tag = pc.in_flight[pc.flight_begin++ & flight_mask_].tag;
    completions->push_back({.tag = tag, .time_ps = pc.flight_done * timing_.clock_ps});
    --held_;
    pc.flight_done = pc.flight_begin == pc.flight_end
                         ? kNever
                         : pc.in_flight[pc.flight_begin & flight_mask_].time_ps;
  }
}

// ---- Choosing ----

/// Of `banks` the one whose command could be issued first, by `clock_of`; of those the one with the
/// oldest request. One number holds it all, so that no branch depends on what is compared: the time
/// from now, the request's place in the order, and the bank.
template <Hbm2Channel::Kind kKind, typename ClockOf>
inline Hbm2Channel::Choice Hbm2Channel::Earliest(const PseudoChannel& pc, uint32_t banks,
                                                 const ClockOf& clock_of) const {
  constexpr int kOrderBits = 32;
  constexpr uint64_t kNothing = ~uint64_t{0};
  const int64_t now = clock_;
  const int64_t oldest = next_order_ - (int64_t{1} << (kOrderBits - 5));
  uint64_t best = kNothing;
  ForEachBank(banks, [&](int b) {
    const Bank& bank = pc.banks[b];
    const int64_t order = kKind == Kind::kColumn ? bank.hit_order : bank.oldest_order;
    const auto clock = static_cast<uint64_t>(clock_of(bank, GroupOf(b)) - now);
    const auto place = static_cast<uint64_t>((order - oldest) * kHbm2Banks + b);
    best = std::min(best, (clock << kOrderBits) + place);
  });
  if (best == kNothing) return {};
  const auto b = static_cast<int16_t>(best % kHbm2Banks);
  return {.clock = now + static_cast<int64_t>(best >> kOrderBits),
          .order = kKind == Kind::kColumn ? pc.banks[b].hit_order : pc.banks[b].oldest_order,
          .kind = kKind,
          .bank = b};
}

Hbm2Channel::Choice Hbm2Channel::NextColumn(const PseudoChannel& pc, uint32_t banks,
                                            int64_t floor) const {
  return Earliest<Kind::kColumn>(pc, banks, [&](const Bank& bank, unsigned group) {
    const Direction direction = bank.hit_direction;
    return std::max(std::max(floor, bank.column[direction]),
                    std::max(pc.column_from[direction], pc.group_column_from[group][direction]));
  });
}

Hbm2Channel::Choice Hbm2Channel::NextActivate(const PseudoChannel& pc, uint32_t banks,
                                              int64_t floor) const {
  const int64_t first = timing_.activation_cycles - 1;
  floor = std::max(floor + first, pc.activate_from);
  return Earliest<Kind::kActivate>(pc, banks, [&](const Bank& bank, unsigned group) {
    return std::max(std::max(floor, bank.activation), pc.group_activate_from[group]) - first;
  });
}

Hbm2Channel::Choice Hbm2Channel::NextPrecharge(const PseudoChannel& pc, uint32_t banks,
                                               int64_t floor) const {
  return Earliest<Kind::kPrecharge>(
      pc, banks, [&](const Bank& bank, unsigned) { return std::max(floor, bank.precharge); });
}

Hbm2Channel::Choice Hbm2Channel::NextColumn(const PseudoChannel& pc, int64_t floor) const {
  uint32_t banks = pc.hits & ~pc.blocked;
  if (pc.urgent_bank != kNone && (pc.blocked & Bit(pc.urgent_bank)) == 0) {
    // Its oldest request goes next, or nothing holds its row up any longer.
    const Bank& bank = pc.banks[pc.urgent_bank];
    banks = bank.hit == bank.oldest ? Bit(pc.urgent_bank) : banks & ~Bit(pc.urgent_bank);
  }
  return NextColumn(pc, banks, floor);
}

Hbm2Channel::Choice Hbm2Channel::NextActivate(const PseudoChannel& pc, int64_t floor) const {
  return NextActivate(pc, pc.closed & ~pc.blocked, floor);
}

Hbm2Channel::Choice Hbm2Channel::NextPrecharge(const PseudoChannel& pc, int64_t floor) const {
  uint32_t banks = pc.conflicting & ~pc.blocked;
  if (pc.urgent_bank != kNone) {
    // A row with requests waiting is closed only when the bank's oldest is out of patience.
    const Bank& bank = pc.banks[pc.urgent_bank];
    if (bank.hit != bank.oldest) banks |= pc.hits & ~pc.blocked & Bit(pc.urgent_bank);
  }
  Choice choice = NextPrecharge(pc, banks, floor);
  if (pc.refreshing) choice.Offer(NextRefresh(pc, floor));
  return choice;
}

/// Closes the rows, then refreshes; before all else.
Hbm2Channel::Choice Hbm2Channel::NextRefresh(const PseudoChannel& pc, int64_t floor) const {
  const bool single = refresh_ == v1::Hbm2Spec::SINGLE_BANK;
  Choice choice{.clock = floor, .order = -1, .bank = single ? pc.refresh_bank : int16_t{0}};
  if (const uint32_t open = pc.open & pc.blocked; open != 0) {
    choice.kind = single ? Kind::kPrecharge : Kind::kPrechargeAll;
    ForEachBank(open, [&](int b) { Raise(pc.banks[b].precharge, &choice.clock); });
  } else {
    choice.kind = Kind::kRefresh;
    ForEachBank(pc.blocked, [&](int b) { Raise(pc.banks[b].activation, &choice.clock); });
    if (single) Raise(pc.single_refresh_from, &choice.clock);
  }
  return choice;
}

/// Between the pseudo-channels, and between opening and closing.
void Hbm2Channel::ChooseRow(int64_t floor) {
  row_ = {};
  for (PseudoChannel& pc : pcs_) {
    if (pc.activate.clock < floor) pc.activate = NextActivate(pc, floor);
    if (pc.precharge.clock < floor) pc.precharge = NextPrecharge(pc, floor);
    const Choice& choice = pc.precharge.Before(pc.activate) ? pc.precharge : pc.activate;
    if (choice.Before(row_)) row_ = choice, row_pc_ = pc.index;
  }
}

/// The bank has something new to do.
void Hbm2Channel::Offer(PseudoChannel& pc, int b) {
  const uint32_t bit = Bit(b);
  if (pc.urgent_bank != kNone) {
    MakeStale(pc);
    return;
  }
  if ((pc.hits & ~pc.blocked & bit) != 0) {
    pc.column.Offer(NextColumn(pc, bit, ColumnFloor()));
  } else if ((pc.closed & ~pc.blocked & bit) != 0) {
    row_.MakeStale();
    pc.activate.Offer(NextActivate(pc, bit, RowFloor()));
  } else if ((pc.conflicting & ~pc.blocked & bit) != 0) {
    row_.MakeStale();
    pc.precharge.Offer(NextPrecharge(pc, bit, RowFloor()));
  }
}

void Hbm2Channel::Run(int64_t until) {
  PseudoChannel& first = pcs_[0];
  PseudoChannel& second = pcs_[1];
  for (;;) {
    const int64_t column_floor = ColumnFloor();
    if (first.column.clock < column_floor) first.column = NextColumn(first, column_floor);
    if (second.column.clock < column_floor) second.column = NextColumn(second, column_floor);
    if (const int64_t row_floor = RowFloor(); row_.clock < row_floor) ChooseRow(row_floor);
    PseudoChannel& pc = second.column.Before(first.column) ? second : first;
    const int64_t step = std::min(std::min(pc.column.clock, row_.clock), deadline_);
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
      IssueRow(pcs_[row_pc_], row_);
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
  row_.MakeStale();
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
      ForEachBank(pc.hits | pc.closed | pc.conflicting, [&](int b) {
        const Request& request = queue_[pc.banks[b].oldest];
        if (oldest != nullptr && oldest->order < request.order) return;
        oldest = &request;
        pc.urgent_bank = static_cast<int16_t>(b);
      });
      pc.patient_until = oldest == nullptr ? kNever : oldest->arrival + patience_;
      if (pc.patient_until <= clock) {
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
  int64_t* const group = pc.group_column_from[GroupOf(b)];
  int64_t done = 0;
  if (request.direction == kWrite) {
    ++counts_.writes;
    done = now + timing_.write_data();
    Raise(now + timing_.column_gap(), &pc.column_from[kWrite]);
    Raise(now + timing_.ccd_l, &group[kWrite]);
    Raise(done + timing_.wtr_s, &pc.column_from[kRead]);
    Raise(done + timing_.wtr_l, &group[kRead]);
    Raise(done + timing_.wr, &bank.precharge);
  } else {
    ++counts_.reads;
    done = now + timing_.read_data();
    Raise(now + timing_.column_gap(), &pc.column_from[kRead]);
    Raise(now + timing_.ccd_l, &group[kRead]);
    Raise(now + timing_.read_to_write(), &pc.column_from[kWrite]);
    Raise(now + timing_.rtp, &bank.precharge);
  }
  ++counts_.outcomes[request.outcome];
  if (pc.flight_begin == pc.flight_end) pc.flight_done = done;
  pc.in_flight[pc.flight_end++ & flight_mask_] = {.tag = request.tag, .time_ps = done};

  // It leaves the queue, and the next one for the row is looked for.
  const int16_t newer = request.newer;
  int16_t before = bank.before_hit;
  if (bank.newest == r) bank.newest = before;
  if (before != kNone) {
    queue_[before].newer = newer;
  } else {
    bank.oldest = newer;
    if (newer != kNone) bank.oldest_order = queue_[newer].order;
    if (pc.urgent_bank == b) {  // Its wait is over.
      pc.urgent_bank = kNone;
      pc.patient_until = now;
      SetDeadline();
      MakeStale(pc);
    }
  }
  int16_t hit = newer;
  for (; hit != kNone && queue_[hit].row != bank.open_row; hit = queue_[hit].newer) before = hit;
  SetHit(bank, before, hit);
  const bool close = hit == kNone && page_policy_ == v1::Hbm2Spec::CLOSED;
  if (observer_) {
    const bool write = request.direction == kWrite;
    Show(write ? DramCommand::Kind::kWrite : DramCommand::Kind::kRead, pc, b, request.row, close);
  }
  request.newer = free_;
  free_ = r;
  --waiting_;
  pc.column.MakeStale();
  if (hit == kNone) {
    if (close) {
      Close(pc, b, bank.precharge);
    } else {
      Sort(pc, b);
    }
    Offer(pc, b);
  } else if (pc.urgent_bank != kNone) {
    MakeStale(pc);
  }
}

void Hbm2Channel::IssueRow(PseudoChannel& pc, const Choice& choice) {
  row_bus_ = clock_ + (choice.kind == Kind::kActivate ? timing_.activation_cycles : 1);
  switch (choice.kind) {
    case Kind::kActivate:
      Activate(pc, choice.bank);
      break;
    case Kind::kPrecharge:
      // A refresh closes the row for nobody's sake.
      Precharge(pc, choice.bank, /*refresh=*/choice.order < 0);
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
  row_.MakeStale();
}

void Hbm2Channel::Activate(PseudoChannel& pc, int b) {
  Bank& bank = pc.banks[b];
  Request& request = queue_[bank.oldest];
  if (request.outcome == kHit) request.outcome = kMiss;
  if (observer_) Show(DramCommand::Kind::kActivate, pc, b, request.row);
  ++counts_.activations;
  const int64_t activated = clock_ + timing_.activation_cycles - 1;
  bank.column[kRead] = activated + timing_.rcd_read;
  bank.column[kWrite] = activated + timing_.rcd_write;
  bank.precharge = activated + timing_.ras;
  bank.activation = activated + timing_.rc;
  Raise(activated + timing_.rrd_s, &pc.activate_from);
  Raise(activated + timing_.rrd_s, &pc.single_refresh_from);
  Raise(activated + timing_.rrd_l, &pc.group_activate_from[GroupOf(b)]);
  pc.last_activations[pc.next_activation] = activated;
  pc.next_activation = (pc.next_activation + 1) % 4;
  Raise(pc.last_activations[pc.next_activation] + timing_.faw, &pc.activate_from);

  bank.open_row = request.row;
  pc.open |= Bit(b);
  SetHit(bank, kNone, bank.oldest);
  Sort(pc, b);
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
  Raise(precharged + timing_.rp, &bank.activation);
  ++counts_.precharges;
  Sort(pc, b);
}

void Hbm2Channel::Refresh(PseudoChannel& pc, int b) {
  ++counts_.refreshes;
  if (refresh_ == v1::Hbm2Spec::ALL_BANK) {
    if (observer_) Show(DramCommand::Kind::kRefresh, pc, 0, 0);
    for (Bank& bank : pc.banks) bank.activation = clock_ + timing_.rfc;
    pc.refresh_due += timing_.refi;
  } else {
    if (observer_) Show(DramCommand::Kind::kRefreshBank, pc, b, 0);
    pc.banks[b].activation = clock_ + timing_.rfc_sb;
    Raise(clock_ + timing_.rrefd, &pc.activate_from);
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
