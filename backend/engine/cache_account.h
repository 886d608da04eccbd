// The account of one text that is generated: what a dense run would do over its cache and what was
// done, step by step. (That of encoders is ledger.h.)
#ifndef THRESHER_BACKEND_ENGINE_CACHE_ACCOUNT_H_
#define THRESHER_BACKEND_ENGINE_CACHE_ACCOUNT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "backend/device/kv_cache.h"
#include "backend/engine/engine.h"
#include "backend/sparsity/policy.h"
#include "thresher/v1/sparsity.pb.h"

namespace thresher {

class CacheAccount {
 public:
  /// `layout` of the text's cache; it and `shape` must outlive this.
  CacheAccount(const PolicyShape& shape, const KvLayout& layout, std::string policy,
               const ReportDetail& detail);

  /// A layer that ran: `before` tokens had been run earlier.
  void Add(int32_t layer, const CachedSequence& sequence, int32_t before,
           const CachedRecord& record, const SpeculationRecord& speculation = {});

  /// `tokens` run so far, of which the cache holds `held_bytes`.
  v1::PruningReport Report(int32_t tokens, size_t held_bytes) const;

 private:
  const PolicyShape& shape_;
  const KvLayout& layout_;
  v1::PruningReport report_;
  std::vector<v1::PruningReport::Work> layers_;  // Empty unless the detail asks for them.
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_CACHE_ACCOUNT_H_
