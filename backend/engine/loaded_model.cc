#include "backend/engine/loaded_model.h"

#include <algorithm>
#include <utility>

#include "backend/engine/encoder_engine.h"
#include "backend/engine/sentence_transformer.h"
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

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& directory,
                                                       std::shared_ptr<Device> device,
                                                       const LoadOptions& options) {
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
