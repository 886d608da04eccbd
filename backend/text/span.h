// A half-open range of bytes.
#ifndef THRESHER_BACKEND_TEXT_SPAN_H_
#define THRESHER_BACKEND_TEXT_SPAN_H_

#include <cstdint>
#include <string_view>

namespace thresher::text {

/// Bytes [begin, end) of some text.
struct Span {
  int32_t begin = 0;
  int32_t end = 0;

  int32_t size() const { return end - begin; }
  std::string_view In(std::string_view text) const { return text.substr(begin, end - begin); }
  friend bool operator==(const Span&, const Span&) = default;
};

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_SPAN_H_
