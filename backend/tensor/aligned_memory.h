// Memory for numbers: aligned to 64 bytes, and where it is large in huge pages, so that reading it
// through takes few page walks.
#ifndef THRESHER_BACKEND_TENSOR_ALIGNED_MEMORY_H_
#define THRESHER_BACKEND_TENSOR_ALIGNED_MEMORY_H_

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace thresher {

struct FreeAligned {
  void operator()(void* memory) const { std::free(memory); }  // NOLINT: pairs with posix_memalign
};
using AlignedMemory = std::unique_ptr<void, FreeAligned>;

/// Throws std::bad_alloc. Contents are undefined.
AlignedMemory AllocateAligned(size_t bytes);

}  // namespace thresher

#endif  // THRESHER_BACKEND_TENSOR_ALIGNED_MEMORY_H_
