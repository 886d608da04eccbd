#include "tests/testing/random_checkpoint.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher::testing {
namespace {

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  float mean = 0.0f;
  float spread = 0.0f;  // Values are uniform in mean +- spread.

  int64_t elements() const {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    return count;
  }
};

/// splitmix64: quick, and the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  /// Uniform in [-1, 1).
  float Next() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return static_cast<float>(static_cast<int32_t>(z >> 32)) * 0x1p-31f;
  }

 private:
  uint64_t state_;
};

std::vector<Tensor> Tensors(const RandomCheckpointOptions& o) {
  constexpr float kEmbeddingSpread = 0.05f;
  std::vector<Tensor> tensors;
  const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
    // Keeps the variance of what passes through.
    const float spread = std::sqrt(3.0f / static_cast<float>(in));
    tensors.push_back({name + ".weight", {out, in}, 0.0f, spread});
    tensors.push_back({name + ".bias", {out}, 0.0f, 0.05f});
  };
  const auto norm = [&](const std::string& name) {
    tensors.push_back({name + ".weight", {o.hidden_size}, 1.0f, 0.1f});
    tensors.push_back({name + ".bias", {o.hidden_size}, 0.0f, 0.1f});
  };
  const auto table = [&](const std::string& name, int64_t rows) {
    tensors.push_back({name + ".weight", {rows, o.hidden_size}, 0.0f, kEmbeddingSpread});
  };
  const std::string prefix = o.labels > 0 ? "bert." : "";
  table(prefix + "embeddings.word_embeddings", o.vocab_size);
  table(prefix + "embeddings.position_embeddings", o.positions);
  table(prefix + "embeddings.token_type_embeddings", 2);
  norm(prefix + "embeddings.LayerNorm");
  for (int32_t i = 0; i < o.layers; ++i) {
    const std::string layer = fmt::format("{}encoder.layer.{}.", prefix, i);
    linear(layer + "attention.self.query", o.hidden_size, o.hidden_size);
    linear(layer + "attention.self.key", o.hidden_size, o.hidden_size);
    linear(layer + "attention.self.value", o.hidden_size, o.hidden_size);
    linear(layer + "attention.output.dense", o.hidden_size, o.hidden_size);
    norm(layer + "attention.output.LayerNorm");
    linear(layer + "intermediate.dense", o.intermediate_size, o.hidden_size);
    linear(layer + "output.dense", o.hidden_size, o.intermediate_size);
    norm(layer + "output.LayerNorm");
  }
  if (o.labels > 0) {
    linear(prefix + "pooler.dense", o.hidden_size, o.hidden_size);
    linear("classifier", o.labels, o.hidden_size);
  }
  return tensors;
}

std::vector<Tensor> Tensors(const RandomGpt2Options& o) {
  const int64_t width = o.hidden_size;
  std::vector<Tensor> tensors = {{"wte.weight", {o.vocab_size, width}, 0.0f, 0.05f},
                                 {"wpe.weight", {o.positions, width}, 0.0f, 0.05f}};
  const auto norm = [&](const std::string& name) {
    tensors.push_back({name + ".weight", {width}, 1.0f, 0.1f});
    tensors.push_back({name + ".bias", {width}, 0.0f, 0.1f});
  };
  // Conv1D: the input comes first.
  const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
    const float spread = std::sqrt(3.0f / static_cast<float>(in));
    tensors.push_back({name + ".weight", {in, out}, 0.0f, spread});
    tensors.push_back({name + ".bias", {out}, 0.0f, 0.05f});
  };
  for (int32_t i = 0; i < o.layers; ++i) {
    const std::string layer = fmt::format("h.{}.", i);
    norm(layer + "ln_1");
    linear(layer + "attn.c_attn", width, 3 * width);
    linear(layer + "attn.c_proj", width, width);
    norm(layer + "ln_2");
    linear(layer + "mlp.c_fc", width, 4 * width);
    linear(layer + "mlp.c_proj", 4 * width, width);
  }
  norm("ln_f");
  return tensors;
}

