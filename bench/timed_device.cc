#include "bench/timed_device.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/arithmetic_peak.h"

namespace thresher {
namespace {

double Floats(ConstMatrix m) {
  return static_cast<double>(m.rows * m.cols) * static_cast<double>(sizeof(float));
}

}  // namespace

void TimedDevice::Report(int64_t runs, double seconds, double bandwidth, double cached_bandwidth,
                         benchmark::State& state) const {
  const auto count = static_cast<double>(runs);
  double known = 0;
  for (const auto& [name, part] : parts_) {
    known += part.seconds;
    state.counters[name + " ms"] = part.seconds / count * 1e3;
    if (part.operations > 0) {
      state.counters[name + " GFLOP/s"] = part.operations / part.seconds * 1e-9;
      const double peak = ProductPeak(*device_, part.precision);
      const double read = part.least_bytes / bandwidth;
      const double computed = peak > 0 ? part.operations / peak : 0;
      if (std::max(read, computed) > 0) {
        state.counters["limit " + name + " GFLOP/s"] = part.operations / std::max(read, computed);
      }
    } else {
      state.counters[name + " GB/s"] = part.moved / part.seconds * 1e-9;
      state.counters["limit " + name + " GB/s"] = cached_bandwidth;
    }
  }
  state.counters["other ms"] = std::max(0.0, seconds - known) / count * 1e3;
}

double TimedDevice::operations() const {
  double sum = 0;
  for (const auto& [name, part] : parts_) sum += part.operations;
  return sum;
}

absl::Status TimedDevice::Linear(const PackedLinear& weights, ConstMatrix x, Activation activation,
                                 Matrix y) {
  const bool activated = activation != Activation::kNone;
  const Part cost{
      .operations = 2.0 * static_cast<double>(x.rows * x.cols * y.cols),
      .least_bytes = static_cast<double>(weights.bytes()),
      .precision = weights.precision(),
  };
  return Time(fmt::format("product {}x{}{}", y.cols, x.cols, activated ? " + activation" : ""),
              cost, [&] { return device_->Linear(weights, x, activation, y); });
}

absl::Status TimedDevice::Attention(const AttentionInput& input, Matrix out) {
  double pairs = 0;
  for (size_t s = 0; s + 1 < input.offsets.size(); ++s) {
    const double rows = input.offsets[s + 1] - input.offsets[s];
    pairs += input.causal ? rows * (rows + 1) / 2 : rows * rows;
  }
  return Time("attention", {.operations = 4.0 * pairs * static_cast<double>(out.cols)},
              [&] { return device_->Attention(input, out); });
}

absl::Status TimedDevice::LayerNorm(ConstMatrix x, ConstMatrix residual,
                                    std::span<const float> gamma, std::span<const float> beta,
                                    float epsilon, Matrix y) {
  const double read = Floats(x) + (residual.data != nullptr ? Floats(residual) : 0.0);
  return Time("norm", {.moved = read + Floats(y)},
              [&] { return device_->LayerNorm(x, residual, gamma, beta, epsilon, y); });
}

absl::Status TimedDevice::Add(ConstMatrix x, Matrix y) {
  return Time("add", {.moved = 3 * Floats(x)}, [&] { return device_->Add(x, y); });
}

absl::Status TimedDevice::StoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                                          ConstMatrix value,
                                          std::span<const CachedSequence> sequences) {
  return Time("store K, V", {.moved = 2 * (Floats(key) + Floats(value))},
              [&] { return device_->StoreKeysValues(layout, layer, key, value, sequences); });
}

absl::Status TimedDevice::CachedAttention(const CachedAttentionInput& input, Matrix out,
                                          std::span<CachedRecord> records) {
  double pairs = 0, slots = 0;
  for (const CachedSequence& sequence : input.sequences) {
    const double rows = sequence.rows;
    pairs += rows * (sequence.slots - rows) + rows * (rows + 1) / 2;
    slots += sequence.slots;
  }
  const Part cost{
      .operations = 4.0 * pairs * static_cast<double>(out.cols),
      .least_bytes = slots * static_cast<double>(input.layout->token_bytes()) /
                     static_cast<double>(input.layout->layers()),
  };
  return Time("attention", cost, [&] { return device_->CachedAttention(input, out, records); });
}

absl::Status TimedDevice::Embed(std::span<const Lookup> lookups, Matrix y) {
  return Time("embedding", {.moved = static_cast<double>(lookups.size() + 1) * Floats(y)},
              [&] { return device_->Embed(lookups, y); });
}

absl::Status TimedDevice::MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) {
  return Time("pooling", {.moved = Floats(x) + Floats(y)},
              [&] { return device_->MeanPool(x, offsets, y); });
}

}  // namespace thresher
