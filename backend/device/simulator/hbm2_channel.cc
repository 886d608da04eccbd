#include "backend/device/simulator/hbm2_channel.h"

#include <algorithm>
#include <bit>

namespace thresher {
namespace {

constexpr uint32_t kAllBanks = (1u << kHbm2Banks) - 1;
// Before all times: what never happened holds nothing up.
constexpr int64_t kLongAgo = -(int64_t{1} << 40);

constexpr uint32_t Bit(int bank) { return 1u << bank; }

template <typename Body>
void ForEachBank(uint32_t banks, const Body& body) {
  for (; banks != 0; banks &= banks - 1) body(std::countr_zero(banks));
}

void Raise(int64_t value, int64_t* least) { *least = std::max(*least, value); }

}  // namespace

Hbm2Channel::Hbm2Channel(const Hbm2Config& config, int32_t channel)
    : config_(config), timing_(config.timing), channel_(channel) {
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
  next_step_ = quiet_until_ = 0;
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

bool Hbm2Channel::TrySend(const Hbm2Location& where, bool write, uint64_t tag, int64_t clock) {
  RunUntil(clock);
  if (held_ == config_.queue_depth) {
    Collect(clock, &done_);  // Makes room.
    if (held_ == config_.queue_depth) return false;
  }
  if (clock > clock_) clock_ = clock;
  const int16_t r = free_.back();
  free_.pop_back();
  ++held_;
  ++waiting_;
  ++counts_.requests;
  PseudoChannel& pc = pcs_[where.pseudo_channel];
  Bank& bank = pc.banks[where.bank];
  queue_[r] = {.order = next_order_++,
               .arrival = clock,
               .tag = tag,
               .row = where.row,
               .bank = static_cast<int16_t>(where.bank),
               .direction = write ? kWrite : kRead};
  Append<&Request::older, &Request::newer>(r, &pc.oldest, &pc.newest);
  Append<&Request::older_in_bank, &Request::newer_in_bank>(r, &bank.oldest, &bank.newest);
  if (bank.open_row == where.row && bank.oldest_hit == kNone) bank.oldest_hit = r;
  Sort(pc, where.bank);
  pc.column_stale = pc.row_stale = true;
  next_step_ = quiet_until_ = clock;
  return true;
}

/// The request that would be served first among the open rows of `banks`.
Hbm2Channel::Choice Hbm2Channel::OldestHit(const PseudoChannel& pc, uint32_t banks,
                                           int64_t floor) const {
  Choice best;
  ForEachBank(banks, [&](int b) {
    const Bank& bank = pc.banks[b];
    const Request& request = queue_[bank.oldest_hit];
    const Direction direction = request.direction;
    const Choice choice{.clock = std::max({floor, bank.column[direction],
                                           pc.column[b / kHbm2BanksPerGroup][direction]}),
                        .order = request.order,
                        .bank = static_cast<int16_t>(b)};
    if (choice.Before(best)) best = choice;
  });
  return best;
}

Hbm2Channel::Choice Hbm2Channel::NextColumn(const PseudoChannel& pc, int64_t floor) const {
  const uint32_t banks = pc.hits & ~pc.blocked;
  if (banks == 0) return {};
  const Choice best = OldestHit(pc, banks, floor);
  const Request& oldest = queue_[pc.oldest];
  const int64_t patient_until = oldest.arrival + config_.patience;
  const uint32_t bit = Bit(oldest.bank);
  if (best.clock < patient_until || (pc.blocked & bit) != 0) return best;
  // Its patience is over: either it goes next, or nothing holds its row up any longer.
  const bool hit = pc.banks[oldest.bank].open_row == oldest.row;
  return OldestHit(pc, hit ? bit : banks & ~bit, std::max(floor, patient_until));
}

/// When an activation in the bank may begin.
int64_t Hbm2Channel::ActivationClock(const PseudoChannel& pc, int b) const {
  return std::max({pc.banks[b].activation, pc.activation[b / kHbm2BanksPerGroup],
                   pc.last_activations[pc.next_activation] + timing_.faw}) -
         (timing_.activation_cycles - 1);
}

Hbm2Channel::Choice Hbm2Channel::NextRow(const PseudoChannel& pc, int64_t floor) const {
  Choice best = pc.refreshing ? RefreshChoice(pc, floor) : Choice{};
  const auto offer = [&](Kind kind, int b, int64_t clock) {
    const Choice choice{.clock = std::max(floor, clock),
                        .order = queue_[pc.banks[b].oldest].order,
                        .kind = kind,
                        .bank = static_cast<int16_t>(b)};
    if (choice.Before(best)) best = choice;
  };
  ForEachBank(pc.closed & ~pc.blocked,
              [&](int b) { offer(Kind::kActivate, b, ActivationClock(pc, b)); });
  ForEachBank(pc.conflicting & ~pc.blocked,
              [&](int b) { offer(Kind::kPrecharge, b, pc.banks[b].precharge); });
  if ((pc.hits & ~pc.blocked) != 0) {
    // A row with requests waiting is closed only when the oldest request has lost patience with it.
    const Request& oldest = queue_[pc.oldest];
    const Bank& bank = pc.banks[oldest.bank];
    if ((pc.hits & ~pc.blocked & Bit(oldest.bank)) != 0 && bank.open_row != oldest.row) {
      offer(Kind::kPrecharge, oldest.bank,
            std::max(bank.precharge, oldest.arrival + config_.patience));
    }
  }
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

// A choice stands while its pseudo-channel is as it was and its bus is free when it was to be used:
// it was the earliest, and of those the oldest.
const Hbm2Channel::Choice& Hbm2Channel::ColumnChoice(PseudoChannel& pc) {
  const int64_t floor = std::max(clock_, column_bus_);
  if (pc.column_stale || pc.column_choice.clock < floor) {
    pc.column_choice = NextColumn(pc, floor);
    pc.column_stale = false;
  }
  return pc.column_choice;
}

const Hbm2Channel::Choice& Hbm2Channel::RowChoice(PseudoChannel& pc) {
  const int64_t floor = std::max(clock_, row_bus_);
  if (pc.row_stale || pc.row_choice.clock < floor) {
    pc.row_choice = NextRow(pc, floor);
    pc.row_stale = false;
  }
  return pc.row_choice;
}

void Hbm2Channel::RunUntil(int64_t until) {
  if (until <= next_step_) return;
  for (;;) {
    int first = 0;
    const Choice* next = nullptr;
    int64_t refresh_due = kNever;
    for (int p = 0; p < kHbm2PseudoChannels; ++p) {
      PseudoChannel& pc = pcs_[p];
      if (!pc.refreshing) refresh_due = std::min(refresh_due, pc.refresh_due);
      for (const Choice* choice : {&ColumnChoice(pc), &RowChoice(pc)}) {
        if (next == nullptr || choice->Before(*next)) {
          next = choice;
          first = p;
        }
      }
    }
    const int64_t step = std::min(refresh_due, next->clock);
    if (step >= until) {
      next_step_ = step;
      break;
    }
    if (refresh_due <= next->clock) {
      clock_ = std::max(clock_, refresh_due);
      if (waiting_ == 0 && SkipIdleRefreshes(until)) continue;
      for (PseudoChannel& pc : pcs_) {
        if (!pc.refreshing && pc.refresh_due == refresh_due) StartRefresh(pc);
      }
    } else {
      Issue(first, Choice(*next));
    }
  }
  SetQuiet();
}

void Hbm2Channel::SetQuiet() {
  quiet_until_ = done_.empty() ? next_step_ : 0;
  for (const PseudoChannel& pc : pcs_) {
    if (pc.flight_count > 0) {
      quiet_until_ = std::min(quiet_until_, pc.in_flight[pc.flight_begin].clock - 1);
    }
  }
}

void Hbm2Channel::Issue(int p, const Choice& choice) {
  PseudoChannel& pc = pcs_[p];
  clock_ = choice.clock;
  pc.column_stale = pc.row_stale = true;
  if (choice.kind == Kind::kColumn) {
    column_bus_ = clock_ + 1;
    IssueColumn(p, choice);
    return;
  }
  row_bus_ = clock_ + 1;
  switch (choice.kind) {
    case Kind::kActivate:
      row_bus_ = clock_ + timing_.activation_cycles;
      Activate(p, choice);
      break;
    case Kind::kPrecharge:
      if (observer_) {
        Show(DramCommand::Kind::kPrecharge, p, choice.bank, pc.banks[choice.bank].open_row, clock_);
      }
      // A refresh closes the row for nobody's sake.
      if (choice.order >= 0) {
        queue_[pc.banks[choice.bank].oldest].outcome = Outcome::kConflict;
      }
      Close(pc, choice.bank, clock_);
      break;
    case Kind::kPrechargeAll:
      if (observer_) Show(DramCommand::Kind::kPrechargeAll, p, 0, 0, clock_);
      ForEachBank(pc.open, [&](int b) { Close(pc, b, clock_); });
      break;
    case Kind::kRefresh:
      FinishRefresh(p, choice);
      break;
    case Kind::kColumn:
      break;
  }
}

void Hbm2Channel::IssueColumn(int p, const Choice& choice) {
  PseudoChannel& pc = pcs_[p];
  const int b = choice.bank;
  Bank& bank = pc.banks[b];
  const int16_t r = bank.oldest_hit;
  const Request& request = queue_[r];
  const bool write = request.direction == kWrite;

  // What must wait for it.
  int64_t done = 0;
  int64_t precharge = 0;
  const int own = b / kHbm2BanksPerGroup;
  for (int group = 0; group < kHbm2BankGroups; ++group) {
    const int32_t same = std::max(group == own ? timing_.ccd_l : timing_.ccd_s, timing_.burst);
    auto& column = pc.column[group];
    Raise(clock_ + same, &column[request.direction]);
    if (write) {
      const int32_t turn = group == own ? timing_.wtr_l : timing_.wtr_s;
      Raise(clock_ + timing_.write_data() + turn, &column[kRead]);
    } else {
      Raise(clock_ + timing_.read_to_write(), &column[kWrite]);
    }
  }
  if (write) {
    done = clock_ + timing_.write_data();
    precharge = done + timing_.wr;
    ++counts_.writes;
  } else {
    done = clock_ + timing_.read_data();
    precharge = clock_ + timing_.rtp;
    ++counts_.reads;
  }
  Raise(precharge, &bank.precharge);

  switch (request.outcome) {
    case Outcome::kHit:
      ++counts_.row_hits;
      break;
    case Outcome::kMiss:
      ++counts_.row_misses;
      break;
    case Outcome::kConflict:
      ++counts_.row_conflicts;
      break;
  }
  int flight = pc.flight_begin + pc.flight_count++;
  if (flight >= config_.queue_depth) flight -= config_.queue_depth;
  pc.in_flight[flight] = {.clock = done, .tag = request.tag};

  int16_t hit = request.newer_in_bank;
  while (hit != kNone && queue_[hit].row != bank.open_row) hit = queue_[hit].newer_in_bank;
  bank.oldest_hit = hit;
  const bool last = config_.page_policy == v1::Hbm2Spec::CLOSED && hit == kNone;
  if (observer_) {
    Show(write ? DramCommand::Kind::kWrite : DramCommand::Kind::kRead, p, b, request.row, clock_,
         last);
  }
  Remove<&Request::older, &Request::newer>(r, &pc.oldest, &pc.newest);
  Remove<&Request::older_in_bank, &Request::newer_in_bank>(r, &bank.oldest, &bank.newest);
  free_.push_back(r);
  --waiting_;
  if (last) {
    Close(pc, b, bank.precharge);
  } else {
    Sort(pc, b);
  }
}

void Hbm2Channel::Activate(int p, const Choice& choice) {
  PseudoChannel& pc = pcs_[p];
  const int b = choice.bank;
  Bank& bank = pc.banks[b];
  Request& request = queue_[bank.oldest];
  if (request.outcome == Outcome::kHit) request.outcome = Outcome::kMiss;
  if (observer_) Show(DramCommand::Kind::kActivate, p, b, request.row, clock_);
  ++counts_.activations;
  bank.open_row = request.row;
  bank.oldest_hit = bank.oldest;
  pc.open |= Bit(b);
  const int64_t activated = clock_ + timing_.activation_cycles - 1;
  bank.column[kRead] = activated + timing_.rcd_read;
  bank.column[kWrite] = activated + timing_.rcd_write;
  bank.precharge = activated + timing_.ras;
  bank.activation = activated + timing_.rc;
  for (int group = 0; group < kHbm2BankGroups; ++group) {
    const bool own = group == b / kHbm2BanksPerGroup;
    Raise(activated + (own ? timing_.rrd_l : timing_.rrd_s), &pc.activation[group]);
  }
  Raise(activated + timing_.rrd_s, &pc.single_refresh);
  pc.last_activations[pc.next_activation] = activated;
  pc.next_activation = (pc.next_activation + 1) % 4;
  Sort(pc, b);
}

/// The row is closed by a precharge at `precharged`.
void Hbm2Channel::Close(PseudoChannel& pc, int b, int64_t precharged) {
  Bank& bank = pc.banks[b];
  bank.open_row = -1;
  bank.oldest_hit = kNone;
  pc.open &= ~Bit(b);
  Raise(precharged + timing_.rp, &bank.activation);
  ++counts_.precharges;
  Sort(pc, b);
}

void Hbm2Channel::StartRefresh(PseudoChannel& pc) {
  pc.refreshing = true;
  pc.blocked = config_.refresh == v1::Hbm2Spec::ALL_BANK ? kAllBanks : Bit(pc.refresh_bank);
  pc.column_stale = pc.row_stale = true;
}

void Hbm2Channel::FinishRefresh(int p, const Choice& choice) {
  PseudoChannel& pc = pcs_[p];
  ++counts_.refreshes;
  if (config_.refresh == v1::Hbm2Spec::ALL_BANK) {
    if (observer_) Show(DramCommand::Kind::kRefresh, p, 0, 0, clock_);
    for (Bank& bank : pc.banks) bank.activation = clock_ + timing_.rfc;
    pc.refresh_due += timing_.refi;
  } else {
    if (observer_) Show(DramCommand::Kind::kRefreshBank, p, choice.bank, 0, clock_);
    pc.banks[choice.bank].activation = clock_ + timing_.rfc_sb;
    for (int64_t& activation : pc.activation) Raise(clock_ + timing_.rrefd, &activation);
    pc.single_refresh = clock_ + timing_.rrefd;
    pc.refresh_bank = static_cast<int16_t>((pc.refresh_bank + 1) % kHbm2Banks);
    pc.refresh_due += timing_.refi_sb;
  }
  pc.refreshing = false;
  pc.blocked = 0;
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

void Hbm2Channel::Collect(int64_t clock, std::vector<Done>* done) {
  if (done != &done_ && !done_.empty()) {
    done->insert(done->end(), done_.begin(), done_.end());
    done_.clear();
  }
  for (;;) {
    PseudoChannel* first = nullptr;
    int64_t earliest = clock;
    for (PseudoChannel& pc : pcs_) {
      if (pc.flight_count > 0 && pc.in_flight[pc.flight_begin].clock <= earliest) {
        // Of two at the same time the first pseudo-channel's goes first.
        if (first != nullptr && pc.in_flight[pc.flight_begin].clock == earliest) continue;
        earliest = pc.in_flight[pc.flight_begin].clock;
        first = &pc;
      }
    }
    if (first == nullptr) break;
    done->push_back(first->in_flight[first->flight_begin]);
    if (++first->flight_begin == config_.queue_depth) first->flight_begin = 0;
    --first->flight_count;
    --held_;
  }
  SetQuiet();
}

int64_t Hbm2Channel::EarliestDone() const {
  int64_t earliest = kNever;
  if (!done_.empty()) return done_.front().clock;
  for (const PseudoChannel& pc : pcs_) {
    if (pc.flight_count > 0) {
      earliest = std::min(earliest, pc.in_flight[pc.flight_begin].clock);
    }
  }
  if (waiting_ > 0) {
    const int64_t data = std::min(timing_.read_data(), timing_.write_data());
    earliest = std::min(earliest, next_step_ + data);
  }
  return earliest;
}

void Hbm2Channel::Show(DramCommand::Kind kind, int p, int bank, int32_t row, int64_t clock,
                       bool auto_precharge) {
  observer_->Observe({.kind = kind,
                      .auto_precharge = auto_precharge,
                      .channel = channel_,
                      .pseudo_channel = p,
                      .bank = bank,
                      .row = row,
                      .clock = clock});
}

}  // namespace thresher
