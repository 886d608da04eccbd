#include "backend/engine/kv_cache.h"

#include <utility>

namespace thresher {

KvPool::~KvPool() {
  // While the mutex that their deleters take is still there.
  remembered_.clear();
}

KvPool::Reservation& KvPool::Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = std::move(other.pool_);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

KvPage KvPool::Reservation::Allocate(size_t bytes) {
  if (bytes > bytes_) return nullptr;
  KvPool* const pool = pool_.get();
  // The deleter first, so that nothing leaks if the rest throws for want of memory.
  KvPage page(new AlignedBuffer<std::byte>(),  // NOLINT: owned by the very next token
              [pool](AlignedBuffer<std::byte>* freed) {
                const size_t size = freed->size();
                delete freed;  // NOLINT: what a deleter is for
                pool->OnFreed(size);
              });
  page->Resize(bytes);
  MutexLock lock(&pool->mutex_);
  bytes_ -= bytes;
  pool->reserved_ -= bytes;
  pool->live_ += bytes;
  return page;
}

void KvPool::Reservation::Release() {
  if (pool_ == nullptr) return;
  {
    MutexLock lock(&pool_->mutex_);
    pool_->reserved_ -= bytes_;
  }
  bytes_ = 0;
  // Even if all of it was used: pages may have become idle with the text that held them.
  pool_->TellListeners();
  pool_ = nullptr;
}

void KvPool::Reservation::Shrink(size_t bytes) {
  if (bytes >= bytes_) return;
  {
    MutexLock lock(&pool_->mutex_);
    pool_->reserved_ -= bytes_ - bytes;
  }
  bytes_ = bytes;
  pool_->TellListeners();
}

bool KvPool::Reserve(size_t bytes, Reservation* reservation) {
  if (bytes > limit_) return false;
  const size_t room = limit_ - bytes;
  std::vector<KvPage> dropped;
  {
    MutexLock lock(&mutex_);
    const size_t taken = live_ + reserved_;
    if (taken > room) dropped = TakeIdleLocked(taken - room);
  }
  dropped.clear();  // Their deleters take the lock.
  reservation->Release();
  MutexLock lock(&mutex_);
  if (live_ + reserved_ > room) return false;
  reserved_ += bytes;
  reservation->pool_ = shared_from_this();
  reservation->bytes_ = bytes;
  return true;
}

std::vector<KvPage> KvPool::TakeIdleLocked(size_t wanted) {
  std::vector<std::map<std::string, Remembered, std::less<>>::iterator> chosen;
  size_t found = 0;
  for (auto place = order_.begin(); place != order_.end() && found < wanted; ++place) {
    const auto entry = remembered_.find(*place);
    if (entry->second.page.use_count() > 1) continue;
    found += entry->second.page->size();
    chosen.push_back(entry);
  }
  std::vector<KvPage> taken;
  if (found < wanted) return taken;  // It would not help.
  for (const auto& entry : chosen) {
    taken.push_back(std::move(entry->second.page));
    order_.erase(entry->second.place);
    remembered_.erase(entry);
  }
  return taken;
}

void KvPool::OnFreed(size_t bytes) {
  {
    MutexLock lock(&mutex_);
    live_ -= bytes;
  }
  TellListeners();
}

void KvPool::Remember(const std::string& key, const KvPage& page) {
  MutexLock lock(&mutex_);
  const auto [entry, added] = remembered_.try_emplace(key);
  if (!added) return;
  entry->second.page = page;
  entry->second.place = order_.insert(order_.end(), key);
}

KvPage KvPool::Find(std::string_view key) const {
  MutexLock lock(&mutex_);
  const auto entry = remembered_.find(key);
  return entry != remembered_.end() ? entry->second.page : nullptr;
}

void KvPool::Touch(std::span<const std::string> keys) {
  MutexLock lock(&mutex_);
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    const auto entry = remembered_.find(*key);
    if (entry != remembered_.end()) order_.splice(order_.end(), order_, entry->second.place);
  }
}

void KvPool::CountPrefix(int64_t hits, int64_t misses) {
  MutexLock lock(&mutex_);
  hits_ += hits;
  misses_ += misses;
}

void KvPool::Forget(std::string_view prefix) {
  std::vector<KvPage> forgotten;  // Their deleters take the lock.
  MutexLock lock(&mutex_);
  for (auto entry = remembered_.lower_bound(prefix);
       entry != remembered_.end() && entry->first.starts_with(prefix);) {
    forgotten.push_back(std::move(entry->second.page));
    order_.erase(entry->second.place);
    entry = remembered_.erase(entry);
  }
}

int64_t KvPool::AddListener(std::function<void()> listener) {
  MutexLock lock(&listeners_mutex_);
  listeners_.emplace(next_listener_, std::move(listener));
  return next_listener_++;
}

void KvPool::RemoveListener(int64_t id) {
  MutexLock lock(&listeners_mutex_);
  listeners_.erase(id);
}

void KvPool::TellListeners() {
  MutexLock lock(&listeners_mutex_);
  for (const auto& [id, listener] : listeners_) listener();
}

KvPool::Snapshot KvPool::snapshot() const {
  MutexLock lock(&mutex_);
  Snapshot snapshot{
      .limit = limit_, .reserved = reserved_, .prefix_hits = hits_, .prefix_misses = misses_};
  for (const auto& [key, entry] : remembered_) {
    if (entry.page.use_count() == 1) snapshot.idle += entry.page->size();
  }
  snapshot.used = live_ - snapshot.idle;
  return snapshot;
}

}  // namespace thresher
