#include "client/load/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace thresher::load {
namespace {

constexpr int kBits = 7;
constexpr uint64_t kSub = uint64_t{1} << kBits;         // Buckets for each doubling.
constexpr uint64_t kLargest = (uint64_t{1} << 46) - 1;  // Nanoseconds; 19.5 hours.

/// Below 2 * kSub every nanosecond has its own bucket.
size_t BucketOf(uint64_t nanoseconds) {
  if (nanoseconds < 2 * kSub) return nanoseconds;
  const int shift = std::bit_width(nanoseconds) - 1 - kBits;
  return kSub * shift + (nanoseconds >> shift);
}

/// The largest number of nanoseconds in the bucket.
uint64_t TopOf(size_t bucket) {
  if (bucket < 2 * kSub) return bucket;
  const size_t shift = bucket / kSub - 1;
  const uint64_t mantissa = kSub + bucket % kSub;
  return ((mantissa + 1) << shift) - 1;
}

}  // namespace

void LatencyHistogram::Add(absl::Duration time) {
  time = std::max(time, absl::ZeroDuration());
  const auto nanoseconds = static_cast<uint64_t>(absl::ToInt64Nanoseconds(time));
  const size_t bucket = BucketOf(std::min(nanoseconds, kLargest));
  if (bucket >= counts_.size()) counts_.resize(bucket + 1);
  ++counts_[bucket];
  ++count_;
  sum_ += time;
  max_ = std::max(max_, time);
}

void LatencyHistogram::Add(const LatencyHistogram& other) {
  counts_.resize(std::max(counts_.size(), other.counts_.size()));
  for (size_t i = 0; i < other.counts_.size(); ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

absl::Duration LatencyHistogram::Top(size_t bucket) const {
  return std::min(absl::Nanoseconds(static_cast<int64_t>(TopOf(bucket))), max_);
}

absl::Duration LatencyHistogram::AtRank(int64_t rank) const {
  if (count_ == 0) return absl::ZeroDuration();
  rank = std::clamp<int64_t>(rank, 1, count_);
  if (rank == count_) return max_;
  int64_t below = 0;
  size_t bucket = 0;
  while ((below += counts_[bucket]) < rank) ++bucket;
  return Top(bucket);
}

absl::Duration LatencyHistogram::Percentile(double p) const {
  // A hair more, so that 0.9 of 10 is 9 although 0.9 is not.
  return AtRank(static_cast<int64_t>(std::floor(p * static_cast<double>(count_) + 1e-9)) + 1);
}

}  // namespace thresher::load
