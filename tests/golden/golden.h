// The checkpoints of this directory and the answers that make_golden.py and
// make_decoder_golden.py computed for them.
#ifndef THRESHER_TESTS_GOLDEN_GOLDEN_H_
#define THRESHER_TESTS_GOLDEN_GOLDEN_H_

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/testing/paths.h"

namespace thresher::testing {

inline constexpr const char* kGoldenModels[] = {
    "bert-plain",        "bert-sequence",    "bert-token",          "bert-answer",
    "roberta-plain",     "roberta-masked",   "roberta-sequence",    "roberta-token",
    "roberta-answer",    "distilbert-plain", "distilbert-sequence", "distilbert-token",
    "distilbert-answer", "sentence-mean",    "bert-flow",           "distilbert-flow-causal"};

/// Decoders; cases hold "ids" and "logits" of every position.
inline constexpr const char* kGoldenDecoders[] = {
    "decoder-gpt2",   "decoder-gpt2-options", "decoder-llama-tied",
    "decoder-llama3", "decoder-llama-yarn",   "decoder-llama-linear",
    "decoder-opt",    "decoder-opt-350m",     "decoder-opt-unbiased"};

inline std::string GoldenDir(const std::string& model) {
  return (SourceDir() / "tests/golden" / model).string();
}

/// golden.json of a model directory. Throws on a broken file: it is ours.
inline nlohmann::json ReadGolden(const std::filesystem::path& directory) {
  return nlohmann::json::parse(std::ifstream(directory / "golden.json"));
}

inline std::vector<int32_t> Ids(const nlohmann::json& list) {
  return list.get<std::vector<int32_t>>();
}

/// The numbers of a list of any depth, in order.
inline std::vector<float> Floats(const nlohmann::json& list) {
  std::vector<float> numbers;
  for (const nlohmann::json& item : list) {
    if (item.is_array()) {
      const std::vector<float> inner = Floats(item);
      numbers.insert(numbers.end(), inner.begin(), inner.end());
    } else {
      numbers.push_back(item.get<float>());
    }
  }
  return numbers;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_GOLDEN_GOLDEN_H_
