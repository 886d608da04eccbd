#include "backend/sparsity/routing.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/top_k.h"
#include "backend/sparsity/key_choice.h"

namespace thresher {
namespace {

/// Rounds of k-means.
constexpr int kRounds = 10;
/// Fitting takes time for each.
constexpr int64_t kMostClusters = 32;

using Vector = std::vector<double>;

void Normalize(Vector& x) {
  double norm = 0.0;
  for (const double value : x) norm += value * value;
  norm = std::sqrt(norm);
  if (!(norm > 0.0)) return;
  for (double& value : x) value /= norm;
}

double Dot(const Vector& a, const Vector& b) {
  double sum = 0.0;
  for (size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

/// The rows of one head at unit length (one of zeros as it is).
std::vector<Vector> UnitRows(ConstMatrix x, int64_t first_column, int64_t dim) {
  std::vector<Vector> rows;
  for (int64_t i = 0; i < x.rows; ++i) {
    const float* const row = x.row(i) + first_column;
    Normalize(rows.emplace_back(row, row + dim));
  }
  return rows;
}

/// The first of the nearest.
size_t Nearest(const std::vector<Vector>& centroids, const Vector& x) {
  size_t best = 0;
  double nearness = Dot(centroids[0], x);
  for (size_t c = 1; c < centroids.size(); ++c) {
    if (const double dot = Dot(centroids[c], x); dot > nearness) {
      best = c;
      nearness = dot;
    }
  }
  return best;
}

/// k-means on the unit sphere, from vectors at even distances; a centroid to which none is nearest
/// stays.
std::vector<Vector> FitCentroids(std::span<const Vector> vectors, size_t clusters) {
  std::vector<Vector> centroids;
  for (size_t c = 0; c < clusters; ++c) centroids.push_back(vectors[c * vectors.size() / clusters]);
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Vector> sums(clusters);
    for (const Vector& x : vectors) {
      Vector& sum = sums[Nearest(centroids, x)];
      sum.resize(x.size());
      for (size_t d = 0; d < x.size(); ++d) sum[d] += x[d];
    }
    for (size_t c = 0; c < clusters; ++c) {
      if (sums[c].empty()) continue;
      Normalize(sums[c]);
      centroids[c] = std::move(sums[c]);
    }
  }
  return centroids;
}

struct Settings {
  PolicyShape shape;
  std::string text;
  double keep = 1.0;
  int32_t clusters = 0;  // 0: as many as make up the sequence.
  bool shared = false;
};

class RoutingRun final : public PolicyRun {
 public:
  explicit RoutingRun(const Settings& settings) : settings_(settings) {}

  void BeforeScores(int32_t layer, std::span<const int32_t> positions, const LayerVectors& vectors,
                    const LayerPrediction* prediction, SequencePlan* plan) override {
    const auto rows = static_cast<int32_t>(positions.size());
    const int32_t heads = settings_.shape.heads;
    const int32_t group = heads / settings_.shape.kv_heads;
    const int64_t dim = settings_.shape.head_dim;
    CandidateMask mask(heads, rows, rows);
    for (const int32_t h : RunningHeads(*plan, heads)) {
      const std::vector<Vector> keys = UnitRows(vectors.key, h / group * dim, dim);
      Route(settings_.shared ? keys : UnitRows(vectors.query, h * dim, dim), keys, h, &mask);
      if (plan->candidates) Narrow(*plan->candidates, h, &mask);
    }
    plan->candidates = std::move(mask);
  }

 private:
  /// The members of a cluster: the nearest vectors to its centroid.
  std::span<const int32_t> Members(const std::vector<Vector>& vectors, const Vector& centroid,
                                   int64_t count) {
    nearness_.clear();
    for (const Vector& x : vectors) nearness_.push_back(Dot(x, centroid));
    return top_k_(nearness_, count);
  }

  void Route(const std::vector<Vector>& queries, const std::vector<Vector>& keys, int32_t head,
             CandidateMask* mask) {
    const auto rows = static_cast<int32_t>(keys.size());
    const int64_t members = KeepCount(rows, settings_.keep);
    const int64_t clusters =
        std::min({int64_t{rows}, kMostClusters,
                  settings_.clusters > 0 ? settings_.clusters : (rows + members - 1) / members});
    std::vector<Vector> all = keys;
    if (!settings_.shared) all.insert(all.end(), queries.begin(), queries.end());
    const std::vector<Vector> centroids = FitCentroids(all, static_cast<size_t>(clusters));
    std::vector<std::vector<int32_t>> keys_of;  // By cluster.
    std::vector<uint8_t> routed(keys.size(), 0);
    const auto attend = [&](int32_t query, size_t cluster) {
      for (const int32_t j : keys_of[cluster]) mask->set(head, query, j);
      routed[query] = 1;
    };
    for (size_t c = 0; c < centroids.size(); ++c) {
      const auto chosen = Members(keys, centroids[c], members);
      keys_of.emplace_back(chosen.begin(), chosen.end());
      for (const int32_t i : Members(queries, centroids[c], members)) attend(i, c);
    }
    for (int32_t i = 0; i < rows; ++i) {
      if (!routed[i]) attend(i, Nearest(centroids, queries[i]));
    }
  }

  /// Leaves what an earlier part of the policy chose too; of a query to which that leaves nothing,
  /// all that the earlier part chose.
  static void Narrow(const CandidateMask& earlier, int32_t head, CandidateMask* mask) {
    for (int32_t i = 0; i < mask->queries(); ++i) {
      const uint64_t* const other = earlier.row(head, i);
      uint64_t* const row = mask->row(head, i);
      bool any = false;
      for (int32_t w = 0; w < mask->words(); ++w) any |= (row[w] & other[w]) != 0;
      for (int32_t w = 0; w < mask->words(); ++w) row[w] = any ? row[w] & other[w] : other[w];
    }
  }

  const Settings& settings_;
  std::vector<double> nearness_;
  TopK<double> top_k_;
};

class Routing final : public Policy {
 public:
  explicit Routing(Settings settings) : settings_(std::move(settings)) {}

  std::string text() const override { return settings_.text; }
  std::string name() const override { return "routing"; }
  bool is_dense() const override { return settings_.keep == 1; }
  bool chooses_from_scores() const override { return true; }
  /// Candidates shrink no matrix product.
  double CostShare(int32_t tokens) const override { return 1.0; }
  std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                   std::span<const int32_t> protected_positions) const override {
    return std::make_unique<RoutingRun>(settings_);
  }

 private:
  const Settings settings_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> MakeRouting(const PolicyValues& values,
                                                          const PolicyShape& shape) {
  return std::make_shared<const Routing>(
      Settings{.shape = shape,
               .text = values.Canonical(),
               .keep = values.number("keep"),
               .clusters = static_cast<int32_t>(values.number("clusters")),
               .shared = values.text("qk") == "shared"});
}

}  // namespace thresher
