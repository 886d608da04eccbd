#include "backend/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Largest first, and the lower id first among equals.
bool Before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

absl::Status CheckRange(std::string_view name, double value, double least, double most) {
  // Written so that NaN fails too.
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument("{} is {}, expected {} to {}", name, value, least, most);
}

}  // namespace

absl::Status CheckSampling(const SamplingOptions& options) {
  THRESHER_RETURN_IF_ERROR(CheckRange("temperature", options.temperature, 0.0, 1e3));
  THRESHER_RETURN_IF_ERROR(CheckRange("top_p", options.top_p, 0.0, 1.0));
  if (options.top_p == 0.0) return InvalidArgument("top_p is 0, which leaves no token");
  THRESHER_RETURN_IF_ERROR(CheckRange("min_p", options.min_p, 0.0, 1.0));
  THRESHER_RETURN_IF_ERROR(CheckRange("repetition_penalty", options.repetition_penalty, 1e-3, 1e3));
  if (options.top_k < 0) return InvalidArgument("top_k is {}; 0 means all tokens", options.top_k);
  return absl::OkStatus();
}

Sampler::Sampler(const SamplingOptions& options, std::span<const int32_t> prompt)
    : options_(options), random_(options.seed) {
  if (options.repetition_penalty == 1.0) return;
  seen_.assign(prompt.begin(), prompt.end());
  std::ranges::sort(seen_);
  seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
}

absl::StatusOr<int32_t> Sampler::Next(std::span<const float> logits) {
  if (!std::ranges::all_of(logits, [](float x) { return std::isfinite(x); })) {
    return Internal(
        "the model's answer is not finite: its numbers overflow, or its weights are "
        "damaged");
  }
  penalized_.assign(logits.begin(), logits.end());
  for (const int32_t id : seen_) {
    float& logit = penalized_[static_cast<size_t>(id)];
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    logit = logit > 0.0f ? logit / penalty : logit * penalty;
  }
  const int32_t id = options_.temperature == 0.0 ? Greedy() : Draw();
  if (options_.repetition_penalty != 1.0) {
    const auto place = std::ranges::lower_bound(seen_, id);
    if (place == seen_.end() || *place != id) seen_.insert(place, id);
  }
  return id;
}

int32_t Sampler::Greedy() const {
  return static_cast<int32_t>(std::ranges::max_element(penalized_) - penalized_.begin());
}

int32_t Sampler::Draw() {
  candidates_.clear();
  for (size_t i = 0; i < penalized_.size(); ++i) {
    candidates_.emplace_back(penalized_[i], static_cast<int32_t>(i));
  }
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    SortLargest(static_cast<size_t>(options_.top_k));
    candidates_.resize(static_cast<size_t>(options_.top_k));
  }
  const float largest = *std::ranges::max_element(penalized_);
  // Shares of the largest.
  const auto weight = [&](size_t i) {
    return std::exp((double{candidates_[i].first} - largest) / options_.temperature);
  };
  double total = 0.0;
  for (size_t i = 0; i < candidates_.size(); ++i) total += weight(i);
  size_t count = candidates_.size();
  if (options_.top_p < 1.0 || options_.min_p > 0.0) {
    // The list is seldom long: as much of it as is needed is sorted, twice as much at each turn.
    double reached = 0.0;
    size_t sorted = 0;
    for (count = 0; count < candidates_.size(); ++count) {
      if (count == sorted) SortLargest(sorted = std::min(2 * sorted + 64, candidates_.size()));
      const double next = weight(count);
      if (count > 0 && (reached >= options_.top_p * total || next < options_.min_p)) break;
      reached += next;
    }
    total = reached;
  }
  // 53 bits of the next number, as a share of what is left.
  double draw = static_cast<double>(random_() >> 11) * 0x1p-53 * total;
  for (size_t i = 0; i + 1 < count; ++i) {
    draw -= weight(i);
    if (draw < 0.0) return candidates_[i].second;
  }
  return candidates_[count - 1].second;
}

void Sampler::SortLargest(size_t count) {
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count),
                    candidates_.end(), Before);
}

double LogSum(std::span<const float> logits) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

double LogProbability(std::span<const float> logits, int32_t id) {
  return logits[static_cast<size_t>(id)] - LogSum(logits);
}

std::vector<std::pair<double, int32_t>> TopLogProbabilities(std::span<const float> logits,
                                                            int32_t k, double log_sum) {
  std::vector<std::pair<float, int32_t>> all;
  all.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) all.emplace_back(logits[i], static_cast<int32_t>(i));
  const size_t count = std::min(static_cast<size_t>(std::max(k, 0)), all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(),
                    Before);
  std::vector<std::pair<double, int32_t>> top;
  for (size_t i = 0; i < count; ++i) top.emplace_back(all[i].first - log_sum, all[i].second);
  return top;
}

}  // namespace thresher
