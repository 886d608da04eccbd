#include "backend/device/simulator/hbm2_channel.h"

#include <bit>

namespace thresher {
namespace {

constexpr uint32_t kAllBanks = (1u << kHbm2Banks) - 1;
// Before all times: what never happened holds nothing up.
constexpr int64_t kLongAgo = -(int64_t{1} << 40);

constexpr uint32_t Bit(int bank) { return 1u << bank; }
constexpr int GroupOf(int bank) { return bank / kHbm2BanksPerGroup; }

template <typename Body>
void ForEachBank(uint32_t banks, const Body& body) {
  for (; banks != 0; banks &= banks - 1) body(std::countr_zero(banks));
}

void Raise(int64_t value, int64_t* least) { *least = std::max(*least, value); }

}  // namespace

Hbm2Channel::Hbm2Channel(const Hbm2Config& config, int32_t channel)
    : config_(config),
      timing_(config.timing),
      channel_(channel),
      least_latency_(std::min(timing_.read_data(), timing_.write_data())) {
  Reset();
}

void Hbm2Channel::Reset() {
  counts_ = {};
  for (PseudoChannel& pc : pcs_) {
    pc = {};
    pc.last_activations.fill(kLongAgo);
    pc.in_flight.resize(config_.queue_depth);
    if (config_.refresh == v1::Hbm2Spec::ALL_BANK) pc.refresh_due = timing_.refi;
    if (config_.refresh == v1::Hbm2Spec::SINGLE_BANK) pc.refresh_due = timing_.refi_sb;
  }
  queue_.assign(config_.queue_depth, {});
  free_.clear();
  for (int r = config_.queue_depth; r-- > 0;) free_.push_back(static_cast<int16_t>(r));
  waiting_ = held_ = 0;
  next_order_ = 0;
  clock_ = column_bus_ = row_bus_ = 0;
  next_step_ = 0;
  done_.clear();
}

template <int16_t Hbm2Channel::Request::*Older, int16_t Hbm2Channel::Request::*Newer>
void Hbm2Channel::Append(int16_t r, int16_t* oldest, int16_t* newest) {
  queue_[r].*Older = *newest;
  queue_[r].*Newer = kNone;
  (*newest == kNone ? *oldest : queue_[*newest].*Newer) = r;
  *newest = r;
}

template <int16_t Hbm2Channel::Request::*Older, int16_t Hbm2Channel::Request::*Newer>
void Hbm2Channel::Remove(int16_t r, int16_t* oldest, int16_t* newest) {
  const int16_t older = queue_[r].*Older;
  const int16_t newer = queue_[r].*Newer;
  (older == kNone ? *oldest : queue_[older].*Newer) = newer;
  (newer == kNone ? *newest : queue_[newer].*Older) = older;
}

// ---- Requests come and go ----

bool Hbm2Channel::TrySend(const Hbm2Location& where, bool write, uint64_t tag, int64_t clock) {
  RunUntil(clock);
  if (held_ == config_.queue_depth) {
    Collect(clock, &done_);  // Makes room.
    if (held_ == config_.queue_depth) return false;
  }
  clock_ = std::max(clock_, clock);
  next_step_ = clock;
  const int16_t r = free_.back();
  free_.pop_back();
  ++held_;
  ++waiting_;
  ++counts_.requests;
  PseudoChannel& pc = pcs_[where.pseudo_channel];
  Bank& bank = pc.banks[where.bank];
  Request& request = queue_[r];
  request.order = next_order_++;
  request.arrival = clock;
  request.tag = tag;
  request.row = where.row;
  request.bank = static_cast<int16_t>(where.bank);
  request.direction = write ? kWrite : kRead;
  request.outcome = Outcome::kHit;
  Append<&Request::older, &Request::newer>(r, &pc.oldest, &pc.newest);
  Append<&Request::older_in_bank, &Request::newer_in_bank>(r, &bank.oldest, &bank.newest);
  if (pc.oldest == r) OldestChanged(pc);
  const bool first = bank.oldest == r;
  if (first) bank.oldest_order = request.order;
  const bool hit = bank.open_row == where.row && bank.oldest_hit == kNone;
  if (hit) SetHit(pc, where.bank, r);
  if (first || hit) {
    const bool was_conflicting = (pc.conflicting & Bit(where.bank)) != 0;
    Sort(pc, where.bank);
    if (was_conflicting) pc.row_stale = true;  // Its row is wanted again.
    Offer(pc, where.bank);
  }
  return true;
}

void Hbm2Channel::SetHit(PseudoChannel& pc, int b, int16_t hit) {
  Bank& bank = pc.banks[b];
  bank.oldest_hit = hit;
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
  (bank.open_row < 0 ? pc.closed : bank.oldest_hit != kNone ? pc.hits : pc.conflicting) |= bit;
}

void Hbm2Channel::OldestChanged(PseudoChannel& pc) {
  if (pc.urgent) pc.column_stale = pc.row_stale = true;
  pc.urgent = false;
  pc.patient_until = pc.oldest == kNone ? kNever : queue_[pc.oldest].arrival + config_.patience;
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
    const auto& [done, tag] = pc.in_flight[pc.flight_begin];
    completions->push_back({.tag = tag, .time_ps = done * timing_.clock_ps});
    if (++pc.flight_begin == config_.queue_depth) pc.flight_begin = 0;
    --pc.flight_count;
    --held_;
    pc.flight_done = pc.flight_count > 0 ? pc.in_flight[pc.flight_begin].first : kNever;
  }
}

