// A decoder's policy led through a text as the engine leads it, with sums of attention made up, and
// held to what CacheRun promises.
#ifndef THRESHER_TESTS_SPARSITY_CACHE_WALK_H_
#define THRESHER_TESTS_SPARSITY_CACHE_WALK_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/status.h"

namespace thresher::testing {

class CacheWalk {
 public:
  using Slots = std::vector<int32_t>;

  CacheWalk(const Policy& policy, const PolicyShape& shape, uint64_t seed)
      : policy_(policy),
        shape_(shape),
        seed_(seed),
        run_(policy.StartCache()),
        held_(static_cast<size_t>(shape.layers) * shape.kv_heads),
        reads_(shape.layers) {}

  /// Reads a prompt in chunks of so many tokens, which are not empty.
  absl::Status Prompt(std::span<const int32_t> chunks) {
    prompt_ = std::accumulate(chunks.begin(), chunks.end(), 0);
    const int32_t summed_from = prompt_ - policy_.cache_rules().prompt_sum_rows.value_or(prompt_);
    for (const int32_t chunk : chunks) {
      const int32_t from = std::max(tokens_, summed_from);
      tokens_ += chunk;
      for (int32_t layer = 0; layer < shape_.layers; ++layer) {
        if (from >= tokens_ || !run_->WantsSums(layer)) continue;
        std::vector<int64_t> sums(static_cast<size_t>(shape_.kv_heads) * tokens_);
        for (int32_t h = 0; h < shape_.kv_heads; ++h) {
          for (int32_t query = from; query < tokens_; ++query) {
            for (int32_t key = 0; key <= query; ++key) {
              sums[h * tokens_ + key] += Attention(layer, h, query, key);
            }
          }
        }
        run_->AddSums(layer, tokens_, sums);
      }
    }
    slots_ = tokens_;
    for (Slots& held : held_) {
      held.resize(tokens_);
      std::iota(held.begin(), held.end(), 0);
    }
    std::vector<Slots> survivors;
    run_->EndPrompt(tokens_, &survivors);
    if (!survivors.empty()) {
      if (survivors.size() != held_.size()) return Internal("survivors of some caches only");
      slots_ = static_cast<int32_t>(survivors[0].size());
      for (size_t c = 0; c < held_.size(); ++c) {
        if (static_cast<int32_t>(survivors[c].size()) != slots_) return Internal("ragged");
        THRESHER_RETURN_IF_ERROR(CheckAscending(survivors[c], tokens_));
        held_[c] = survivors[c];
      }
    }
    return CheckRoom(!survivors.empty());
  }

  /// One generated token.
  absl::Status Step() {
    const int32_t newest = tokens_++;
    Slots victims;
    run_->PlaceNew(slots_, &victims);
    if (victims.empty()) {
      ++slots_;
      for (Slots& held : held_) held.push_back(newest);
    } else {
      if (victims.size() != held_.size()) return Internal("victims of some caches only");
      for (size_t c = 0; c < held_.size(); ++c) {
        if (victims[c] < 0 || victims[c] >= slots_) return Internal("no such victim");
        held_[c][victims[c]] = newest;
      }
    }
    THRESHER_RETURN_IF_ERROR(CheckRoom(!victims.empty()));
    THRESHER_RETURN_IF_ERROR(CheckPositions());
    for (int32_t layer = 0; layer < shape_.layers; ++layer) {
      THRESHER_RETURN_IF_ERROR(StepLayer(layer, newest));
    }
    return absl::OkStatus();
  }

  int32_t tokens() const { return tokens_; }
  int32_t slots() const { return slots_; }
  /// The tokens in the slots of one layer and KV head.
  const Slots& held(int32_t layer, int32_t head) const {
    return held_[layer * shape_.kv_heads + head];
  }
  /// What a layer read in the last step; empty: all.
  const Slots& reads(int32_t layer) const { return reads_[layer]; }
  const CacheRun& run() const { return *run_; }

 private:
  /// The probability that falls on a key: any number, the same whatever slot it is in.
  int64_t Attention(int32_t layer, int32_t head, int32_t query, int32_t key) const {
    uint64_t z = seed_;
    for (const int32_t part : {layer, head, query, key}) {
      z = (z ^ static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15u;
      z ^= z >> 29;
    }
    return static_cast<int64_t>(z >> 61);  // So few values that there are ties.
  }

  absl::Status StepLayer(int32_t layer, int32_t newest) {
    Slots& reads = reads_[layer];
    reads.clear();
    run_->ChooseReads(layer, slots_, &reads);
    if (!reads.empty()) THRESHER_RETURN_IF_ERROR(CheckAscending(reads, slots_));
    if (run_->StretchesToRead(layer, slots_) != 0 &&
        (policy_.cache_rules().stretch == 0 || !reads.empty() || run_->WantsSums(layer))) {
      return Internal("stretches are chosen by bounds, without a list and without sums");
    }
    if (!run_->WantsSums(layer)) return absl::OkStatus();
    std::vector<int64_t> sums;  // [kv_heads][slots that are read]
    for (int32_t h = 0; h < shape_.kv_heads; ++h) {
      bool sees_newest = false;
      for (int32_t s = 0; s < slots_; ++s) {
        if (!reads.empty() && !std::ranges::binary_search(reads, s)) continue;
        const int32_t key = held(layer, h)[s];
        sees_newest |= key == newest;
        sums.push_back(Attention(layer, h, newest, key));
      }
      if (!sees_newest) return Internal("a token does not see itself");
    }
    run_->AddSums(layer, slots_, sums);
    return absl::OkStatus();
  }

  static absl::Status CheckAscending(const Slots& slots, int32_t size) {
    const bool ascends = std::ranges::adjacent_find(slots, std::greater_equal<>()) == slots.end();
    if (!slots.empty() && ascends && slots.front() >= 0 && slots.back() < size) {
      return absl::OkStatus();
    }
    return Internal("not some of {} slots, ascending", size);
  }

  absl::Status CheckRoom(bool evicted) const {
    if (evicted && !policy_.cache_rules().evicts) return Internal("must not evict");
    if (slots_ > policy_.CacheSlots(prompt_, tokens_)) {
      return Internal("{} slots of {} tokens; at most {}", slots_, tokens_,
                      policy_.CacheSlots(prompt_, tokens_));
    }
    return absl::OkStatus();
  }

  /// Positions are 0, 1, ... in the order in which the tokens came.
  absl::Status CheckPositions() const {
    Slots positions;
    run_->Positions(slots_, &positions);
    if (static_cast<int32_t>(positions.size()) != slots_) return Internal("some positions");
    if (!policy_.cache_rules().rotate_on_read) return absl::OkStatus();
    for (const Slots& held : held_) {
      Slots at(slots_, -1);
      for (int32_t s = 0; s < slots_; ++s) {
        if (positions[s] < 0 || positions[s] >= slots_) return Internal("no such position");
        at[positions[s]] = held[s];
      }
      THRESHER_RETURN_IF_ERROR(CheckAscending(at, tokens_));
    }
    return absl::OkStatus();
  }

  const Policy& policy_;
  const PolicyShape shape_;
  const uint64_t seed_;
  const std::unique_ptr<CacheRun> run_;
  int32_t prompt_ = 0;
  int32_t tokens_ = 0;
  int32_t slots_ = 0;
  std::vector<Slots> held_;   // [layers][kv_heads]
  std::vector<Slots> reads_;  // [layers]
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SPARSITY_CACHE_WALK_H_
