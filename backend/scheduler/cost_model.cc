#include "backend/scheduler/cost_model.h"

#include <algorithm>
#include <cmath>

namespace thresher {
namespace {

// In standard deviations; one side of a 97.5 % interval once there are more than a few samples.
constexpr double kConfidence = 2.0;

// A slope is believed when it is so many times its standard error.
constexpr double kSureSlope = 4.0;

// What a batch counts for in the rate, once another has run: half after five.
constexpr double kFading = 0.87;

}  // namespace

void CostModel::Add(int64_t cost, absl::Duration compute, absl::Time now) {
  if (now - last_ > kMaxAge) {
    samples_.clear();
    recent_ = {};
  }
  last_ = now;
  const Sample sample = {static_cast<double>(cost), absl::ToDoubleSeconds(compute)};
  samples_.push_back(sample);
  recent_.cost = kFading * recent_.cost + sample.cost;
  recent_.seconds = kFading * recent_.seconds + sample.seconds;
  if (samples_.size() > kWindow) samples_.pop_front();
  if (samples_.size() >= kMinSamples) Fit();
}

void CostModel::Fit() {
  const double n = static_cast<double>(samples_.size());
  mean_cost_ = mean_seconds_ = 0;
  for (const Sample& sample : samples_) {
    mean_cost_ += sample.cost / n;
    mean_seconds_ += sample.seconds / n;
  }
  double products = 0;
  cost_deviation_ = 0;
  for (const Sample& sample : samples_) {
    const double deviation = sample.cost - mean_cost_;
    cost_deviation_ += deviation * deviation;
    products += deviation * (sample.seconds - mean_seconds_);
  }
  // Equal costs tell nothing of the slope.
  slope_ = cost_deviation_ > 0 ? std::max(0.0, products / cost_deviation_) : 0.0;
  double squares = 0;
  for (const Sample& sample : samples_) {
    const double residual = sample.seconds - (mean_seconds_ + slope_ * (sample.cost - mean_cost_));
    squares += residual * residual;
  }
  noise_ = std::sqrt(squares / (n - 2));
}

bool CostModel::SlopeIsSure() const {
  return samples_.size() >= kMinSamples &&
         slope_ * std::sqrt(cost_deviation_) > kSureSlope * noise_;
}

double CostModel::Bound(double cost) const {
  const double n = static_cast<double>(samples_.size());
  const double distance = cost - mean_cost_;
  double variance = 1 + 1 / n;
  if (cost_deviation_ > 0) variance += distance * distance / cost_deviation_;
  return mean_seconds_ + slope_ * distance - kConfidence * noise_ * std::sqrt(variance);
}

absl::Duration CostModel::AtLeast(int64_t cost, absl::Time now) const {
  if (cost <= 0 || samples_.size() < kMinSamples || now - last_ > kMaxAge) {
    return absl::ZeroDuration();
  }
  const double c = static_cast<double>(cost);
  // Neither the fixed part nor the slope is negative, whatever the fit says far from its mean: a
  // larger batch takes no less than the mean one, and a smaller one no less than its share of it.
  const double share = Bound(mean_cost_) * std::min(1.0, c / mean_cost_);
  // With equal costs only that is known.
  const double bound = cost_deviation_ > 0 ? std::max(Bound(c), share) : share;
  return absl::Seconds(std::max(0.0, bound));
}

absl::Duration CostModel::Likely(int64_t cost) const {
  if (cost <= 0 || recent_.cost <= 0) return absl::ZeroDuration();
  const double c = static_cast<double>(cost);
  if (SlopeIsSure()) {
    // Whatever the fit says far from its mean: no fixed part below zero.
    const double share = mean_seconds_ * std::min(1.0, c / mean_cost_);
    return absl::Seconds(std::max(share, mean_seconds_ + slope_ * (c - mean_cost_)));
  }
  return absl::Seconds(c * recent_.seconds / recent_.cost);
}

}  // namespace thresher
