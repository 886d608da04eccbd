// Tokenizer files: what is read from them, and every kind of damage.
#include <functional>

#include "tests/testing/paths.h"
#include "tests/text/tokenizer_testing.h"

namespace thresher::text {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using thresher::testing::SourceDir;

class LoadTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, std::string_view contents) {
    WriteFile(directory_.path() / name, contents);
  }
  absl::Status Status() { return Tokenizer::Load(directory_.path().string()).status(); }
  std::unique_ptr<Tokenizer> Load() { return LoadOrDie(directory_.path()); }
  void ExpectError(absl::StatusCode code, const std::string& file, const std::string& what) {
    const absl::Status status = Status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(file), HasSubstr(what)));
  }
  void ExpectInvalid(const std::string& file, const std::string& what) {
    ExpectError(absl::StatusCode::kInvalidArgument, file, what);
  }

  thresher::testing::TempDir directory_;
};

TEST_F(LoadTest, ADirectoryWithoutATokenizerIsNotFound) {
  ExpectError(absl::StatusCode::kNotFound, directory_.path().string(), "tokenizer.json");
  Write("merges.txt", "");
  ExpectError(absl::StatusCode::kNotFound, directory_.path().string(), "vocab.json");
}

TEST_F(LoadTest, AFileThatIsADirectoryIsAnError) {
  std::filesystem::create_directory(directory_.path() / "tokenizer.json");
  ExpectInvalid("tokenizer.json", "not a regular file");
}

// ---- vocab.txt ----

constexpr char kVocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\né\nA\ne\n";

TEST_F(LoadTest, VocabTxtAloneIsUncasedBert) {
  Write("vocab.txt", kVocab);
  const auto tokenizer = Load();
  EXPECT_THAT(Ids(*tokenizer->Encode("AB É", {})), ElementsAre(2, 5, 6, 9, 3));
  EXPECT_TRUE(tokenizer->IsSpecial(4));
  EXPECT_EQ(tokenizer->model_max_length(), 0);
}

TEST_F(LoadTest, TokenizerConfigTellsTheNormalizer) {
  Write("vocab.txt", kVocab);
  Write("tokenizer_config.json", R"({"do_lower_case": false, "model_max_length": 64})");
  EXPECT_THAT(PlainIds(*Load(), "A é"), ElementsAre(8, 7));
  EXPECT_EQ(Load()->model_max_length(), 64);
  Write("tokenizer_config.json", R"({"do_lower_case": true, "strip_accents": false})");
  EXPECT_THAT(PlainIds(*Load(), "A É"), ElementsAre(5, 7));
  Write(
      "tokenizer_config.json",
      R"({"tokenize_chinese_chars": false, "model_max_length": 1000000000000000019884624838656})");
  EXPECT_THAT(PlainIds(*Load(), "a中"), ElementsAre(1));
  EXPECT_EQ(Load()->model_max_length(), 0);
}

TEST_F(LoadTest, SpecialTokensMayHaveOtherNames) {
  Write("vocab.txt", "<pad>\n<u>\n<c>\n<s>\na\n");
  Write("special_tokens_map.json",
        R"({"unk_token": "<u>", "cls_token": {"content": "<c>", "lstrip": false}})");
  Write("tokenizer_config.json", R"({"sep_token": "<s>", "tokenizer_class": "BertTokenizerFast"})");
  EXPECT_THAT(Ids(*Load()->Encode("a x", {})), ElementsAre(2, 4, 1, 3));
  EXPECT_THAT(PlainIds(*Load(), "a<s>"), ElementsAre(4, 3));
}

