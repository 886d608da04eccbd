// Normalizers: rewrite the characters of a text before it is cut into words.
#ifndef THRESHER_BACKEND_TEXT_NORMALIZER_H_
#define THRESHER_BACKEND_TEXT_NORMALIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/text/aligned_text.h"

namespace thresher::text {

class Normalizer {
 public:
  virtual ~Normalizer() = default;

  /// Rewrites the characters; each keeps, or inherits, the source it came from.
  virtual void Apply(Characters& characters) const = 0;

  /// The fast path: does to ASCII text what Apply would, if that leaves every byte in its place.
  /// False if it does not (or not surely); the text is then in any state.
  virtual bool ApplyInPlace(std::string& ascii) const = 0;

  /// At most how many times as many bytes a text can become.
  virtual int64_t growth() const = 0;

  /// Normalizes valid UTF-8 that begins at byte `base` of the original text.
  AlignedText Normalize(std::string_view text, int32_t base) const;
};

struct BertNormalizerOptions {
  bool clean_text = true;            // Remove control characters; any white space becomes ' '.
  bool handle_chinese_chars = true;  // Spaces around every ideograph.
  bool strip_accents = true;         // Decompose, then remove nonspacing marks.
  bool lowercase = true;
};
std::unique_ptr<Normalizer> MakeBertNormalizer(const BertNormalizerOptions& options);

std::unique_ptr<Normalizer> MakeLowercase();
/// Removes all marks, without decomposing.
std::unique_ptr<Normalizer> MakeStripAccents();
/// Removes white space at the ends.
std::unique_ptr<Normalizer> MakeStrip(bool left, bool right);
/// Replaces each occurrence of the literal, non-empty pattern.
std::unique_ptr<Normalizer> MakeReplace(std::string_view pattern, std::string_view content);

/// NFC, NFD, NFKC and NFKD.
/// Puts a text, which is not empty, before every text that is not; it has the source of the first
/// character.
std::unique_ptr<Normalizer> MakePrepend(std::string_view prefix);

struct NormalizationForm {
  bool compose = true;
  bool compatible = false;
};
std::unique_ptr<Normalizer> MakeNormalizationForm(NormalizationForm form);

/// One after another.
std::unique_ptr<Normalizer> MakeSequence(std::vector<std::unique_ptr<Normalizer>> normalizers);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_NORMALIZER_H_
