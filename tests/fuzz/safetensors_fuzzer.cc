// Hostile safetensors files: the parser must refuse or give tensors that lie within the file, one
// beside the other.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "backend/model/safetensors.h"
#include "backend/tensor/dtype.h"

using thresher::ParseSafetensors;
using thresher::StoredTensor;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The input is the header and the data; its length goes before it so that mutations get past it.
  // The first byte says how much of the rest is header, in parts of 255.
  if (size == 0) return 0;
  const uint64_t header = data[0] * (size - 1) / 255;
  std::vector<std::byte> file(8);
  for (int i = 0; i < 8; ++i) file[i] = std::byte(header >> (8 * i));
  file.insert(file.end(), reinterpret_cast<const std::byte*>(data) + 1,
              reinterpret_cast<const std::byte*>(data) + size);
  const auto tensors = ParseSafetensors(file, "fuzz");
  if (tensors.ok()) {
    size_t bytes = 0;
    for (const auto& [name, tensor] : *tensors) {
      const auto* begin = static_cast<const std::byte*>(tensor.data);
      if (begin < file.data() + 8 || begin + tensor.bytes > file.data() + file.size()) abort();
      size_t elements = 1;
      for (const int64_t extent : tensor.shape) elements *= static_cast<size_t>(extent);
      if (elements * thresher::ElementSize(tensor.type) != tensor.bytes) abort();
      bytes += tensor.bytes;
    }
    if (bytes != file.size() - 8 - header) abort();
  }
  // And as it is, with whatever length its first bytes claim.
  (void)ParseSafetensors({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  return 0;
}
