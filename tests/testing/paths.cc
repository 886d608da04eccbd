#include "tests/testing/paths.h"

#include <cstdlib>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace thresher::testing {

namespace fs = std::filesystem;

fs::path SourceDir() { return THRESHER_SOURCE_DIR; }

fs::path SharedPath(const std::string& relative) {
  const char* root = std::getenv("THRESHER_SHARED_DIR");
  return (root != nullptr ? fs::path(root) : SourceDir().parent_path() / "shared") / relative;
}

TempDir::TempDir() {
  const std::string pattern = (fs::temp_directory_path() / "thresher-test-XXXXXX").string();
  std::vector<char> name(pattern.begin(), pattern.end());
  name.push_back('\0');
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + pattern);
  path_ = name.data();
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace thresher::testing
