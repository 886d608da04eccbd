#include "backend/engine/loaded_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "backend/engine/encoder_engine.h"
#include "backend/engine/sentence_transformer.h"
#include "backend/model/decoder_config.h"
#include "backend/model/files.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// The smallest of the limits that are set.
int32_t SmallestLimit(std::initializer_list<int32_t> limits) {
  int32_t smallest = 0;
  for (const int32_t limit : limits) {
    if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
  }
  return smallest;
}

absl::Status CheckTokenizer(const Tokenizer& tokenizer, const ModelConfig& config,
                            const SentenceTransformer& sentence) {
  if (tokenizer.vocab_size() > config.vocab_size) {
    return InvalidArgument(
        "{}: the tokenizer's ids go up to {}, but config.json's 'vocab_size' is {}",
        sentence.model_directory, tokenizer.vocab_size() - 1, config.vocab_size);
  }
  if (sentence.lower_case) {
    const auto upper = tokenizer.Encode("ABC", {});
    const auto lower = tokenizer.Encode("abc", {});
    const auto same_id = [](const EncodedToken& a, const EncodedToken& b) { return a.id == b.id; };
    if (!upper.ok() || !lower.ok() ||
        !std::equal(upper->tokens.begin(), upper->tokens.end(), lower->tokens.begin(),
                    lower->tokens.end(), same_id)) {
      return Unimplemented(
          "{}/sentence_bert_config.json: 'do_lower_case' with a tokenizer that keeps case",
          sentence.model_directory);
    }
  }
  return absl::OkStatus();
}

/// Weights are finite, but what they compute may still overflow: asks for every kind of answer
/// once.
absl::Status CheckAnswers(Engine& engine, const ModelConfig& config, int32_t max_tokens) {
  Sequence probe;
  for (int32_t i = 0; i < std::min({8, max_tokens, config.vocab_size}); ++i) {
    probe.ids.push_back(i);
  }
  probe.want_logits = config.task != Task::kNone;
  probe.want_embedding = true;
  THRESHER_RETURN_IF_ERROR(engine.Validate(probe));
  const Sequence* sequences[] = {&probe};
  SequenceOutput output;
  THRESHER_RETURN_IF_ERROR(engine.Run(sequences, std::span(&output, 1)));
  return output.status;
}

/// Whether the directory's config.json names a decoder. What is wrong with the file is told by
/// whoever reads it all.
bool HoldsDecoder(const std::string& directory) {
  const auto config = ReadJson(directory + "/config.json");
  if (!config.ok() || !config->is_object()) return false;
  const auto names = config->find("architectures");
  return names != config->end() && names->is_array() && !names->empty() &&
         names->front().is_string() &&
         IsDecoderArchitecture(names->front().get_ref<const std::string&>());
}