// ---- Choosing ----

/// When the bank's oldest hit could be served.
Hbm2Channel::Choice Hbm2Channel::ColumnOf(const PseudoChannel& pc, int b, int64_t floor) const {
  const Bank& bank = pc.banks[b];
  const Direction direction = bank.hit_direction;
  return {.clock = std::max(std::max(floor, bank.column[direction]),
                            std::max(pc.column[direction], pc.group_column[GroupOf(b)][direction])),
          .order = bank.hit_order,
          .bank = static_cast<int16_t>(b)};
}

/// When a bank whose row is closed, or is to be closed, could be worked on.
Hbm2Channel::Choice Hbm2Channel::RowOf(const PseudoChannel& pc, int b, int64_t floor) const {
  const Bank& bank = pc.banks[b];
  Choice choice{.order = bank.oldest_order, .bank = static_cast<int16_t>(b)};
  if (bank.open_row < 0) {
    choice.kind = Kind::kActivate;
    const int64_t second_clock =
        std::max(std::max(bank.activation, pc.activation), pc.group_activation[GroupOf(b)]);
    choice.clock = std::max(floor, second_clock - (timing_.activation_cycles - 1));
  } else {
    choice.kind = Kind::kPrecharge;
    choice.clock = std::max(floor, bank.precharge);
  }
  return choice;
}

Hbm2Channel::Choice Hbm2Channel::NextColumn(const PseudoChannel& pc, int64_t floor) const {
  uint32_t banks = pc.hits & ~pc.blocked;
  if (banks == 0) return {};
  const Request& oldest = queue_[pc.oldest];
  const uint32_t bit = Bit(oldest.bank);
  const bool hit = pc.banks[oldest.bank].oldest_hit == pc.oldest;
  if (pc.urgent && (pc.blocked & bit) == 0) {
    // Either it goes next, or nothing holds its row up any longer.
    banks = hit ? bit : banks & ~bit;
  }
  floor = std::max(floor, std::min(pc.column[kRead], pc.column[kWrite]));
  Choice best;
  if (hit && (banks & bit) != 0) {
    best = ColumnOf(pc, oldest.bank, floor);
    if (best.clock == floor) return best;  // None could be earlier, and none is older.
  }
  ForEachBank(banks, [&](int b) {
    const Choice choice = ColumnOf(pc, b, floor);
    if (choice.Before(best)) best = choice;
  });
  return best;
}

Hbm2Channel::Choice Hbm2Channel::NextRow(const PseudoChannel& pc, int64_t floor) const {
  Choice best = pc.refreshing ? RefreshChoice(pc, floor) : Choice{};
  uint32_t banks = (pc.closed | pc.conflicting) & ~pc.blocked;
  if (pc.urgent) {
    // A row with requests waiting is closed only when the oldest request has lost patience with it.
    const int b = queue_[pc.oldest].bank;
    if (pc.banks[b].oldest_hit != pc.oldest) banks |= pc.hits & ~pc.blocked & Bit(b);
  }
  ForEachBank(banks, [&](int b) {
    const Choice choice = RowOf(pc, b, floor);
    if (choice.Before(best)) best = choice;
  });
  return best;
}

