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
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/device/kv_cache.h"
#include "backend/tensor/matrix.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// One page's memory, which goes back to the pool with the last reference.
using KvPage = std::shared_ptr<AlignedBuffer<std::byte>>;

/// Thread-safe.
class KvPool : public std::enable_shared_from_this<KvPool> {
 public:
  explicit KvPool(size_t limit) : limit_(limit) {}

  size_t limit() const { return limit_; }

  /// Room that is kept for one text. Gives back what is not used when it dies.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Release(); }
    /// A page out of the reservation; null when it has no room left for one.
    KvPage Allocate(size_t bytes);
    /// Room of a page that was allocated here and has gone back comes back to the reservation
    /// rather than to everybody: what a text evicts it may need again.
    size_t bytes() const { return bytes_; }

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

  /// Keeps a page for prompts that begin with `key` (which names all that the page's content
  /// depends on, the tokens before it too).
  void Remember(const std::string& key, const KvPage& page);
  /// The page; null if there is none. The caller's text holds it from now on, and its bytes count
  /// as used.
  KvPage Find(const std::string& key);
  /// Forgets all keys that begin so: those of an engine that is unloaded.
  void Forget(std::string_view prefix);

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

  void DropIdleLocked(size_t wanted);

  const size_t limit_;
  mutable Mutex mutex_;
  size_t reserved_ = 0;
  size_t live_ = 0;  // Bytes of pages that exist, idle ones included.
  std::map<std::string, Remembered, std::less<>> remembered_;
  std::list<std::string> order_;  // Least recently used first.
  int64_t hits_ = 0, misses_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_KV_CACHE_H_
