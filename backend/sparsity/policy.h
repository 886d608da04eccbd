// Policies: what to skip. A policy is parsed once from its text, `NAME[:key=value,...]`, parts
// joined by `+` (policy_text.h); for each sequence it starts a PolicyRun that follows the layers:
//
//   BeforeProjection  from the layer's input, as predictions of the scores: candidates, rows to
//                     generate, FFN precision; and the rules under which the attention runs
//   BeforeScores      from Q and K, as they are or as predictions of the scores: candidates
//   AfterAttention    from the statistics: tokens and heads that later layers keep
//
// In a decoder a policy rules the KV cache instead: for each sequence it starts a CacheRun, which
// follows the prompt and then each decode step (see there). The prompt itself is read densely. (Or
// it rules the feed-forward network: Policy::speculation.)
//
// A composed policy runs its parts in the order written; each adds to the same plan. A policy knows
// the model's shape, and never touches a device's internals.
//
// Policy is immutable and thread-safe; a PolicyRun belongs to one sequence on one thread.
#ifndef THRESHER_BACKEND_SPARSITY_POLICY_H_
#define THRESHER_BACKEND_SPARSITY_POLICY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "backend/device/kv_cache.h"
#include "backend/device/plan.h"
#include "backend/device/prediction.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// What a policy must know of a model.
struct PolicyShape {
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t hidden_size = 0;
  int32_t ffn_size = 0;      // Width of the feed-forward network's inner layer.
  int32_t ffn_matrices = 2;  // 3 where the activation is gated.
  bool relu = false;         // That network is two products with a ReLU between them.
  bool attends = true;       // There are scores of queries and keys: no flow-attention.
  bool causal = false;       // A decoder: a query sees the keys up to its own position.
};

/// A prediction of a layer's scores, made when asked for.
class LayerPrediction {
 public:
  /// `scores` [some, rows]: the predicted scores of queries [first_query, ...) of `head` over all
  /// rows, times 1/sqrt(head_dim); of kSignHash the products of the codes themselves. They live
  /// during the call only.
  using Body = absl::FunctionRef<void(int32_t head, int64_t first_query, ConstMatrix scores)>;

  virtual ~LayerPrediction() = default;
  /// Calls `body` for all queries of each of `heads`, once for each block of queries; perhaps on
  /// several threads at once, so that blocks must not share what `body` changes. It must not throw.
  virtual void ForEachBlock(std::span<const int32_t> heads, Body body) const = 0;
};

/// Q and K of one sequence in one layer. Rows and heads that its plan does not generate are zero.
struct LayerVectors {
  ConstMatrix query;   // [rows, heads * head_dim]
  ConstMatrix key;     // [rows, kv_heads * head_dim]
  float scale = 1.0f;  // Scores are scale * q.k.
};

/// Token `from` goes on as a part of token `into`: x[into] = (1 - share) x[into] + share x[from].
struct RowMerge {
  int32_t from = 0;
  int32_t into = 0;
  float share = 0.5f;

  friend bool operator==(const RowMerge&, const RowMerge&) = default;
};

/// What holds for all later layers once a layer's attention has run. The caller fills in `rows` and
/// `heads` with all that is present; policies only remove. Both lists ascend and never become
/// empty.
struct CascadeDecision {
  std::vector<int32_t> rows;   // Rows of this layer.
  std::vector<int32_t> heads;  // The model's numbering.
  /// In this order, `from` among the rows that were removed, `into` among those that stay. A merged
  /// token's last hidden state is that of the one it was merged into.
  std::vector<RowMerge> merges;
  /// The rows leave, and are merged, between the attention (with its residual and norm) and the
  /// feed-forward network, not after the layer.
  bool before_ffn = false;
};

/// One sequence's way through the layers. For each layer in turn the caller makes a plan that holds
/// the heads still present (unset: all), calls BeforeProjection, generates Q, K and V, calls
/// BeforeScores, runs the attention, calls AfterAttention and applies the decision. `positions`
/// says which token (numbered as in layer 0) each row is.
class PolicyRun {
 public:
  virtual ~PolicyRun() = default;
  /// Adds to the plan of `layer`. `prediction` is null unless the policy's prediction() is one from
  /// the layer's input.
  virtual void BeforeProjection(int32_t layer, std::span<const int32_t> positions,
                                const LayerPrediction* prediction, SequencePlan* plan) {}
  /// Likewise, but what is chosen here (candidates, the attention's rules) leaves nothing out of
  /// what was generated; the caller notes that in the plan. `prediction` is null unless the
  /// policy's prediction() is one from Q and K.
  virtual void BeforeScores(int32_t layer, std::span<const int32_t> positions,
                            const LayerVectors& vectors, const LayerPrediction* prediction,
                            SequencePlan* plan) {}
  /// Decides for the layers after `layer`. `record` has the statistics that the plan asked for.
  virtual void AfterAttention(int32_t layer, std::span<const int32_t> positions,
                              const AttentionRecord& record, CascadeDecision* decision) {}
};

/// How a decoder's cache is kept and read under a policy, the same for all its sequences.
struct CacheRules {
  std::optional<KeyPlanes> planes;  // Keys are kept as two planes of bits.
  double refetch_threshold = 0.0;   // With planes: see CachedSequence.
  double value_keep = 1.0;          // Of decode rows: share of the read slots whose V is read.
  bool rotate_on_read = false;      // Positions are those within the cache.
  bool evicts = false;              // Tokens may leave the cache for good.
  int32_t stretch = 0;              // Keys have bounds, of so many slots each: see KvFormat.
  /// The run needs the sums of prompt rows, so that a prompt can't come from another's cache.
  bool wants_prompt_sums = false;
  std::optional<int32_t> prompt_sum_rows;  // Of so many of its last rows alone; unset: of all.
};

