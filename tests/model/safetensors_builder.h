// Hand-made safetensors files, right or wrong.
#ifndef THRESHER_TESTS_MODEL_SAFETENSORS_BUILDER_H_
#define THRESHER_TESTS_MODEL_SAFETENSORS_BUILDER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

namespace thresher::testing {

/// `header` as it is, with its true length before it and `data_bytes` zero bytes after it.
inline std::string SafetensorsFile(std::string_view header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  file += header;
  file.append(data_bytes, '\0');
  return file;
}

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline void WriteText(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

inline std::string ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_MODEL_SAFETENSORS_BUILDER_H_
