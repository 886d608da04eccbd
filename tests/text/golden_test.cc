// The tokenizers against vectors computed by others.
#include <filesystem>

#include "tests/testing/paths.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using thresher::testing::SharedPath;
using thresher::testing::SourceDir;

// Hugging Face's library: ids, types, offsets and decoded text; golden/make_golden.js wrote them.
TEST(GoldenTest, AgreesWithTheReferenceImplementation) {
  const json cases = json::parse(ReadFile(SourceDir() / "tests/text/golden/expected.json"));
  std::map<std::string, std::unique_ptr<Tokenizer>> tokenizers;
  for (const json& c : cases) {
    SCOPED_TRACE(c.dump());
    auto& tokenizer = tokenizers[c["tokenizer"]];
    if (!tokenizer) tokenizer = LoadOrDie(SourceDir() / c["tokenizer"].get<std::string>());
    const std::string first = c["first"];
    const EncodeOptions options = {
        .add_special_tokens = c["special"], .max_tokens = c["max"], .truncate = true};
    const auto encoding =
        c.contains("second") ? tokenizer->EncodePair(first, c["second"].get<std::string>(), options)
                             : tokenizer->Encode(first, options);
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    json ids = json::array(), types = json::array(), offsets = json::array();
    for (const EncodedToken& token : encoding->tokens) {
      ids.push_back(token.id);
      types.push_back(token.type_id);
      offsets.push_back({token.begin, token.end});
    }
    EXPECT_EQ(ids, c["ids"]);
    EXPECT_EQ(types, c["types"]);
    EXPECT_EQ(offsets, c["offsets"]);
    // Of a run of byte tokens that truncation cut within a character the reference replaces all.
    if (encoding->truncated &&
        c["decoded"].get<std::string>().find("\uFFFD") != std::string::npos &&
        c["tokenizer"] == "tests/text/golden/byte_fallback") {
      continue;
    }
    const auto decoded = tokenizer->Decode(Ids(*encoding), /*skip_special=*/true);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(c["decoded"], *decoded);
  }
}

void ExpectModelGolden(const fs::path& directory) {
  const json golden = json::parse(ReadFile(directory / "golden.json"));
  const auto tokenizer = LoadOrDie(directory);
  ASSERT_EQ(tokenizer->model_max_length(), 128);
  int truncated = 0;
  for (const json& c : golden["cases"]) {
    SCOPED_TRACE(c["text"].dump());
    const auto encoding =
        tokenizer->Encode(c["text"].get<std::string>(), {.max_tokens = 128, .truncate = true});
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    EXPECT_EQ(Ids(*encoding), c["input_ids"].get<std::vector<int32_t>>());
    truncated += encoding->truncated;
  }
  std::printf("%zu texts, %d of them truncated\n", golden["cases"].size(), truncated);
}

TEST(GoldenTest, Sst2MiniInputIds) { ExpectModelGolden(SourceDir() / "models/sst2-mini"); }

TEST(GoldenTest, AgnewsMiniInputIds) {
  const fs::path directory = SharedPath("models/agnews-mini");
  THRESHER_REQUIRE_SHARED(directory);
  ExpectModelGolden(directory);
}

// The files of llama.cpp's vocabulary tests: texts between separators, and a line of ids for each.
void ExpectVectors(const Tokenizer& tokenizer, const std::string& name) {
  const std::string inputs = ReadFile(SharedPath("golden/tokenizers/" + name + ".inp"));
  std::istringstream outputs(ReadFile(SharedPath("golden/tokenizers/" + name + ".out")));
  const std::string separator = "\n__ggml_vocab_test__\n";
  size_t begin = 0;
  int count = 0;
  for (std::string line; std::getline(outputs, line); ++count) {
    const size_t end = inputs.find(separator, begin);
    const std::string text = inputs.substr(begin, end - begin);
    std::istringstream numbers(line);
    std::vector<int32_t> expected;
    for (int32_t id; numbers >> id;) expected.push_back(id);
    EXPECT_EQ(PlainIds(tokenizer, text), expected) << json(text);
    if (end == std::string::npos) break;
    begin = end + separator.size();
  }
  EXPECT_GT(count, 40);
}

// A directory that holds the files under the names a tokenizer has.
class RenamedFiles {
 public:
  RenamedFiles(std::initializer_list<std::pair<const char*, const char*>> files) {
    for (const auto& [from, to] : files) {
      fs::copy_file(SharedPath("golden/tokenizers") / from, directory_.path() / to);
    }
  }
  const fs::path& path() const { return directory_.path(); }

 private:
  thresher::testing::TempDir directory_;
};

TEST(GoldenTest, BertUncasedVectors) {
  THRESHER_REQUIRE_SHARED(SharedPath("golden/tokenizers"));
  const RenamedFiles vocab_txt = {{"bert-base-uncased_vocab.txt", "vocab.txt"}};
  ExpectVectors(*LoadOrDie(vocab_txt.path()), "ggml-vocab-bert-bge.gguf");
  const RenamedFiles tokenizer_json = {{"bert_uncased_tokenizer.json", "tokenizer.json"}};
  ExpectVectors(*LoadOrDie(tokenizer_json.path()), "ggml-vocab-bert-bge.gguf");
}

