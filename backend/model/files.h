// Reading files of a checkpoint directory: whole into memory, or mapped. All are hostile until
// parsed.
#ifndef THRESHER_BACKEND_MODEL_FILES_H_
#define THRESHER_BACKEND_MODEL_FILES_H_

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thresher {

/// JSON files of a checkpoint directory are small; larger ones are refused.
inline constexpr size_t kMaxJsonBytes = 16 << 20;

/// True if `path` is a regular file, or a link to one.
bool IsFile(const std::string& path);

/// `name` is the name of a file of the same directory: not empty, no separators, not ".." or ".".
bool IsPlainName(std::string_view name);

/// Text for an error message: cut after 120 bytes.
std::string Shorten(std::string_view text);

/// The file's contents. NOT_FOUND; INVALID_ARGUMENT if it is not a regular file or larger than
/// `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

/// A JSON object from `text`; `name` says whose text it is. INVALID_ARGUMENT with the place.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view name);
absl::StatusOr<nlohmann::json> ReadJson(const std::string& path);

/// A file mapped read-only. A file that another process truncates while it is mapped kills this one
/// on the next read (SIGBUS): replace checkpoints by renaming, never in place, and ask Unchanged
/// before a late read.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// The file still has the size and the time of modification that it was opened with.
  bool Unchanged() const;

  /// Gives the resident pages back; the next read maps them in again from the page cache.
  void ReleasePages() const;

 private:
  MappedFile() = default;

  std::string path_;
  int file_ = -1;  // Stays open: a path may have got another file.
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int64_t modified_ns_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_FILES_H_
