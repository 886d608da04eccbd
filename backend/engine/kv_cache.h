// The memory of KV caches: pages from one bounded pool, and the pages of prompts kept for later
// prompts that begin alike.
//
// The pool never gives more than its limit. What a text may need is reserved before it starts;
// pages are taken from the reservation as it grows. Pages that no text holds but the prefix cache
// still knows are **idle**: they count as free, and are given up, the least recently used first,
// when the room is wanted.
//
// A page whose tokens are those of a prompt's beginning, whole and unchanging, is shared; others
// belong to one text.
#ifndef THRESHER_BACKEND_ENGINE_KV_CACHE_H_
#define THRESHER_BACKEND_ENGINE_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/tensor/matrix.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// One page's memory. The pool must outlive it.
using KvPage = std::shared_ptr<AlignedBuffer<std::byte>>;

/// Thread-safe.
class KvPool : public std::enable_shared_from_this<KvPool> {
 public:
  explicit KvPool(size_t limit) : limit_(limit) {}
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  size_t limit() const { return limit_; }

  /// Room that is kept for one text; what was not used goes back when it dies.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Release(); }

    /// Room that is left.
    size_t bytes() const { return bytes_; }
    /// A page out of it, its memory undefined; null if there is no room left for one.
    KvPage Allocate(size_t bytes);
    /// Gives back all but `bytes`.
    void Shrink(size_t bytes);

   private:
    friend class KvPool;
    void Release();
    std::shared_ptr<KvPool> pool_;
    size_t bytes_ = 0;
  };

  /// False, and nothing is reserved, if it would go over the limit even with all idle pages gone.
  bool Reserve(size_t bytes, Reservation* reservation);
  /// Whether it could ever be.
  bool Fits(size_t bytes) const { return bytes <= limit_; }

  /// Keeps a page for prompts that begin with `key`, which names all that the page's content
  /// depends on, the tokens before it too. Once for a key.
  void Remember(const std::string& key, const KvPage& page);
  /// The page; null if there is none.
  KvPage Find(std::string_view key) const;
  /// The pages of a prompt, from its beginning on, were used. The last gives way first: those
  /// before it are of use without it.
  void Touch(std::span<const std::string> keys);
  /// For the snapshot: pages of prompts that were found, and not.
  void CountPrefix(int64_t hits, int64_t misses);
  /// Forgets all keys that begin so.
  void Forget(std::string_view prefix);

  /// `listener` is called whenever room has come back, on the thread that gave it, with no lock
  /// held. Returns what RemoveListener takes.
  int64_t AddListener(std::function<void()> listener);
  /// Waits for a call that runs.
  void RemoveListener(int64_t id);

  struct Snapshot {
    size_t limit = 0;
    size_t used = 0;                             // In pages that texts hold.
    size_t reserved = 0;                         // Beyond that, for texts that run.
    size_t idle = 0;                             // In pages that only the prefix cache holds.
    int64_t prefix_hits = 0, prefix_misses = 0;  // Pages looked for.
  };
  Snapshot snapshot() const;

 private:
  struct Remembered {
    KvPage page;
    std::list<std::string>::iterator place;
  };

  std::vector<KvPage> TakeIdleLocked(size_t wanted);
  void OnFreed(size_t bytes);
  void TellListeners();

  const size_t limit_;
  mutable Mutex mutex_;
  size_t reserved_ = 0;
  size_t live_ = 0;  // Bytes of pages that exist, idle ones included.
  std::map<std::string, Remembered, std::less<>> remembered_;
  std::list<std::string> order_;  // Least recently used first.
  int64_t hits_ = 0, misses_ = 0;
  Mutex listeners_mutex_;  // Taken alone.
  std::map<int64_t, std::function<void()>> listeners_;
  int64_t next_listener_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_KV_CACHE_H_
