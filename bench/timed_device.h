// A device with a clock on each operation: what the time of a dense model's run goes into, and how
// far each part is from what the machine could do.
#ifndef THRESHER_BENCH_TIMED_DEVICE_H_
#define THRESHER_BENCH_TIMED_DEVICE_H_

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "backend/device/device.h"

namespace thresher {

/// Times the operations that dense models are made of; the others are the slow ones of Device. Not
/// for several threads.
class TimedDevice final : public Device {
 public:
  explicit TimedDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  /// Forgets what was measured.
  void Reset() { parts_.clear(); }

  /// Adds for each operation P, by name, the counters "P ms" of one of `runs`, and
  ///
  ///   "P GFLOP/s", "limit P GFLOP/s"  of arithmetic; the limit is what its peak allows, or, where
  ///                                   that is less, reading its weights once at `bandwidth`;
  ///   "P GB/s", "limit P GB/s"        of what only moves rows: reading at `cached_bandwidth`;
  ///
  /// both bandwidths in GB/s. "other ms" is what is left of `seconds`, the time of all runs.
  void Report(int64_t runs, double seconds, double bandwidth, double cached_bandwidth,
              benchmark::State& state) const;
  /// The operations done so far that ProductPeak limits, in that precision: of all products and of
  /// attention.
  double operations() const;

  const DeviceDescription& description() const override { return device_->description(); }
  absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(const StoredMatrix& weight,
                                                     const StoredMatrix& bias,
                                                     Precision precision) override {
    return device_->Pack(weight, bias, precision);
  }
  absl::Status Linear(const PackedLinear& weights, ConstMatrix x, Activation activation,
                      Matrix y) override;
  absl::Status Attention(const AttentionInput& input, Matrix out) override;
  absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                         std::span<const float> beta, float epsilon, Matrix y) override;
  absl::Status Add(ConstMatrix x, Matrix y) override;
  absl::Status StoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                               ConstMatrix value,
                               std::span<const CachedSequence> sequences) override;
  absl::Status CachedAttention(const CachedAttentionInput& input, Matrix out,
                               std::span<CachedRecord> records) override;
  absl::Status Embed(std::span<const Lookup> lookups, Matrix y) override;
  absl::Status MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) override;

 private:
  struct Part {
    double seconds = 0;
    double operations = 0;
    double least_bytes = 0;                 // That arithmetic must read from memory.
    double moved = 0;                       // Bytes, read and written, of what is no arithmetic.
    Precision precision = Precision::kF32;  // Of the arithmetic.
  };

  template <typename Body>
  auto Time(const std::string& name, const Part& cost, const Body& body) {
    const auto begin = std::chrono::steady_clock::now();
    auto result = body();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    Part& part = parts_[name];
    part.seconds += took.count();
    part.operations += cost.operations;
    part.least_bytes += cost.least_bytes;
    part.moved += cost.moved;
    part.precision = cost.precision;
    return result;
  }

  std::unique_ptr<Device> device_;
  std::map<std::string, Part> parts_;
};

}  // namespace thresher

#endif  // THRESHER_BENCH_TIMED_DEVICE_H_
