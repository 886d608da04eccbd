// Random numbers that are the same on every machine and library for the same seed (SplitMix64).
#ifndef THRESHER_CLIENT_LOAD_RANDOM_H_
#define THRESHER_CLIENT_LOAD_RANDOM_H_

#include <cmath>
#include <cstdint>
#include <numbers>

namespace thresher::load {

class Random {
 public:
  /// Streams of one seed are independent: arrivals don't change when texts draw more numbers.
  explicit Random(uint64_t seed, uint64_t stream = 0) : state_(Mix(seed ^ Mix(stream))) {}

  uint64_t Next() { return Mix(state_ += 0x9E3779B97F4A7C15u); }
  /// In [0, 1), a multiple of 2^-53.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  /// In [0, n); n > 0. The bias is below n / 2^53.
  uint64_t Below(uint64_t n) {
    return static_cast<uint64_t>(Uniform() * static_cast<double>(n)) % n;
  }
  /// Of mean 1.
  double Exponential() { return -std::log1p(-Uniform()); }
  /// Of mean 0 and variance 1 (Box and Muller).
  double Normal() {
    const double radius = std::sqrt(2 * Exponential());
    return radius * std::cos(2 * std::numbers::pi * Uniform());
  }

 private:
  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  uint64_t state_;
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_RANDOM_H_
