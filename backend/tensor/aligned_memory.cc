#include "backend/tensor/aligned_memory.h"

#include <sys/mman.h>

#include <new>

namespace thresher {

AlignedMemory AllocateAligned(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const bool large = bytes >= kHugePage;
  // glibc asks of an alignment no more than that it is a power of two.
  AlignedMemory memory(
      std::aligned_alloc(large ? kHugePage : 64, bytes));  // NOLINT: the only owner
  if (memory == nullptr) throw std::bad_alloc();
  // Whole pages only: the rest must not cost one of its own. A kernel that declines is no error.
  if (large) madvise(memory.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return memory;
}

}  // namespace thresher
