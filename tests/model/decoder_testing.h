// Running a decoder without an engine: weights, caches of one text each, and batches of them.
#ifndef THRESHER_TESTS_MODEL_DECODER_TESTING_H_
#define THRESHER_TESTS_MODEL_DECODER_TESTING_H_

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/model/checkpoint.h"
#include "backend/model/decoder.h"
#include "backend/model/decoder_config.h"
#include "backend/model/decoder_tensor_names.h"
#include "backend/model/weight_reader.h"

namespace thresher::testing {

/// A decoder with all that it stands on. Throws where loading fails.
struct LoadedDecoder {
  explicit LoadedDecoder(const std::string& directory, std::string_view device_name = "reference",
                         Precision precision = Precision::kF32, int threads = 2)
      : config(LoadDecoderConfig(directory).value()),
        device(CreateDevice(device_name, {.threads = threads}).value()),
        checkpoint(Checkpoint::Open(directory).value()),
        reader(checkpoint, *device, precision, NamesOf(config.family).prefix),
        decoder(Decoder::Load(config, reader).value()) {}

  KvLayout Layout(const KvFormat& format = {}) const {
    return {format, config.layers, config.kv_heads, config.head_dim};
  }

  DecoderConfig config;
  std::unique_ptr<Device> device;
  Checkpoint checkpoint;
  WeightReader reader;
  Decoder decoder;
};

/// The cache of one text: as many pages as its tokens need.
class TextCache {
 public:
  explicit TextCache(const KvLayout& layout) : layout_(layout) {}

  int32_t slots() const { return slots_; }

  /// Makes room for `rows` more tokens, which are rows from `first_row` on of a batch. The view
  /// lives until the next call.
  CachedSequence Extend(int32_t first_row, int32_t rows, bool decode) {
    slots_ += rows;
    while (static_cast<int32_t>(pages_.size()) * kKvPageTokens < slots_) {
      memory_.emplace_back(layout_.page_bytes());
      pages_.push_back(memory_.back().data());
    }
    positions_.resize(static_cast<size_t>(slots_));
    std::iota(positions_.begin(), positions_.end(), 0);
    return {.first_row = first_row,
            .rows = rows,
            .decode = decode,
            .pages = pages_,
            .slots = slots_,
            .new_slots = {},
            .reads = {},
            .positions = positions_};
  }

 private:
  KvLayout layout_;
  std::vector<AlignedBuffer<std::byte>> memory_;
  std::vector<std::byte*> pages_;
  std::vector<int32_t> positions_;
  int32_t slots_ = 0;
};

inline std::vector<TextCache> Caches(size_t count, const KvLayout& layout) {
  std::vector<TextCache> caches;
  for (size_t i = 0; i < count; ++i) caches.emplace_back(layout);
  return caches;
}

/// What one text adds to a batch: a chunk of its prompt, or one token by the decode kernel.
struct TextPart {
  TextCache* cache = nullptr;
  std::vector<int32_t> ids;
  bool decode = false;
};

/// The tokens, one part's after the other's, go after what is in the parts' caches. Returns the
/// logits [tokens, vocabulary], one row after the other; `hidden`, if given, takes hidden() after
/// the embeddings and after each layer.
inline std::vector<float> RunParts(const Decoder& decoder, const KvLayout& layout,
                                   std::span<const TextPart> parts, Decoder::Workspace& workspace,
                                   std::vector<std::vector<float>>* hidden = nullptr) {
  std::vector<int32_t> ids, positions;
  std::vector<CachedSequence> sequences;
  for (const TextPart& part : parts) {
    const auto first = static_cast<int32_t>(ids.size());
    for (const int32_t id : part.ids) {
      positions.push_back(part.cache->slots() + static_cast<int32_t>(ids.size()) - first);
      ids.push_back(id);
    }
    sequences.push_back(
        part.cache->Extend(first, static_cast<int32_t>(part.ids.size()), part.decode));
  }
  const DecoderBatch batch = {ids, positions};
  const auto note = [&] {
    if (hidden == nullptr) return;
    const Matrix h = workspace.hidden();
    hidden->emplace_back(h.data, h.data + h.rows * h.cols);
  };
  absl::Status status = decoder.Embed(batch, workspace);
  note();
  std::vector<CachedRecord> records(sequences.size());
  for (int32_t i = 0; i < decoder.config().layers && status.ok(); ++i) {
    status = decoder.RunLayer(i, batch, layout, sequences, records, workspace);
    note();
  }
  std::vector<int32_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  MatrixBuffer logits(static_cast<int64_t>(ids.size()), decoder.config().vocab_size);
  if (status.ok()) status = decoder.Logits(rows, workspace, logits.view());
  EXPECT_TRUE(status.ok()) << status;
  const Matrix m = logits.view();
  return {m.data, m.data + m.rows * m.cols};
}

/// Logits of every position of one text, in chunks of `chunk` tokens.
inline std::vector<float> TextLogits(const Decoder& decoder, const KvLayout& layout,
                                     std::span<const int32_t> ids, size_t chunk, bool decode,
                                     Decoder::Workspace& workspace) {
  TextCache cache(layout);
  std::vector<float> logits;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const auto tokens = ids.subspan(at, std::min(chunk, ids.size() - at));
    const TextPart part = {&cache, {tokens.begin(), tokens.end()}, decode};
    const std::vector<float> rows = RunParts(decoder, layout, std::span(&part, 1), workspace);
    logits.insert(logits.end(), rows.begin(), rows.end());
  }
  return logits;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_MODEL_DECODER_TESTING_H_
