#include "server/postprocess.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>

namespace thresher {
namespace {

struct Segment {
  size_t begin, end;  // Tokens [begin, end) that no accepted span covers.
};

/// The best span inside a segment: for each end the best start of the window before it, which a
/// queue of falling probabilities keeps at its front.
std::optional<Span> BestSpan(std::span<const float> start, std::span<const float> end,
                             size_t max_tokens, Segment segment) {
  std::optional<Span> best;
  std::deque<size_t> starts;
  for (size_t last = segment.begin; last < segment.end; ++last) {
    while (!starts.empty() && start[starts.back()] < start[last]) starts.pop_back();
    starts.push_back(last);
    if (last - starts.front() >= max_tokens) starts.pop_front();
    const float score = start[starts.front()] * end[last];
    if (!best || score > best->score) best = Span{starts.front(), last, score};
  }
  return best;
}

}  // namespace

void Softmax(std::span<float> values) {
  if (values.empty()) return;
  const float max = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (float& value : values) {
    value = std::exp(value - max);
    sum += value;
  }
  for (float& value : values) value = static_cast<float>(value / sum);
}

void Sigmoid(std::span<float> values) {
  for (float& value : values) value = 1.0f / (1.0f + std::exp(-value));
}

void ToScores(const ModelInfo& info, std::span<float> logits) {
  if (info.multi_label || logits.size() == 1) {
    Sigmoid(logits);
  } else {
    Softmax(logits);
  }
}

size_t ArgMax(std::span<const float> values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

std::string LabelOf(const ModelInfo& info, size_t index) {
  return index < info.labels.size() ? info.labels[index] : fmt::format("LABEL_{}", index);
}

std::vector<Span> BestSpans(std::span<const float> start, std::span<const float> end,
                            size_t max_tokens, size_t top) {
  std::vector<float> start_probability(start.begin(), start.end());
  std::vector<float> end_probability(end.begin(), end.end());
  Softmax(start_probability);
  Softmax(end_probability);
  const auto best_in = [&](Segment segment) {
    return BestSpan(start_probability, end_probability, std::max<size_t>(max_tokens, 1), segment);
  };

  // Free segments and the best span of each; taking one splits its segment in two.
  struct Candidate {
    Segment segment;
    Span span;
  };
  std::vector<Candidate> candidates;
  const auto add = [&](Segment segment) {
    if (auto span = best_in(segment)) candidates.push_back({segment, *span});
  };
  add({0, start.size()});
  std::vector<Span> spans;
  while (spans.size() < top && !candidates.empty()) {
    const auto best = std::max_element(candidates.begin(), candidates.end(),
                                       [](const Candidate& a, const Candidate& b) {
                                         if (a.span.score != b.span.score)
                                           return a.span.score < b.span.score;
                                         return a.span.first > b.span.first;
                                       });
    const Candidate taken = *best;
    candidates.erase(best);
    spans.push_back(taken.span);
    add({taken.segment.begin, taken.span.first});
    add({taken.span.last + 1, taken.segment.end});
  }
  return spans;
}

google::protobuf::RepeatedPtrField<v1::Token> ToTokens(const Tokenizer& tokenizer,
                                                       const Encoding& encoding) {
  google::protobuf::RepeatedPtrField<v1::Token> tokens;
  for (const EncodedToken& token : encoding.tokens) {
    v1::Token* proto = tokens.Add();
    proto->set_id(token.id);
    proto->set_text(std::string(tokenizer.TokenText(token.id)));
    proto->set_type_id(token.type_id);
    proto->set_begin(token.begin);
    proto->set_end(token.end);
    proto->set_sequence(token.sequence);
  }
  return tokens;
}

}  // namespace thresher
