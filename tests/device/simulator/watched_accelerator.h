// An accelerator whose memory is watched: every HBM2 command of every run is held against the
// standard's timing table (dram_timing_checker.h).
#ifndef THRESHER_TESTS_DEVICE_SIMULATOR_WATCHED_ACCELERATOR_H_
#define THRESHER_TESTS_DEVICE_SIMULATOR_WATCHED_ACCELERATOR_H_

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "backend/device/simulator/accelerator.h"
#include "tests/device/simulator/dram/dram_timing_checker.h"

namespace thresher::testing {

class WatchedAccelerator final : public Accelerator {
 public:
  /// `dram` is the preset's, with the standard's timings, 8 Gb and refreshes of all banks.
  WatchedAccelerator(std::unique_ptr<Accelerator> inner, const v1::DramSpec& dram)
      : inner_(std::move(inner)), dram_(dram) {
    StartWatch();
  }

  std::span<const std::string_view> policies() const override { return inner_->policies(); }
  double peak_operations() const override { return inner_->peak_operations(); }
  double peak_bandwidth() const override { return inner_->peak_bandwidth(); }
  void Reset() override {
    inner_->Reset();
    StartWatch();
  }
  absl::StatusOr<LayerCharge> Run(const LayerRecord& record, const RunScope& scope) override {
    if (!checker_) return inner_->Run(record, scope);
    RunScope watched = scope;
    watched.dram_observer = &*checker_;
    const int64_t before = checker_->commands();
    absl::StatusOr<LayerCharge> charge = inner_->Run(record, watched);
    if (charge.ok()) {
      const v1::DramCounts& counts = charge->total.dram();
      EXPECT_GE(checker_->commands() - before,
                counts.reads() + counts.writes() + counts.activations() + counts.refreshes())
          << "the checker sees all";
    }
    return charge;
  }

 private:
  void StartWatch() {
    checker_.reset();
    if (dram_.has_hbm2()) checker_.emplace(TableOf(dram_.hbm2().megabits_per_second()));
  }

  const std::unique_ptr<Accelerator> inner_;
  const v1::DramSpec dram_;
  std::optional<DramTimingChecker> checker_;
};

inline std::unique_ptr<Accelerator> Watched(std::unique_ptr<Accelerator> accelerator,
                                            const v1::Preset& preset) {
  return std::make_unique<WatchedAccelerator>(std::move(accelerator), preset.dram());
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_DEVICE_SIMULATOR_WATCHED_ACCELERATOR_H_
