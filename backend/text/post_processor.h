// Templates that put special tokens around one or two tokenized texts.
#ifndef THRESHER_BACKEND_TEXT_POST_PROCESSOR_H_
#define THRESHER_BACKEND_TEXT_POST_PROCESSOR_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "backend/text/tokenizer.h"

namespace thresher::text {

/// One part of a template: a text, or special tokens.
struct TemplatePart {
  int sequence = -1;  // 0: the first text, 1: the second; -1: the special tokens `ids`.
  std::vector<int32_t> ids;
  int32_t type_id = 0;  // Of all tokens of the part.
};

/// The parts of an encoding in their order. Each text occurs once.
using Template = std::vector<TemplatePart>;

struct PostProcessor {
  Template single = {{0, {}, 0}};
  Template pair = {{0, {}, 0}, {1, {}, 1}};
  /// Whether spans of tokens leave out the white space at their ends, as RoBERTa's do.
  bool trim_offsets = false;

  const Template& For(bool is_pair) const { return is_pair ? pair : single; }
};

/// [CLS] A [SEP] and [CLS] A [SEP] B [SEP]; B and what follows it have type 1.
PostProcessor BertPostProcessor(int32_t cls, int32_t sep);
/// <s> A </s> and <s> A </s> </s> B </s>; all have type 0.
PostProcessor RobertaPostProcessor(int32_t cls, int32_t sep, bool trim_offsets);

/// Each text with `before` before it and `after` after it, where given; the second has type 1.
PostProcessor AroundEachText(std::optional<int32_t> before, std::optional<int32_t> after);

/// How many special tokens the template adds.
int64_t CountSpecial(const Template& parts);

/// How many tokens of each text stay so that together they are at most `limit`: the longer one is
/// cut first; cut to equal length, the second keeps an odd one (the first, if it was longer).
std::pair<int64_t, int64_t> LongestFirst(int64_t first, int64_t second, int64_t limit);

/// The tokens of both texts (the second empty for a single one) in the template's order, special
/// tokens only if `add_special`.
std::vector<EncodedToken> Assemble(const Template& parts, bool add_special,
                                   const std::vector<EncodedToken>& first,
                                   const std::vector<EncodedToken>& second);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_POST_PROCESSOR_H_
