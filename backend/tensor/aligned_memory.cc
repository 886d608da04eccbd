#include "backend/tensor/aligned_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace thresher {

AlignedMemory AllocateAligned(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const bool large = bytes >= kHugePage;
  // Not aligned_alloc, which wants a size that is a multiple of the alignment.
  void* place = nullptr;
  if (posix_memalign(&place, large ? kHugePage : 64, bytes) != 0) throw std::bad_alloc();
  AlignedMemory memory(place);
  // Whole pages only: the rest must not cost one of its own. A kernel that declines is no error.
  if (large) madvise(memory.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return memory;
}

}  // namespace thresher
