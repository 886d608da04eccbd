// How each family's checkpoints name their tensors: one table for each.
#ifndef THRESHER_BACKEND_MODEL_TENSOR_NAMES_H_
#define THRESHER_BACKEND_MODEL_TENSOR_NAMES_H_

#include <string_view>

#include "backend/model/model_config.h"

namespace thresher {

/// Names of modules; a linear layer or norm holds `.weight` and `.bias`, a table `.weight`.
struct TensorNames {
  /// Before all names of the encoder where the checkpoint has a head; plain models mostly leave it
  /// out.
  std::string_view prefix;

  std::string_view word_embeddings;
  std::string_view position_embeddings;
  std::string_view token_type_embeddings;  // Empty: none.
  std::string_view embeddings_norm;

  /// Layer i's names begin with `layers` + i + ".".
  std::string_view layers;
  std::string_view query;
  std::string_view key;
  std::string_view value;
  std::string_view attention_output;
  std::string_view attention_norm;
  std::string_view intermediate;
  std::string_view output;
  std::string_view output_norm;

  /// The sequence head: a dense layer on the first token, an activation, then the logits' layer.
  std::string_view sequence_dense;
  bool sequence_dense_in_encoder;  // Named with the prefix: BERT's pooler.
  Activation sequence_activation;
  std::string_view sequence_logits;
  /// The heads on every token.
  std::string_view token_logits;
  std::string_view answer_logits;
};

const TensorNames& NamesOf(Family family);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_TENSOR_NAMES_H_
