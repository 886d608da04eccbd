#include "backend/model/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::Status SystemError(const std::string& path, std::string_view what) {
  const int error = errno;
  if (error == ENOENT || error == ENOTDIR) return NotFound("{}: no such file", path);
  return FailedPrecondition("{}: cannot {}: {}", path, what, std::strerror(error));
}

/// The size of the regular file behind `file`.
absl::StatusOr<size_t> RegularFileSize(const Descriptor& file, const std::string& path) {
  struct stat info = {};
  if (file.get() < 0) return SystemError(path, "open it");
  if (fstat(file.get(), &info) != 0) return SystemError(path, "read its size");
  if (!S_ISREG(info.st_mode)) return InvalidArgument("{}: not a regular file", path);
  return static_cast<size_t>(info.st_size);
}

int64_t ModifiedNs(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

// O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing for regular files.
constexpr int kOpenFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

}  // namespace

bool IsFile(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool IsPlainName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

std::string Shorten(std::string_view text) {
  constexpr size_t kMost = 120;
  return text.size() <= kMost ? std::string(text) : std::string(text.substr(0, kMost)) + "...";
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const Descriptor file(open(path.c_str(), kOpenFlags));
  THRESHER_ASSIGN_OR_RETURN(const size_t size, RegularFileSize(file, path));
  if (size > max_bytes) {
    return InvalidArgument("{}: {} bytes, more than the {} such a file may have", path, size,
                           max_bytes);
  }
  std::string contents(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t got = read(file.get(), contents.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(path, "read it");
    if (got == 0) break;  // Truncated meanwhile.
    done += static_cast<size_t>(got);
  }
  contents.resize(done);
  return contents;
}

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view name) {
  try {
    nlohmann::json value = nlohmann::json::parse(text);
    if (!value.is_object() && !value.is_array()) {
      return InvalidArgument("{}: neither a JSON object nor an array", name);
    }
    return value;
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("{}: not JSON: {}", name, Shorten(error.what()));
  }
}

absl::StatusOr<nlohmann::json> ReadJson(const std::string& path) {
  THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxJsonBytes));
  return ParseJson(text, path);
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  Descriptor file(open(path.c_str(), kOpenFlags));
  THRESHER_ASSIGN_OR_RETURN(const size_t size, RegularFileSize(file, path));
  if (size == 0) return InvalidArgument("{}: the file is empty", path);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return SystemError(path, "map it");
  madvise(data, size, MADV_WILLNEED);  // Only a hint: all of it is read soon.
  MappedFile mapped;
  mapped.path_ = path;
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = size;
  struct stat info = {};
  if (fstat(file.get(), &info) != 0) return SystemError(path, "read its time");
  mapped.modified_ns_ = ModifiedNs(info);
  mapped.file_ = file.Release();
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      file_(std::exchange(other.file_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      modified_ns_(other.modified_ns_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
  if (file_ >= 0) close(file_);
}

bool MappedFile::Unchanged() const {
  struct stat info = {};
  return fstat(file_, &info) == 0 && static_cast<size_t>(info.st_size) == size_ &&
         ModifiedNs(info) == modified_ns_;
}

void MappedFile::ReleasePages() const {
  if (data_ != nullptr) madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

}  // namespace thresher
