// KV caches on the cpu device: storing rows, and attention, which cuts a batch of prompt chunks and
// generated tokens into tasks of one KV head each and adds up what they did.
#ifndef THRESHER_BACKEND_DEVICE_CPU_CACHED_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_CPU_CACHED_ATTENTION_H_

#include <cstdint>
#include <span>

#include "backend/device/cpu/isa.h"
#include "backend/device/cpu/thread_pool.h"
#include "backend/device/cpu/worker_scratch.h"
#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// Device::StoreKeysValues, for input that is checked. Throws std::bad_alloc.
void StoreInCaches(const KvLayout& layout, int32_t layer, ConstMatrix key, ConstMatrix value,
                   std::span<const CachedSequence> sequences, ThreadPool* pool);

/// Device::CachedAttention, likewise.
void AttendCaches(const CachedAttentionInput& input, Matrix out, std::span<CachedRecord> records,
                  const Isa& isa, ThreadPool* pool, WorkerScratch* scratch);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_CACHED_ATTENTION_H_