TEST_F(LoadTest, AddedTokensComeFromTheirFiles) {
  Write("vocab.txt", kVocab);
  Write("added_tokens.json", R"({"Brand": 10})");
  Write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"11": {"content": "[X]", "special": true, "lstrip": true}}})");
  EXPECT_THAT(PlainIds(*Load(), "a BRAND [X]"), ElementsAre(5, 10, 11));
  EXPECT_TRUE(Load()->IsSpecial(11));
  Write("added_tokens.json", R"({"Brand": "ten"})");
  ExpectInvalid("added_tokens.json", "Brand");
  Write("added_tokens.json", R"({"Brand": 5})");
  ExpectInvalid("vocab.txt", "same id 5");
}

TEST_F(LoadTest, LineEndsOfAnyKind) {
  Write("vocab.txt", "[UNK]\r\n[CLS]\r\n[SEP]\r\na");
  EXPECT_THAT(Ids(*Load()->Encode("a", {})), ElementsAre(1, 3, 2));
}

TEST_F(LoadTest, BrokenVocabTxt) {
  Write("vocab.txt", "");
  ExpectInvalid("vocab.txt", "empty");
  Write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\nb\na\n");
  ExpectInvalid("vocab.txt: line 6", "'a'");
  Write("vocab.txt", "[CLS]\n[SEP]\n");
  ExpectInvalid("vocab.txt", "[UNK]");
  Write("vocab.txt", "[UNK]\n[SEP]\n");
  ExpectInvalid("vocab.txt", "[CLS]");
  Write("vocab.txt", "[UNK]\n[CLS]\n");
  ExpectInvalid("vocab.txt", "[SEP]");
  Write("vocab.txt", "[UNK]\n[CLS]\nb\xFF\n");
  ExpectInvalid("vocab.txt: line 3", "UTF-8");
}

TEST_F(LoadTest, BrokenTokenizerConfig) {
  Write("vocab.txt", kVocab);
  const std::pair<const char*, const char*> kCases[] = {
      {"{", "JSON"},
      {"[]", "object"},
      {R"({"do_lower_case": "yes"})", "do_lower_case"},
      {R"({"model_max_length": "long"})", "model_max_length"},
      {R"({"model_max_length": -1})", "model_max_length"},
      {R"({"cls_token": 7})", "cls_token"},
      {R"({"cls_token": {"lstrip": true}})", "cls_token"},
      {R"({"cls_token": "<none>"})", "<none>"},
      {R"({"additional_special_tokens": [1]})", "additional_special_tokens[0]"},
      {R"({"added_tokens_decoder": {"x": {"content": "y"}}})", "added_tokens_decoder.x"},
      {R"({"added_tokens_decoder": {"-1": {"content": "y"}}})", "added_tokens_decoder.-1"},
      {R"({"added_tokens_decoder": {"5": {"content": "y"}}})", "same id 5"},
      {R"({"added_tokens_decoder": {"2000000000": {"content": "y"}}})", "too large"}};
  for (const auto& [contents, what] : kCases) {
    Write("tokenizer_config.json", contents);
    ExpectInvalid(directory_.path().string(), what);
  }
  Write("tokenizer_config.json", R"({"tokenizer_class": "BertJapaneseTokenizer"})");
  ExpectError(absl::StatusCode::kUnimplemented, "vocab.txt", "BertJapaneseTokenizer");
}

// ---- vocab.json and merges.txt ----

TEST_F(LoadTest, VocabAndMergesAreRobertaOrGpt2) {
  json vocab = SmallBpe({{"a", "b"}})["model"]["vocab"];
  Write("vocab.json", vocab.dump());
  Write("merges.txt", "#version: 0.2\na b\n\n");
  EXPECT_THAT(Ids(*Load()->Encode("ab", {})), ElementsAre(256));
  vocab["<s>"] = 257;
  vocab["</s>"] = 258;
  vocab["<mask>"] = 259;
  Write("vocab.json", vocab.dump());
  const auto roberta = Load();
  EXPECT_THAT(Ids(*roberta->EncodePair("ab", "a", {})), ElementsAre(257, 256, 258, 258, 'a', 258));
  EXPECT_THAT(Covered(*roberta, "a <mask>"), ElementsAre("a", "<mask>"));  // It takes the space.
  Write("tokenizer_config.json",
        R"({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true})");
  EXPECT_THAT(Ids(*Load()->Encode("ab", {})), ElementsAre(' ', 256));
}

