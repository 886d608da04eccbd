#include "backend/model/tensor_names.h"

namespace thresher {
namespace {

constexpr TensorNames kBert = {
    .prefix = "bert.",
    .word_embeddings = "embeddings.word_embeddings",
    .position_embeddings = "embeddings.position_embeddings",
    .token_type_embeddings = "embeddings.token_type_embeddings",
    .embeddings_norm = "embeddings.LayerNorm",
    .layers = "encoder.layer.",
    .query = "attention.self.query",
    .key = "attention.self.key",
    .value = "attention.self.value",
    .attention_output = "attention.output.dense",
    .attention_norm = "attention.output.LayerNorm",
    .intermediate = "intermediate.dense",
    .output = "output.dense",
    .output_norm = "output.LayerNorm",
    .sequence_dense = "pooler.dense",
    .sequence_dense_in_encoder = true,
    .sequence_activation = Activation::kTanh,
    .sequence_logits = "classifier",
    .token_logits = "classifier",
    .answer_logits = "qa_outputs",
};

// BERT's encoder under another prefix, with a head of its own.
constexpr TensorNames kRoberta = [] {
  TensorNames names = kBert;
  names.prefix = "roberta.";
  names.sequence_dense = "classifier.dense";
  names.sequence_dense_in_encoder = false;
  names.sequence_logits = "classifier.out_proj";
  return names;
}();

constexpr TensorNames kDistilBert = {
    .prefix = "distilbert.",
    .word_embeddings = "embeddings.word_embeddings",
    .position_embeddings = "embeddings.position_embeddings",
    .token_type_embeddings = "",
    .embeddings_norm = "embeddings.LayerNorm",
    .layers = "transformer.layer.",
    .query = "attention.q_lin",
    .key = "attention.k_lin",
    .value = "attention.v_lin",
    .attention_output = "attention.out_lin",
    .attention_norm = "sa_layer_norm",
    .intermediate = "ffn.lin1",
    .output = "ffn.lin2",
    .output_norm = "output_layer_norm",
    .sequence_dense = "pre_classifier",
    .sequence_dense_in_encoder = false,
    .sequence_activation = Activation::kRelu,
    .sequence_logits = "classifier",
    .token_logits = "classifier",
    .answer_logits = "qa_outputs",
};

}  // namespace

const TensorNames& NamesOf(Family family) {
  switch (family) {
    case Family::kRoberta:
      return kRoberta;
    case Family::kDistilBert:
      return kDistilBert;
    case Family::kBert:
      break;
  }
  return kBert;
}

}  // namespace thresher
