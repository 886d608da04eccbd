#include "backend/text/decoder.h"

#include <algorithm>
#include <utility>

#include "backend/text/byte_fallback.h"
#include "backend/text/byte_level.h"
#include "backend/text/unicode.h"
#include "backend/text/utf8_assembler.h"

namespace thresher::text {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  size_t match = text.find(from);
  if (match == std::string::npos) return;
  std::string result;
  size_t done = 0;
  for (; match != std::string::npos; match = text.find(from, done)) {
    result.append(text, done, match - done).append(to);
    done = match + from.size();
  }
  result.append(text, done);
  text = std::move(result);
}

std::string Utf8(char32_t character) {
  std::string text;
  AppendUtf8(character, text);
  return text;
}

// One token at a time, with the space before it, as in the reference implementation.
void CleanUp(std::string& token) {
  static constexpr std::pair<std::string_view, std::string_view> kReplacements[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kReplacements) ReplaceAll(token, from, to);
}

class WordPiece final : public DecodeStep {
 public:
  WordPiece(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}

  void Push(std::string_view token, Next next) override {
    std::string text;
    if (is_first_) {
      text = token;
    } else if (token.starts_with(prefix_)) {
      text = token.substr(prefix_.size());
    } else {
      text = ' ';
      text += token;
    }
    is_first_ = false;
    if (cleanup_) CleanUp(text);
    next(text);
  }

 private:
  const std::string prefix_;
  const bool cleanup_;
  bool is_first_ = true;
};

class ByteLevel final : public DecodeStep {
 public:
  void Push(std::string_view token, Next next) override {
    std::string bytes, text;
    AppendSpelledBytes(token, bytes);
    assembler_.Push(bytes, text);
    next(text);
  }
  void Finish(Next next) override {
    std::string text;
    assembler_.Finish(text);
    next(text);
  }

 private:
  Utf8Assembler assembler_{Utf8Assembler::Replacement::kEachSequence};
};

class Join final : public DecodeStep {
 public:
  void Push(std::string_view token, Next next) override {
    if (!std::exchange(is_first_, false)) next(" ");
    next(token);
  }

 private:
  bool is_first_ = true;
};

class Replace final : public DecodeStep {
 public:
  Replace(std::string pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void Push(std::string_view token, Next next) override {
    std::string text(token);
    ReplaceAll(text, pattern_, content_);
    next(text);
  }

 private:
  const std::string pattern_;
  const std::string content_;
};

class ByteFallback final : public DecodeStep {
 public:
  void Push(std::string_view token, Next next) override {
    if (const auto byte = ParseByteToken(token)) {
      std::string text;
      assembler_.Push({reinterpret_cast<const char*>(&*byte), 1}, text);
      if (!text.empty()) next(text);
      return;
    }
    Finish(next);
    next(token);
  }
  void Finish(Next next) override {
    if (assembler_.empty()) return;
    std::string text;
    assembler_.Finish(text);
    next(text);
  }

 private:
  Utf8Assembler assembler_{Utf8Assembler::Replacement::kEachByte};
};

class Strip final : public DecodeStep {
 public:
  explicit Strip(const StripOptions& options)
      : content_(Utf8(options.content)), options_(options), start_(options.start) {}

  void Push(std::string_view token, Next next) override {
    // Of the whole text `start_` counts down, and `held_` may turn out to be the end of it.
    if (!options_.whole) start_ = options_.start;
    while (start_ > 0 && token.starts_with(content_)) {
      token.remove_prefix(content_.size());
      --start_;
    }
    if (token.empty()) return;
    start_ = 0;
    std::string text;
    for (int i = 0; i < held_; ++i) text += content_;
    text += token;
    std::string_view kept = text;
    held_ = 0;
    while (held_ < options_.stop && kept.ends_with(content_)) {
      kept.remove_suffix(content_.size());
      ++held_;
    }
    if (!options_.whole) held_ = 0;
    next(kept);
  }

 private:
  const std::string content_;
  const StripOptions options_;
  int start_;     // How often it may still be removed from the beginning.
  int held_ = 0;  // How often it stands at the end so far.
};

class Metaspace final : public DecodeStep {
 public:
  Metaspace(char32_t replacement, bool drop_first)
      : replacement_(Utf8(replacement)), drop_(drop_first) {}

  void Push(std::string_view token, Next next) override {
    std::string text(token);
    ReplaceAll(text, replacement_, std::exchange(drop_, false) ? "" : " ");
    next(text);
  }

 private:
  const std::string replacement_;
  bool drop_;
};

class SentencePieceSpace final : public DecodeStep {
 public:
  explicit SentencePieceSpace(LeadingSpace leading) : leading_(leading) {}

  void Push(std::string_view token, Next next) override {
    if (leading_ != LeadingSpace::kKeep && token.starts_with(kSpaceMark)) {
      token.remove_prefix(kSpaceMark.size());
      if (leading_ == LeadingSpace::kDropOne) leading_ = LeadingSpace::kKeep;
    }
    if (token.empty()) return;
    leading_ = LeadingSpace::kKeep;
    std::string text(token);
    ReplaceAll(text, kSpaceMark, " ");
    next(text);
  }

 private:
  LeadingSpace leading_;
};

}  // namespace

Decoder::Stream Decoder::Begin() const {
  Stream stream;
  for (const MakeDecodeStep& make : steps_) stream.steps_.push_back(make());
  return stream;
}

std::string Decoder::Decode(std::span<const std::string_view> tokens) const {
  std::string text;
  Stream stream = Begin();
  for (const std::string_view token : tokens) stream.Push(token, text);
  stream.Finish(text);
  return text;
}

void Decoder::Stream::PushFrom(size_t step, std::string_view token, std::string& text) {
  if (step == steps_.size()) {
    text += token;
  } else {
    steps_[step]->Push(token, [&](std::string_view t) { PushFrom(step + 1, t, text); });
  }
}

void Decoder::Stream::Finish(std::string& text) {
  for (size_t step = 0; step < steps_.size(); ++step) {
    steps_[step]->Finish([&](std::string_view t) { PushFrom(step + 1, t, text); });
  }
}

MakeDecodeStep WordPieceStep(std::string_view prefix, bool cleanup) {
  return [prefix = std::string(prefix), cleanup] {
    return std::make_unique<WordPiece>(prefix, cleanup);
  };
}
MakeDecodeStep ByteLevelStep() {
  return [] { return std::make_unique<ByteLevel>(); };
}
MakeDecodeStep JoinStep() {
  return [] { return std::make_unique<Join>(); };
}
MakeDecodeStep ReplaceStep(std::string_view pattern, std::string_view content) {
  return [pattern = std::string(pattern), content = std::string(content)] {
    return std::make_unique<Replace>(pattern, content);
  };
}
MakeDecodeStep ByteFallbackStep() {
  return [] { return std::make_unique<ByteFallback>(); };
}
MakeDecodeStep StripStep(const StripOptions& options) {
  return [options] { return std::make_unique<Strip>(options); };
}
MakeDecodeStep MetaspaceStep(char32_t replacement, bool drop_first) {
  return [=] { return std::make_unique<Metaspace>(replacement, drop_first); };
}
MakeDecodeStep SentencePieceSpaceStep(LeadingSpace leading) {
  return [leading] { return std::make_unique<SentencePieceSpace>(leading); };
}

}  // namespace thresher::text
