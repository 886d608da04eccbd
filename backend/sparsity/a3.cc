#include "backend/sparsity/a3.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/key_choice.h"

namespace thresher {
namespace {

/// The keys of one head, each column in order, and the search in them.
class SortedKeys {
 public:
  SortedKeys(ConstMatrix key, int64_t first_column, int64_t dim)
      : key_(key), first_column_(first_column), rows_(key.rows), dim_(dim) {
    order_.resize(static_cast<size_t>(dim * rows_));
    for (int64_t d = 0; d < dim; ++d) {
      const std::span<int32_t> column(order_.data() + d * rows_, static_cast<size_t>(rows_));
      std::iota(column.begin(), column.end(), 0);
      std::ranges::stable_sort(column, {}, [&](int32_t j) {
        const float value = Value(j, d);  // What is no number has no place in an order.
        return std::isnan(value) ? std::numeric_limits<float>::infinity() : value;
      });
    }
  }

  /// After `iterations` of the search: [rows].
  const std::vector<double>& Estimate(const float* query, int64_t iterations) {
    estimates_.assign(static_cast<size_t>(rows_), 0.0);
    largest_.clear();
    smallest_.clear();
    for (int64_t d = 0; d < dim_; ++d) {
      Push(query, d, 0, /*largest=*/true);
      Push(query, d, 0, /*largest=*/false);
    }
    for (int64_t i = 0; i < iterations && !largest_.empty(); ++i) {
      Take(query, /*largest=*/true);
      Take(query, /*largest=*/false);
    }
    return estimates_;
  }

 private:
  struct Product {
    double value = 0;
    int64_t dim = 0;
    int64_t taken = 0;  // Products of this dimension that came before.
    int32_t row = 0;

    /// Heap order: the first of equals is on top.
    bool operator<(const Product& other) const {
      return value != other.value ? value < other.value : dim > other.dim;
    }
  };

  float Value(int32_t row, int64_t d) const { return key_.row(row)[first_column_ + d]; }

  /// The smallest products lie on a heap by their negative.
  std::vector<Product>& Heap(bool largest) { return largest ? largest_ : smallest_; }

  void Push(const float* query, int64_t d, int64_t taken, bool largest) {
    if (taken >= rows_) return;
    // A positive factor makes the largest product with the largest value.
    const bool from_the_end = (query[d] > 0) == largest;
    const int32_t row = order_[d * rows_ + (from_the_end ? rows_ - 1 - taken : taken)];
    const double value = double{query[d]} * Value(row, d);
    std::vector<Product>& heap = Heap(largest);
    heap.push_back({largest ? value : -value, d, taken, row});
    std::push_heap(heap.begin(), heap.end());
  }

  void Take(const float* query, bool largest) {
    std::vector<Product>& heap = Heap(largest);
    std::pop_heap(heap.begin(), heap.end());
    const Product product = heap.back();
    heap.pop_back();
    estimates_[product.row] += largest ? product.value : -product.value;
    Push(query, product.dim, product.taken + 1, largest);
  }

  const ConstMatrix key_;
  const int64_t first_column_;
  const int64_t rows_;
  const int64_t dim_;
  std::vector<int32_t> order_;  // [dim][rows]: rows by value, ascending.
  std::vector<double> estimates_;
  std::vector<Product> largest_, smallest_;
};

struct Settings {
  PolicyShape shape;
  std::string text;
  double iterations = 0.5;  // By key.
  double threshold = 0.05;
};

class A3Run final : public PolicyRun {
 public:
  explicit A3Run(const Settings& settings) : settings_(settings) {}

  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    const auto rows = static_cast<int32_t>(positions.size());
    const int32_t heads = settings_.shape.heads;
    const int32_t group = heads / settings_.shape.kv_heads;
    const int64_t dim = settings_.shape.head_dim;
    const auto iterations =
        static_cast<int64_t>(std::ceil(settings_.iterations * static_cast<double>(rows)));
    CandidateMask mask(heads, rows, rows);
    for (const int32_t h : RunningHeads(*plan, heads)) {
      SortedKeys keys(vectors.key, h / group * dim, dim);
      for (int32_t i = 0; i < rows; ++i) {
        const float* const query = vectors.query.row(i) + h * dim;
        FindCandidates(keys.Estimate(query, iterations), plan->candidates, h, i);
        PostScore(query, vectors, h / group * dim);
        for (const int32_t j : candidates_) mask.set(h, i, j);
      }
    }
    plan->candidates = std::move(mask);
  }

 private:
  /// Of the keys that an earlier part of the policy left.
  void FindCandidates(const std::vector<double>& estimates,
                      const std::optional<CandidateMask>& earlier, int32_t head, int32_t query) {
    candidates_.clear();
    int32_t best = -1;
    for (int32_t j = 0; j < std::ssize(estimates); ++j) {
      if (earlier && !earlier->test(head, query, j)) continue;
      if (best < 0 || estimates[j] > estimates[best]) best = j;
      // Written so that what is no number is a candidate: it has to show in the answer.
      if (!(estimates[j] <= 0.0)) candidates_.push_back(j);
    }
    if (candidates_.empty()) candidates_.push_back(best);
  }

  /// Drops the candidates whose weight is small beside the largest.
  void PostScore(const float* query, const LayerVectors& vectors, int64_t first_column) {
    scores_.clear();
    for (const int32_t j : candidates_) {
      double score = 0.0;
      for (int64_t d = 0; d < settings_.shape.head_dim; ++d) {
        score += double{query[d]} * vectors.key.row(j)[first_column + d];
      }
      scores_.push_back(score * vectors.scale);
    }
    const double largest = *std::ranges::max_element(scores_);
    size_t kept = 0;
    for (size_t n = 0; n < candidates_.size(); ++n) {
      // Likewise.
      if (std::exp(scores_[n] - largest) < settings_.threshold) continue;
      candidates_[kept++] = candidates_[n];
    }
    candidates_.resize(kept);
  }

  const Settings& settings_;
  std::vector<int32_t> candidates_;
  std::vector<double> scores_;
};

class A3 final : public Policy {
 public:
  explicit A3(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "a3"; }
  bool chooses_from_scores() const override { return true; }
  /// Candidates shrink no matrix product, and how many there are is the text's affair.
  double CostShare(int32_t tokens) const override { return 1.0; }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<A3Run>(settings_);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeA3(const PolicyValues& values,
                                                     const PolicyShape& shape) {
  Settings settings{.shape = shape, .text = values.Canonical()};
  if (values.text("setting") == "approximate") {
    settings.iterations = 0.125;
    settings.threshold = 0.1;
  }
  if (values.has("iterations")) settings.iterations = values.number("iterations");
  if (values.has("threshold")) settings.threshold = values.number("threshold");
  return std::make_shared<const A3>(std::move(settings));
}

}  // namespace thresher