/// Closes the rows, then refreshes; before all else.
Hbm2Channel::Choice Hbm2Channel::RefreshChoice(const PseudoChannel& pc, int64_t floor) const {
  const bool single = config_.refresh == v1::Hbm2Spec::SINGLE_BANK;
  Choice choice{.clock = floor, .order = -1, .bank = single ? pc.refresh_bank : int16_t{0}};
  if (const uint32_t open = pc.open & pc.blocked; open != 0) {
    choice.kind = single ? Kind::kPrecharge : Kind::kPrechargeAll;
    ForEachBank(open, [&](int b) { Raise(pc.banks[b].precharge, &choice.clock); });
  } else {
    choice.kind = Kind::kRefresh;
    ForEachBank(pc.blocked, [&](int b) { Raise(pc.banks[b].activation, &choice.clock); });
    if (single) Raise(pc.single_refresh, &choice.clock);
  }
  return choice;
}

/// The bank has something new to do: it may come before what was chosen.
void Hbm2Channel::Offer(PseudoChannel& pc, int b) {
  const uint32_t bit = Bit(b);
  if (pc.urgent) {
    pc.column_stale = pc.row_stale = true;
  } else if ((pc.blocked & bit) != 0) {
    return;
  } else if ((pc.hits & bit) != 0) {
    const Choice choice = ColumnOf(pc, b, ColumnFloor());
    if (!pc.column_stale && choice.Before(pc.column_choice)) pc.column_choice = choice;
  } else if (((pc.closed | pc.conflicting) & bit) != 0) {
    const Choice choice = RowOf(pc, b, RowFloor());
    if (!pc.row_stale && choice.Before(pc.row_choice)) pc.row_choice = choice;
  }
}

void Hbm2Channel::Run(int64_t until) {
  for (;;) {
    const int64_t column_floor = ColumnFloor();
    const int64_t row_floor = RowFloor();
    const Choice* next = &pcs_[0].column_choice;
    int first = 0;
    int64_t deadline = kNever;
    for (int p = 0; p < kHbm2PseudoChannels; ++p) {
      PseudoChannel& pc = pcs_[p];
      // A choice was the earliest, and of those the oldest, as long as its bus was free when it was
      // to be used.
      if (pc.column_stale || pc.column_choice.clock < column_floor) {
        pc.column_choice = NextColumn(pc, column_floor);
        pc.column_stale = false;
      }
      if (pc.row_stale || pc.row_choice.clock < row_floor) {
        pc.row_choice = NextRow(pc, row_floor);
        pc.row_stale = false;
      }
      if (pc.column_choice.Before(*next)) next = &pc.column_choice, first = p;
      if (pc.row_choice.Before(*next)) next = &pc.row_choice, first = p;
      if (!pc.refreshing) deadline = std::min(deadline, pc.refresh_due);
      if (!pc.urgent) deadline = std::min(deadline, pc.patient_until);
    }
    const int64_t step = std::min(deadline, next->clock);
    if (step >= until) {
      next_step_ = step;
      return;
    }
    if (deadline <= next->clock) {
      MeetDeadlines(deadline, until);
    } else {
      Issue(first, Choice(*next));
    }
  }
}

void Hbm2Channel::MeetDeadlines(int64_t clock, int64_t until) {
  clock_ = std::max(clock_, clock);
  if (waiting_ == 0 && SkipIdleRefreshes(until)) return;
  for (PseudoChannel& pc : pcs_) {
    if (!pc.refreshing && pc.refresh_due <= clock) {
      pc.refreshing = true;
      pc.blocked = config_.refresh == v1::Hbm2Spec::ALL_BANK ? kAllBanks : Bit(pc.refresh_bank);
      pc.column_stale = pc.row_stale = true;
    }
    if (!pc.urgent && pc.patient_until <= clock) {
      pc.urgent = true;
      pc.column_stale = pc.row_stale = true;
    }
  }
}

// ---- Issuing ----

