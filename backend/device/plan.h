// The plan: what one sequence computes in one layer, as a plain value. Policies write it, devices
// obey it and report what they did; neither knows the other.
//
// Lists hold what was chosen before the attention runs, rules what only the running attention can
// choose. "Row" always means an index into the tokens still present in this layer (0-based,
// ascending, in their original order), never an original position.
//
// backend/device/reference/planned_attention.h states exactly what each rule means.
#ifndef THRESHER_BACKEND_DEVICE_PLAN_H_
#define THRESHER_BACKEND_DEVICE_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace thresher {

/// Which keys each query of each head may attend to: a bit matrix [heads][queries][keys].
class CandidateMask {
 public:
  CandidateMask() = default;
  /// No key is a candidate.
  CandidateMask(int32_t heads, int32_t queries, int32_t keys)
      : heads_(heads),
        queries_(queries),
        keys_(keys),
        words_((keys + 63) / 64),
        bits_(static_cast<size_t>(heads) * queries * ((keys + 63) / 64)) {}

  int32_t heads() const { return heads_; }
  int32_t queries() const { return queries_; }
  int32_t keys() const { return keys_; }
  bool empty() const { return bits_.empty(); }
  bool test(int32_t head, int32_t query, int32_t key) const {
    return (row(head, query)[key / 64] >> (key % 64)) & 1;
  }
  void set(int32_t head, int32_t query, int32_t key) {
    bits_[Index(head, query) + key / 64] |= uint64_t{1} << (key % 64);
  }
  void reset(int32_t head, int32_t query, int32_t key) {
    bits_[Index(head, query) + key / 64] &= ~(uint64_t{1} << (key % 64));
  }
  /// The row's bits, 64 keys a word, key 0 lowest; bits past `keys` are zero.
  const uint64_t* row(int32_t head, int32_t query) const {
    return bits_.data() + Index(head, query);
  }
  uint64_t* row(int32_t head, int32_t query) { return bits_.data() + Index(head, query); }
  int32_t words() const { return words_; }

  friend bool operator==(const CandidateMask&, const CandidateMask&) = default;

 private:
  size_t Index(int32_t head, int32_t query) const {
    return (static_cast<size_t>(head) * queries_ + query) * words_;
  }
  int32_t heads_ = 0;
  int32_t queries_ = 0;
  int32_t keys_ = 0;
  int32_t words_ = 0;
  std::vector<uint64_t> bits_;
};

/// SpAtten's progressive quantization (HPCA 2021, section III-D): Q and K are quantised, symmetric
/// and linear, by row and head to msb_bits + lsb_bits; scores are first made from the K's upper
/// msb_bits; if the largest probability of a row is below `threshold`, the lower bits are fetched
/// and that row's scores are made again in full width.
struct ProgressiveQuantization {
  int32_t msb_bits = 8;
  int32_t lsb_bits = 4;
  double threshold = 0.1;

  friend bool operator==(const ProgressiveQuantization&, const ProgressiveQuantization&) = default;
};

/// ACT's attention calibration (ICML 2024, "Unveiling and Harnessing Hidden Attention Sinks"). In
/// each of `heads`, from that head's whole map of probabilities P of this sequence:
///
///   mean of key j: the mean over the queries that see it of P(i, j)
///   sinks: the keys whose mean is above `threshold` (relative: above threshold / keys), but for
///   the first of them, which is left as it is; then, for every query i,
///   P(i, j) *= beta for each sink j, and what that took away goes to the keys that are no sinks
///   (the first sink among them), in proportion to their P(i, j).
///
/// Rows still sum to 1. A row all of whose probability is on sinks stays as it was. What follows
/// (statistics, which V rows are read, the output) is of the calibrated probabilities.
struct AttentionCalibration {
  std::vector<int32_t> heads;  // Ascending; those that do not run are passed over.
  double threshold = 0.1;
  bool relative = false;
  double beta = 0.4;

  friend bool operator==(const AttentionCalibration&, const AttentionCalibration&) = default;
};

