#include "backend/text/vocabulary.h"

#include <algorithm>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher::text {
namespace {

// Vocabularies have gaps, but small ones.
constexpr int64_t kGapMargin = 65536;
constexpr int64_t kMostIds = int64_t{1} << 30;

}  // namespace

Vocabulary::Vocabulary(size_t expected)
    : id_limit_(std::min<int64_t>(kMostIds, 2 * static_cast<int64_t>(expected) + kGapMargin)) {
  ids_.reserve(expected);
}

absl::Status Vocabulary::Add(std::string token, int64_t id) {
  if (id < 0) return InvalidArgument("token '{:.100}' has the negative id {}", token, id);
  if (id >= id_limit_) {
    return InvalidArgument("token '{:.100}' has the id {}, too large for a vocabulary of this size",
                           token, id);
  }
  const auto index = static_cast<int32_t>(id);
  if (Has(index)) {
    return InvalidArgument("tokens '{:.100}' and '{:.100}' have the same id {}", Text(index), token,
                           id);
  }
  const auto [entry, fresh] = ids_.try_emplace(std::move(token), index);
  if (!fresh) {
    return InvalidArgument("token '{:.100}' is there twice, with ids {} and {}", entry->first,
                           entry->second, id);
  }
  if (index >= size()) tokens_.resize(index + 1);
  tokens_[index] = entry->first;
  return absl::OkStatus();
}

int32_t Vocabulary::Find(std::string_view token) const {
  const auto entry = ids_.find(token);
  return entry == ids_.end() ? -1 : entry->second;
}

std::string_view Vocabulary::Text(int32_t id) const {
  return id >= 0 && id < size() ? tokens_[id] : std::string_view();
}

bool Vocabulary::Has(int32_t id) const {
  return id >= 0 && id < size() && tokens_[id].data() != nullptr;
}

}  // namespace thresher::text
