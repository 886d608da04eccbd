// Tokenizing speed on one thread, in bytes of text a second.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <string>

#include "backend/tensor/status.h"
#include "backend/text/tokenizer.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

constexpr char kEnglish[] =
    "The film is a gripping, deeply moving portrait of two sisters who haven't spoken in years; it "
    "takes its time, and the last half hour (shot in 2009, mostly at night) is worth the wait. ";

std::string Repeat(const std::string& text, size_t bytes) {
  std::string result;
  while (result.size() < bytes) result += text;
  return result;
}

void Encode(benchmark::State& state, const std::filesystem::path& directory,
            const std::string& text) {
  const auto tokenizer = Tokenizer::Load(directory.string());
  if (!tokenizer.ok()) {
    state.SkipWithError(Message(tokenizer.status()).c_str());
    return;
  }
  size_t tokens = 0;
  for (auto _ : state) {
    const auto encoding = (*tokenizer)->Encode(text, {});
    tokens += encoding->tokens.size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}

void WordPieceSentence(benchmark::State& state) {
  Encode(state, testing::SourceDir() / "models/sst2-mini", kEnglish);
}
void WordPieceLongText(benchmark::State& state) {
  Encode(state, testing::SourceDir() / "models/sst2-mini", Repeat(kEnglish, 1 << 16));
}
void WordPieceUnicode(benchmark::State& state) {
  Encode(state, testing::SourceDir() / "models/sst2-mini",
         Repeat(std::string(kEnglish) + "Une soirée très réussie — “magnifique”. 中文。", 1 << 16));
}
BENCHMARK(WordPieceSentence);
BENCHMARK(WordPieceLongText);
BENCHMARK(WordPieceUnicode);

// The GPT-2 vocabulary is optional data.
void Gpt2(benchmark::State& state, const std::string& text) {
  const auto golden = testing::SharedPath("golden/tokenizers");
  if (!std::filesystem::exists(golden / "gpt2_vocab.json")) {
    state.SkipWithError("needs the GPT-2 vocabulary");
    return;
  }
  const testing::TempDir directory;
  std::filesystem::copy(golden / "gpt2_vocab.json", directory.path() / "vocab.json");
  std::filesystem::copy(golden / "gpt2_merges.txt", directory.path() / "merges.txt");
  Encode(state, directory.path(), text);
}
void Gpt2LongText(benchmark::State& state) { Gpt2(state, Repeat(kEnglish, 1 << 16)); }
void Gpt2OneWord(benchmark::State& state) { Gpt2(state, std::string(1 << 20, 'a')); }
BENCHMARK(Gpt2LongText);
BENCHMARK(Gpt2OneWord);

void LoadTokenizerJson(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        Tokenizer::Load((testing::SourceDir() / "models/sst2-mini").string()).ok());
  }
}
BENCHMARK(LoadTokenizerJson)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace thresher
