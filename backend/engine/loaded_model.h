// A checkpoint directory made ready to serve: tokenizer, engine and what the outside may know of
// it.
#ifndef THRESHER_BACKEND_ENGINE_LOADED_MODEL_H_
#define THRESHER_BACKEND_ENGINE_LOADED_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/engine/decoder_engine.h"
#include "backend/engine/engine.h"
#include "backend/engine/kv_cache.h"
#include "backend/model/model_config.h"
#include "backend/text/tokenizer.h"

namespace thresher {

struct ModelInfo {
  std::string architecture;  // As config.json says: "BertForSequenceClassification".
  Task task = Task::kNone;
  std::vector<std::string> labels;  // By id; empty without a classification head.
  /// True where scores are independent (problem_type multi_label_classification): sigmoid, not
  /// softmax.
  bool multi_label = false;
  int32_t max_tokens = 0;  // Longest sequence, special tokens included; a decoder's context.
  int32_t hidden_size = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;    // Fewer than heads: grouped-query attention.
  int32_t vocab_size = 0;  // The model's; the tokenizer's may be smaller in a decoder.
  int32_t type_vocab_size = 0;
  int64_t parameters = 0;
  Precision precision = Precision::kF32;
  size_t packed_bytes = 0;           // Memory of the packed weights.
  Pooling pooling = Pooling::kMean;  // Default for embeddings.
  bool normalize = false;
  // Of a decoder.
  std::optional<int32_t> bos;  // What an empty prompt starts from.
  std::vector<int32_t> eos;    // Each ends a text.
};

struct LoadOptions {
  std::optional<Precision> precision;  // Unset: the device's default.
  std::optional<Pooling> pooling;      // Unset: modules.json and 1_Pooling/config.json, else mean.
  std::optional<bool> normalize;
  int32_t max_tokens = 0;  // A limit below the model's own; 0: none.
  /// Where a decoder's caches are; null: in memory of its own, without a limit.
  std::shared_ptr<KvPool> kv_pool;
};

/// Immutable but for what the engines run. Keeps its device alive.
struct LoadedModel {
  ModelInfo info;
  std::unique_ptr<Tokenizer> tokenizer;
  std::shared_ptr<Device> device;
  // Exactly one is set: an encoder's, or a decoder's.
  std::unique_ptr<Engine> engine;
  std::shared_ptr<DecoderEngine> decoder;

  /// From now on `recorder` hears of every layer that runs; null: nobody does. Thread-safe.
  void SetRecorder(std::shared_ptr<LayerRecorder> recorder) const;
};

/// Loads, packs and checks everything; a model that loads can serve. Errors name the file and the
/// field or tensor: NOT_FOUND (a missing file), INVALID_ARGUMENT (broken or contradictory),
/// UNIMPLEMENTED (an architecture that is not known, with those that are).
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& directory,
                                                       std::shared_ptr<Device> device,
                                                       const LoadOptions& options);

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_LOADED_MODEL_H_