void Hbm2Channel::Issue(int p, const Choice& choice) {
  PseudoChannel& pc = pcs_[p];
  clock_ = choice.clock;
  if (choice.kind == Kind::kColumn) {
    column_bus_ = clock_ + 1;
    IssueColumn(p, choice.bank);
    return;
  }
  pc.row_stale = true;
  row_bus_ = clock_ + (choice.kind == Kind::kActivate ? timing_.activation_cycles : 1);
  switch (choice.kind) {
    case Kind::kActivate:
      Activate(p, choice.bank);
      break;
    case Kind::kPrecharge:
      Precharge(p, choice);
      break;
    case Kind::kPrechargeAll:
      if (observer_) Show(DramCommand::Kind::kPrechargeAll, p, 0, 0);
      ForEachBank(pc.open, [&](int b) { Close(pc, b, clock_); });
      break;
    case Kind::kRefresh:
      FinishRefresh(p, choice.bank);
      break;
    case Kind::kColumn:
      break;
  }
}

void Hbm2Channel::IssueColumn(int p, int b) {
  PseudoChannel& pc = pcs_[p];
  Bank& bank = pc.banks[b];
  const int16_t r = bank.oldest_hit;
  const Request& request = queue_[r];

  // What must wait for it.
  int64_t* const group = pc.group_column[GroupOf(b)];
  int64_t done = 0;
  if (request.direction == kWrite) {
    ++counts_.writes;
    done = clock_ + timing_.write_data();
    Raise(clock_ + std::max(timing_.ccd_s, timing_.burst), &pc.column[kWrite]);
    Raise(clock_ + timing_.ccd_l, &group[kWrite]);
    Raise(done + timing_.wtr_s, &pc.column[kRead]);
    Raise(done + timing_.wtr_l, &group[kRead]);
    Raise(done + timing_.wr, &bank.precharge);
  } else {
    ++counts_.reads;
    done = clock_ + timing_.read_data();
    Raise(clock_ + std::max(timing_.ccd_s, timing_.burst), &pc.column[kRead]);
    Raise(clock_ + timing_.ccd_l, &group[kRead]);
    Raise(clock_ + timing_.read_to_write(), &pc.column[kWrite]);
    Raise(clock_ + timing_.rtp, &bank.precharge);
  }
  counts_.row_hits += request.outcome == Outcome::kHit;
  counts_.row_misses += request.outcome == Outcome::kMiss;
  counts_.row_conflicts += request.outcome == Outcome::kConflict;
  int flight = pc.flight_begin + pc.flight_count;
  if (flight >= config_.queue_depth) flight -= config_.queue_depth;
  pc.in_flight[flight] = {done, request.tag};
  if (pc.flight_count++ == 0) pc.flight_done = done;

  // The next one for the row.
  int16_t hit = request.newer_in_bank;
  while (hit != kNone && queue_[hit].row != bank.open_row) hit = queue_[hit].newer_in_bank;
  SetHit(pc, b, hit);
  const bool close = hit == kNone && config_.page_policy == v1::Hbm2Spec::CLOSED;
  if (observer_) {
    const bool write = request.direction == kWrite;
    Show(write ? DramCommand::Kind::kWrite : DramCommand::Kind::kRead, p, b, request.row, close);
  }
  const bool was_oldest = pc.oldest == r;
  Remove<&Request::older, &Request::newer>(r, &pc.oldest, &pc.newest);
  Remove<&Request::older_in_bank, &Request::newer_in_bank>(r, &bank.oldest, &bank.newest);
  if (bank.oldest != kNone) bank.oldest_order = queue_[bank.oldest].order;
  if (was_oldest) OldestChanged(pc);
  free_.push_back(r);
  --waiting_;
  pc.column_stale = true;
  if (close) {
    Close(pc, b, bank.precharge);
    Offer(pc, b);
  } else if (hit == kNone) {
    Sort(pc, b);
    Offer(pc, b);
  } else if (pc.urgent) {
    pc.row_stale = true;
  }
}

