// SHA-256 (FIPS 180-4), of bytes that come in pieces.
#ifndef THRESHER_BACKEND_ENGINE_SHA256_H_
#define THRESHER_BACKEND_ENGINE_SHA256_H_

#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <memory>
#include <string>

namespace thresher {

class Sha256Hash {
 public:
  Sha256Hash() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void Add(const void* data, size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  /// The 32 bytes of the digest. Nothing may be added after it.
  std::string Digest() {
    std::array<char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), &size);
    return std::string(digest.data(), size);
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_SHA256_H_
