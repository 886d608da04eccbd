#include "backend/evaluation/fingerprint.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;

class Hash {
 public:
  Hash() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void Add(const void* data, size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  std::string Hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest.data(), &size);
    std::string hex;
    for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
    return hex;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

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
  Hash hash;
  hash.Add(bytes.data(), bytes.size());
  return hash.Hex();
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
  Hash hash;
  for (const fs::path& file : files) {
    THRESHER_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::Open(file.string()));
    const std::string head =
        fmt::format("{}\n{}\n", file.lexically_relative(directory).string(), mapped.bytes().size());
    hash.Add(head.data(), head.size());
    hash.Add(mapped.bytes().data(), mapped.bytes().size());
    mapped.ReleasePages();
  }
  return hash.Hex();
}

}  // namespace thresher
