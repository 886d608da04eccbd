#include "server/text_request.h"

#include <algorithm>
#include <random>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Below 2^53, so that every JSON reader keeps it.
uint64_t RandomSeed() {
  std::random_device device;
  return ((uint64_t{device()} << 32) | device()) >> 11;
}

absl::Status CheckInput(const v1::Input& input) {
  if (input.has_pair()) {
    return InvalidArgument("pair: a decoder reads one text; put both into it");
  }
  if (input.token_type_ids_size() > 0) {
    return InvalidArgument("token_type_ids: a decoder has no token types");
  }
  if (!input.text().empty() && input.token_ids_size() > 0) {
    return InvalidArgument("both a text and token ids; send one of them");
  }
  return absl::OkStatus();
}

std::vector<int32_t> Ids(const Encoding& encoding) {
  std::vector<int32_t> ids;
  ids.reserve(encoding.tokens.size());
  for (const EncodedToken& token : encoding.tokens) ids.push_back(token.id);
  return ids;
}

/// All of the prompt, however long, if its newest tokens are to be kept; else of one that is longer
/// than the context only as much, and `*longer` is set.
absl::StatusOr<std::vector<int32_t>> ReadPrompt(const ServedModel& model, const v1::Input& input,
                                                bool truncate, bool* longer) {
  THRESHER_RETURN_IF_ERROR(CheckInput(input));
  if (input.token_ids_size() > 0)
    return std::vector(input.token_ids().begin(), input.token_ids().end());
  EncodeOptions options;
  if (!truncate) {
    options.max_tokens = model.generator->engine().max_tokens();
    options.truncate = true;
  }
  THRESHER_ASSIGN_OR_RETURN(const Encoding encoding,
                            model.model->tokenizer->Encode(input.text(), options));
  *longer = encoding.truncated;
  std::vector<int32_t> ids = Ids(encoding);
  if (!ids.empty()) return ids;
  const std::optional<int32_t> bos = model.model->info.bos;
  if (!bos) {
    return InvalidArgument(
        "the prompt is empty, and model '{}' has no BOS token to start from; send a text",
        model.name);
  }
  return std::vector{*bos};
}

/// Cuts the beginning, but for a BOS token.
void KeepNewest(const ModelInfo& info, size_t limit, std::vector<int32_t>* ids) {
  const bool bos = info.bos == ids->front() && limit > 1;
  const auto begin = ids->begin() + (bos ? 1 : 0);
  ids->erase(begin, begin + static_cast<int64_t>(ids->size() - limit));
}

/// Prompt and max_tokens. `longer`: the prompt goes on after what was read of it.
absl::Status SetLength(const ServedModel& model, const v1::GenerateRequest& request, bool longer,
                       TextRequest* out) {
  GenerationRequest& generation = out->generation;
  const DecoderEngine& engine = model.generator->engine();
  // Under some policies a text may become longer than the context; a prompt never.
  const int64_t context = engine.max_tokens();
  const int64_t most = engine.MaxTokens(generation.policy.get());
  if (request.has_max_tokens() && request.max_tokens() < 1) {
    return InvalidArgument("max_tokens: is {}, must be 1 or more", request.max_tokens());
  }
  if (request.max_tokens() >= most) {
    return InvalidArgument("max_tokens: is {}, but prompt and text together have at most {} tokens",
                           request.max_tokens(), most);
  }
  const int64_t wanted = request.has_max_tokens() ? request.max_tokens() : 1;
  int64_t limit = std::min(context, most - wanted);
  const auto length = static_cast<int64_t>(generation.prompt.size());
  if (longer || length > limit) {
    if (!request.options().truncate()) {
      const std::string has =
          fmt::format("the prompt has {}{} tokens, and model '{}' has a context",
                      longer ? "more than " : "", length, model.name);
      if (limit == context) {
        return InvalidArgument("{} of {}; shorten it, or ask for truncation", has, context);
      }
      return InvalidArgument(
          "{} of {}, of which {} {} to be generated; shorten it, ask for fewer tokens, or for "
          "truncation",
          has, most, wanted, wanted == 1 ? "is" : "are");
    }
    if (!request.has_max_tokens()) {
      limit = std::min(context, most - std::min<int64_t>(kDefaultMaxTokens, context / 2));
    }
    KeepNewest(model.model->info, static_cast<size_t>(std::max<int64_t>(limit, 1)),
               &generation.prompt);
    out->truncated = true;
  }
  generation.max_tokens = static_cast<int32_t>(
      request.has_max_tokens()
          ? wanted
          : std::min<int64_t>(kDefaultMaxTokens,
                              most - static_cast<int64_t>(generation.prompt.size())));
  return absl::OkStatus();
}

