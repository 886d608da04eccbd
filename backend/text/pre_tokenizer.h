// Pre-tokenizers: cut normalized text into words, which models then tokenize one by one.
#ifndef THRESHER_BACKEND_TEXT_PRE_TOKENIZER_H_
#define THRESHER_BACKEND_TEXT_PRE_TOKENIZER_H_

#include <memory>
#include <string_view>
#include <vector>

#include "backend/text/span.h"

namespace thresher::text {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  /// Appends the words of `piece`, a part of the valid UTF-8 `text`: non-empty, in order, disjoint.
  virtual void Split(std::string_view text, Span piece, std::vector<Span>& words) const = 0;
};

/// Cuts at white space, which is dropped; each punctuation character is a word.
std::unique_ptr<PreTokenizer> MakeBertPreTokenizer();
/// Runs of word characters and runs of what is neither word character nor white space:
/// \w+|[^\w\s]+.
std::unique_ptr<PreTokenizer> MakeWhitespace();
/// Cuts at white space, which is dropped.
std::unique_ptr<PreTokenizer> MakeWhitespaceSplit();

/// What becomes of a delimiter: "the-final--cut" gives
enum class DelimiterBehavior {
  kRemoved,             // the final cut
  kIsolated,            // the - final - - cut
  kMergedWithPrevious,  // the- final- - cut
  kMergedWithNext,      // the -final - -cut
  kContiguous,          // the - final -- cut
};
/// Each punctuation character is a delimiter.
std::unique_ptr<PreTokenizer> MakePunctuation(DelimiterBehavior behavior);
/// Each number character is a word, or each run of them.
std::unique_ptr<PreTokenizer> MakeDigits(bool individual);
/// Each occurrence of the pattern, which is not empty, is a delimiter.
std::unique_ptr<PreTokenizer> MakeSplit(std::string_view pattern, DelimiterBehavior behavior);

/// Cuts as a regular expression of a published tokenizer says, in linear time: Llama 3's, or
/// Qwen2's, which has each number character alone. Null for any other expression.
std::unique_ptr<PreTokenizer> MakeRegexSplit(std::string_view expression);

/// Each cuts the words of the one before.
std::unique_ptr<PreTokenizer> MakeSequence(std::vector<std::unique_ptr<PreTokenizer>> parts);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_PRE_TOKENIZER_H_
