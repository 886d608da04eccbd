#include "backend/model/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian");

constexpr size_t kMaxRank = 8;

constexpr std::array kTypes = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64,
                               DType::kI32, DType::kI16, DType::kI8,  DType::kU8,   DType::kBool};

std::optional<DType> ParseType(std::string_view name) {
  for (DType type : kTypes) {
    if (Name(type) == name) return type;
  }
  return std::nullopt;
}

/// One tensor as the header tells it.
struct HeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
};

/// Reads the header as a stream, so that a hostile one is refused at its first offence and never
/// grows a document in memory. A false return ends the parse; `error()` says why.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<HeaderEntry> TakeEntries() { return std::move(entries_); }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Unexpected("a fraction"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (numbers_ == nullptr) return Unexpected("a number");
    if (numbers_->size() == kMaxRank) return Fail("more than {} numbers in a list", kMaxRank);
    numbers_->push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ != 2 || numbers_ != nullptr || field_ != "dtype") return Unexpected("a string");
    entries_.back().dtype = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (depth_ == 2 || numbers_ != nullptr) return Unexpected("an object");
    ++depth_;
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!names_.insert(name).second) return Fail("given twice", name);
      in_metadata_ = name == "__metadata__";
      fields_ = 0;
      entry_name_ = name;
      if (!in_metadata_) entries_.push_back({.name = std::move(name)});
      return true;
    }
    if (in_metadata_) return true;
    constexpr std::array<std::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};
    const auto* found = std::find(kFields.begin(), kFields.end(), name);
    if (found == kFields.end()) return Fail("unknown field '{}'", Shorten(name));
    const unsigned bit = 1u << (found - kFields.begin());
    if ((fields_ & bit) != 0) return Fail("field '{}' given twice", name);
    fields_ |= bit;
    field_ = name;
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata_ && fields_ != 7u) {
      return Fail("needs the fields dtype, shape and data_offsets");
    }
    --depth_;
    return true;
  }

  bool start_array(size_t) override {
    const bool expected = depth_ == 2 && !in_metadata_ && numbers_ == nullptr && field_ != "dtype";
    if (!expected) return Unexpected("a list");
    numbers_ = field_ == "shape" ? &entries_.back().shape : &entries_.back().offsets;
    return true;
  }

  bool end_array() override {
    numbers_ = nullptr;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception& exception) override {
    error_ = fmt::format("the header is not JSON, at byte {} of it: {}", position,
                         Shorten(exception.what()));
    return false;
  }

 private:
  template <typename... Args>
  bool Fail(fmt::format_string<Args...> format, Args&&... args) {
    error_ = fmt::format("tensor '{}': {}", Shorten(entry_name_),
                         fmt::format(format, std::forward<Args>(args)...));
    return false;
  }

  bool Unexpected(std::string_view what) {
    if (depth_ == 0) {
      error_ = fmt::format("the header is {}, not an object", what);
      return false;
    }
    if (depth_ == 1) return Fail("{} where an object should be", what);
    return Fail("{} in field '{}'", what, in_metadata_ ? "__metadata__" : field_);
  }

  std::vector<HeaderEntry> entries_;
  std::set<std::string> names_;
  std::string entry_name_;
  std::string field_;
  std::vector<uint64_t>* numbers_ = nullptr;  // The list that is being read.
  unsigned fields_ = 0;                       // Bits of the fields seen of this tensor.
  int depth_ = 0;
  bool in_metadata_ = false;
  std::string error_;
};

/// The bytes that dtype and shape give; nothing if they overflow.
std::optional<uint64_t> TensorBytes(DType type, std::span<const uint64_t> shape) {
  uint64_t elements = 1;
  bool empty = false;
  for (uint64_t extent : shape) {
    if (extent > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
    empty = empty || extent == 0;
    if (__builtin_mul_overflow(elements, std::max<uint64_t>(extent, 1), &elements)) {
      return std::nullopt;
    }
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements, ElementSize(type), &bytes)) return std::nullopt;
  return empty ? 0 : bytes;
}

struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string_view name;
  bool operator<(const Range& other) const {
    return std::pair(begin, end) < std::pair(other.begin, other.end);
  }
};

