#include "backend/engine/prefix_key.h"

#include "backend/engine/sha256.h"

namespace thresher {

std::string PrefixKey::Next(std::span<const int32_t> tokens) {
  Sha256Hash hash;
  hash.Add(chain_.data(), chain_.size());
  hash.Add(tokens.data(), tokens.size_bytes());
  chain_ = hash.Digest();
  return scope_ + chain_;
}

}  // namespace thresher
