// What an HBM2 specification says, worked out: timings in clocks and sizes. Checked here, so that
// the scheduler (hbm2_channel.h) need not ask.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_TIMING_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_TIMING_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "thresher/v1/simulator_dram.pb.h"

namespace thresher {

inline constexpr int kHbm2PseudoChannels = 2;
inline constexpr int kHbm2BankGroups = 4;
inline constexpr int kHbm2BanksPerGroup = 4;
inline constexpr int kHbm2Banks = kHbm2BankGroups * kHbm2BanksPerGroup;
inline constexpr int kHbm2RowBytes = 1024;
inline constexpr int kHbm2BurstBytes = 32;
inline constexpr int kHbm2Columns = kHbm2RowBytes / kHbm2BurstBytes;

/// The most clocks of any timing but refi.
inline constexpr int32_t kHbm2MaxTiming = 4096;

/// In clocks, but for the first. An activation holds the row-command bus for two clocks, and its
/// timings count from the second one.
struct Hbm2Timing {
  int64_t clock_ps = 0;
  int64_t burst = 2;  // Data on the pins.
  int64_t activation_cycles = 2;
  int64_t cl = 0;
  int64_t cwl = 0;
  int64_t rcd_read = 0;
  int64_t rcd_write = 0;
  int64_t ras = 0;
  int64_t rc = 0;
  int64_t rp = 0;
  int64_t wr = 0;
  int64_t rtp = 0;
  int64_t ccd_s = 0;
  int64_t ccd_l = 0;
  int64_t wtr_s = 0;
  int64_t wtr_l = 0;
  int64_t rrd_s = 0;
  int64_t rrd_l = 0;
  int64_t faw = 0;
  int64_t rfc = 0;
  int64_t rfc_sb = 0;
  int64_t rrefd = 0;
  int64_t refi = 0;
  int64_t refi_sb = 0;

  /// A read to a write: the pins change direction, with two clocks between.
  int64_t read_to_write() const { return cl + burst + 2 - cwl; }
  /// Between two reads, or writes, of any banks: the pins carry one at a time.
  int64_t column_gap() const { return ccd_s > burst ? ccd_s : burst; }
  /// From a command to the last of its data.
  int64_t read_data() const { return cl + burst; }
  int64_t write_data() const { return cwl + burst; }
};

/// The specification without its gaps.
struct Hbm2Config {
  Hbm2Timing timing;
  int32_t channels = 0;
  int32_t row_bits = 0;
  int32_t queue_depth = 0;
  int32_t patience = 0;
  v1::Hbm2Spec::PagePolicy page_policy = v1::Hbm2Spec::OPEN;
  v1::Hbm2Spec::Refresh refresh = v1::Hbm2Spec::ALL_BANK;
  double joules_per_activation = 0;
  double joules_per_bit = 0;  // With the PHY's.
};

/// INVALID_ARGUMENT names the field. The address map is checked elsewhere (hbm2_address.h).
absl::StatusOr<Hbm2Config> ResolveHbm2(const v1::Hbm2Spec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_HBM2_TIMING_H_
