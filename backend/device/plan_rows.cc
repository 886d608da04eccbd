#include "backend/device/plan_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Heads that run, ascending.
std::vector<int32_t> RunningHeads(const SequencePlan& plan, const AttentionExtent& extent) {
  if (plan.heads) return *plan.heads;
  std::vector<int32_t> heads(extent.heads);
  std::iota(heads.begin(), heads.end(), 0);
  return heads;
}

/// The one-hot key of a query, -1 where it runs.
int32_t OneHot(const SequencePlan& plan, const AttentionExtent& extent, int32_t head,
               int32_t query) {
  if (plan.one_hot.empty()) return -1;
  return plan.one_hot[static_cast<size_t>(head) * extent.queries + query];
}

/// body(word number, bits) for the candidates of a query among the keys that it sees.
template <typename Body>
void ForEachWordInSight(const CandidateMask& mask, int32_t head, int32_t query, int32_t visible,
                        const Body& body) {
  const uint64_t* const row = mask.row(head, query);
  for (int32_t w = 0; w * 64 < visible; ++w) {
    const int32_t rest = visible - w * 64;
    body(w, rest >= 64 ? row[w] : row[w] & ((uint64_t{1} << rest) - 1));
  }
}

absl::Status CheckHeads(std::string_view field, const std::vector<int32_t>& heads, int32_t count) {
  for (size_t i = 0; i < heads.size(); ++i) {
    if (heads[i] < 0 || heads[i] >= count || (i > 0 && heads[i] <= heads[i - 1])) {
      return InvalidArgument("{}[{}]: {}; expected ascending numbers below {}", field, i, heads[i],
                             count);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCalibration(const AttentionCalibration& calibration, int32_t heads) {
  THRESHER_RETURN_IF_ERROR(CheckHeads("plan.calibration.heads", calibration.heads, heads));
  const auto [unused, threshold, relative, beta] = calibration;
  if (!(threshold >= 0 && std::isfinite(threshold))) {
    return InvalidArgument("plan.calibration.threshold: {}; expected 0 or more", threshold);
  }
  if (!(beta >= 0 && beta <= 1)) {
    return InvalidArgument("plan.calibration.beta: {}; expected [0, 1]", beta);
  }
  return absl::OkStatus();
}

absl::Status CheckSizes(const std::vector<float>& sizes, int32_t keys) {
  if (!sizes.empty() && sizes.size() != static_cast<size_t>(keys)) {
    return InvalidArgument("plan.token_sizes: {} entries; expected none or {}", sizes.size(), keys);
  }
  for (size_t j = 0; j < sizes.size(); ++j) {
    if (!(sizes[j] >= 1 && std::isfinite(sizes[j]))) {
      return InvalidArgument("plan.token_sizes[{}]: {}; expected 1 or more", j, sizes[j]);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRules(const SequencePlan& plan) {
  if (!(plan.value_keep > 0 && plan.value_keep <= 1)) {
    return InvalidArgument("plan.value_keep: {}; expected (0, 1]", plan.value_keep);
  }
  if (!(plan.value_threshold >= 0 && plan.value_threshold <= 1)) {
    return InvalidArgument("plan.value_threshold: {}; expected [0, 1]", plan.value_threshold);
  }
  if (!plan.quantization) return absl::OkStatus();
  const auto [msb, lsb, threshold] = *plan.quantization;
  if (msb < 2 || lsb < 1 || msb > 16 || lsb > 16 || msb + lsb > 16) {
    return InvalidArgument(
        "plan.quantization: {}+{} bits; expected 2 or more + 1 or more, 16 in all", msb, lsb);
  }
  if (!(threshold >= 0 && threshold <= 1)) {
    return InvalidArgument("plan.quantization.threshold: {}; expected [0, 1]", threshold);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlan(const SequencePlan& plan, const AttentionExtent& extent) {
  if (plan.heads) {
    if (plan.heads->empty()) {
      return InvalidArgument("plan.heads: empty; at least one head must run");
    }
    THRESHER_RETURN_IF_ERROR(CheckHeads("plan.heads", *plan.heads, extent.heads));
  }
  THRESHER_RETURN_IF_ERROR(CheckRules(plan));
  if (plan.calibration) {
    THRESHER_RETURN_IF_ERROR(CheckCalibration(*plan.calibration, extent.heads));
  }
  THRESHER_RETURN_IF_ERROR(CheckSizes(plan.token_sizes, extent.keys));
  const size_t query_rows = static_cast<size_t>(extent.heads) * extent.queries;
  if (!plan.one_hot.empty() && plan.one_hot.size() != query_rows) {
    return InvalidArgument("plan.one_hot: {} entries; expected none or {} heads x {} queries",
                           plan.one_hot.size(), extent.heads, extent.queries);
  }
  if (!plan.ffn_low_precision.empty() &&
      plan.ffn_low_precision.size() != static_cast<size_t>(extent.queries)) {
    return InvalidArgument("plan.ffn_low_precision: {} entries; expected none or {}",
                           plan.ffn_low_precision.size(), extent.queries);
  }
  const CandidateMask* mask = plan.candidates ? &*plan.candidates : nullptr;
  if (mask != nullptr && (mask->heads() != extent.heads || mask->queries() != extent.queries ||
                          mask->keys() != extent.keys)) {
    return InvalidArgument(
        "plan.candidates: {} x {} x {}; expected {} heads x {} queries x {} keys", mask->heads(),
        mask->queries(), mask->keys(), extent.heads, extent.queries, extent.keys);
  }
  for (const int32_t h : RunningHeads(plan, extent)) {
    for (int32_t i = 0; i < extent.queries; ++i) {
      const int32_t one_hot = OneHot(plan, extent, h, i);
      if (one_hot < -1 || one_hot >= extent.visible(i)) {
        return InvalidArgument("plan.one_hot: head {}, query {}: key {}; the query sees {} keys", h,
                               i, one_hot, extent.visible(i));
      }
      if (one_hot >= 0 || mask == nullptr) continue;
      bool any = false;
      ForEachWordInSight(*mask, h, i, extent.visible(i),
                         [&](int32_t, uint64_t bits) { any |= bits != 0; });
      if (!any) {
        return InvalidArgument("plan.candidates: head {}, query {}: no candidate", h, i);
      }
    }
  }
  return absl::OkStatus();
}

GeneratedRows RowsToGenerate(const SequencePlan& plan, const AttentionExtent& extent) {
  GeneratedRows rows;
  rows.query.resize(static_cast<size_t>(extent.heads) * extent.queries);
  rows.key.resize(static_cast<size_t>(extent.kv_heads) * extent.keys);
  rows.value.resize(rows.key.size());
  std::vector<uint64_t> chosen;  // By some query of the head: a bit for each key.
  for (const int32_t h : RunningHeads(plan, extent)) {
    const size_t group = static_cast<size_t>(h / (extent.heads / extent.kv_heads)) * extent.keys;
    chosen.assign((extent.keys + 63) / 64, 0);
    int32_t read_by_all = 0;  // Without a mask: how many keys the queries that run see.
    for (int32_t i = 0; i < extent.queries; ++i) {
      if (const int32_t one_hot = OneHot(plan, extent, h, i); one_hot >= 0) {
        rows.value[group + one_hot] = 1;
        continue;
      }
      rows.query[static_cast<size_t>(h) * extent.queries + i] = 1;
      if (!plan.candidates || plan.candidates_from_scores) {
        read_by_all = std::max(read_by_all, extent.visible(i));
        continue;
      }
      ForEachWordInSight(*plan.candidates, h, i, extent.visible(i),
                         [&](int32_t w, uint64_t bits) { chosen[w] |= bits; });
    }
    for (int32_t j = 0; j < extent.keys; ++j) {
      if ((chosen[j / 64] >> (j % 64)) & 1) rows.key[group + j] = rows.value[group + j] = 1;
    }
    std::fill_n(rows.key.begin() + group, read_by_all, uint8_t{1});
    std::fill_n(rows.value.begin() + group, read_by_all, uint8_t{1});
  }
  return rows;
}

}  // namespace thresher