absl::Status SetSampling(const v1::SamplingOptions& options, TextRequest* out) {
  SamplingOptions& sampling = out->generation.sampling;
  sampling.temperature = options.temperature();
  sampling.top_k = options.top_k();
  sampling.top_p = options.has_top_p() ? options.top_p() : 1.0;
  sampling.min_p = options.min_p();
  sampling.repetition_penalty =
      options.has_repetition_penalty() ? options.repetition_penalty() : 1.0;
  THRESHER_RETURN_IF_ERROR(CheckSampling(sampling));
  out->greedy = options.temperature() == 0;
  if (!out->greedy) {
    sampling.seed = options.has_seed() ? options.seed() : RandomSeed();
    return absl::OkStatus();
  }
  const char* const idle = options.has_seed()       ? "seed"
                           : options.top_k() != 0   ? "top_k"
                           : options.has_top_p()    ? "top_p"
                           : options.min_p() != 0.0 ? "min_p"
                                                    : nullptr;
  if (idle == nullptr) return absl::OkStatus();
  return InvalidArgument(
      "{}: with temperature 0 the most probable token is always taken, and nothing is drawn; set a "
      "temperature above 0, or leave {} out",
      idle, idle);
}

absl::Status CheckStop(const v1::GenerateRequest& request) {
  if (request.stop_size() > kMaxStopStrings) {
    return InvalidArgument("stop: {} strings; there may be at most {}", request.stop_size(),
                           kMaxStopStrings);
  }
  for (int i = 0; i < request.stop_size(); ++i) {
    const std::string& stop = request.stop(i);
    if (stop.empty()) return InvalidArgument("stop[{}]: is empty, and would end every text", i);
    if (stop.size() > kMaxStopBytes) {
      return InvalidArgument("stop[{}]: has {} bytes; there may be at most {}", i, stop.size(),
                             kMaxStopBytes);
    }
  }
  return absl::OkStatus();
}

absl::Status SetLogprobs(const v1::GenerateRequest& request, GenerationRequest* out) {
  const int32_t top = request.top_logprobs();
  if (top < 0 || top > kMaxTopLogprobs) {
    return InvalidArgument("top_logprobs: is {}, must be from 0 to {}", top, kMaxTopLogprobs);
  }
  if (top > 0 && !request.logprobs()) {
    return InvalidArgument("top_logprobs: goes with logprobs, which is not set");
  }
  out->logprobs = request.logprobs();
  out->prompt_logprobs = request.logprobs() && request.echo();
  out->top_logprobs = top;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Policy>> TextPolicy(const ServedModel& model,
                                                         const v1::SparsityOptions& options) {
  if (options.choice_case() == v1::SparsityOptions::kMaxQualityLoss) {
    return InvalidArgument(
        "max_quality_loss: quality profiles are of encoders; choose a policy by sparsity instead, "
        "and see what it costs: thresher evaluate tells a decoder's perplexity");
  }
  if (options.policy().empty()) return std::shared_ptr<const Policy>();
  auto policy = model.generator->engine().ParsePolicy(options.policy());
  if (!policy.ok()) return Annotate(policy.status(), "sparsity");
  return policy;
}

absl::StatusOr<TextRequest> MakeTextRequest(const ServedModel& model,
                                            const v1::GenerateRequest& request) {
  TextRequest out;
  GenerationRequest& generation = out.generation;
  THRESHER_RETURN_IF_ERROR(CheckStop(request));
  THRESHER_RETURN_IF_ERROR(SetLogprobs(request, &generation));
  THRESHER_RETURN_IF_ERROR(SetSampling(request.sampling(), &out));
  THRESHER_ASSIGN_OR_RETURN(generation.policy, TextPolicy(model, request.options().sparsity()));
  bool longer = false;
  THRESHER_ASSIGN_OR_RETURN(generation.prompt, ReadPrompt(model, request.prompt(),
                                                          request.options().truncate(), &longer));
  THRESHER_RETURN_IF_ERROR(SetLength(model, request, longer, &out));
  if (!request.ignore_eos()) generation.end_ids = model.model->info.eos;
  generation.priority = request.options().priority();
  return out;
}

absl::StatusOr<TextRequest> MakeScoreRequest(const ServedModel& model, const v1::Input& input,
                                             bool truncate) {
  THRESHER_RETURN_IF_ERROR(CheckInput(input));
  TextRequest out;
  std::vector<int32_t>& ids = out.generation.prompt;
  const int32_t limit = model.model->info.max_tokens;
  if (input.token_ids_size() > 0) {
    ids.assign(input.token_ids().begin(), input.token_ids().end());
    if (truncate && ids.size() > static_cast<size_t>(limit)) {
      ids.resize(static_cast<size_t>(limit));
      out.truncated = true;
    }
  } else {
    if (input.text().empty()) return InvalidArgument("empty text");
    EncodeOptions options;
    options.max_tokens = limit;
    options.truncate = truncate;
    THRESHER_ASSIGN_OR_RETURN(const Encoding encoding,
                              model.model->tokenizer->Encode(input.text(), options));
    ids = Ids(encoding);
    out.truncated = encoding.truncated;
  }
  out.generation.prompt_logprobs = true;
  return out;
}

}  // namespace thresher