template <typename Options>
void WriteWeights(std::ostream& out, const Options& o) {
  const std::vector<Tensor> tensors = Tensors(o);
  nlohmann::json header;
  int64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const int64_t end = offset + tensor.elements() * static_cast<int64_t>(ElementSize(o.dtype));
    header[tensor.name] = {{"dtype", std::string(Name(o.dtype))},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  out.write(reinterpret_cast<const char*>(&size), sizeof(size));
  out << text;

  Random random(o.seed);
  std::vector<float> values;
  std::vector<uint16_t> halves;
  for (const Tensor& tensor : tensors) {
    values.resize(static_cast<size_t>(tensor.elements()));
    for (float& value : values) value = tensor.mean + tensor.spread * random.Next();
    if (o.dtype == DType::kF32) {
      out.write(reinterpret_cast<const char*>(values.data()),
                static_cast<std::streamsize>(values.size() * sizeof(float)));
      continue;
    }
    halves.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) halves[i] = ToBF16(values[i]);
    out.write(reinterpret_cast<const char*>(halves.data()),
              static_cast<std::streamsize>(halves.size() * sizeof(uint16_t)));
  }
}

void WriteConfig(std::ostream& out, const RandomCheckpointOptions& o) {
  nlohmann::json config = {
      {"architectures", {o.labels > 0 ? "BertForSequenceClassification" : "BertModel"}},
      {"model_type", "bert"},
      {"vocab_size", o.vocab_size},
      {"hidden_size", o.hidden_size},
      {"num_hidden_layers", o.layers},
      {"num_attention_heads", o.heads},
      {"intermediate_size", o.intermediate_size},
      {"hidden_act", "gelu"},
      {"max_position_embeddings", o.positions},
      {"type_vocab_size", 2},
      {"layer_norm_eps", 1e-12},
      {"pad_token_id", 0},
  };
  if (o.labels > 0) config["num_labels"] = o.labels;
  out << config.dump(1) << "\n";
}

/// Single characters and their continuations first, so that any ASCII text has an encoding.
void WriteVocabulary(std::ostream& out, int32_t size) {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";
  for (const char c : kLetters) tokens.emplace_back(1, c);
  for (const char c : kLetters) tokens.push_back(std::string("##") + c);
  for (const char c : std::string_view("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")) {
    tokens.emplace_back(1, c);
  }
  for (int32_t i = 0; static_cast<int32_t>(tokens.size()) < size; ++i) {
    tokens.push_back(fmt::format("word{}", i));
  }
  for (const std::string& token : tokens) out << token << "\n";
}

template <typename Write>
absl::Status WriteFile(const std::filesystem::path& path, Write write) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  write(out);
  out.close();
  if (!out) return Internal("{}: cannot write it", path.string());
  return absl::OkStatus();
}

template <typename Options>
absl::Status MakeWithWeights(const std::filesystem::path& directory, const Options& options) {
  if (options.dtype != DType::kF32 && options.dtype != DType::kBF16) {
    return InvalidArgument("random checkpoints are F32 or BF16, not {}", Name(options.dtype));
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return Internal("{}: {}", directory.string(), error.message());
  return WriteFile(directory / "model.safetensors",
                   [&](std::ostream& out) { WriteWeights(out, options); });
}

}  // namespace

absl::Status WriteRandomGpt2(const std::filesystem::path& directory,
                             const RandomGpt2Options& options) {
  THRESHER_RETURN_IF_ERROR(MakeWithWeights(directory, options));
  const nlohmann::json config = {
      {"architectures", {"GPT2LMHeadModel"}},
      {"model_type", "gpt2"},
      {"vocab_size", options.vocab_size},
      {"n_embd", options.hidden_size},
      {"n_layer", options.layers},
      {"n_head", options.heads},
      {"n_positions", options.positions},
      {"activation_function", "gelu_new"},
      {"layer_norm_epsilon", 1e-5},
      {"tie_word_embeddings", true},
  };
  return WriteFile(directory / "config.json",
                   [&](std::ostream& out) { out << config.dump(1) << "\n"; });
}

absl::Status WriteRandomCheckpoint(const std::filesystem::path& directory,
                                   const RandomCheckpointOptions& options) {
  if (options.vocab_size < 128) return InvalidArgument("vocab_size must be at least 128");
  THRESHER_RETURN_IF_ERROR(MakeWithWeights(directory, options));
  THRESHER_RETURN_IF_ERROR(
      WriteFile(directory / "config.json", [&](std::ostream& out) { WriteConfig(out, options); }));
  THRESHER_RETURN_IF_ERROR(WriteFile(directory / "tokenizer_config.json", [](std::ostream& out) {
    out << R"({"tokenizer_class": "BertTokenizer", "do_lower_case": true})"
        << "\n";
  }));
  return WriteFile(directory / "vocab.txt",
                   [&](std::ostream& out) { WriteVocabulary(out, options.vocab_size); });
}

}  // namespace thresher::testing
