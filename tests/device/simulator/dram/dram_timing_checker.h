// Watches every command that an HBM2 memory issues and holds it against the standard's timing
// table. It knows nothing of the scheduler: it keeps the history of commands and looks back, rule
// by rule.
#ifndef THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_DRAM_TIMING_CHECKER_H_
#define THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_DRAM_TIMING_CHECKER_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backend/device/simulator/dram/dram.h"

namespace thresher::testing {

/// In clocks, under the standard's names.
struct Hbm2Table {
  int64_t nBL, nCL, nCWL, nRCDRD, nRCDWR, nRP, nRAS, nRC, nWR, nRTP, nCCDS, nCCDL, nWTRS, nWTRL;
  int64_t nRRDS, nRRDL, nFAW, nRFC, nRFCSB, nRREFD, nREFI, nREFISB;
  double clock_ns;
};
/// With 8 Gb in a pseudo-channel.
Hbm2Table TableOf(int megabits_per_second);

class DramTimingChecker : public DramObserver {
 public:
  enum class Refresh { kAllBank, kSingleBank, kNone };

  explicit DramTimingChecker(const Hbm2Table& table, Refresh refresh = Refresh::kAllBank)
      : table_(table), refresh_(refresh) {}
  /// Nothing was wrong (tests end with it too).
  ~DramTimingChecker() override;

  /// A breach fails the running test.
  void Observe(const DramCommand& command) override;

  /// All refreshes that were due by `clock`, but for the one in the making, came.
  void CheckRefreshes(int64_t clock) const;

  int64_t commands() const { return commands_; }
  int64_t breaches() const { return breaches_; }

 private:
  static constexpr int kBanks = 16;
  static constexpr int64_t kNever = -(int64_t{1} << 40);

  struct Bank {
    bool open = false;
    int32_t row = 0;
    int64_t activate = kNever;
    int64_t precharge = kNever;  // When it began, by command or by itself.
    int64_t read = kNever;
    int64_t write = kNever;
    int64_t refresh = kNever;
  };
  struct PseudoChannel {
    std::array<Bank, kBanks> banks;
    std::vector<int64_t> activations;  // The last four.
    int64_t refresh = kNever;
    int64_t refreshes = 0;
    int64_t data_free = kNever;  // The end of the data on its pins.
  };
  struct Channel {
    std::array<PseudoChannel, 2> pcs;
    int64_t row_bus_free = kNever;
    int64_t column_bus_free = kNever;
  };

  void AtLeast(const DramCommand& command, int64_t since, int64_t clocks, int64_t now,
               const char* rule);
  void Breach(const DramCommand& command, const std::string& what);
  void Activate(const DramCommand& command, PseudoChannel& pc);
  void Column(const DramCommand& command, PseudoChannel& pc, bool write);
  void Precharge(const DramCommand& command, Bank& bank);
  void RefreshAll(const DramCommand& command, PseudoChannel& pc);
  void RefreshBank(const DramCommand& command, PseudoChannel& pc);

  const Hbm2Table table_;
  const Refresh refresh_;
  std::map<int32_t, Channel> channels_;
  int64_t commands_ = 0;
  int64_t breaches_ = 0;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_DEVICE_SIMULATOR_DRAM_DRAM_TIMING_CHECKER_H_
