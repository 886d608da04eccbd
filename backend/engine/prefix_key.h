// Names for what a cache page holds, by which prompts find pages that others have left: a chain of
// SHA-256 over all tokens up to the page's end. Cryptographic, since a prompt may be made to
// collide: a weaker hash could hand one caller's text to another.
#ifndef THRESHER_BACKEND_ENGINE_PREFIX_KEY_H_
#define THRESHER_BACKEND_ENGINE_PREFIX_KEY_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace thresher {

class PrefixKey {
 public:
  /// `scope` begins every key: what else a page depends on (the engine, its cache's format).
  explicit PrefixKey(std::string_view scope) : scope_(scope) {}

  /// The key of the page that holds `tokens`, after all those before.
  std::string Next(std::span<const int32_t> tokens);

 private:
  std::string scope_;
  std::string chain_;  // Of the pages so far.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_PREFIX_KEY_H_
