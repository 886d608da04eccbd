// The table of all policies and keys. Nothing else in the project repeats a name, a range or a
// default that stands here.
#include "backend/sparsity/policy_text.h"

namespace thresher {
namespace {

constexpr KeyCondition Only(std::string_view key, std::string_view value) {
  return {.key = key, .value = value, .equal = true};
}
constexpr KeyCondition Unless(std::string_view key, std::string_view value) {
  return {.key = key, .value = value, .equal = false};
}

constexpr PolicyKey kSpattenKeys[] = {
    {.name = "final",
     .above_min = true,
     .fallback = "1",
     .alternatives = "tokens",
     .measure =
         "share of the sequence's tokens that the last layer keeps; ceil(tokens x share), in a "
         "decoder floor",
     .source = "SpAtten III-A",
     .help =
         "Cascade token pruning: ceil(0.15 x layers) layers keep all, then the share falls in a "
         "straight line to this one in the last layer. A decoder's generated tokens read so many "
         "keys; its prompt reads all."},
    {.name = "keep",
     .above_min = true,
     .alternatives = "tokens",
     .measure =
         "mean over all layers of the share of tokens kept; ceil in each layer, in a decoder floor",
     .source = "SpAtten III-A",
     .help =
         "The same, by the mean: solved for `final`. A mean too low for a line that begins at 1 "
         "gets a steeper one, whose first share is 9 times its last; one that the untouched "
         "layers make unreachable is refused."},
    {.name = "keeps",
     .kind = ValueKind::kNumberList,
     .above_min = true,
     .alternatives = "tokens",
     .measure =
         "one share of the sequence's tokens for each layer; ceil(tokens x share), in a decoder "
         "floor",
     .source = "SpAtten III-A",
     .help = "The same, layer by layer, first layer first: the first is 1 in an encoder (nothing "
             "has been measured before it), none is above the one before."},
    {.name = "schedule",
     .kind = ValueKind::kChoice,
     .choices = "ramp|flat",
     .fallback = "ramp",
     .condition = Only("keeps", ""),
     .measure = "-",
     .source = "SpAtten III-A",
     .help = "How the share goes after the untouched layers: falling in a line, or at once."},
    {.name = "heads",
     .above_min = true,
     .fallback = "1",
     .measure = "share of the heads (of key-value groups, where heads share them) that the last "
                "layer keeps; floor(heads x share), at least 1",
     .source = "SpAtten III-B",
     .help = "Cascade head pruning: ceil(0.3 x layers) layers keep all, then the share falls in a "
             "straight line to this one. Encoders only."},
    {.name = "values",
     .above_min = true,
     .fallback = "1",
     .measure = "share of the keys that the query sees; ceil(keys x share)",
     .source = "SpAtten III-C",
     .help = "Local value pruning: each query and head reads the V rows of its largest "
             "probabilities only."},
    {.name = "bits",
     .kind = ValueKind::kBits,
     .min = 1,
     .max = 12,
     .fallback = "off",
     .measure = "bits of K: upper/lower, at least 2/1, 16 in all; in a decoder at most 8/8",
     .source = "SpAtten III-D",
     .help = "Progressive quantization: scores from the upper bits; the lower ones are fetched and "
             "the row made again where no key stands out."},
    {.name = "refetch",
     .fallback = "0.1",
     .condition = Unless("bits", "off"),
     .measure = "probability",
     .source = "SpAtten III-D",
     .help = "A row whose largest probability is below this fetches the lower bits."},
    {.name = "importance",
     .kind = ValueKind::kChoice,
     .choices = "attention|random|inverse",
     .fallback = "attention",
     .measure = "-",
     .source = "control",
     .help = "What ranks tokens and heads: the paper's accumulated attention, or, to measure how "
             "much that is worth, chance or the least important first."},
    {.name = "seed",
     .kind = ValueKind::kInteger,
     .max = 4294967295.0,
     .fallback = "0",
     .condition = Only("importance", "random"),
     .measure = "-",
     .source = "control",
     .help = "Of importance=random: the same seed drops the same positions."},
    {.name = "protect",
     .kind = ValueKind::kChoice,
     .choices = "model|none",
     .fallback = "model",
     .measure = "-",
     .source = "Thresher",
     .help = "`model`: the tokens that the model lives by ([CLS], a decoder's first) are never "
             "dropped. They count inside the share, and so does a decoder's newest token, which "
             "is always read."},
    {.name = "first",
     .kind = ValueKind::kInteger,
     .max = 1048576,
     .fallback = "0",
     .measure = "tokens",
     .source = "Thresher",
     .help = "This many tokens at the beginning are never dropped either (attention sinks of a "
             "decoder). They count inside the share."},
    {.name = "recent",
     .kind = ValueKind::kInteger,
     .max = 1048576,
     .measure = "tokens",
     .source = "SpAtten's released code for language models",
     .help = "Decoders only: so many of the newest tokens are always read. They count inside the "
             "share."},
    {.name = "rescale",
     .above_min = true,
     .measure = "factor for each generated token; 0.5 unless given",
     .source = "SpAtten's released traces, which do not tell the factor",
     .help = "Decoders only: importance fades by this with each token, so that what matters now "
             "counts for more than what mattered long ago."},
};

constexpr PolicyKey kFactKeys[] = {
    {.name = "topk",
     .above_min = true,
     .fallback = "1",
     .measure = "share of the keys that the query sees; ceil(keys x share)",
     .source = "FACT, eager prediction",
     .help = "Each query and head attends only to the keys with the largest predicted scores."},
    {.name = "threshold",

     .fallback = "0",
     .measure = "predicted probability: softmax of the predicted scores over the keys that the "
                "query sees",
     .source = "FACT, eager prediction",
     .help =
         "Of these, keys with less than this are left out too; the best one always stays. K and "
         "V rows that no query chose are never generated."},
    {.name = "ffn",
     .above_min = true,
     .fallback = "1",
     .measure = "share of the tokens present; ceil(tokens x share)",
     .source = "FACT, mixed-precision FFN",
     .help = "The tokens that queries chose most often run the feed-forward network in full "
             "precision, the others in low precision. Needs topk or threshold, which choose."},
    {.name = "ffnbits",
     .kind = ValueKind::kChoice,
     .choices = "8|4",
     .fallback = "8",
     .condition = Unless("ffn", "1"),
     .measure = "bits of weights and activations",
     .source = "FACT, mixed-precision FFN",
     .help =
         "What low precision is: integers of 8 bits, or of 4, which are emulated in those of 8: "
         "no faster here, to measure what an accelerator's 4-bit path would cost in quality."},
    {.name = "qskip",
     .kind = ValueKind::kChoice,
     .choices = "off|gap|small-gap",
     .fallback = "off",
     .measure = "-",
     .source = "FACT, Q skipping",
     .help = "`gap`: where the best predicted score leads the second by `gap` or more, the softmax "
             "is taken as one-hot: Q is not generated and the output is that key's V. `small-gap`: "
             "the other way round, as one reading of the paper has it; to compare, not to serve."},
    {.name = "gap",
     .max = 100,
     .fallback = "5",
     .condition = Unless("qskip", "off"),
     .measure = "difference of predicted scores (natural logarithm of the probabilities' ratio)",
     .source = "FACT, Q skipping",
     .help = "The lead that qskip asks for: 5 is a probability 148 times the second's."},
    {.name = "bits",
     .kind = ValueKind::kInteger,
     .min = 2,
     .max = 8,
     .fallback = "8",
     .measure = "bits of the predictor's operands",
     .source = "FACT, eager prediction",
     .help = "Operands are quantised to this width before all but their leading one is dropped."},
    {.name = "protect",
     .kind = ValueKind::kChoice,
     .choices = "model|none",
     .fallback = "model",
     .condition = Unless("ffn", "1"),
     .measure = "-",
     .source = "Thresher",
     .help = "`model`: the tokens that the model lives by run the feed-forward network in full "
             "precision. They count inside the share."},
};

constexpr PolicyKey kSinksKeys[] = {
    {.name = "first",
     .kind = ValueKind::kInteger,
     .max = 1048576,
     .fallback = "4",
     .measure = "tokens",
     .source = "StreamingLLM",
     .help = "This many tokens at the beginning stay: the sinks, on which attention rests."},
    {.name = "recent",
     .kind = ValueKind::kInteger,
     .min = 1,
     .max = 1048576,
     .fallback = "512",
     .measure = "tokens",
     .source = "StreamingLLM",
     .help = "And this many of the most recent ones, the newest among them. Positions are those "
             "within what stays, so that a text may outgrow the model's context."},
};

constexpr PolicyKey kH2oKeys[] = {
    {.name = "heavy",
     .above_min = true,
     .fallback = "0.1",
     .measure = "share of the tokens seen so far; ceil(tokens x share)",
     .source = "H2O",
     .help = "In each layer and KV head the tokens with the largest sum of attention stay; the "
             "others are evicted for good."},
    {.name = "recent",
     .above_min = true,
     .fallback = "0.1",
     .measure = "share of the tokens seen so far; ceil(tokens x share)",
     .source = "H2O",
     .help = "Beside them the most recent tokens stay, the newest among them."},
    {.name = "first",
     .kind = ValueKind::kInteger,
     .max = 1048576,
     .fallback = "1",
     .measure = "tokens",
     .source = "Thresher",
     .help = "This many tokens at the beginning are never evicted (attention sinks). They count "
             "inside heavy's share."},
};

constexpr PolicySpec kPolicies[] = {
    {.name = "spatten",
     .title = "SpAtten (HPCA 2021): tokens, heads and values by accumulated attention",
     .encoders = true,
     .decoders = true,
     .keys = kSpattenKeys},
    {.name = "fact",
     .title = "FACT (ISCA 2023): keys, queries and FFN precision by a prediction before QKV",
     .encoders = true,
     .decoders = false,
     .keys = kFactKeys},
    {.name = "sinks",
     .title = "StreamingLLM (ICLR 2024): a KV cache of attention sinks and a recent window",
     .encoders = false,
     .decoders = true,
     .keys = kSinksKeys},
    {.name = "h2o",
     .title = "H2O (NeurIPS 2023): a KV cache of heavy hitters and recent tokens",
     .encoders = false,
     .decoders = true,
     .keys = kH2oKeys},
};

}  // namespace

std::span<const PolicySpec> PolicySpecs() { return kPolicies; }

}  // namespace thresher
