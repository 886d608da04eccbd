#include "server/thresher_calls.h"

#include <algorithm>
#include <string>
#include <utility>

#include "backend/tensor/status.h"
#include "server/grpc_status.h"
#include "server/postprocess.h"
#include "server/request_account.h"

namespace thresher {
namespace {

using Context = ThresherCalls::Context;

constexpr int kDefaultAnswerTokens = 30;
constexpr int kMaxAnswers = 100;

InferenceInput ToInput(const v1::Input& input) {
  InferenceInput out;
  out.text = input.text();
  if (input.has_pair()) out.pair = input.pair();
  out.ids = {input.token_ids().data(), static_cast<size_t>(input.token_ids_size())};
  out.type_ids = {input.token_type_ids().data(), static_cast<size_t>(input.token_type_ids_size())};
  return out;
}

InferenceInput ToInput(const v1::Question& question) {
  return {.text = question.question(), .pair = question.context()};
}

/// What every answer begins with.
template <typename Response>
void FillHead(const InferenceAnswer& answer, Response* response) {
  response->mutable_model()->set_name(answer.model->name);
  response->mutable_model()->set_version(answer.model->version);
  *response->mutable_timings() = ToProto(answer.times);
}

v1::ResultInfo ToInfo(const Tokenizer& tokenizer, const InferenceResult& result) {
  v1::ResultInfo info;
  *info.mutable_timings() = ToProto(result.times);
  *info.mutable_status() = ToProto(result.status);
  if (!result.status.ok()) return info;
  info.set_tokens(static_cast<int32_t>(result.encoding.tokens.size()));
  info.set_truncated(result.encoding.truncated);
  if (result.batch_sequences == 0) return info;  // Nothing was computed.
  info.set_batch_sequences(result.batch_sequences);
  info.set_batch_tokens(result.batch_tokens);
  *info.mutable_report() = result.output.report;
  if (info.report().token_layers_size() > 0) {
    *info.mutable_pieces() = ToTokens(tokenizer, result.encoding);
  }
  return info;
}

/// Adds one result for each input: `fill(i, result, &proto)` for those that were answered.
template <typename Results, typename Fill>
void FillResults(InferenceAnswer& answer, Results* results, const Fill& fill) {
  results->Reserve(static_cast<int>(answer.results.size()));
  for (size_t i = 0; i < answer.results.size(); ++i) {
    InferenceResult& result = answer.results[i];
    auto* proto = results->Add();
    *proto->mutable_info() = ToInfo(*answer.model->model->tokenizer, result);
    if (result.status.ok()) fill(i, result, proto);
  }
}

void FillClassification(const ModelInfo& info, bool raw_scores, SequenceOutput& output,
                        v1::Classification* out) {
  out->set_label(LabelOf(info, ArgMax(output.logits)));
  if (!raw_scores) ToScores(info, output.logits);
  out->mutable_scores()->Add(output.logits.begin(), output.logits.end());
}

void FillTokenLabels(const ModelInfo& info, const Tokenizer& tokenizer, bool include_special,
                     InferenceResult& result, v1::TokenClassification* out) {
  const auto columns = static_cast<size_t>(result.output.logit_cols);
  for (size_t i = 0; i < result.encoding.tokens.size(); ++i) {
    const EncodedToken& token = result.encoding.tokens[i];
    // Ids that the caller made have no place in a text; the vocabulary says which are special.
    const bool special = token.sequence < 0 && tokenizer.IsSpecial(token.id);
    if (special && !include_special) continue;
    const std::span<float> scores(result.output.logits.data() + i * columns, columns);
    ToScores(info, scores);
    const size_t best = ArgMax(scores);
    v1::TokenLabel* label = out->add_tokens();
    label->set_token(std::string(tokenizer.TokenText(token.id)));
    label->set_token_id(token.id);
    label->set_label(LabelOf(info, best));
    label->set_score(scores[best]);
    label->set_begin(token.begin);
    label->set_end(token.end);
    label->set_sequence(token.sequence);
  }
}

void FillAnswers(const v1::AnswerRequest& request, const v1::Question& question,
                 const InferenceResult& result, v1::AnswerResult* out) {
  const auto max_tokens = static_cast<size_t>(
      request.max_answer_tokens() > 0 ? request.max_answer_tokens() : kDefaultAnswerTokens);
  const auto top = static_cast<size_t>(std::max(request.top(), 1));
  // The context's tokens follow one another.
  std::vector<EncodedToken> tokens;
  std::vector<float> start, end;
  for (size_t i = 0; i < result.encoding.tokens.size(); ++i) {
    if (result.encoding.tokens[i].sequence != 1) continue;
    tokens.push_back(result.encoding.tokens[i]);
    start.push_back(result.output.logits[2 * i]);
    end.push_back(result.output.logits[2 * i + 1]);
  }
  for (const Span& span : BestSpans(start, end, max_tokens, top)) {
    v1::AnswerSpan* answer = out->add_answers();
    const int32_t begin = tokens[span.first].begin;
    const int32_t finish = tokens[span.last].end;
    answer->set_text(
        question.context().substr(static_cast<size_t>(begin), static_cast<size_t>(finish - begin)));
    answer->set_score(span.score);
    answer->set_begin(begin);
    answer->set_end(finish);
  }
}

const auto& InputsOf(const v1::AnswerRequest& request) { return request.questions(); }
template <typename Request>
const auto& InputsOf(const Request& request) {
  return request.inputs();
}

absl::Status SetOptions(const v1::RequestOptions& options, InferenceRequest* work) {
  work->truncate = options.truncate();
  work->priority = options.priority();
  const v1::SparsityOptions& sparsity = options.sparsity();
  work->policy = sparsity.policy();
  if (sparsity.choice_case() == v1::SparsityOptions::kMaxQualityLoss) {
    work->max_quality_loss = sparsity.max_quality_loss();
  }
  work->explain = sparsity.explain();
  return absl::OkStatus();
}

/// One call from its request to its answer. `setup(request, &work)` checks and takes over the
/// method's options; `fill(request, answer, response)` turns the results into the answer.
template <typename Request, typename Response, typename Setup, typename Fill>
void Serve(Inference* inference, Method method, const Request& request, const Context& context,
           const ThresherCalls::Done<Response>& done, Setup setup, Fill fill) {
  const absl::Status refusal = [&] {
    const auto& inputs = InputsOf(request);
    THRESHER_ASSIGN_OR_RETURN(
        auto model, inference->Admit(method, request.model().name(), request.model().version(),
                                     static_cast<size_t>(inputs.size())));
    InferenceRequest work;
    work.method = method;
    work.model = model;
    work.inputs.reserve(static_cast<size_t>(inputs.size()));
    for (const auto& input : inputs) work.inputs.push_back(ToInput(input));
    work.all_or_none = context.all_or_none;
    work.arrival = context.arrival;
    work.deadline = context.deadline;
    work.cancelled = context.cancelled;
    if (absl::Status status = setup(request, &work); !status.ok()) {
      return inference->Refuse(method, model->name, work.inputs.size(), status);
    }
    inference->Run(std::move(work), [&request, done, fill](absl::StatusOr<InferenceAnswer> answer) {
      if (!answer.ok()) return done(answer.status());
      Response response;
      FillHead(*answer, &response);
      fill(request, *answer, &response);
      done(std::move(response));
    });
    return absl::OkStatus();
  }();
  if (!refusal.ok()) done(refusal);
}

}  // namespace

void ThresherCalls::Classify(const v1::ClassifyRequest& request, const Context& context,
                             Done<v1::ClassifyResponse> done) {
  Serve<v1::ClassifyRequest, v1::ClassifyResponse>(
      inference_, Method::kClassify, request, context, done,
      [](const v1::ClassifyRequest& request, InferenceRequest* work) {
        return SetOptions(request.options(), work);
      },
      [](const v1::ClassifyRequest& request, InferenceAnswer& answer,
         v1::ClassifyResponse* response) {
        const ModelInfo& info = answer.model->model->info;
        response->mutable_labels()->Add(info.labels.begin(), info.labels.end());
        FillResults(answer, response->mutable_results(), [&](size_t, auto& result, auto* out) {
          FillClassification(info, request.raw_scores(), result.output, out);
        });
      });
}

void ThresherCalls::Embed(const v1::EmbedRequest& request, const Context& context,
                          Done<v1::EmbedResponse> done) {
  Serve<v1::EmbedRequest, v1::EmbedResponse>(
      inference_, Method::kEmbed, request, context, done,
      [](const v1::EmbedRequest& request, InferenceRequest* work) -> absl::Status {
        switch (request.pooling()) {
          case v1::EmbedRequest::POOLING_DEFAULT:
            break;
          case v1::EmbedRequest::POOLING_CLS:
            work->pooling = Pooling::kCls;
            break;
          case v1::EmbedRequest::POOLING_MEAN:
            work->pooling = Pooling::kMean;
            break;
          default:
            return InvalidArgument("pooling: {} is not known", static_cast<int>(request.pooling()));
        }
        if (request.has_normalize()) work->normalize = request.normalize();
        return SetOptions(request.options(), work);
      },
      [](const v1::EmbedRequest&, InferenceAnswer& answer, v1::EmbedResponse* response) {
        FillResults(answer, response->mutable_results(), [](size_t, auto& result, auto* out) {
          const std::vector<float>& values = result.output.embedding;
          out->mutable_values()->Add(values.begin(), values.end());
        });
      });
}

void ThresherCalls::TokenClassify(const v1::TokenClassifyRequest& request, const Context& context,
                                  Done<v1::TokenClassifyResponse> done) {
  Serve<v1::TokenClassifyRequest, v1::TokenClassifyResponse>(
      inference_, Method::kTokenClassify, request, context, done,
      [](const v1::TokenClassifyRequest& request, InferenceRequest* work) {
        return SetOptions(request.options(), work);
      },
      [](const v1::TokenClassifyRequest& request, InferenceAnswer& answer,
         v1::TokenClassifyResponse* response) {
        const LoadedModel& model = *answer.model->model;
        response->mutable_labels()->Add(model.info.labels.begin(), model.info.labels.end());
        FillResults(answer, response->mutable_results(), [&](size_t, auto& result, auto* out) {
          FillTokenLabels(model.info, *model.tokenizer, request.include_special_tokens(), result,
                          out);
        });
      });
}

void ThresherCalls::Answer(const v1::AnswerRequest& request, const Context& context,
                           Done<v1::AnswerResponse> done) {
  Serve<v1::AnswerRequest, v1::AnswerResponse>(
      inference_, Method::kAnswer, request, context, done,
      [](const v1::AnswerRequest& request, InferenceRequest* work) -> absl::Status {
        if (request.max_answer_tokens() < 0) {
          return InvalidArgument("max_answer_tokens: {} is negative", request.max_answer_tokens());
        }
        if (request.top() < 0 || request.top() > kMaxAnswers) {
          return InvalidArgument("top: {} is not in [0, {}]", request.top(), kMaxAnswers);
        }
        return SetOptions(request.options(), work);
      },
      [](const v1::AnswerRequest& request, InferenceAnswer& answer, v1::AnswerResponse* response) {
        FillResults(answer, response->mutable_results(), [&](size_t i, auto& result, auto* out) {
          FillAnswers(request, request.questions(static_cast<int>(i)), result, out);
        });
      });
}

void ThresherCalls::Tokenize(const v1::TokenizeRequest& request, const Context& context,
                             Done<v1::TokenizeResponse> done) {
  Serve<v1::TokenizeRequest, v1::TokenizeResponse>(
      inference_, Method::kTokenize, request, context, done,
      [](const v1::TokenizeRequest& request, InferenceRequest* work) {
        work->truncate = request.truncate();
        if (request.has_add_special_tokens()) {
          work->add_special_tokens = request.add_special_tokens();
        }
        return absl::OkStatus();
      },
      [](const v1::TokenizeRequest&, InferenceAnswer& answer, v1::TokenizeResponse* response) {
        const Tokenizer& tokenizer = *answer.model->model->tokenizer;
        FillResults(answer, response->mutable_results(), [&](size_t, auto& result, auto* out) {
          *out->mutable_tokens() = ToTokens(tokenizer, result.encoding);
        });
      });
}

}  // namespace thresher
