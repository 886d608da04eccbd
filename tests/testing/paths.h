// Where tests find files.
#ifndef THRESHER_TESTS_TESTING_PATHS_H_
#define THRESHER_TESTS_TESTING_PATHS_H_

#include <filesystem>
#include <string>

namespace thresher::testing {

/// The root of the source tree.
std::filesystem::path SourceDir();
/// A file of the optional shared data (big vocabularies, evaluation data): ${THRESHER_SHARED_DIR},
/// by default `shared` beside the source tree. May not exist.
std::filesystem::path SharedPath(const std::string& relative);
/// A fresh directory for this test, removed with all it holds when the object dies.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace thresher::testing

/// Skips the test, saying which data is absent, unless `path` (a filesystem path) exists.
#define THRESHER_REQUIRE_SHARED(path) \
  if (!std::filesystem::exists(path)) \
  GTEST_SKIP() << "skipped: needs " << (path).string() << ", which is not here"

#endif  // THRESHER_TESTS_TESTING_PATHS_H_