TEST(GoldenTest, Gpt2Vectors) {
  THRESHER_REQUIRE_SHARED(SharedPath("golden/tokenizers"));
  const RenamedFiles files = {{"gpt2_vocab.json", "vocab.json"}, {"gpt2_merges.txt", "merges.txt"}};
  ExpectVectors(*LoadOrDie(files.path()), "ggml-vocab-gpt-2.gguf");
}

TEST(GoldenTest, LlamaSentencePieceVectors) {
  THRESHER_REQUIRE_SHARED(SharedPath("golden/tokenizers"));
  const RenamedFiles files = {{"llama_tokenizer.model", "tokenizer.model"}};
  const auto tokenizer = LoadOrDie(files.path());
  ExpectVectors(*tokenizer, "ggml-vocab-llama-spm.gguf");
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(Ids(*tokenizer->Encode("Hello", {})), (std::vector<int32_t>{1, 15043}));
}

// What the reference implementation gives for this tokenizer: BPE of characters that lacks most
// bytes, without a pre-tokenizer.
TEST(GoldenTest, TinyStories656k) {
  const fs::path directory = SharedPath("models/tinystories-656k");
  THRESHER_REQUIRE_SHARED(directory);
  const auto tokenizer = LoadOrDie(directory);
  using Vector = std::vector<int32_t>;
  const std::pair<const char*, Vector> cases[] = {
      {"Once upon a time, there was a little girl named Lily.",
       {1, 80, 147, 201, 282, 215, 286, 598, 629, 10}},
      {"She said: \"Hello <|end_story|> café 中!\"  two  spaces\n",
       {1, 80, 892, 174, 1608, 5,    1288, 67,  2,  80,   295, 58,
        0, 80, 0,   300, 80,   1209, 80,   415, 53, 1499, 3}},
      {" x", {1, 80, 80, 76}}};
  for (const auto& [text, ids] : cases) {
    EXPECT_EQ(Ids(*tokenizer->Encode(text, {})), ids) << text;
  }
  EXPECT_EQ(*tokenizer->Decode(cases[0].second, /*skip_special=*/true), cases[0].first);
  EXPECT_EQ(*tokenizer->Decode(cases[1].second, /*skip_special=*/true),
            "She said: \"Hello caf !\"  two  spaces\n");
  EXPECT_EQ(*tokenizer->Decode(cases[2].second, /*skip_special=*/true), " x");
}

// tokenizer.json and vocab.txt are two ways to say the same.
void ExpectSameTokens(const fs::path& tokenizer_json, const fs::path& vocab_txt) {
  const auto a = LoadOrDie(tokenizer_json);
  const auto b = LoadOrDie(vocab_txt);
  std::mt19937 random(20261121);
  for (int i = 0; i < 2000; ++i) {
    const std::string first = RandomText(random, 40);
    const std::string second = RandomText(random, 40);
    const EncodeOptions options = {.max_tokens = i % 3 == 0 ? 24 : 0, .truncate = true};
    const auto x = a->EncodePair(first, second, options);
    const auto y = b->EncodePair(first, second, options);
    ASSERT_TRUE(x.ok() && y.ok());
    ASSERT_EQ(x->tokens.size(), y->tokens.size()) << json(first) << json(second);
    for (size_t t = 0; t < x->tokens.size(); ++t) {
      const EncodedToken &p = x->tokens[t], &q = y->tokens[t];
      ASSERT_TRUE(p.id == q.id && p.type_id == q.type_id && p.begin == q.begin && p.end == q.end &&
                  p.sequence == q.sequence)
          << json(first) << json(second) << " token " << t;
    }
    ASSERT_EQ(x->truncated, y->truncated);
    EXPECT_EQ(*a->Decode(Ids(*x), i % 2 == 0), *b->Decode(Ids(*y), i % 2 == 0));
  }
}

TEST(GoldenTest, VocabTxtGivesWhatTokenizerJsonGives) {
  const fs::path model = SourceDir() / "models/sst2-mini";
  const thresher::testing::TempDir directory;
  for (const char* name : {"vocab.txt", "tokenizer_config.json", "special_tokens_map.json"}) {
    fs::copy_file(model / name, directory.path() / name);
  }
  ExpectSameTokens(model, directory.path());
}

TEST(GoldenTest, BertVocabTxtGivesWhatTokenizerJsonGives) {
  THRESHER_REQUIRE_SHARED(SharedPath("golden/tokenizers"));
  const RenamedFiles vocab_txt = {{"bert-base-uncased_vocab.txt", "vocab.txt"}};
  const RenamedFiles tokenizer_json = {{"bert_uncased_tokenizer.json", "tokenizer.json"}};
  ExpectSameTokens(tokenizer_json.path(), vocab_txt.path());
}

TEST(GoldenTest, VocabJsonWithMergesGivesWhatTokenizerJsonGives) {
  const fs::path source = SourceDir() / "tests/text/golden/byte_level";
  const json document = json::parse(ReadFile(source / "tokenizer.json"));
  const thresher::testing::TempDir directory;
  WriteFile(directory.path() / "vocab.json", document["model"]["vocab"].dump());
  std::string merges = "#version: 0.2\n";
  for (const json& merge : document["model"]["merges"]) merges += merge.get<std::string>() + "\n";
  WriteFile(directory.path() / "merges.txt", merges);
  ExpectSameTokens(source, directory.path());
  WriteFile(directory.path() / "tokenizer_config.json",
            R"({"tokenizer_class": "RobertaTokenizer"})");
  ExpectSameTokens(source, directory.path());
}

}  // namespace
}  // namespace thresher::text
