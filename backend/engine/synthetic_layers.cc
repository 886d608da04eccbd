#include "backend/engine/synthetic_layers.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "backend/device/kv_cache.h"
#include "backend/device/plan.h"
#include "backend/device/simulator/shapes.h"
#include "backend/engine/layer_pricing.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/matrix.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr int64_t kMostPredicted = 4096;

PolicyShape PolicyShapeOf(const LayerShape& shape) {
  return {.layers = shape.layers,
          .heads = shape.heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .hidden_size = shape.hidden_size,
          .ffn_size = shape.ffn_size,
          .ffn_matrices = shape.ffn_matrices,
          .causal = shape.causal};
}

using Random = std::mt19937_64;

/// In [0, 1), the same on every platform.
double Uniform(Random& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

/// Scores of unit variance, drawn anew on each call.
class RandomPrediction final : public LayerPrediction {
 public:
  RandomPrediction(int32_t rows, Random& random) : rows_(rows), random_(random) {}

  void ForEachBlock(std::span<const int32_t> heads, Body body) const override {
    MatrixBuffer scores;
    scores.Resize(rows_, rows_);
    const Matrix view = scores.view();
    for (const int32_t head : heads) {
      for (int64_t q = 0; q < rows_; ++q) {
        for (int64_t k = 0; k < rows_; ++k) {
          // A sum of uniform numbers is as good as normal here.
          double sum = 0.0;
          for (int i = 0; i < 4; ++i) sum += Uniform(random_) - 0.5;
          view.row(q)[k] = static_cast<float>(sum * std::sqrt(3.0));
        }
      }
      body(head, 0, view);
    }
  }

 private:
  const int64_t rows_;
  Random& random_;
};

int64_t Kept(double share, int64_t seen) {
  return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(share * static_cast<double>(seen))), 1,
                             seen);
}

/// What the attention of one head and query reads, summed over those of the plan.
AttentionRecord CountAttention(const PolicyShape& shape, int32_t rows, const SequencePlan& plan,
                               double refetch_share) {
  std::vector<int32_t> heads(static_cast<size_t>(shape.heads));
  std::iota(heads.begin(), heads.end(), 0);
  if (plan.heads) heads = *plan.heads;
  AttentionRecord record;
  for (const int32_t head : heads) {
    for (int32_t q = 0; q < rows; ++q) {
      const size_t at = static_cast<size_t>(head) * rows + q;
      if (!plan.one_hot.empty() && plan.one_hot[at] >= 0) {
        ++record.values;
        continue;
      }
      int64_t seen = rows;
      if (plan.candidates) {
        seen = 0;
        const uint64_t* const words = plan.candidates->row(head, q);
        for (int32_t w = 0; w < plan.candidates->words(); ++w) seen += std::popcount(words[w]);
      }
      ++record.rows;
      record.scores += seen;
      record.values += Kept(plan.value_keep, seen);
    }
  }
  if (plan.quantization) {
    record.refetched_rows = std::llround(refetch_share * static_cast<double>(record.rows));
    record.refetched_scores = std::llround(refetch_share * static_cast<double>(record.scores));
  }
  return record;
}

/// An encoder's sequence on its way through the layers.
class EncoderSequence {
 public:
  EncoderSequence(const PolicyShape& shape, const Policy& policy, int32_t tokens)
      : shape_(shape), policy_(policy), tokens_(tokens) {
    const int32_t first[] = {0};
    run_ = policy.Start(tokens, first);
    positions_.resize(static_cast<size_t>(tokens));
    std::iota(positions_.begin(), positions_.end(), 0);
    heads_.resize(static_cast<size_t>(shape.heads));
    std::iota(heads_.begin(), heads_.end(), 0);
  }

