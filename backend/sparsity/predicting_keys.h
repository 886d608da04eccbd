// The keys of the policies that predict scores from other papers than FACT: a part of the table of
// policy_table.cc.
#ifndef THRESHER_BACKEND_SPARSITY_PREDICTING_KEYS_H_
#define THRESHER_BACKEND_SPARSITY_PREDICTING_KEYS_H_

#include <string_view>

#include "backend/sparsity/policy_text.h"

namespace thresher {

/// Each query and head attends to so many keys, by predicted scores.
constexpr PolicyKey TopKKey(std::string_view source) {
  return {
      .name = "topk",
      .above_min = true,
      .fallback = "1",
      .measure = "share of the keys that the query sees; ceil(keys x share)",
      .source = source,
      .help = "Each query and head attends only to the keys with the largest predicted scores."};
}

inline constexpr PolicyKey kSangerKeys[] = {
    {.name = "threshold",
     .fallback = "0",
     .measure = "predicted probability: softmax of the predicted scores over the keys that the "
                "query sees",
     .source = "Sanger; its released settings are 0.02 and 0.002 for BERT",
     .help = "Each query and head attends only to the keys above this, and to its best one."},
    {.name = "bits",
     .kind = ValueKind::kInteger,
     .min = 2,
     .max = 8,
     .fallback = "4",
     .measure = "bits of Q and K, symmetric integers by row and head",
     .source = "Sanger",
     .help = "Width of the operands of the predicted scores."},
};

inline constexpr PolicyKey kElsaKeys[] = {
    {.name = "threshold",
     .alternatives = "thresholds",
     .measure = "estimated |K| cos(angle), as a share of the head's longest key",
     .source = "ELSA",
     .help = "Each query and head attends only to the keys that reach this, and to its best one. "
             "Not given, all are read."},
    {.name = "thresholds",
     .kind = ValueKind::kNumberList,
     .alternatives = "thresholds",
     .measure = "one such share for each layer",
     .source = "ELSA",
     .help = "The same, layer by layer. `thresher calibrate --policy elsa` learns them."},
    {.name = "hash",
     .kind = ValueKind::kChoice,
     .choices = "8|16|32|64|128",
     .measure = "bits, at most the dimensions of a head; as many unless given",
     .source = "ELSA",
     .help = "Signs of so many orthogonal projections of Kronecker structure."},
    {.name = "bias",
     .fallback = "0.127",
     .measure = "radians",
     .source = "ELSA for 64 bits; could not be verified",
     .help = "Taken off the angle that the Hamming distance says."},
};

inline constexpr PolicyKey kDotaKeys[] = {
    TopKKey("DOTA; the same number in every row"),
    {.name = "rank",
     .kind = ValueKind::kChoice,
     .choices = "8|16|32|64",
     .fallback = "32",
     .measure = "dimensions of the projected input, and of a head's code if it has more",
     .source = "DOTA",
     .help = "Scores are predicted through a ternary random projection of the layer's input to so "
             "many dimensions: the plain projection, not the detector that the paper trains. K and "
             "V rows that no query chose are never generated."},
    {.name = "bits",
     .kind = ValueKind::kChoice,
     .choices = "4|8",
     .fallback = "4",
     .measure = "bits of the predictor's operands, symmetric integers",
     .source = "Thresher; the paper's could not be verified",
     .help = "Width of the operands of the predicted scores."},
};

inline constexpr PolicyKey kProjectionKeys[] = {
    TopKKey("A-SSCC 2023, random-projection speculation"),
    {.name = "from",
     .kind = ValueKind::kChoice,
     .choices = "vectors|input",
     .fallback = "vectors",
     .measure = "-",
     .source = "A-SSCC 2023; Ayaka (JSSC 2024)",
     .help = "What is projected: Q and K of each head, or, across layers, the layer's input, so "
             "that K and V rows that no query chose are never generated."},
    {.name = "width",
     .kind = ValueKind::kChoice,
     .choices = "4|8|16|32|64",
     .fallback = "16",
     .condition = {.key = "from", .value = "vectors"},
     .measure = "dimensions, at most those of a head",
     .source = "Thresher",
     .help = "To which Q and K of a head are projected."},
    {.name = "center",
     .kind = ValueKind::kChoice,
     .choices = "off|mean",
     .fallback = "off",
     .condition = {.key = "from", .value = "vectors"},
     .measure = "-",
     .source = "stated reading of redundant partial products (A-SSCC 2023)",
     .help =
         "`mean`: what is common to all keys is taken off them first, which changes no softmax."},
    {.name = "rank",
     .kind = ValueKind::kChoice,
     .choices = "16|32|64|128|256",
     .fallback = "64",
     .condition = {.key = "from", .value = "input"},
     .measure = "dimensions",
     .source = "Thresher",
     .help = "To which the layer's input is projected."},
    {.name = "bits",
     .kind = ValueKind::kChoice,
     .choices = "4|8",
     .fallback = "8",
     .measure = "bits of the projections, symmetric integers by row",
     .source = "Thresher",
     .help = "Width of the operands of the predicted scores."},
};

inline constexpr PolicyKey kSofaKeys[] = {
    TopKKey("SOFA, DLZS prediction"),
    {.name = "segments",
     .kind = ValueKind::kInteger,
     .min = 1,
     .max = 64,
     .fallback = "4",
     .measure = "segments of a row",
     .source = "SOFA, SADS",
     .help = "Distributed sorting: of each segment its share of the best keys, ceil(count / "
             "segments), instead of the best of the whole row. K and V rows that no query chose "
             "are never generated."},
    {.name = "radius",
     .max = 100.0,
     .condition = {.key = "segments", .value = "1", .equal = false},
     .measure = "difference of predicted scores (natural logarithm of the probabilities' ratio)",
     .source = "SOFA, SADS; the paper's value could not be verified",
     .help = "Of a segment only keys within this below the largest that it has shown so far."},
    {.name = "bits",
     .kind = ValueKind::kInteger,
     .min = 2,
     .max = 8,
     .fallback = "8",
     .measure = "bits of the predictor's operands",
     .source = "SOFA, DLZS",
     .help = "Operands are quantised to this width; of one of each product the leading one stays."},
};

inline constexpr PolicyKey kPrincipalKeys[] = {
    TopKKey("stated reading of VLSI 2023, of which no more than the title is public"),
    {.name = "components",
     .kind = ValueKind::kChoice,
     .choices = "2|4|8|16|32|64",
     .fallback = "8",
     .measure = "dimensions, at most those of a head",
     .source = "stated reading",
     .help = "Scores are predicted from so many leading principal components of Q and K, those of "
             "the weights."},
    {.name = "similar",
     .above_min = true,
     .fallback = "1",
     .measure = "cosine; 1: nothing is reused",
     .source = "stated reading of `similar vectors`",
     .help = "A query this near to the last one that chose its keys takes over its choice."},
    {.name = "bits",
     .kind = ValueKind::kChoice,
     .choices = "4|8",
     .fallback = "8",
     .measure = "bits of the components, symmetric integers by row",
     .source = "Thresher",
     .help = "Width of the operands of the predicted scores."},
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_PREDICTING_KEYS_H_
