#include "tests/device/simulator/dram/dram_timing_checker.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace thresher::testing {
namespace {

constexpr int64_t kMaxMessages = 20;

int Group(int bank) { return bank / 4; }

const char* Name(DramCommand::Kind kind) {
  switch (kind) {
    case DramCommand::Kind::kActivate:
      return "ACT";
    case DramCommand::Kind::kRead:
      return "RD";
    case DramCommand::Kind::kWrite:
      return "WR";
    case DramCommand::Kind::kPrecharge:
      return "PRE";
    case DramCommand::Kind::kPrechargeAll:
      return "PREA";
    case DramCommand::Kind::kRefresh:
      return "REF";
    case DramCommand::Kind::kRefreshBank:
      return "REFSB";
  }
  return "?";
}

}  // namespace

Hbm2Table TableOf(int megabits_per_second) {
  switch (megabits_per_second) {
    case 1600:
      return {2, 10, 4, 10, 8,  10,  24,  34, 12,   4,   2,   4,
              5, 6,  4, 4,  12, 280, 128, 7,  3120, 195, 1.25};
    case 2000:
      return {2, 14, 5, 14, 12, 14,  34,  48, 16,   5,   2,  4,
              6, 8,  4, 4,  15, 350, 160, 8,  3900, 244, 1.0};
    case 2400:
      return {2, 17, 6, 17, 14, 17,  40,  57, 19,   6,   2,    4,
              8, 10, 5, 5,  19, 421, 193, 10, 4682, 293, 0.833};
  }
  std::abort();
}

DramTimingChecker::~DramTimingChecker() {
  EXPECT_EQ(breaches_, 0) << "of " << commands_ << " DRAM commands";
}

void DramTimingChecker::Breach(const DramCommand& command, const std::string& what) {
  if (++breaches_ > kMaxMessages) return;
  ADD_FAILURE() << fmt::format("clock {}: {} to channel {}.{} bank {} row {}: {}", command.clock,
                               Name(command.kind), command.channel, command.pseudo_channel,
                               command.bank, command.row, what);
}

void DramTimingChecker::AtLeast(const DramCommand& command, int64_t since, int64_t clocks,
                                int64_t now, const char* rule) {
  if (now - since < clocks) {
    Breach(command, fmt::format("{}: {} clocks after, {} needed", rule, now - since, clocks));
  }
}

void DramTimingChecker::Observe(const DramCommand& command) {
  ++commands_;
  if (command.pseudo_channel < 0 || command.pseudo_channel > 1 || command.bank < 0 ||
      command.bank >= kBanks) {
    Breach(command, "there is no such bank");
    return;
  }
  Channel& channel = channels_[command.channel];
  PseudoChannel& pc = channel.pcs[command.pseudo_channel];

  // Two command buses, both shared by the two pseudo-channels.
  const bool column =
      command.kind == DramCommand::Kind::kRead || command.kind == DramCommand::Kind::kWrite;
  int64_t& bus = column ? channel.column_bus_free : channel.row_bus_free;
  if (command.clock < bus) Breach(command, fmt::format("its bus is taken until {}", bus));
  bus = command.clock + (command.kind == DramCommand::Kind::kActivate ? 2 : 1);

  switch (command.kind) {
    case DramCommand::Kind::kActivate:
      Activate(command, pc);
      break;
    case DramCommand::Kind::kRead:
      Column(command, pc, /*write=*/false);
      break;
    case DramCommand::Kind::kWrite:
      Column(command, pc, /*write=*/true);
      break;
    case DramCommand::Kind::kPrecharge:
      if (!pc.banks[command.bank].open) Breach(command, "no row is open");
      Precharge(command, pc.banks[command.bank]);
      break;
    case DramCommand::Kind::kPrechargeAll:
      for (Bank& bank : pc.banks) {
        if (bank.open) Precharge(command, bank);
      }
      break;
    case DramCommand::Kind::kRefresh:
      RefreshAll(command, pc);
      break;
    case DramCommand::Kind::kRefreshBank:
      RefreshBank(command, pc);
      break;
  }
}

void DramTimingChecker::Activate(const DramCommand& command, PseudoChannel& pc) {
  const int64_t now = command.clock + 1;  // Its timings count from its second clock.
  Bank& bank = pc.banks[command.bank];
  if (bank.open) Breach(command, "a row is open");
  AtLeast(command, bank.activate, table_.nRC, now, "nRC");
  AtLeast(command, bank.precharge, table_.nRP, now, "nRP");
  AtLeast(command, pc.refresh, table_.nRFC, now, "nRFC");
  AtLeast(command, bank.refresh, table_.nRFCSB, now, "nRFCSB");
  for (int b = 0; b < kBanks; ++b) {
    const bool same = Group(b) == Group(command.bank);
    AtLeast(command, pc.banks[b].activate, same ? table_.nRRDL : table_.nRRDS, now, "nRRD");
    AtLeast(command, pc.banks[b].refresh, table_.nRREFD, now, "nRREFD");
  }
  if (pc.activations.size() == 4) {
    AtLeast(command, pc.activations.front(), table_.nFAW, now, "nFAW");
    pc.activations.erase(pc.activations.begin());
  }
  pc.activations.push_back(now);
  bank.open = true;
  bank.row = command.row;
  bank.activate = now;
}