TEST_F(LoadTest, AConfigThatTellsOfBosIsLikeGpt2s) {
  json vocab = SmallBpe({{"a", "b"}})["model"]["vocab"];
  vocab["</s>"] = 257;
  Write("vocab.json", vocab.dump());
  Write("merges.txt", "#version: 0.2\na b\n");
  Write("tokenizer_config.json",
        R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "bos_token": "</s>"})");
  EXPECT_THAT(Ids(*Load()->EncodePair("ab", "a", {})), ElementsAre(257, 256, 257, 'a'));
  Write("tokenizer_config.json", R"({"add_bos_token": false, "bos_token": "</s>"})");
  EXPECT_THAT(Ids(*Load()->Encode("ab", {})), ElementsAre(256));
  Write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<none>"})");
  ExpectInvalid("vocab.json", "'<none>'");
}

TEST_F(LoadTest, BrokenVocabAndMerges) {
  Write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  const std::pair<const char*, const char*> kMerges[] = {
      {"a b\na\n", "line 2"},    {"a b c\n", "line 1"}, {"a b\n\na b\n", "line 2"},
      {"a b\nb a\n", "merge 1"}, {"a x\n", "'x'"},      {"a \xFF\n", "UTF-8"}};
  for (const auto& [merges, what] : kMerges) {
    Write("merges.txt", merges);
    ExpectInvalid("merges.txt", what);
  }
  Write("merges.txt", "a b\n");
  const std::pair<const char*, const char*> kVocabs[] = {{"{", "JSON"},
                                                         {"[1]", "object"},
                                                         {"{}", "empty"},
                                                         {R"({"a": 1.5})", "'a'"},
                                                         {R"({"a": "1"})", "'a'"},
                                                         {R"({"a": 0, "b": 0})", "same id 0"}};
  for (const auto& [vocab, what] : kVocabs) {
    Write("vocab.json", vocab);
    ExpectInvalid("vocab.json", what);
  }
  Write("vocab.json", R"({"</s>": 0, "a": 1, "b": 2, "ab": 3})");
  ExpectInvalid("vocab.json", "<s>");
}

// ---- tokenizer.json ----

class TokenizerJsonTest : public LoadTest {
 protected:
  // Loads a sound document after a change to it.
  void Change(json document, const std::function<void(json&)>& change) {
    change(document);
    Write("tokenizer.json", document.dump());
  }
  void ExpectBroken(const json& document, const std::string& what,
                    const std::function<void(json&)>& change) {
    Change(document, change);
    ExpectInvalid("tokenizer.json", what);
  }
  void ExpectUnsupported(const json& document, const std::string& what,
                         const std::function<void(json&)>& change) {
    Change(document, change);
    ExpectError(absl::StatusCode::kUnimplemented, "tokenizer.json", what);
  }

  const json bert_ = SmallBert({"a", "b"});
  const json bpe_ = SmallBpe({{"a", "b"}});
};

TEST_F(TokenizerJsonTest, MergesInBothSpellingsAndModelsWithoutAType) {
  Change(bpe_, [](json& d) {
    d["model"]["merges"] = {"a b"};
    d["model"].erase("type");
  });
  EXPECT_THAT(PlainIds(*Load(), "ab"), ElementsAre(256));
  Change(bert_, [](json& d) {
    d["model"].erase("type");
    d["model"]["max_input_chars_per_word"] = 100;
  });
  EXPECT_THAT(PlainIds(*Load(), "a"), ElementsAre(4));
}

