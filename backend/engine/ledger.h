// The account of one sequence: what a dense run would do and what was done, layer by layer. The one
// place where work is counted; reports, metrics and tables are made from it.
#ifndef THRESHER_BACKEND_ENGINE_LEDGER_H_
#define THRESHER_BACKEND_ENGINE_LEDGER_H_

#include <cstdint>
#include <vector>

#include "backend/device/plan.h"
#include "backend/sparsity/policy.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

/// The work of one layer: of `dense_rows` tokens, `rows` were present, the attention did what
/// `record` says under `plan` (null: dense), for which the scores were `predicted` or not.
v1::PruningReport::Work LayerWork(const PolicyShape& shape, int32_t dense_rows, int32_t rows,
                                  const SequencePlan* plan, bool predicted,
                                  const AttentionRecord& record);

/// Takes what the feed-forward network of that layer skipped into its work.
void AddSpeculation(const SpeculationRecord& record, v1::PruningReport::Work* work);

/// Entropy and sink of one sequence's attention, over its layers:
///   entropy of a row, -sum over keys of p ln p; here the mean over all softmax rows;
///   sink share, the mean over all softmax rows of the first token's probability;
///   sink heads, the share of the heads that ran, over layers, whose own mean of it is above 0.3:
///   Sink_1 of arXiv 2410.10781 (there of one length of text, epsilon 0.3);
///   collapsed and overloaded heads, the shares of the heads that ran, over layers, whose own mean
///   entropy is at most 1/4 of the largest head's, and above 3/4 of it: the classes of
///   entropy-guided attention (AAAI 2025 workshop PPAI), by fractions of the observed maximum; its
///   edges could not be verified.
/// The sink is the first token's: layers that it does not reach (a policy may drop it) count for
/// the entropy alone.
class AttentionDistribution {
 public:
  /// A layer that ran under `plan`; `first_present`: its row 0 is the first token. Nothing unless
  /// the plan wanted the distribution.
  void Add(const SequencePlan& plan, bool first_present, const AttentionRecord& record);
  /// Sets those of the report's fields that anything was added for.
  void Fill(v1::PruningReport* report) const;

 private:
  std::vector<double> entropies_;  // Of each head that had a softmax row, over layers: its mean.
  double entropy_ = 0.0;
  int64_t rows_ = 0;
  // Of the layers that the first token reached.
  double sink_ = 0.0;
  int64_t sink_rows_ = 0;
  int64_t heads_ = 0;       // That had a softmax row, over layers.
  int64_t sink_heads_ = 0;  // Those of them that are sinks.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_LEDGER_H_
