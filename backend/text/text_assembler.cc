#include "backend/text/text_assembler.h"

#include <algorithm>
#include <utility>

namespace thresher {
namespace {

/// The length of the longest end of `text` that `stop` begins with, but is not all of it.
size_t Overlap(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

TextAssembler::TextAssembler(const Tokenizer& tokenizer, std::vector<std::string> stop)
    : stop_(std::move(stop)), stream_(tokenizer.DecodeStream(/*skip_special=*/true)) {}

std::string TextAssembler::Decode(int32_t id) { return stream_->Push(id).value_or(""); }

std::string TextAssembler::PushPrompt(int32_t id) { return Decode(id); }

std::string TextAssembler::Push(int32_t id) {
  held_ += Decode(id);
  return Release(/*last=*/false);
}

std::string TextAssembler::Finish() {
  if (stopped_) return "";
  held_ += stream_->Finish();
  return Release(/*last=*/true);
}

std::string TextAssembler::Release(bool last) {
  // The one that is complete first, so that it does not matter how much came at once; of several
  // that end together the longest.
  size_t begin = std::string::npos;
  size_t end = std::string::npos;
  size_t keep = 0;
  for (const std::string& stop : stop_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) {
      keep = std::max(keep, Overlap(held_, stop));
    } else if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
      begin = at;
      end = at + stop.size();
    }
  }
  stopped_ = begin != std::string::npos;
  if (!stopped_ && !last) begin = held_.size() - keep;
  std::string text = held_.substr(0, begin);
  held_.erase(0, begin);
  return text;
}

}  // namespace thresher