void Hbm2Channel::Activate(int p, int b) {
  PseudoChannel& pc = pcs_[p];
  Bank& bank = pc.banks[b];
  Request& request = queue_[bank.oldest];
  if (request.outcome == Outcome::kHit) request.outcome = Outcome::kMiss;
  if (observer_) Show(DramCommand::Kind::kActivate, p, b, request.row);
  ++counts_.activations;
  const int64_t activated = clock_ + timing_.activation_cycles - 1;
  bank.column[kRead] = activated + timing_.rcd_read;
  bank.column[kWrite] = activated + timing_.rcd_write;
  bank.precharge = activated + timing_.ras;
  bank.activation = activated + timing_.rc;
  Raise(activated + timing_.rrd_s, &pc.activation);
  Raise(activated + timing_.rrd_s, &pc.single_refresh);
  Raise(activated + timing_.rrd_l, &pc.group_activation[GroupOf(b)]);
  pc.last_activations[pc.next_activation] = activated;
  pc.next_activation = (pc.next_activation + 1) % 4;
  Raise(pc.last_activations[pc.next_activation] + timing_.faw, &pc.activation);

  bank.open_row = request.row;
  pc.open |= Bit(b);
  SetHit(pc, b, bank.oldest);
  Sort(pc, b);
  Offer(pc, b);
}

void Hbm2Channel::Precharge(int p, const Choice& choice) {
  PseudoChannel& pc = pcs_[p];
  const Bank& bank = pc.banks[choice.bank];
  if (observer_) Show(DramCommand::Kind::kPrecharge, p, choice.bank, bank.open_row);
  // A refresh closes the row for nobody's sake.
  if (choice.order >= 0) queue_[bank.oldest].outcome = Outcome::kConflict;
  Close(pc, choice.bank, clock_);
}

/// The row is closed by a precharge at `precharged`.
void Hbm2Channel::Close(PseudoChannel& pc, int b, int64_t precharged) {
  Bank& bank = pc.banks[b];
  if (bank.oldest_hit != kNone) pc.column_stale = true;
  bank.open_row = -1;
  bank.oldest_hit = kNone;
  pc.open &= ~Bit(b);
  Raise(precharged + timing_.rp, &bank.activation);
  ++counts_.precharges;
  Sort(pc, b);
}

void Hbm2Channel::FinishRefresh(int p, int b) {
  PseudoChannel& pc = pcs_[p];
  ++counts_.refreshes;
  if (config_.refresh == v1::Hbm2Spec::ALL_BANK) {
    if (observer_) Show(DramCommand::Kind::kRefresh, p, 0, 0);
    for (Bank& bank : pc.banks) bank.activation = clock_ + timing_.rfc;
    pc.refresh_due += timing_.refi;
  } else {
    if (observer_) Show(DramCommand::Kind::kRefreshBank, p, b, 0);
    pc.banks[b].activation = clock_ + timing_.rfc_sb;
    Raise(clock_ + timing_.rrefd, &pc.activation);
    Raise(clock_ + timing_.rrefd, &pc.single_refresh);
    pc.refresh_bank = static_cast<int16_t>((b + 1) % kHbm2Banks);
    pc.refresh_due += timing_.refi_sb;
  }
  pc.refreshing = false;
  pc.blocked = 0;
  pc.column_stale = true;
}

/// Refreshes of a memory that nobody uses follow each other at their interval. All but the last
/// need only be counted, unless somebody watches. True if there were such.
bool Hbm2Channel::SkipIdleRefreshes(int64_t until) {
  if (observer_ != nullptr) return false;
  for (const PseudoChannel& pc : pcs_) {
    if (pc.refreshing || pc.open != 0) return false;
  }
  // All banks once.
  const bool single = config_.refresh == v1::Hbm2Spec::SINGLE_BANK;
  const int64_t round = single ? int64_t{timing_.refi_sb} * kHbm2Banks : timing_.refi;
  bool skipped = false;
  for (PseudoChannel& pc : pcs_) {
    const int64_t rounds = (until - pc.refresh_due) / round - 1;
    if (rounds <= 0) continue;
    counts_.refreshes += rounds * (single ? kHbm2Banks : 1);
    pc.refresh_due += rounds * round;
    skipped = true;
  }
  return skipped;
}

void Hbm2Channel::Show(DramCommand::Kind kind, int p, int bank, int32_t row, bool auto_precharge) {
  observer_->Observe({.kind = kind,
                      .auto_precharge = auto_precharge,
                      .channel = channel_,
                      .pseudo_channel = p,
                      .bank = bank,
                      .row = row,
                      .clock = clock_});
}

}  // namespace thresher
