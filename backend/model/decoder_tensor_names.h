// How each family of decoders names its tensors in a checkpoint: one table for each.
#ifndef THRESHER_BACKEND_MODEL_DECODER_TENSOR_NAMES_H_
#define THRESHER_BACKEND_MODEL_DECODER_TENSOR_NAMES_H_

#include <string_view>

#include "backend/model/decoder_config.h"

namespace thresher {

/// Names of modules; those that a family does not have are empty.
struct DecoderTensorNames {
  /// Before all names but the head's where the checkpoint was saved with a head.
  std::string_view prefix;

  std::string_view words;
  std::string_view positions;
  std::string_view project_in, project_out;
  std::string_view final_norm;
  std::string_view head;  // Where it is not the word table; has no prefix.

  /// Layer i's names begin with `layers` + i + ".".
  std::string_view layers;
  std::string_view attention_norm;
  std::string_view query_key_value;  // One matrix, side by side; else
  std::string_view query, key, value;
  std::string_view attention_output;
  std::string_view ffn_norm;
  std::string_view gate, up, down;

  /// Linear layers of `layers` are stored [in, out].
  bool transposed = false;
};

const DecoderTensorNames& NamesOf(DecoderFamily family);

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_DECODER_TENSOR_NAMES_H_
