// From logits and tokens to answers: probabilities, labels, answer spans, pieces of text.
#ifndef THRESHER_SERVER_POSTPROCESS_H_
#define THRESHER_SERVER_POSTPROCESS_H_

#include <google/protobuf/repeated_field.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "backend/engine/loaded_model.h"
#include "thresher/v1/thresher.pb.h"

namespace thresher {

/// exp(x_i - max) / sum, in place. Empty is allowed.
void Softmax(std::span<float> values);
/// 1 / (1 + exp(-x)) for each, in place.
void Sigmoid(std::span<float> values);

/// Logits of one row (a sequence or a token) to scores in place: independent ones (sigmoid) for a
/// multi-label head and for a head of a single score, else a distribution (softmax).
void ToScores(const ModelInfo& info, std::span<float> logits);

/// Index of the largest value, the first of equals; 0 when empty.
size_t ArgMax(std::span<const float> values);

/// The label of a class; "LABEL_i" where the model names none.
std::string LabelOf(const ModelInfo& info, size_t index);

/// Tokens [first, last], both inside.
struct Span {
  size_t first = 0;
  size_t last = 0;
  float score = 0;  // Probability of the start times probability of the end.
};

/// The best answer spans over a context's tokens, best first: at most `top`, each at most
/// `max_tokens` long, none overlapping a better one. Probabilities are softmaxes over the context
/// alone. `start` and `end` hold one logit for each context token. Linear in the context for each
/// span.
std::vector<Span> BestSpans(std::span<const float> start, std::span<const float> end,
                            size_t max_tokens, size_t top);

/// The tokens of an encoding, with their texts.
google::protobuf::RepeatedPtrField<v1::Token> ToTokens(const Tokenizer& tokenizer,
                                                       const Encoding& encoding);

}  // namespace thresher

#endif  // THRESHER_SERVER_POSTPROCESS_H_
