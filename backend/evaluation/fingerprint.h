// SHA-256 of what a measurement was made with, so that a promise is kept for that alone.
#ifndef THRESHER_BACKEND_EVALUATION_FINGERPRINT_H_
#define THRESHER_BACKEND_EVALUATION_FINGERPRINT_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace thresher {

/// In hexadecimal.
std::string Sha256(std::string_view bytes);

/// Of all files of a model's directory that its answers depend on: configuration, weights,
/// tokenizer, pooling. Names and contents count; the directory's own name and other files (a
/// README, a profile) do not. Reads all weights. INVALID_ARGUMENT or NOT_FOUND where a file can't
/// be read.
absl::StatusOr<std::string> FingerprintModel(const std::string& directory);

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_FINGERPRINT_H_