void DramTimingChecker::Column(const DramCommand& command, PseudoChannel& pc, bool write) {
  const int64_t now = command.clock;
  Bank& bank = pc.banks[command.bank];
  if (!bank.open) {
    Breach(command, "no row is open");
  } else if (bank.row != command.row) {
    Breach(command, fmt::format("row {} is open", bank.row));
  }
  AtLeast(command, bank.activate, write ? table_.nRCDWR : table_.nRCDRD, now, "nRCD");
  for (int b = 0; b < kBanks; ++b) {
    const bool same = Group(b) == Group(command.bank);
    const int64_t ccd = same ? table_.nCCDL : table_.nCCDS;
    const Bank& other = pc.banks[b];
    if (write) {
      AtLeast(command, other.write, ccd, now, "nCCD");
      AtLeast(command, other.read, table_.nCL + table_.nBL + 2 - table_.nCWL, now, "read to write");
    } else {
      AtLeast(command, other.read, ccd, now, "nCCD");
      AtLeast(command, other.write, table_.nCWL + table_.nBL + (same ? table_.nWTRL : table_.nWTRS),
              now, "nWTR");
    }
  }
  const int64_t data = now + (write ? table_.nCWL : table_.nCL);
  if (data < pc.data_free) Breach(command, "its data meet others on the pins");
  pc.data_free = data + table_.nBL;
  (write ? bank.write : bank.read) = now;
  if (command.auto_precharge) {
    const int64_t ready = write ? data + table_.nBL + table_.nWR : now + table_.nRTP;
    bank.precharge = std::max(ready, bank.activate + table_.nRAS);
    bank.open = false;
  }
}

void DramTimingChecker::Precharge(const DramCommand& command, Bank& bank) {
  const int64_t now = command.clock;
  AtLeast(command, bank.activate, table_.nRAS, now, "nRAS");
  AtLeast(command, bank.read, table_.nRTP, now, "nRTP");
  AtLeast(command, bank.write, table_.nCWL + table_.nBL + table_.nWR, now, "nWR");
  bank.precharge = now;
  bank.open = false;
}

void DramTimingChecker::RefreshAll(const DramCommand& command, PseudoChannel& pc) {
  if (refresh_ != Refresh::kAllBank) Breach(command, "not to be refreshed so");
  for (const Bank& bank : pc.banks) {
    if (bank.open) Breach(command, "a row is open");
    AtLeast(command, bank.activate, table_.nRC, command.clock, "nRC");
    AtLeast(command, bank.precharge, table_.nRP, command.clock, "nRP");
  }
  AtLeast(command, pc.refresh, table_.nRFC, command.clock, "nRFC");
  pc.refresh = command.clock;
  ++pc.refreshes;
}

void DramTimingChecker::RefreshBank(const DramCommand& command, PseudoChannel& pc) {
  if (refresh_ != Refresh::kSingleBank) Breach(command, "not to be refreshed so");
  Bank& bank = pc.banks[command.bank];
  if (bank.open) Breach(command, "a row is open");
  if (command.bank != pc.refreshes % kBanks) Breach(command, "it is another bank's turn");
  AtLeast(command, bank.activate, table_.nRC, command.clock, "nRC");
  AtLeast(command, bank.precharge, table_.nRP, command.clock, "nRP");
  AtLeast(command, bank.refresh, table_.nRFCSB, command.clock, "nRFCSB");
  for (const Bank& other : pc.banks) {
    AtLeast(command, other.activate, table_.nRRDS, command.clock, "nRRD");
    AtLeast(command, other.refresh, table_.nRREFD, command.clock, "nRREFD");
  }
  bank.refresh = command.clock;
  ++pc.refreshes;
}

void DramTimingChecker::CheckRefreshes(int64_t clock) const {
  if (refresh_ == Refresh::kNone) return;
  const int64_t interval = refresh_ == Refresh::kAllBank ? table_.nREFI : table_.nREFISB;
  for (const auto& [index, channel] : channels_) {
    for (const PseudoChannel& pc : channel.pcs) {
      EXPECT_LE(pc.refreshes, clock / interval) << "channel " << index;
      EXPECT_GE(pc.refreshes, clock / interval - 1) << "channel " << index;
    }
  }
}

}  // namespace thresher::testing
