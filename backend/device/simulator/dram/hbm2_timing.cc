#include "backend/device/simulator/dram/hbm2_timing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int32_t kMaxChannels = 256;
constexpr int32_t kMaxQueueDepth = 4096;
constexpr int32_t kMaxClocks = 1'000'000;  // Of patience, and between refreshes.
constexpr double kMaxPicojoules = 1e9;

/// Those that JEDEC gives in clocks for each data rate.
absl::StatusOr<Hbm2Timing> OfDataRate(int32_t megabits_per_second) {
  Hbm2Timing timing;
  timing.ccd_s = 2;
  timing.ccd_l = 4;
  switch (megabits_per_second) {
    case 1600:
      timing.clock_ps = 1250;
      timing.cl = 10, timing.cwl = 4;
      timing.rcd_read = 10, timing.rcd_write = 8;
      timing.rp = 10, timing.ras = 24, timing.rc = 34;
      timing.wr = 12, timing.rtp = 4;
      timing.wtr_s = 5, timing.wtr_l = 6;
      return timing;
    case 2000:
      timing.clock_ps = 1000;
      timing.cl = 14, timing.cwl = 5;
      timing.rcd_read = 14, timing.rcd_write = 12;
      timing.rp = 14, timing.ras = 34, timing.rc = 48;
      timing.wr = 16, timing.rtp = 5;
      timing.wtr_s = 6, timing.wtr_l = 8;
      return timing;
    case 2400:
      timing.clock_ps = 833;
      timing.cl = 17, timing.cwl = 6;
      timing.rcd_read = 17, timing.rcd_write = 14;
      timing.rp = 17, timing.ras = 40, timing.rc = 57;
      timing.wr = 19, timing.rtp = 6;
      timing.wtr_s = 8, timing.wtr_l = 10;
      return timing;
    default:
      return InvalidArgument("dram.hbm2.megabits_per_second: {} is not 1600, 2000 or 2400",
                             megabits_per_second);
  }
}

/// Those that it gives in nanoseconds, for `density` Gb in a pseudo-channel.
void SetNanoseconds(int32_t density, Hbm2Timing* timing) {
  const auto clocks = [&](int64_t nanoseconds, int64_t least = 1) {
    return std::max((nanoseconds * 1000 + timing->clock_ps - 1) / timing->clock_ps, least);
  };
  timing->rrd_s = clocks(4, 4);
  timing->rrd_l = clocks(4, 4);
  timing->faw = clocks(15, 8);
  timing->rfc = clocks(density <= 1   ? 110
                       : density <= 2 ? 160
                       : density <= 4 ? 260
                       : density <= 8 ? 350
                                      : 450);
  timing->rfc_sb = clocks(density <= 8 ? 160 : 200);
  timing->rrefd = clocks(8, 4);
  timing->refi = clocks(3900);
}

absl::Status Override(int32_t value, int32_t limit, const char* field, int64_t* clocks) {
  if (value < 0 || value > limit) {
    return InvalidArgument("dram.hbm2.timing.{}: {} clocks; 0 (the data rate's own) to {}", field,
                           value, limit);
  }
  if (value != 0) *clocks = value;
  return absl::OkStatus();
}

absl::Status OverrideAll(const v1::Hbm2Timing& spec, Hbm2Timing* timing) {
  const struct {
    const char* field;
    int32_t value;
    int64_t* clocks;
  } fields[] = {
      {"cl", spec.cl(), &timing->cl},
      {"cwl", spec.cwl(), &timing->cwl},
      {"rcdrd", spec.rcdrd(), &timing->rcd_read},
      {"rcdwr", spec.rcdwr(), &timing->rcd_write},
      {"ras", spec.ras(), &timing->ras},
      {"rc", spec.rc(), &timing->rc},
      {"rp", spec.rp(), &timing->rp},
      {"wr", spec.wr(), &timing->wr},
      {"rtp", spec.rtp(), &timing->rtp},
      {"ccds", spec.ccds(), &timing->ccd_s},
      {"ccdl", spec.ccdl(), &timing->ccd_l},
      {"wtrs", spec.wtrs(), &timing->wtr_s},
      {"wtrl", spec.wtrl(), &timing->wtr_l},
      {"rrds", spec.rrds(), &timing->rrd_s},
      {"rrdl", spec.rrdl(), &timing->rrd_l},
      {"faw", spec.faw(), &timing->faw},
      {"rfc", spec.rfc(), &timing->rfc},
      {"rfcsb", spec.rfcsb(), &timing->rfc_sb},
      {"rrefd", spec.rrefd(), &timing->rrefd},
  };
  for (const auto& [field, value, clocks] : fields) {
    THRESHER_RETURN_IF_ERROR(Override(value, kHbm2MaxTiming, field, clocks));
  }
  return Override(spec.refi(), kMaxClocks, "refi", &timing->refi);
}