  SequenceRecord RunLayer(int32_t layer, double refetch_share, Random& random) {
    const auto rows = static_cast<int32_t>(positions_.size());
    plan_ = {};
    if (heads_.size() < static_cast<size_t>(shape_.heads)) plan_.heads = heads_;
    const PredictionRequest wanted = policy_.prediction();
    const RandomPrediction prediction(rows, random);
    run_->BeforeProjection(layer, positions_, wanted.wanted() ? &prediction : nullptr, &plan_);
    AttentionRecord record = CountAttention(shape_, rows, plan_, refetch_share);
    record.column_sums.resize(positions_.size());
    for (double& sum : record.column_sums) sum = Uniform(random);
    record.head_l1.resize(static_cast<size_t>(shape_.heads));
    for (double& sum : record.head_l1) sum = Uniform(random);
    CascadeDecision decision{.heads = heads_};
    decision.rows.resize(positions_.size());
    std::iota(decision.rows.begin(), decision.rows.end(), 0);
    run_->AfterAttention(layer, positions_, record, &decision);
    SequenceRecord out = RecordOf(
        shape_, tokens_, positions_, &plan_, wanted.wanted() ? wanted.bits : 0, record,
        static_cast<int32_t>(decision.rows.size()), static_cast<int32_t>(decision.heads.size()));
    std::vector<int32_t> kept;
    for (const int32_t row : decision.rows) kept.push_back(positions_[static_cast<size_t>(row)]);
    positions_ = std::move(kept);
    heads_ = std::move(decision.heads);
    return out;
  }

 private:
  const PolicyShape& shape_;
  const Policy& policy_;
  const int32_t tokens_;
  std::unique_ptr<PolicyRun> run_;
  SequencePlan plan_;
  std::vector<int32_t> positions_, heads_;
};

/// A decoder's text: its prompt in one piece, then step after step.
class DecoderText {
 public:
  DecoderText(const PolicyShape& shape, const Policy& policy)
      : shape_(shape),
        rules_(policy.cache_rules()),
        layout_({.element = DType::kBF16, .planes = rules_.planes, .stretch = rules_.stretch},
                shape.layers, shape.kv_heads, shape.head_dim),
        run_(policy.StartCache()) {}

  void BeginStep(int32_t rows) {
    rows_ = rows;
    victims_.clear();
    if (tokens_ > 0) run_->PlaceNew(slots_, &victims_);
    if (victims_.empty()) slots_ += rows;
  }

  SequenceRecord RunLayer(int32_t layer, double refetch_share, Random& random) {
    const bool decode = tokens_ > 0;
    reads_.clear();
    if (decode) run_->ChooseReads(layer, slots_, &reads_);
    CachedSequence sequence{.rows = rows_, .decode = decode, .slots = slots_, .reads = reads_};
    if (decode) sequence.read_stretches = run_->StretchesToRead(layer, slots_);
    sequence.want_sums = run_->WantsSums(layer);
    CachedRecord record;
    const int64_t read = sequence.SlotsRead(layout_);
    record.rows = int64_t{rows_} * shape_.heads;
    record.scores = shape_.heads * (decode ? read : int64_t{rows_} * (rows_ + 1) / 2);
    record.values = decode ? shape_.heads * Kept(rules_.value_keep, read) : record.scores;
    if (decode && rules_.planes) {
      record.refetched_rows = std::llround(refetch_share * static_cast<double>(record.rows));
      record.refetched_scores = std::llround(refetch_share * static_cast<double>(record.scores));
    }
    if (sequence.want_sums) {
      record.sums.resize(static_cast<size_t>(shape_.kv_heads) * static_cast<size_t>(read));
      for (int64_t& sum : record.sums) sum = std::llround(Uniform(random) / kProbabilityUnit);
      run_->AddSums(layer, slots_, record.sums);
    }
    return RecordOf(shape_, layout_, sequence, tokens_, record, run_->RescalesAfter(layer));
  }

  void EndStep() {
    const bool prompt = tokens_ == 0;
    tokens_ += rows_;
    if (!prompt) return;
    std::vector<std::vector<int32_t>> survivors;
    run_->EndPrompt(tokens_, &survivors);
    if (!survivors.empty()) slots_ = static_cast<int32_t>(survivors.front().size());
  }

 private:
  const PolicyShape& shape_;
  const CacheRules rules_;
  const KvLayout layout_;
  const std::unique_ptr<CacheRun> run_;
  int32_t tokens_ = 0, slots_ = 0, rows_ = 0;
  std::vector<int32_t> victims_, reads_;
};

/// All layers alike: nothing is drawn, whatever the size.
class DenseLayers final : public SyntheticLayers {
 public:
  explicit DenseLayers(const SyntheticOptions& options)
      : record_(DenseRecordOf(options.shape, options.tokens, options.batch)) {}

