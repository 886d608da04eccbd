// Hostile config.json and generation_config.json of a decoder: refused, or a configuration whose
// numbers can shape a network.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "backend/model/decoder_config.h"

namespace {

/// The first rows of the table, for few enough pairs to be quick.
bool SoundRotary(const thresher::DecoderConfig& config) {
  const thresher::RotaryConfig& rotary = *config.rotary;
  if (rotary.dims < 2 || rotary.dims > config.head_dim || rotary.dims % 2 != 0) return false;
  const int32_t rows = std::min({config.max_tokens, 4, 4096 / rotary.dims});
  const thresher::RotaryTable table = thresher::MakeRotaryTable(rotary, rows);
  const auto finite = [](float x) { return std::isfinite(x); };
  return table.half * 2 == rotary.dims && std::ranges::all_of(table.cos, finite) &&
         std::ranges::all_of(table.sin, finite);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The second file comes after a byte that no JSON holds.
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(text.find('\0'), size);
  const auto config = thresher::ParseDecoderConfig(text.substr(0, end),
                                                   text.substr(std::min(end + 1, size)), "fuzz");
  if (!config.ok()) return 0;
  const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < config->vocab_size; };
  const bool sound =
      config->vocab_size > 0 && config->hidden_size > 0 && config->embedding_size > 0 &&
      config->layers > 0 && config->heads > 0 && config->kv_heads > 0 && config->head_dim > 0 &&
      config->heads % config->kv_heads == 0 && config->intermediate_size > 0 &&
      config->max_tokens > 0 && config->norm_epsilon > 0.0f && config->position_offset >= 0 &&
      (!config->bos || in_vocabulary(*config->bos)) &&
      std::ranges::all_of(config->eos, in_vocabulary) && (!config->rotary || SoundRotary(*config));
  if (!sound) abort();
  return 0;
}