/// Combinations that no scheduler could live with.
absl::Status CheckTiming(const Hbm2Timing& timing, v1::Hbm2Spec::Refresh refresh) {
  if (timing.read_to_write() < 1) {
    return InvalidArgument("dram.hbm2.timing.cwl: {} is longer than a read (cl {} + 4)", timing.cwl,
                           timing.cl);
  }
  if (timing.ccd_s > timing.ccd_l || timing.wtr_s > timing.wtr_l || timing.rrd_s > timing.rrd_l) {
    return InvalidArgument(
        "dram.hbm2.timing: ccds {}, wtrs {} and rrds {} are of different bank groups, and can't be "
        "longer than ccdl {}, wtrl {} and rrdl {}, of the same",
        timing.ccd_s, timing.wtr_s, timing.rrd_s, timing.ccd_l, timing.wtr_l, timing.rrd_l);
  }
  if (timing.ras > timing.rc) {
    return InvalidArgument("dram.hbm2.timing.rc: {} is shorter than ras {}", timing.rc, timing.ras);
  }
  // What closing all rows, refreshing and opening one again takes at the most.
  const int64_t open = std::max({timing.ras, timing.rcd_read + timing.rtp,
                                 timing.rcd_write + timing.write_data() + timing.wr});
  const int64_t around = 2 * (open + timing.rp + timing.rc + timing.activation_cycles);
  if (refresh == v1::Hbm2Spec::ALL_BANK && timing.refi <= timing.rfc + around) {
    return InvalidArgument(
        "dram.hbm2.timing.refi: {} clocks between refreshes that take {} leave no time for "
        "accesses",
        timing.refi, timing.rfc);
  }
  if (refresh == v1::Hbm2Spec::SINGLE_BANK &&
      (timing.refi_sb <= timing.rrefd + timing.rc || timing.refi <= timing.rfc_sb + around)) {
    return InvalidArgument(
        "dram.hbm2.timing.refi: a bank refreshed every {} clocks, for {}, leaves no time for "
        "accesses",
        timing.refi_sb, timing.rfc_sb);
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> WithDefault(int32_t value, int32_t otherwise, int32_t limit,
                                    const char* field) {
  if (value < 0 || value > limit) {
    return InvalidArgument("dram.hbm2.{}: {} is not in 1..{} (or 0: {})", field, value, limit,
                           otherwise);
  }
  return value == 0 ? otherwise : value;
}

absl::Status CheckEnergy(double picojoules, const char* field) {
  if (picojoules >= 0 && picojoules <= kMaxPicojoules) return absl::OkStatus();
  return InvalidArgument("dram.hbm2.{}: {} pJ is not in 0..{}", field, picojoules, kMaxPicojoules);
}

}  // namespace

absl::StatusOr<Hbm2Config> ResolveHbm2(const v1::Hbm2Spec& spec) {
  Hbm2Config config;
  THRESHER_ASSIGN_OR_RETURN(config.timing, OfDataRate(spec.megabits_per_second()));
  config.channels = spec.channels();
  if (config.channels < 1 || config.channels > kMaxChannels ||
      !std::has_single_bit(static_cast<uint32_t>(config.channels))) {
    return InvalidArgument("dram.hbm2.channels: {} is not a power of two in 1..{}", config.channels,
                           kMaxChannels);
  }
  const int32_t density = spec.density_gigabits() == 0 ? 8 : spec.density_gigabits();
  if (density < 1 || density > 16 || !std::has_single_bit(static_cast<uint32_t>(density))) {
    return InvalidArgument("dram.hbm2.density_gigabits: {} is not 1, 2, 4, 8 or 16", density);
  }
  const int64_t rows = (int64_t{density} << 30) / 8 / kHbm2Banks / kHbm2RowBytes;
  config.row_bits = std::countr_zero(static_cast<uint64_t>(rows));
  THRESHER_ASSIGN_OR_RETURN(config.queue_depth,
                            WithDefault(spec.queue_depth(), 64, kMaxQueueDepth, "queue_depth"));
  THRESHER_ASSIGN_OR_RETURN(config.patience,
                            WithDefault(spec.patience(), 2000, kMaxClocks, "patience"));
  if (!v1::Hbm2Spec::PagePolicy_IsValid(spec.page_policy())) {
    return InvalidArgument("dram.hbm2.page_policy: {} is not OPEN or CLOSED",
                           static_cast<int>(spec.page_policy()));
  }
  config.page_policy = spec.page_policy();
  if (!v1::Hbm2Spec::Refresh_IsValid(spec.refresh())) {
    return InvalidArgument("dram.hbm2.refresh: {} is not ALL_BANK, SINGLE_BANK or NONE",
                           static_cast<int>(spec.refresh()));
  }
  config.refresh = spec.refresh();
  SetNanoseconds(density, &config.timing);
  THRESHER_RETURN_IF_ERROR(OverrideAll(spec.timing(), &config.timing));
  config.timing.refi_sb = (config.timing.refi + kHbm2Banks - 1) / kHbm2Banks;
  THRESHER_RETURN_IF_ERROR(CheckTiming(config.timing, config.refresh));

  const double activation =
      spec.has_picojoules_per_activation() ? spec.picojoules_per_activation() : 909;
  const double bit = spec.has_picojoules_per_bit() ? spec.picojoules_per_bit() : 2.71;
  THRESHER_RETURN_IF_ERROR(CheckEnergy(activation, "picojoules_per_activation"));
  THRESHER_RETURN_IF_ERROR(CheckEnergy(bit, "picojoules_per_bit"));
  THRESHER_RETURN_IF_ERROR(CheckEnergy(spec.phy_picojoules_per_bit(), "phy_picojoules_per_bit"));
  config.joules_per_activation = activation * 1e-12;
  config.joules_per_bit = (bit + spec.phy_picojoules_per_bit()) * 1e-12;
  return config;
}

}  // namespace thresher