TEST_F(TokenizerJsonTest, TruncationTellsTheMaxLengthUnlessTheConfigDoes) {
  Change(bert_, [](json& d) { d["truncation"] = {{"max_length", 77}, {"direction", "Right"}}; });
  EXPECT_EQ(Load()->model_max_length(), 77);
  EXPECT_EQ(Load()->Encode(std::string(1000, '.'), {})->tokens.size(), 1002u);
  Write("tokenizer_config.json", R"({"model_max_length": 99})");
  EXPECT_EQ(Load()->model_max_length(), 99);
}

TEST_F(TokenizerJsonTest, PostProcessorsInASequence) {
  Change(bpe_, [](json& d) {
    d["model"]["vocab"]["<s>"] = 257;
    d["post_processor"] = {
        {"type", "Sequence"},
        {"processors",
         {{{"type", "ByteLevel"}, {"trim_offsets", true}},
          {{"type", "TemplateProcessing"},
           {"single",
            {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
             {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
           {"pair",
            {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
             {{"Sequence", {{"id", "B"}, {"type_id", 5}}}}}},
           {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {257, 257}}}}}}}}}};
  });
  const auto tokenizer = Load();
  EXPECT_THAT(Ids(*tokenizer->Encode(" a", {})), ElementsAre(257, 257, ' ', 'a'));
  const auto pair = tokenizer->EncodePair("a", "b", {});
  EXPECT_THAT(Ids(*pair), ElementsAre('a', 'b'));
  EXPECT_EQ(pair->tokens[1].type_id, 5);
  EXPECT_EQ(pair->tokens[1].sequence, 1);
}

TEST_F(TokenizerJsonTest, NotJson) {
  for (const std::string contents : {"", "{", "nonsense", "{\"model\": \"\xFF\"}"}) {
    Write("tokenizer.json", contents);
    ExpectInvalid("tokenizer.json", "not valid JSON");
  }
  for (const std::string contents : {"[]", "7", "null"}) {
    Write("tokenizer.json", contents);
    ExpectInvalid("tokenizer.json", "expected an object");
  }
  Write("tokenizer.json", std::string(1 << 20, '['));  // Deep nesting must not overflow the stack.
  ExpectInvalid("tokenizer.json", "not valid JSON");
}

TEST_F(TokenizerJsonTest, BrokenVocabularies) {
  ExpectBroken(bert_, "'model' is missing", [](json& d) { d.erase("model"); });
  ExpectBroken(bert_, "model: expected an object", [](json& d) { d["model"] = "WordPiece"; });
  ExpectBroken(bert_, "'vocab' is missing", [](json& d) { d["model"].erase("vocab"); });
  ExpectBroken(bert_, "model.vocab", [](json& d) { d["model"]["vocab"] = json::array({1}); });
  ExpectBroken(bert_, "empty", [](json& d) { d["model"]["vocab"] = json::object(); });
  ExpectBroken(bert_, "same id 4", [](json& d) { d["model"]["vocab"]["z"] = 4; });
  ExpectBroken(bert_, "negative", [](json& d) { d["model"]["vocab"]["z"] = -1; });
  ExpectBroken(bert_, "too large", [](json& d) { d["model"]["vocab"]["z"] = 2147483647; });
  ExpectBroken(bert_, "model.vocab", [](json& d) { d["model"]["vocab"]["z"] = 1ull << 63; });
  ExpectBroken(bert_, "'z'", [](json& d) { d["model"]["vocab"]["z"] = "4"; });
  ExpectBroken(bert_, "'z'", [](json& d) { d["model"]["vocab"]["z"] = 4.5; });
  ExpectBroken(bert_, "[UNK]", [](json& d) { d["model"]["vocab"].erase("[UNK]"); });
  ExpectBroken(bert_, "'?'", [](json& d) { d["model"]["unk_token"] = "?"; });
  ExpectBroken(bert_, "max_input_chars_per_word",
               [](json& d) { d["model"]["max_input_chars_per_word"] = -1; });
  ExpectBroken(bert_, "max_input_chars_per_word",
               [](json& d) { d["model"]["max_input_chars_per_word"] = 1e9; });
}