/// One sequence's cache under a policy. The engine calls, in this order:
///
///   for each chunk of the prompt, for each layer: AddSums, if WantsSums and sums are of its rows
///   EndPrompt once, which may evict
///   for each decode step: PlaceNew; then for each layer: ChooseReads, and AddSums if WantsSums
///
/// Slots are numbered as in CachedSequence: a prompt's tokens in order; later ones at the end, or
/// in the place of an evicted one. Nothing depends on how the prompt was cut into chunks.
class CacheRun {
 public:
  virtual ~CacheRun() = default;
  /// Whether AddSums wants to hear of `layer`, for prompt rows and decode rows alike.
  virtual bool WantsSums(int32_t layer) const { return false; }
  /// CachedRecord::sums of the rows that just ran: [kv_heads][slots, or those of ChooseReads].
  virtual void AddSums(int32_t layer, int32_t slots, std::span<const int64_t> sums) {}
  /// Whether what it heard is scaled down between `layer` and the next one (after the last: the
  /// next step's first).
  virtual bool RescalesAfter(int32_t layer) const { return false; }
  /// All `tokens` of the prompt are in the cache. To evict, fill `survivors`: for each layer and KV
  /// head [layers * kv_heads] the slots that stay, ascending, as many in each; they become slots 0,
  /// 1, ... in this order. Left empty: all stay.
  virtual void EndPrompt(int32_t tokens, std::vector<std::vector<int32_t>>* survivors) {}
  /// A token comes, `slots` are held. To put it in the place of evicted ones, fill `victims`: for
  /// each layer and KV head [layers * kv_heads] the slot that it takes. Left empty: a new slot.
  virtual void PlaceNew(int32_t slots, std::vector<int32_t>* victims) {}
  /// The slots that `layer` reads of `slots`, ascending, the newest token's among them. Left empty:
  /// all.
  virtual void ChooseReads(int32_t layer, int32_t slots, std::vector<int32_t>* reads) {}
  /// Where keys have bounds: CachedSequence::read_stretches of a decode row.
  virtual int32_t StretchesToRead(int32_t layer, int32_t slots) const { return 0; }
  /// With rotate_on_read: where each slot stands in the cache, once the new token is placed; the
  /// newest stands at slots - 1. By default slot s stands at s.
  virtual void Positions(int32_t slots, std::vector<int32_t>* positions) const;
};

class Policy {
 public:
  virtual ~Policy() = default;

  /// INVALID_ARGUMENT naming the key for anything wrong: an unknown policy or key (with those
  /// known), a value out of range, contradictory keys, an unreachable mean, a list that does not
  /// fit the model, a policy that is not for this kind of model, several for a decoder.
  static absl::StatusOr<std::shared_ptr<const Policy>> Parse(std::string_view text,
                                                             const PolicyShape& shape);

  /// The policy in full, with every key that has an effect, in the form that Parse takes; parsing
  /// it gives the same policy. "dense" for none.
  virtual std::string text() const = 0;
  /// "dense", "spatten", "fact", "spatten+fact", ...: the closed set that metrics are labelled
  /// with.
  virtual std::string name() const = 0;
  /// Its keys leave nothing out of this model: running it is running dense.
  virtual bool is_dense() const { return false; }
  virtual PredictionRequest prediction() const { return {}; }
  /// Its BeforeScores chooses candidates, which it can't join with a part that left out rows of Q
  /// and K before: such texts are refused.
  virtual bool chooses_from_scores() const {
    return prediction().wanted() && !prediction().from_input();
  }
  /// Its plans may leave out rows or heads of Q, K and V, which takes weights packed by head.
  virtual bool chooses_rows() const { return false; }
  /// Its plans may run rows of the feed-forward network in so many bits; 0: none.
  virtual int32_t low_ffn_bits() const { return 0; }
  /// Under what rule it speculates on zeros of the feed-forward network; its plans say the same. A
  /// decoder, prompts and all, obeys it in every layer.
  virtual std::optional<ZeroSpeculation> speculation() const { return {}; }
  /// It reads or rules scores of queries and keys, or what comes of them.
  virtual bool rules_attention() const { return true; }
  /// Predicted work of a sequence of `tokens` (of a decoder: of a decode step that makes it so
  /// long), as a share of dense, for the scheduler: (0, 1].
  virtual double CostShare(int32_t tokens) const = 0;
  /// `tokens`: the sequence's length in layer 0. `protected_positions`: the tokens that the model
  /// lives by (ascending): [CLS] or BOS. The policy outlives the run.
  virtual std::unique_ptr<PolicyRun> Start(int32_t tokens,
                                           std::span<const int32_t> protected_positions) const {
    return std::make_unique<PolicyRun>();
  }

  // Of a decoder's policy (PolicyShape::causal), which Start is not asked of.
  virtual CacheRules cache_rules() const { return {}; }
  /// The policy outlives the run.
  virtual std::unique_ptr<CacheRun> StartCache() const { return std::make_unique<CacheRun>(); }
  /// The most slots that a sequence holds at the end of its prompt of `prompt` tokens and at any
  /// step until it has `tokens` in all. While the prompt is read, all of it is held.
  virtual int32_t CacheSlots(int32_t prompt, int32_t tokens) const { return tokens; }
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_POLICY_H_
