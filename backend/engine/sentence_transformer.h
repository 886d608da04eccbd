// What a sentence-transformers directory says beside the model: modules.json, the pooling module's
// config.json, sentence_bert_config.json.
#ifndef THRESHER_BACKEND_ENGINE_SENTENCE_TRANSFORMER_H_
#define THRESHER_BACKEND_ENGINE_SENTENCE_TRANSFORMER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "backend/engine/engine.h"

namespace thresher {

struct SentenceTransformer {
  /// Where config.json, the weights and the tokenizer are: the directory, or one below it.
  std::string model_directory;
  std::optional<Pooling> pooling;  // Unset: the directory has no modules.json.
  bool normalize = false;
  int32_t word_embedding_dimension = 0;  // What pooling expects of the model; 0: unsaid.
  int32_t max_tokens = 0;                // 0: no limit.
  bool lower_case = false;               // Texts are lower-cased before they are tokenized.
};

/// UNIMPLEMENTED names a module or pooling mode that is not served: what is served is a
/// Transformer, then Pooling (cls or mean), then perhaps Normalize.
absl::StatusOr<SentenceTransformer> ReadSentenceTransformer(const std::string& directory);

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_SENTENCE_TRANSFORMER_H_
