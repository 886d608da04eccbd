#include "backend/device/simulator/spatten/top_k_engine.h"

#include <algorithm>
#include <numeric>

namespace thresher {
namespace {

int64_t RoundCycles(int64_t compared, const TopKEngine::Options& options) {
  return (compared + options.parallelism - 1) / options.parallelism + options.round_cycles;
}

}  // namespace

uint64_t TopKEngine::Random(uint64_t below) {
  // SplitMix64; the same numbers with every standard library.
  uint64_t mixed = state_ += 0x9E3779B97F4A7C15;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
  mixed ^= mixed >> 31;
  return static_cast<uint64_t>((static_cast<unsigned __int128>(mixed) * below) >> 64);
}

void TopKEngine::AddRound(int64_t compared, Cost* cost) const {
  cost->cycles += RoundCycles(compared, options_);
  cost->comparisons += compared;
  ++cost->rounds;
}

TopKEngine::Cost TopKEngine::Rank(int64_t n, int64_t k) {
  Cost cost;
  if (k <= 0 || k >= n) return cost;
  int64_t first = 0, last = n - 1;  // Ranks that remain.
  while (true) {
    AddRound(last - first + 1, &cost);
    const int64_t pivot = first + static_cast<int64_t>(Random(last - first + 1));
    if (pivot == k) return cost;
    (pivot < k ? first : last) = pivot < k ? pivot + 1 : pivot - 1;
  }
}

TopKEngine::Selection TopKEngine::Select(std::span<const float> values, int32_t k) {
  Selection selection;
  if (k <= 0) return selection;
  if (static_cast<size_t>(k) >= values.size()) {
    selection.kept.resize(values.size());
    std::iota(selection.kept.begin(), selection.kept.end(), 0);
    return selection;
  }
  std::vector<int32_t> remaining(values.size());
  std::iota(remaining.begin(), remaining.end(), 0);
  int32_t rank = k - 1;  // Of the threshold among what remains, from the greatest.
  int32_t above = 0;     // Of all values, those greater than all that remain.
  float threshold = 0;
  while (true) {
    AddRound(static_cast<int64_t>(remaining.size()), &selection.cost);
    threshold = values[remaining[Random(remaining.size())]];
    std::vector<int32_t> greater, less;  // The two FIFOs.
    for (size_t at = 0; at < remaining.size(); at += options_.parallelism) {
      const size_t end = std::min(remaining.size(), at + options_.parallelism);
      for (auto* side : {&greater, &less}) {
        std::vector<int32_t> lanes(remaining.begin() + at, remaining.begin() + end);
        std::vector<bool> occupied(lanes.size());
        for (size_t i = 0; i < lanes.size(); ++i) {
          occupied[i] =
              side == &greater ? values[lanes[i]] > threshold : values[lanes[i]] < threshold;
        }
        EliminateZeros(&lanes, &occupied);
        const auto count = std::count(occupied.begin(), occupied.end(), true);
        side->insert(side->end(), lanes.begin(), lanes.begin() + count);
      }
    }
    const auto greater_count = static_cast<int32_t>(greater.size());
    const auto not_less = static_cast<int32_t>(remaining.size() - less.size());
    if (rank < greater_count) {
      remaining = std::move(greater);
    } else if (rank < not_less) {
      above += greater_count;
      break;
    } else {
      above += not_less;
      rank -= not_less;
      remaining = std::move(less);
    }
  }
  int32_t equals = k - above;  // To be kept still.
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] > threshold || (values[i] == threshold && equals-- > 0)) {
      selection.kept.push_back(static_cast<int32_t>(i));
    }
  }
  return selection;
}

double ExpectedRankCycles(int64_t n, int64_t k, const TopKEngine::Options& options) {
  if (k <= 0 || k >= n) return 0;
  // mean(a, b): with a ranks before the wanted one and b after it. A pivot before it leaves fewer
  // than a, one after it fewer than b; sums of means over smaller a (and b) are kept as we go.
  const int64_t after = n - 1 - k;
  std::vector<double> sum_over_a(after + 1, 0.0);  // By b: of mean(i, b), i < a.
  double mean = 0;
  for (int64_t a = 0; a <= k; ++a) {
    double sum_over_b = 0;  // Of mean(a, j), j < b.
    for (int64_t b = 0; b <= after; ++b) {
      const int64_t size = a + b + 1;
      mean = static_cast<double>(RoundCycles(size, options)) +
             (sum_over_a[b] + sum_over_b) / static_cast<double>(size);
      sum_over_a[b] += mean;
      sum_over_b += mean;
    }
  }
  return mean;
}

int EliminateZeros(std::vector<int32_t>* lanes, std::vector<bool>* occupied) {
  const size_t width = lanes->size();
  std::vector<size_t> shift(width);  // Zeros before each lane: how far it has still to go.
  size_t zeros = 0;
  for (size_t i = 0; i < width; ++i) {
    shift[i] = zeros;
    if (!(*occupied)[i]) ++zeros;
  }
  int stages = 0;
  for (size_t step = 1; step < width; step *= 2, ++stages) {
    // From the left: where a lane goes has been left, or was zero.
    for (size_t i = step; i < width; ++i) {
      if (!(*occupied)[i] || (shift[i] & step) == 0) continue;
      (*lanes)[i - step] = (*lanes)[i];
      shift[i - step] = shift[i];
      (*occupied)[i - step] = true;
      (*occupied)[i] = false;
    }
  }
  return stages;
}

}  // namespace thresher
