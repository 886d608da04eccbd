#include "backend/engine/keys_read.h"

#include <algorithm>
#include <numeric>
#include <span>

namespace thresher {

KeysRead::KeysRead(int32_t layers, int32_t kv_heads)
    : kv_heads_(static_cast<size_t>(kv_heads)),
      tokens_(static_cast<size_t>(layers) * kv_heads_),
      heads_(static_cast<size_t>(layers)) {}

void KeysRead::EndPrompt(int32_t tokens, const std::vector<std::vector<int32_t>>& survivors) {
  if (!survivors.empty()) {
    tokens_ = survivors;
    return;
  }
  for (std::vector<int32_t>& slots : tokens_) {
    slots.resize(static_cast<size_t>(tokens));
    std::iota(slots.begin(), slots.end(), 0);
  }
}

void KeysRead::Place(int32_t token, const std::vector<int32_t>& victims) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (victims.empty()) {
      tokens_[i].push_back(token);
    } else {
      tokens_[i][static_cast<size_t>(victims[i])] = token;
    }
  }
}

void KeysRead::Read(int32_t layer, int32_t token, const KvLayout& layout,
                    const CachedSequence& sequence, const CachedRecord& record) {
  const auto stretches = static_cast<size_t>(sequence.read_stretches);
  std::vector<int32_t>& heads = heads_[static_cast<size_t>(layer)];
  heads.assign(static_cast<size_t>(token) + 1, 0);
  for (size_t head = 0; head < kv_heads_; ++head) {
    const std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(layer) * kv_heads_ + head];
    if (!record.stretches.empty()) {
      for (const int32_t stretch :
           std::span(record.stretches).subspan(head * stretches, stretches)) {
        const int32_t first = stretch * layout.format().stretch;
        const int32_t last = std::min(sequence.slots, first + layout.format().stretch);
        for (int32_t slot = first; slot < last; ++slot) {
          ++heads[static_cast<size_t>(tokens[static_cast<size_t>(slot)])];
        }
      }
    } else if (sequence.reads.empty()) {
      for (const int32_t read : tokens) ++heads[static_cast<size_t>(read)];
    } else {
      for (const int32_t slot : sequence.reads) {
        ++heads[static_cast<size_t>(tokens[static_cast<size_t>(slot)])];
      }
    }
  }
}

void KeysRead::Report(v1::PruningReport* report) const {
  if (heads_.empty() || heads_.back().empty()) return;
  for (const std::vector<int32_t>& heads : heads_) {
    report->add_keys_read()->mutable_heads()->Add(heads.begin(), heads.end());
  }
}

}  // namespace thresher