  const LayerRecord* Next() override {
    if (next_ == record_.shape.layers) return nullptr;
    record_.layer = next_++;
    return &record_;
  }
  int64_t layers() const override { return record_.shape.layers; }

 private:
  LayerRecord record_;
  int32_t next_ = 0;
};

class DrawnLayers final : public SyntheticLayers {
 public:
  DrawnLayers(const SyntheticOptions& options, std::shared_ptr<const Policy> policy)
      : options_(options),
        shape_(PolicyShapeOf(options.shape)),
        policy_(std::move(policy)),
        random_(options.seed) {
    record_.shape = options.shape;
    for (int32_t s = 0; s < options.batch; ++s) {
      if (shape_.causal) {
        texts_.push_back(std::make_unique<DecoderText>(shape_, *policy_));
      } else {
        sequences_.push_back(std::make_unique<EncoderSequence>(
            shape_, *policy_, static_cast<int32_t>(options.tokens)));
      }
    }
  }

  int64_t layers() const override {
    return (int64_t{options_.generate} + 1) * options_.shape.layers;
  }

  const LayerRecord* Next() override {
    if (next_ == layers()) return nullptr;
    const auto layer = static_cast<int32_t>(next_ % shape_.layers);
    const bool prompt = next_ < shape_.layers;
    ++next_;
    record_.layer = layer;
    record_.sequences.clear();
    for (auto& sequence : sequences_) {
      record_.sequences.push_back(sequence->RunLayer(layer, options_.refetch_share, random_));
    }
    for (auto& text : texts_) {
      if (layer == 0) text->BeginStep(prompt ? static_cast<int32_t>(options_.tokens) : 1);
      record_.sequences.push_back(text->RunLayer(layer, options_.refetch_share, random_));
      if (layer == shape_.layers - 1) text->EndStep();
    }
    return &record_;
  }

 private:
  const SyntheticOptions options_;
  const PolicyShape shape_;
  const std::shared_ptr<const Policy> policy_;
  Random random_;
  std::vector<std::unique_ptr<EncoderSequence>> sequences_;
  std::vector<std::unique_ptr<DecoderText>> texts_;
  LayerRecord record_;
  int64_t next_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SyntheticLayers>> SyntheticLayers::Create(
    const SyntheticOptions& options) {
  constexpr int64_t kMostDrawn = int64_t{1} << 20;  // Tokens of all sequences.
  if (options.tokens < 1 || options.tokens > kMaxShapeTokens) {
    return InvalidArgument("tokens: is {}, must be 1 to {}", options.tokens, kMaxShapeTokens);
  }
  if (options.batch < 1 || options.batch > kMaxShapeBatch) {
    return InvalidArgument("batch: is {}, must be 1 to {}", options.batch, kMaxShapeBatch);
  }
  if (!(options.refetch_share >= 0.0 && options.refetch_share <= 1.0)) {
    return InvalidArgument("refetch share: is {}, must be 0 to 1", options.refetch_share);
  }
  if (options.generate < 0 || (options.generate > 0 && !options.shape.causal)) {
    return InvalidArgument("generate: is {}: only a decoder's shape (causal=1) generates",
                           options.generate);
  }
  THRESHER_ASSIGN_OR_RETURN(const auto policy,
                            Policy::Parse(options.policy, PolicyShapeOf(options.shape)));
  if (!options.hardware.empty()) {
    THRESHER_RETURN_IF_ERROR(CheckHardware("the preset", options.hardware, *policy));
  }
  if (policy->is_dense() && options.generate == 0) {
    return std::make_unique<DenseLayers>(options);
  }
  if ((options.tokens + options.generate) * options.batch > kMostDrawn) {
    return InvalidArgument("{} sequences of {} tokens: under a policy at most {} tokens in all",
                           options.batch, options.tokens + options.generate, kMostDrawn);
  }
  if (policy->chooses_from_scores()) {
    return InvalidArgument("{}: chooses from Q and K, which layers that are drawn do not have",
                           policy->name());
  }
  if (policy->prediction().wanted() && options.tokens > kMostPredicted) {
    return InvalidArgument("tokens: is {}: {} looks at every pair of tokens, of at most {}",
                           options.tokens, policy->name(), kMostPredicted);
  }
  return std::make_unique<DrawnLayers>(options, policy);
}

}  // namespace thresher