/// The ranges must cover [0, size) one after the other.
absl::Status CheckCover(std::vector<Range> ranges, uint64_t size, std::string_view file_name) {
  std::sort(ranges.begin(), ranges.end());
  uint64_t covered = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];
    if (range.begin < covered) {
      return InvalidArgument("{}: tensor '{}': bytes [{}, {}) overlap tensor '{}'", file_name,
                             Shorten(range.name), range.begin, range.end,
                             Shorten(ranges[i - 1].name));
    }
    if (range.begin > covered) {
      return InvalidArgument("{}: tensor '{}': {} bytes before it belong to no tensor", file_name,
                             Shorten(range.name), range.begin - covered);
    }
    covered = range.end;
  }
  if (covered != size) {
    return InvalidArgument("{}: {} bytes after the last tensor{} belong to no tensor", file_name,
                           size - covered,
                           ranges.empty() ? "" : " '" + Shorten(ranges.back().name) + "'");
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredTensor> CheckEntry(const HeaderEntry& entry, std::span<const std::byte> data,
                                        std::string_view file_name) {
  const std::string where = fmt::format("{}: tensor '{}'", file_name, Shorten(entry.name));
  const std::optional<DType> type = ParseType(entry.dtype);
  if (!type) return InvalidArgument("{}: dtype '{}' is not known", where, Shorten(entry.dtype));
  const std::optional<uint64_t> bytes = TensorBytes(*type, entry.shape);
  if (!bytes) return InvalidArgument("{}: the shape's size overflows", where);
  if (entry.offsets.size() != 2) {
    return InvalidArgument("{}: data_offsets needs two numbers, has {}", where,
                           entry.offsets.size());
  }
  const uint64_t begin = entry.offsets[0];
  const uint64_t end = entry.offsets[1];
  if (begin > end || end > data.size()) {
    return InvalidArgument("{}: bytes [{}, {}) are not within the file's {} bytes of data; {}",
                           where, begin, end, data.size(),
                           begin > end ? "the header is wrong" : "is the file cut short?");
  }
  if (end - begin != *bytes) {
    return InvalidArgument("{}: {} bytes, but {} {} needs {}", where, end - begin, Name(*type),
                           ShapeText(std::vector<int64_t>(entry.shape.begin(), entry.shape.end())),
                           *bytes);
  }
  return StoredTensor{.type = *type,
                      .shape = {entry.shape.begin(), entry.shape.end()},
                      .data = data.data() + begin,
                      .bytes = *bytes};
}

}  // namespace

std::string ShapeText(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

absl::StatusOr<StoredTensors> ParseSafetensors(std::span<const std::byte> file,
                                               std::string_view file_name) {
  constexpr size_t kLengthBytes = 8;
  if (file.size() < kLengthBytes) {
    return InvalidArgument("{}: {} bytes are too few for a safetensors file", file_name,
                           file.size());
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), kLengthBytes);
  if (header_bytes > kMaxSafetensorsHeader) {
    return InvalidArgument("{}: a header of {} bytes, more than the {} allowed; not safetensors?",
                           file_name, header_bytes, kMaxSafetensorsHeader);
  }
  if (header_bytes > file.size() - kLengthBytes) {
    return InvalidArgument("{}: a header of {} bytes in a file of {}; is the file cut short?",
                           file_name, header_bytes, file.size());
  }
  const char* header = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  const std::span<const std::byte> data = file.subspan(kLengthBytes + header_bytes);

  HeaderReader reader;
  try {
    if (!nlohmann::json::sax_parse(header, header + header_bytes, &reader)) {
      return InvalidArgument("{}: {}", file_name, reader.error());
    }
  } catch (const nlohmann::json::exception& error) {  // Of the parser itself; none is known.
    return InvalidArgument("{}: the header is not JSON: {}", file_name, Shorten(error.what()));
  }

  StoredTensors tensors;
  std::vector<Range> ranges;
  const std::vector<HeaderEntry> entries = reader.TakeEntries();
  for (const HeaderEntry& entry : entries) {
    THRESHER_ASSIGN_OR_RETURN(StoredTensor tensor, CheckEntry(entry, data, file_name));
    ranges.push_back({entry.offsets[0], entry.offsets[1], entry.name});
    tensors.emplace(entry.name, std::move(tensor));
  }
  THRESHER_RETURN_IF_ERROR(CheckCover(std::move(ranges), data.size(), file_name));
  return tensors;
}

}  // namespace thresher
