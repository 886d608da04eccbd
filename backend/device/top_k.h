// Exact top-k, and the one rounding of a share of n things.
//
// The tie rule is SpAtten's (HPCA 2021, its top-k engine): all above the k-th largest value, then
// the first equals in original order. Survivors come out in original order. NaN ranks below
// everything, minus infinity included; two NaNs are equal.
#ifndef THRESHER_BACKEND_DEVICE_TOP_K_H_
#define THRESHER_BACKEND_DEVICE_TOP_K_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace thresher {

/// ceil(n * share), between 1 and n (0 for n = 0). A product above a whole number by less than one
/// millionth counts as that number: 0.7 * 10 is 7, whatever the binary fraction says.
inline int64_t KeepCount(int64_t n, double share) {
  if (n <= 0) return 0;
  const double count = std::ceil(static_cast<double>(n) * share - 1e-6);
  return count <= 1 ? 1 : count >= static_cast<double>(n) ? n : static_cast<int64_t>(count);
}

/// Top-k of many rows in turn; keeps its memory between calls. T is float, double or an integer.
template <typename T>
class TopK {
 public:
  /// The indices, ascending, of the `k` largest of `scores` (all when k >= size, none when k <= 0).
  /// The result lives until the next call. Expected linear time.
  std::span<const int32_t> operator()(std::span<const T> scores, int64_t k) {
    return (*this)(scores, k, {});
  }

  /// `always` (ascending, within the scores) are in the result whatever their score and count
  /// inside k, which is raised to their number.
  std::span<const int32_t> operator()(std::span<const T> scores, int64_t k,
                                      std::span<const int32_t> always) {
    const auto size = static_cast<int64_t>(scores.size());
    const auto forced = static_cast<int64_t>(always.size());
    k = std::clamp<int64_t>(k, forced, size);
    kept_.clear();
    if (k == size) {
      for (int64_t i = 0; i < size; ++i) kept_.push_back(static_cast<int32_t>(i));
      return kept_;
    }
    if (k == forced) {
      kept_.assign(always.begin(), always.end());
      return kept_;
    }
    ranked_.clear();
    size_t next = 0;
    for (int64_t i = 0; i < size; ++i) {
      if (next < always.size() && always[next] == i) {
        ++next;
      } else {
        ranked_.push_back(scores[i]);
      }
    }
    const auto nth = ranked_.begin() + (k - forced - 1);
    std::nth_element(ranked_.begin(), nth, ranked_.end(), Above);
    const T threshold = *nth;
    // The first k - forced ranked values are the chosen ones; those not above are the equals.
    int64_t equals =
        std::count_if(ranked_.begin(), nth + 1, [&](T value) { return !Above(value, threshold); });
    next = 0;
    for (int64_t i = 0; i < size; ++i) {
      if (next < always.size() && always[next] == i) {
        ++next;
      } else if (Above(scores[i], threshold)) {
        // Above the threshold: always kept.
      } else if (equals > 0 && !Above(threshold, scores[i])) {
        --equals;
      } else {
        continue;
      }
      kept_.push_back(static_cast<int32_t>(i));
    }
    return kept_;
  }

 private:
  static bool Above(T a, T b) { return std::isnan(b) ? !std::isnan(a) : a > b; }

  std::vector<T> ranked_;
  std::vector<int32_t> kept_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_TOP_K_H_
