// Notices that files have changed: by looking, which works with every file system and with the
// renamed symbolic links that Kubernetes mounts secrets by.
#ifndef THRESHER_SERVER_FILE_WATCHER_H_
#define THRESHER_SERVER_FILE_WATCHER_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// Thread-safe, but for Watch.
class FileWatcher {
 public:
  /// Looks once in `interval`.
  explicit FileWatcher(absl::Duration interval = absl::Seconds(1)) : interval_(interval) {}
  ~FileWatcher();
  FileWatcher(const FileWatcher&) = delete;
  FileWatcher& operator=(const FileWatcher&) = delete;

  /// From Start on, `changed` runs on the watcher's thread whenever one of `paths` has become
  /// another file, another size or another time of change since this call. A file may be half
  /// written then; when it is whole, that is another change. Call before Start.
  void Watch(std::vector<std::string> paths, std::function<void()> changed);
  void Start();

  /// Everything counts as changed now.
  void Touch();

 private:
  struct Item {
    std::vector<std::string> paths;
    std::function<void()> changed;
    std::string seen;  // What the files looked like.
  };

  void Loop();

  const absl::Duration interval_;
  std::vector<Item> items_;  // The thread's, once it runs.
  Mutex mutex_;              // Guards the next two.
  bool stopping_ = false;
  bool touched_ = false;
  CondVar woken_;
  std::thread thread_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_FILE_WATCHER_H_
