#include "backend/evaluation/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "backend/engine/sha256.h"
#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;

/// The digest in hexadecimal.
std::string Hex(Sha256Hash hash) {
  std::string hex;
  for (const char byte : hash.Digest()) hex += fmt::format("{:02x}", static_cast<uint8_t>(byte));
  return hex;
}

bool Matters(const fs::path& file) {
  static constexpr std::string_view kNames[] = {
      "config.json",        "tokenizer.json",
      "vocab.txt",          "tokenizer_config.json",
      "vocab.json",         "special_tokens_map.json",
      "merges.txt",         "added_tokens.json",
      "tokenizer.model",    "sentence_bert_config.json",
      "modules.json",       "model.safetensors.index.json",
      "sentencepiece.model"};
  const std::string name = file.filename().string();
  return file.extension() == ".safetensors" || std::ranges::count(kNames, name) > 0;
}

}  // namespace

std::string Sha256(std::string_view bytes) {
  Sha256Hash hash;
  hash.Add(bytes.data(), bytes.size());
  return Hex(std::move(hash));
}

absl::StatusOr<std::string> FingerprintModel(const std::string& directory) {
  // One level of subdirectories: 1_Pooling/config.json of sentence-transformers.
  std::vector<fs::path> files;
  std::error_code code;
  for (auto it = fs::recursive_directory_iterator(directory, code);
       !code && it != fs::recursive_directory_iterator(); it.increment(code)) {
    if (it.depth() > 0) it.disable_recursion_pending();
    if (Matters(it->path()) && IsFile(it->path().string())) files.push_back(it->path());
  }
  if (code) return NotFound("{}: {}", directory, code.message());
  std::ranges::sort(files);
  Sha256Hash hash;
  for (const fs::path& file : files) {
    THRESHER_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::Open(file.string()));
    const std::string head =
        fmt::format("{}\n{}\n", file.lexically_relative(directory).string(), mapped.bytes().size());
    hash.Add(head.data(), head.size());
    hash.Add(mapped.bytes().data(), mapped.bytes().size());
    mapped.ReleasePages();
  }
  return Hex(std::move(hash));
}

}  // namespace thresher
