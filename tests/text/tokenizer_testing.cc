#include "tests/text/tokenizer_testing.h"

#include <fstream>
#include <iterator>
#include <stdexcept>

#include "backend/tensor/status.h"
#include "backend/text/byte_level.h"
#include "backend/text/unicode.h"
#include "tests/testing/paths.h"

namespace thresher::text {

using nlohmann::json;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("can't read " + path.string());
  return {std::istreambuf_iterator<char>(stream), {}};
}

void WriteFile(const std::filesystem::path& path, std::string_view contents) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(contents.data(), static_cast<std::streamsize>(contents.size()));
}

std::unique_ptr<Tokenizer> LoadOrDie(const std::filesystem::path& directory) {
  auto tokenizer = Tokenizer::Load(directory.string());
  if (!tokenizer.ok()) throw std::runtime_error(Message(tokenizer.status()));
  return *std::move(tokenizer);
}

std::unique_ptr<Tokenizer> FromJson(const json& document) {
  const thresher::testing::TempDir directory;
  WriteFile(directory.path() / "tokenizer.json", document.dump());
  return LoadOrDie(directory.path());
}

json SmallBert(const std::vector<std::string>& tokens) {
  json vocab = {{"[UNK]", 0}, {"[CLS]", 1}, {"[SEP]", 2}, {"[MASK]", 3}};
  for (const std::string& token : tokens) vocab[token] = vocab.size();
  json added = json::array();
  for (const char* token : {"[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    added.push_back({{"content", token}, {"id", vocab[token]}, {"special", true}});
  }
  return {{"added_tokens", added},
          {"normalizer", {{"type", "BertNormalizer"}}},
          {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
          {"post_processor",
           {{"type", "BertProcessing"}, {"cls", {"[CLS]", 1}}, {"sep", {"[SEP]", 2}}}},
          {"decoder", {{"type", "WordPiece"}}},
          {"model", {{"type", "WordPiece"}, {"vocab", vocab}}}};
}

json SmallBpe(const std::vector<std::pair<std::string, std::string>>& merges) {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(ByteToCharacter(static_cast<unsigned char>(byte)), token);
    vocab[token] = byte;
  }
  json list = json::array();
  for (const auto& [left, right] : merges) {
    list.push_back({left, right});
    if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
  }
  return {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}}}};
}

std::vector<int32_t> Ids(const Encoding& encoding) {
  std::vector<int32_t> ids;
  for (const EncodedToken& token : encoding.tokens) ids.push_back(token.id);
  return ids;
}

namespace {

Encoding EncodePlain(const Tokenizer& tokenizer, std::string_view text) {
  const auto encoding = tokenizer.Encode(text, {.add_special_tokens = false});
  if (!encoding.ok()) throw std::runtime_error(Message(encoding.status()));
  return *encoding;
}

}  // namespace

std::vector<int32_t> PlainIds(const Tokenizer& tokenizer, std::string_view text) {
  return Ids(EncodePlain(tokenizer, text));
}

std::vector<std::string> Spellings(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> result;
  for (const EncodedToken& token : EncodePlain(tokenizer, text).tokens) {
    result.emplace_back(tokenizer.TokenText(token.id));
  }
  return result;
}

std::vector<std::string> Covered(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> result;
  for (const EncodedToken& token : EncodePlain(tokenizer, text).tokens) {
    result.emplace_back(text.substr(token.begin, token.end - token.begin));
  }
  return result;
}

std::string RandomText(std::mt19937& random, int characters) {
  const auto below = [&](uint32_t n) { return static_cast<char32_t>(random() % n); };
  static constexpr std::string_view kFragments[] = {
      " ",      "  ",     "hello", "The",  "[MASK]", "isn't",  "\u00e9", "e\u0301", "\u4e2d\u6587",
      "\ud55c", "\u0130", ".",     "\t\n", "\u200d", "\u00a0", "2009",   "\ufb01",  "\U0001F999"};
  std::string text;
  for (auto n = static_cast<int>(below(characters + 1)); n > 0; --n) {
    char32_t c;
    switch (below(8)) {
      case 0:
        c = below(0x80);
        break;
      case 1:
        c = below(0x3000);
        break;
      case 2:
        c = below(0x110000);
        break;
      case 3:
      case 4:
        c = 'a' + below(26);
        break;
      default:
        text += kFragments[below(std::size(kFragments))];
        continue;
    }
    if (c < 0xD800 || c > 0xDFFF) AppendUtf8(c, text);
  }
  return text;
}

}  // namespace thresher::text