/// Speculation on zeros: a stated reading of the implicit redundancy speculation of VLSI 2021
/// (276.55 TFLOPS/W, "Trainer"), of which only an abstract is public. Where the feed-forward
/// network is two products with a ReLU between them, the first is predicted with operands of `bits`
/// (symmetric integers by row of the input and of the weight, as in low precision). With p_o the
/// prediction of a row's output o before the ReLU, and r the root of the mean over o of p_o^2,
///
///   output o is skipped where p_o < -margin * r
///
/// and is then zero; the others are computed in the row's own precision.
struct ZeroSpeculation {
  int32_t bits = 4;  // 8, or 4 emulated.
  double margin = 0.0;

  friend bool operator==(const ZeroSpeculation&, const ZeroSpeculation&) = default;
};

/// What is wanted back from the attention and the speculation. Nothing asked for costs nothing.
struct WantedStatistics {
  bool column_sums = false;   // For each key: sum over heads and queries of the probability.
  bool self_sums = false;     // For each query: sum over heads of its probability of its own key.
  bool head_l1 = false;       // For each head: sum over queries and dimensions of |output|.
  bool distribution = false;  // Entropy and first-token shares (sink_sums), for metrics.
  bool wrong_zeros = false;   // Of the speculation: the skipped outputs are computed too.

  friend bool operator==(const WantedStatistics&, const WantedStatistics&) = default;
};

/// One sequence, one layer. A plan as constructed is dense.
struct SequencePlan {
  // Lists. Unset: all.
  std::optional<std::vector<int32_t>> heads;  // Heads that run; the others' output is zero.
  /// Rows of heads that do not run mean nothing. A query that runs has at least one candidate.
  std::optional<CandidateMask> candidates;
  /// The candidates were chosen when Q, K and V were there already: they say what is scored, not
  /// which rows are generated.
  bool candidates_from_scores = false;
  /// Rows whose Q is not generated: the query's output is V row one_hot[h][i] (>= 0).
  /// Empty, or [heads][queries] with -1 where the query runs.
  std::vector<int32_t> one_hot;
  // Rules.
  /// Share of the keys that the query sees whose V row each query and head reads (rounded up).
  double value_keep = 1.0;
  /// MNNFast (ISCA 2019), zero-skipping: of these, V rows whose probability is below this are not
  /// read; they add nothing, and nothing is renormalised. Within [0, 1]; a row that reads none has
  /// the output zero.
  double value_threshold = 0.0;
  std::optional<ProgressiveQuantization> quantization;
  std::optional<AttentionCalibration> calibration;
  /// ToMe (ICLR 2023), proportional attention: how many tokens each row stands for; the logarithm
  /// is added to the scores of its key. Empty (all 1), or one for each key, 1 or more.
  std::vector<float> token_sizes;
  WantedStatistics wanted;
  // The feed-forward network: rows computed in low precision. Empty: none; else one flag a row.
  std::vector<uint8_t> ffn_low_precision;
  int32_t ffn_low_bits = 8;                    // What low precision is: 8, or 4 emulated.
  std::optional<ZeroSpeculation> speculation;  // Of all rows.

  friend bool operator==(const SequencePlan&, const SequencePlan&) = default;
};

/// What the attention of one sequence did, and the statistics that the plan asked for.
struct AttentionRecord {
  std::vector<double> column_sums;   // [keys]
  std::vector<double> self_sums;     // [queries]; a one-hot query of its own key counts 1.
  std::vector<double> head_l1;       // [heads]; zero for heads that did not run.
  std::vector<double> sink_sums;     // [heads]: over its softmax rows, the probability of key 0.
  std::vector<double> entropy_sums;  // [heads]: over its softmax rows, the row's entropy, in nats.
  int64_t rows = 0;                  // Softmax rows that ran: heads x queries, less one-hot ones.
  int64_t refetched_rows = 0;
  int64_t scores = 0;            // q.k pairs scored; a refetched pair counts once.
  int64_t refetched_scores = 0;  // Those of them scored again in full width.
  int64_t values = 0;            // V rows read, over heads and queries.
};

/// What the speculation of one sequence did.
struct SpeculationRecord {
  int64_t predicted = 0;  // Outputs of the first product.
  int64_t skipped = 0;
  std::optional<int64_t> wrong;  // Those skipped that are above zero; unset: not measured.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_PLAN_H_
