// Whose keys the decode steps of one generated text read: slots of its cache, turned back into
// tokens. Kept where a report is asked to explain.
#ifndef THRESHER_BACKEND_ENGINE_KEYS_READ_H_
#define THRESHER_BACKEND_ENGINE_KEYS_READ_H_

#include <cstdint>
#include <vector>

#include "backend/device/kv_cache.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

class KeysRead {
 public:
  KeysRead(int32_t layers, int32_t kv_heads);

  /// The prompt of `tokens` is in the cache; `survivors` as CacheRun::EndPrompt left them.
  void EndPrompt(int32_t tokens, const std::vector<std::vector<int32_t>>& survivors);
  /// A token's K and V go to these slots, as CacheRun::PlaceNew chose them.
  void Place(int32_t token, const std::vector<int32_t>& victims);
  /// A layer of the decode step that runs `token`.
  void Read(int32_t layer, int32_t token, const KvLayout& layout, const CachedSequence& sequence,
            const CachedRecord& record);

  /// Of the last step; nothing before the first.
  void Report(v1::PruningReport* report) const;

 private:
  const size_t kv_heads_;
  std::vector<std::vector<int32_t>> tokens_;  // [layers][kv_heads]: the token in each slot.
  std::vector<std::vector<int32_t>> heads_;   // [layers]: for each token, how many heads read it.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_KEYS_READ_H_
