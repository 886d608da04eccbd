// Byte fallback: vocabularies of whole characters that spell what they lack as bytes, with tokens
// <0x00> to <0xFF>.
#ifndef THRESHER_BACKEND_TEXT_BYTE_FALLBACK_H_
#define THRESHER_BACKEND_TEXT_BYTE_FALLBACK_H_

#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "fmt/format.h"

namespace thresher::text {

/// "<0x0A>" for 10.
inline std::string ByteToken(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

/// The byte that a token stands for, if it does.
inline std::optional<unsigned char> ParseByteToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned char byte = 0;
  const auto [end, error] = std::from_chars(&token[3], &token[5], byte, 16);
  if (error != std::errc() || end != &token[5]) return std::nullopt;
  return byte;
}

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_BYTE_FALLBACK_H_