/// As CheckAnswers, of a decoder: a prompt and one token after it.
absl::Status CheckGeneration(DecoderEngine& engine) {
  std::vector<int32_t> prompt(static_cast<size_t>(
      std::clamp(std::min(engine.max_tokens() - 1, engine.config().vocab_size), 1, 8)));
  std::iota(prompt.begin(), prompt.end(), 0);
  const auto length = static_cast<int32_t>(prompt.size());
  const size_t bytes = engine.CacheBytes(nullptr, length, length + 1);
  if (!engine.pool().Fits(bytes)) {
    return ResourceExhausted(
        "even a text of {} tokens takes {} bytes of KV cache, and the limit is {}: raise "
        "--kv-cache-bytes",
        length + 1, bytes, engine.pool().limit());
  }
  auto text = engine.Start(nullptr, {}, bytes);
  // While other texts hold the memory, a model is loaded without having been tried.
  if (absl::IsResourceExhausted(text.status())) return absl::OkStatus();
  THRESHER_RETURN_IF_ERROR(text.status());
  bool finite = true;
  const auto check = [&](size_t, int32_t, std::span<const float> logits) {
    finite &= std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
  };
  StepPart part = {.text = text->get(),
                   .ids = prompt,
                   .prompt_tokens = length,
                   .logits = StepPart::Logits::kAll};
  THRESHER_RETURN_IF_ERROR(engine.Step(std::span(&part, 1), check));
  if (engine.max_tokens() > length) {
    part = {
        .text = text->get(), .ids = std::span(prompt).first(1), .logits = StepPart::Logits::kLast};
    THRESHER_RETURN_IF_ERROR(engine.Step(std::span(&part, 1), check));
  }
  if (!finite) return Internal("the model's numbers overflow in this precision");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadDecoder(const std::string& directory,
                                                         std::shared_ptr<Device> device,
                                                         const LoadOptions& options) {
  THRESHER_ASSIGN_OR_RETURN(const DecoderConfig config, LoadDecoderConfig(directory));
  auto model = std::make_unique<LoadedModel>();
  THRESHER_ASSIGN_OR_RETURN(model->tokenizer, Tokenizer::Load(directory));
  if (model->tokenizer->vocab_size() > config.vocab_size) {
    return InvalidArgument(
        "{}: the tokenizer's ids go up to {}, but config.json's 'vocab_size' is {}", directory,
        model->tokenizer->vocab_size() - 1, config.vocab_size);
  }
  ModelInfo& info = model->info;
  info.architecture = config.architecture;
  info.task = Task::kGeneration;
  info.max_tokens = SmallestLimit({config.max_tokens, options.max_tokens});
  info.hidden_size = config.hidden_size;
  info.layers = config.layers;
  info.heads = config.heads;
  info.kv_heads = config.kv_heads;
  info.vocab_size = config.vocab_size;
  info.precision = options.precision.value_or(device->description().default_precision);
  info.bos = config.bos;
  info.eos = config.eos;
  auto pool = options.kv_pool;
  if (pool == nullptr) pool = std::make_shared<KvPool>(std::numeric_limits<size_t>::max() / 2);
  THRESHER_ASSIGN_OR_RETURN(model->decoder,
                            DecoderEngine::Load(directory, config, device, info.precision,
                                                info.max_tokens, std::move(pool)));
  info.parameters = model->decoder->parameters();
  info.packed_bytes = model->decoder->packed_bytes();
  THRESHER_RETURN_IF_ERROR(Annotate(CheckGeneration(*model->decoder), directory));
  model->device = std::move(device);
  return model;
}

}  // namespace

void LoadedModel::SetRecorder(std::shared_ptr<LayerRecorder> recorder) const {
  if (engine != nullptr) engine->SetRecorder(recorder);
  if (decoder != nullptr) decoder->SetRecorder(std::move(recorder));
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& directory,
                                                       std::shared_ptr<Device> device,
                                                       const LoadOptions& options) {
  if (HoldsDecoder(directory)) return LoadDecoder(directory, std::move(device), options);
  THRESHER_ASSIGN_OR_RETURN(const SentenceTransformer sentence, ReadSentenceTransformer(directory));
  THRESHER_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(sentence.model_directory));
  if (sentence.word_embedding_dimension != 0 &&
      sentence.word_embedding_dimension != config.hidden_size) {
    return InvalidArgument(
        "{}: pooling's 'word_embedding_dimension' is {}, but the model's hidden size is {}",
        directory, sentence.word_embedding_dimension, config.hidden_size);
  }

  auto model = std::make_unique<LoadedModel>();
  THRESHER_ASSIGN_OR_RETURN(model->tokenizer, Tokenizer::Load(sentence.model_directory));
  THRESHER_RETURN_IF_ERROR(CheckTokenizer(*model->tokenizer, config, sentence));

  ModelInfo& info = model->info;
  info.architecture = config.architecture;
  info.task = config.task;
  info.labels = config.labels;
  info.multi_label = config.multi_label;
  info.max_tokens = SmallestLimit({config.max_tokens(), sentence.max_tokens,
                                   model->tokenizer->model_max_length(), options.max_tokens});
  info.hidden_size = config.hidden_size;
  info.layers = config.layers;
  info.heads = config.heads;
  info.kv_heads = config.heads;
  info.vocab_size = config.vocab_size;
  info.type_vocab_size = config.type_vocab_size;
  info.precision = options.precision.value_or(device->description().default_precision);
  info.pooling = options.pooling.value_or(sentence.pooling.value_or(Pooling::kMean));
  info.normalize = options.normalize.value_or(sentence.normalize);

  THRESHER_ASSIGN_OR_RETURN(std::unique_ptr<EncoderEngine> engine,
                            EncoderEngine::Load(sentence.model_directory, config, device,
                                                info.precision, info.max_tokens));
  info.parameters = engine->parameters();
  info.packed_bytes = engine->packed_bytes();
  THRESHER_RETURN_IF_ERROR(Annotate(CheckAnswers(*engine, config, info.max_tokens), directory));
  model->device = std::move(device);
  model->engine = std::move(engine);
  return model;
}

}  // namespace thresher
