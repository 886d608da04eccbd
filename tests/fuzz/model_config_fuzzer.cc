// Hostile config.json: refused, or a configuration whose numbers can shape a network.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "backend/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = thresher::ParseModelConfig(
      std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!config.ok()) return 0;
  const bool sound = config->vocab_size > 0 && config->hidden_size > 0 && config->heads > 0 &&
                     config->layers > 0 && config->intermediate_size > 0 &&
                     config->head_dim() * config->heads == config->hidden_size &&
                     config->max_tokens() > 0 && config->first_position >= 0 &&
                     config->type_vocab_size >= 0 && config->layer_norm_epsilon > 0.0f;
  if (!sound) abort();
  return 0;
}
