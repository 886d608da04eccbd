// What the tokenizer tests share.
#ifndef THRESHER_TESTS_TEXT_TOKENIZER_TESTING_H_
#define THRESHER_TESTS_TEXT_TOKENIZER_TESTING_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "backend/text/tokenizer.h"

namespace thresher::text {

std::string ReadFile(const std::filesystem::path& path);
void WriteFile(const std::filesystem::path& path, std::string_view contents);

/// Loads, or fails the test and throws.
std::unique_ptr<Tokenizer> LoadOrDie(const std::filesystem::path& directory);
/// A tokenizer from the contents of tokenizer.json.
std::unique_ptr<Tokenizer> FromJson(const nlohmann::json& document);

/// A small uncased BERT: [UNK] [CLS] [SEP] [MASK], then `tokens`; ids in this order.
nlohmann::json SmallBert(const std::vector<std::string>& tokens);
/// Byte-level BPE: the 256 bytes in order, then the result of each merge; no special tokens.
nlohmann::json SmallBpe(const std::vector<std::pair<std::string, std::string>>& merges);

std::vector<int32_t> Ids(const Encoding& encoding);
/// The ids without special tokens.
std::vector<int32_t> PlainIds(const Tokenizer& tokenizer, std::string_view text);
/// The tokens' spellings.
std::vector<std::string> Spellings(const Tokenizer& tokenizer, std::string_view text);
/// The parts of the text that the tokens cover.
std::vector<std::string> Covered(const Tokenizer& tokenizer, std::string_view text);

/// Random valid UTF-8 of up to `characters` characters: ASCII, common scripts, any code point.
std::string RandomText(std::mt19937& random, int characters);

}  // namespace thresher::text

#endif  // THRESHER_TESTS_TEXT_TOKENIZER_TESTING_H_
