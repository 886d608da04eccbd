#include "backend/text/decoder.h"

#include <utility>

#include "backend/text/byte_level.h"
#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  for (size_t i = text.find(from); i != std::string::npos; i = text.find(from, i + to.size())) {
    text.replace(i, from.size(), to);
  }
}

// One token at a time, with the space before it, as in the reference implementation.
void CleanUp(std::string& token) {
  static constexpr std::pair<std::string_view, std::string_view> kReplacements[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kReplacements) ReplaceAll(token, from, to);
}

class WordPieceDecoder final : public Decoder {
 public:
  WordPieceDecoder(std::string_view prefix, bool cleanup) : prefix_(prefix), cleanup_(cleanup) {}

  std::string Decode(std::span<const std::string_view> tokens) const override {
    std::string result;
    std::string token;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i == 0) {
        token = tokens[i];
      } else if (tokens[i].starts_with(prefix_)) {
        token = tokens[i].substr(prefix_.size());
      } else {
        token = ' ';
        token += tokens[i];
      }
      if (cleanup_) CleanUp(token);
      result += token;
    }
    return result;
  }

 private:
  std::string prefix_;
  bool cleanup_;
};

class ByteLevelDecoder final : public Decoder {
 public:
  std::string Decode(std::span<const std::string_view> tokens) const override {
    std::string bytes;
    for (const std::string_view token : tokens) AppendSpelledBytes(token, bytes);
    return ReplaceInvalidUtf8(bytes);
  }
};

class JoiningDecoder final : public Decoder {
 public:
  std::string Decode(std::span<const std::string_view> tokens) const override {
    std::string result;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) result += ' ';
      result += tokens[i];
    }
    return result;
  }
};

}  // namespace

std::unique_ptr<Decoder> MakeWordPieceDecoder(std::string_view prefix, bool cleanup) {
  return std::make_unique<WordPieceDecoder>(prefix, cleanup);
}
std::unique_ptr<Decoder> MakeByteLevelDecoder() { return std::make_unique<ByteLevelDecoder>(); }
std::unique_ptr<Decoder> MakeJoiningDecoder() { return std::make_unique<JoiningDecoder>(); }

}  // namespace thresher::text
