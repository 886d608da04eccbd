#include "server/file_watcher.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <utility>

namespace thresher {
namespace {

std::string LooksOf(const std::vector<std::string>& paths) {
  std::string looks;
  for (const std::string& path : paths) {
    struct stat info = {};
    if (stat(path.c_str(), &info) != 0) {
      looks += "gone\n";
    } else {
      looks += fmt::format("{} {} {} {}.{} {}\n", info.st_dev, info.st_ino, info.st_size,
                           info.st_mtim.tv_sec, info.st_mtim.tv_nsec, info.st_mode);
    }
  }
  return looks;
}

}  // namespace

FileWatcher::~FileWatcher() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    woken_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

void FileWatcher::Watch(std::vector<std::string> paths, std::function<void()> changed) {
  std::string looks = LooksOf(paths);
  items_.push_back({std::move(paths), std::move(changed), std::move(looks)});
}

void FileWatcher::Start() {
  if (!items_.empty()) thread_ = std::thread([this] { Loop(); });
}

void FileWatcher::Touch() {
  MutexLock lock(&mutex_);
  touched_ = true;
  woken_.Signal();
}

void FileWatcher::Loop() {
  for (;;) {
    bool touched = false;
    {
      MutexLock lock(&mutex_);
      if (!stopping_ && !touched_) woken_.WaitWithTimeout(&mutex_, interval_);
      if (stopping_) return;
      touched = std::exchange(touched_, false);
    }
    for (Item& item : items_) {
      std::string looks = LooksOf(item.paths);
      if (!touched && looks == item.seen) continue;
      item.seen = std::move(looks);
      item.changed();
    }
  }
}

}  // namespace thresher