TEST_F(TokenizerJsonTest, BrokenMerges) {
  ExpectBroken(bpe_, "'merges' is missing", [](json& d) { d["model"].erase("merges"); });
  ExpectBroken(bpe_, "model.merges", [](json& d) { d["model"]["merges"] = "a b"; });
  ExpectBroken(bpe_, "model.merges[1]", [](json& d) { d["model"]["merges"].push_back("ab"); });
  ExpectBroken(bpe_, "model.merges[1]", [](json& d) { d["model"]["merges"].push_back("a b c"); });
  ExpectBroken(bpe_, "model.merges[1]", [](json& d) { d["model"]["merges"].push_back({"a"}); });
  ExpectBroken(bpe_, "model.merges[1]", [](json& d) {
    d["model"]["merges"].push_back(json::array({"a", 1}));
  });
  ExpectBroken(bpe_, "merge 1", [](json& d) { d["model"]["merges"].push_back("b nope"); });
  ExpectBroken(bpe_, "'<none>'", [](json& d) { d["model"]["unk_token"] = "<none>"; });
}

TEST_F(TokenizerJsonTest, BrokenAddedTokens) {
  const auto added = [](json token) {
    return [token](json& d) { d["added_tokens"].push_back(token); };
  };
  ExpectBroken(bert_, "added_tokens", [](json& d) { d["added_tokens"] = 1; });
  ExpectBroken(bert_, "added_tokens[4]: 'content'", added({{"id", 6}}));
  ExpectBroken(bert_, "added_tokens[4]: 'id'", added({{"content", "x"}}));
  ExpectBroken(bert_, "added_tokens[4].id", added({{"content", "x"}, {"id", -3}}));
  ExpectBroken(bert_, "too large", added({{"content", "x"}, {"id", 2147483647}}));
  ExpectBroken(bert_, "same id 4", added({{"content", "x"}, {"id", 4}}));
  ExpectBroken(bert_, "added_tokens[4].content",
               added({{"content", std::string(2000, 'x')}, {"id", 6}}));
  ExpectBroken(bert_, "there twice", added({{"content", "a"}, {"id", 6}}));
  ExpectBroken(bert_, "added_tokens[4].lstrip",
               added({{"content", "x"}, {"id", 6}, {"lstrip", "no"}}));
}

TEST_F(TokenizerJsonTest, BrokenComponents) {
  ExpectBroken(bert_, "normalizer: 'type'", [](json& d) { d["normalizer"].erase("type"); });
  ExpectBroken(bert_, "normalizer", [](json& d) { d["normalizer"] = "NFC"; });
  ExpectBroken(bert_, "normalizer.lowercase", [](json& d) { d["normalizer"]["lowercase"] = 1; });
  ExpectBroken(bert_, "normalizer.pattern.String", [](json& d) {
    d["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "x"}};
  });
  ExpectBroken(bert_, "normalizer: 'normalizers'", [](json& d) {
    d["normalizer"] = {{"type", "Sequence"}};
  });
  ExpectBroken(bert_, "normalizer.normalizers[0]: 'type'", [](json& d) {
    d["normalizer"] = {{"type", "Sequence"}, {"normalizers", {json::object()}}};
  });
  ExpectBroken(bert_, "normalizer: may make a text", [](json& d) {
    const json twice = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
    d["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
    for (int i = 0; i < 40; ++i) d["normalizer"]["normalizers"].push_back(twice);
  });
  ExpectBroken(bert_, "behavior 'Gone'", [](json& d) {
    d["pre_tokenizer"] = {{"type", "Punctuation"}, {"behavior", "Gone"}};
  });
  ExpectBroken(bert_, "post_processor.cls",
               [](json& d) { d["post_processor"]["cls"] = {"[CLS]"}; });
  ExpectBroken(bert_, "post_processor.sep[1]: id 99", [](json& d) {
    d["post_processor"]["sep"] = {"[SEP]", 99};
  });
  ExpectBroken(bert_, "truncation.max_length", [](json& d) {
    d["truncation"] = {{"max_length", -1}};
  });
}

TEST_F(TokenizerJsonTest, BrokenTemplates) {
  const auto with = [](json single) {
    return [single](json& d) {
      d["post_processor"] = {
          {"type", "TemplateProcessing"},
          {"single", single},
          {"pair", json::array()},
          {"special_tokens", {{"[CLS]", {{"ids", {1}}}}, {"x", {{"ids", {77}}}}}}};
    };
  };
  const json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json b = {{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
  const auto special = [](const char* id) {
    return json{{"SpecialToken", {{"id", id}, {"type_id", 0}}}};
  };
  ExpectBroken(bert_, "post_processor.single", with("A"));
  ExpectBroken(bert_, "post_processor.single", with(json::array()));
  ExpectBroken(bert_, "post_processor.single", with({a, a}));
  ExpectBroken(bert_, "post_processor.single", with({a, b}));
  ExpectBroken(bert_, "'nope' is missing", with({special("nope"), a}));
  ExpectBroken(bert_, "id 77", with({special("x"), a}));
  ExpectBroken(bert_, "'C'", with({{{"Sequence", {{"id", "C"}, {"type_id", 0}}}}}));
  ExpectBroken(bert_, "type_id", with({{{"Sequence", {{"id", "A"}, {"type_id", -1}}}}}));
  ExpectBroken(bert_, "post_processor.pair", with({special("[CLS]"), a}));
}

TEST_F(TokenizerJsonTest, UnsupportedComponentsAreNamed) {
  ExpectUnsupported(bert_, "model 'Unigram'", [](json& d) { d["model"]["type"] = "Unigram"; });
  ExpectUnsupported(bert_, "normalizer 'Precompiled'",
                    [](json& d) { d["normalizer"]["type"] = "Precompiled"; });
  ExpectUnsupported(bert_, "normalizer.pattern", [](json& d) {
    d["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", "x"}};
  });
  ExpectUnsupported(bert_, "Sequence within", [](json& d) {
    d["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Sequence"}}}}};
  });
  ExpectUnsupported(bert_, "pre-tokenizer 'UnicodeScripts'",
                    [](json& d) { d["pre_tokenizer"]["type"] = "UnicodeScripts"; });
  ExpectUnsupported(bert_, "expression 'a+'", [](json& d) {
    d["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "a+"}}}};
  });
  ExpectUnsupported(bert_, "invert", [](json& d) {
    d["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"invert", true}};
  });
  ExpectUnsupported(bert_, "ByteLevel", [](json& d) { d["pre_tokenizer"]["type"] = "ByteLevel"; });
  ExpectUnsupported(bert_, "post-processor 'New'",
                    [](json& d) { d["post_processor"]["type"] = "New"; });
  ExpectUnsupported(bert_, "decoder 'CTC'", [](json& d) { d["decoder"]["type"] = "CTC"; });
  ExpectUnsupported(bpe_, "byte_fallback", [](json& d) {
    d["model"]["byte_fallback"] = true;
    d["model"]["vocab"].erase("z");
  });
  ExpectUnsupported(bert_, "decoder 'ByteFallback' after Fuse", [](json& d) {
    d["decoder"] = {{"type", "Sequence"},
                    {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}};
  });
  ExpectUnsupported(bpe_, "dropout", [](json& d) { d["model"]["dropout"] = 0.1; });
  ExpectUnsupported(bpe_, "end_of_word_suffix",
                    [](json& d) { d["model"]["end_of_word_suffix"] = "</w>"; });
}

// The published spellings of Metaspace: with add_prefix_space, with prepend_scheme, without a cut.
TEST_F(TokenizerJsonTest, MetaspaceInItsVariants) {
  json vocab = {{"<unk>", 0}, {"\u2581", 1}, {"a", 2}, {"\u2581a", 3}, {"a\u2581a", 4}, {"<s>", 5}};
  const json document = {{"added_tokens", {{{"content", "<s>"}, {"id", 5}, {"special", true}}}},
                         {"model",
                          {{"type", "BPE"},
                           {"unk_token", "<unk>"},
                           {"vocab", vocab},
                           {"merges", {"a \u2581a", "\u2581 a"}}}}};
  const auto with = [&](json flags) {
    flags["type"] = "Metaspace";
    flags["replacement"] = "\u2581";
    Change(document, [&](json& d) {
      d["pre_tokenizer"] = flags;
      d["decoder"] = flags;
    });
    return Load();
  };
  EXPECT_THAT(PlainIds(*with({}), "a a"), ElementsAre(3, 3));
  EXPECT_THAT(PlainIds(*with({{"add_prefix_space", false}}), "a a"), ElementsAre(2, 3));
  EXPECT_THAT(PlainIds(*with({{"prepend_scheme", "never"}}), "a a"), ElementsAre(2, 3));
  EXPECT_THAT(PlainIds(*with({{"prepend_scheme", "never"}, {"split", false}}), "a a"),
              ElementsAre(4));
  EXPECT_THAT(PlainIds(*with({{"prepend_scheme", "always"}}), "a<s>a"), ElementsAre(3, 5, 3));
  EXPECT_THAT(PlainIds(*with({{"prepend_scheme", "first"}}), "a<s>a"), ElementsAre(3, 5, 2));
  EXPECT_THAT(PlainIds(*with({}), " a  a\u2581"), ElementsAre(3, 1, 3, 1));
  EXPECT_THAT(Covered(*with({}), "a  a"), ElementsAre("a", " ", " a"));
  const std::vector<int32_t> ids = {3, 3};
  EXPECT_EQ(*with({})->Decode(ids, true), "a a");
  EXPECT_EQ(*with({{"prepend_scheme", "never"}})->Decode(ids, true), " a a");
  Change(document, [](json& d) {
    d["pre_tokenizer"] = {{"type", "Metaspace"}, {"prepend_scheme", "last"}};
  });
  ExpectInvalid("pre_tokenizer", "'last'");
  Change(document, [](json& d) {
    d["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "__"}};
  });
  ExpectInvalid("pre_tokenizer", "replacement");
  Change(document, [](json& d) {
    d["pre_tokenizer"] = {{"type", "Metaspace"}};
    d["normalizer"] = {{"type", "Prepend"}, {"prepend", std::string(20, 'x')}};
  });
  ExpectInvalid("normalizer", "times as long");
}

TEST_F(TokenizerJsonTest, BrokenDecoders) {
  const auto sequence = [](json decoder) {
    return [decoder](json& d) {
      d["decoder"] = {{"type", "Sequence"}, {"decoders", json::array({decoder})}};
    };
  };
  ExpectBroken(bpe_, "decoder: 'decoders'", [](json& d) { d["decoder"] = {{"type", "Sequence"}}; });
  ExpectBroken(bpe_, "decoder.decoders[0].start",
               sequence({{"type", "Strip"}, {"content", " "}, {"start", -1}}));
  ExpectBroken(bpe_, "content is '  '", sequence({{"type", "Strip"}, {"content", "  "}}));
  ExpectBroken(bpe_, "decoder.decoders[0].pattern.String",
               sequence({{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}}));
}

TEST_F(TokenizerJsonTest, ARealFileCutOffAnywhereIsAnError) {
  const std::string whole = ReadFile(SourceDir() / "tests/text/golden/byte_level/tokenizer.json");
  for (size_t size = 0; size + 2 < whole.size(); size += 97) {
    Write("tokenizer.json", whole.substr(0, size));
    ExpectInvalid("tokenizer.json", "not valid JSON");
  }
}

}  // namespace
}  // namespace thresher::text
