#include "server/open_inference.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/build_info/build_info.h"
#include "backend/sparsity/report.h"
#include "backend/sparsity/report_json.h"
#include "backend/tensor/status.h"
#include "server/open_inference_report.h"
#include "server/open_inference_tensors.h"
#include "server/postprocess.h"

namespace thresher {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;

/// A tensor of a model as the outside sees it; the first size is the batch's, but of a decoder's.
struct TensorSpec {
  std::string_view name;
  std::string_view datatype;
  std::vector<int64_t> shape;
  bool optional = false;
};

std::vector<TensorSpec> InputsOf(const ModelInfo& info) {
  if (info.task == Task::kGeneration) {
    return {{"text", "BYTES", {1}}, {"input_ids", "INT64", {1, -1}, true}};
  }
  return {{"text", "BYTES", {-1}},
          {"text_pair", "BYTES", {-1}, true},
          {"input_ids", "INT64", {-1, -1}, true},
          {"attention_mask", "INT64", {-1, -1}, true},
          {"token_type_ids", "INT64", {-1, -1}, true}};
}

std::vector<TensorSpec> OutputsOf(const ModelInfo& info) {
  const auto labels = static_cast<int64_t>(info.labels.size());
  const TensorSpec offsets = {"offsets", "INT32", {-1}};
  const TensorSpec token_ids = {"token_ids", "INT32", {-1}};
  const TensorSpec token_spans = {"token_spans", "INT32", {-1, 3}};
  const TensorSpec logits = {"logits", "FP32", {-1, labels}};
  const TensorSpec scores = {"scores", "FP32", {-1, labels}};
  const TensorSpec label = {"label", "BYTES", {-1}};
  switch (info.task) {
    case Task::kSequenceClassification:
      return {logits, scores, label};
    case Task::kTokenClassification:
      return {logits, scores, label, offsets, token_ids, token_spans};
    case Task::kQuestionAnswering:
      return {{"logits", "FP32", {-1, 2}}, offsets, token_ids, token_spans};
    case Task::kGeneration:
      return {{"text", "BYTES", {1}}, token_ids, {"logprobs", "FP32", {-1}, true}};
    case Task::kNone:
      break;
  }
  return {{"embedding", "FP32", {-1, info.hidden_size}}};
}

inference::DataType ToDataType(std::string_view datatype) {
  if (datatype == "BYTES") return inference::TYPE_STRING;
  if (datatype == "INT64") return inference::TYPE_INT64;
  if (datatype == "INT32") return inference::TYPE_INT32;
  return inference::TYPE_FP32;
}

/// The names of the outputs to send.
absl::StatusOr<std::vector<std::string>> ChooseOutputs(const ModelInferRequest& request,
                                                       const ModelInfo& info) {
  std::vector<std::string> known;
  for (const TensorSpec& spec : OutputsOf(info)) known.emplace_back(spec.name);
  if (request.outputs().empty()) return known;
  std::vector<std::string> chosen;
  for (const auto& output : request.outputs()) {
    const std::string& name = output.name();
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return InvalidArgument("output '{}' is not known; the outputs are: {}", name,
                             fmt::join(known, ", "));
    }
    if (std::find(chosen.begin(), chosen.end(), name) != chosen.end()) {
      return InvalidArgument("output '{}' is asked for twice", name);
    }
    if (output.parameters().contains("shared_memory_region")) {
      return Unimplemented("output '{}': shared memory is not supported", name);
    }
    chosen.push_back(name);
  }
  return chosen;
}

/// The values of one output from all rows' results.
OutputTensor MakeOutput(const std::string& name, const ModelInfo& info,
                        std::span<const InferenceResult> results) {
  std::vector<float> floats;
  std::vector<int32_t> integers;
  std::vector<std::string> texts;
  const auto rows = static_cast<int64_t>(results.size());
  const auto make = [&](std::vector<int64_t> shape, auto& values) {
    return OutputTensor{name, std::move(shape), std::move(values)};
  };

  if (name == "embedding") {
    for (const InferenceResult& result : results) {
      const std::vector<float>& values = result.output.embedding;
      floats.insert(floats.end(), values.begin(), values.end());
    }
    return make({rows, static_cast<int64_t>(floats.size()) / rows}, floats);
  }
  if (name == "offsets") {
    integers.push_back(0);
    for (const InferenceResult& result : results) {
      integers.push_back(integers.back() + static_cast<int32_t>(result.encoding.tokens.size()));
    }
    return make({rows + 1}, integers);
  }
  if (name == "token_ids" || name == "token_spans") {
    const bool ids = name == "token_ids";
    int64_t tokens = 0;
    for (const InferenceResult& result : results) {
      for (const EncodedToken& token : result.encoding.tokens) {
        ++tokens;
        if (ids) {
          integers.push_back(token.id);
        } else {
          integers.insert(integers.end(), {token.sequence, token.begin, token.end});
        }
      }
    }
    return ids ? make({tokens}, integers) : make({tokens, 3}, integers);
  }

  // "logits", "scores" and "label" walk over the head's rows, one for a sequence or for a token.
  int64_t head_rows = 0;
  int64_t columns = 0;
  for (const InferenceResult& result : results) {
    columns = result.output.logit_cols;
    for (int32_t row = 0; row < result.output.logit_rows; ++row, ++head_rows) {
      const auto logits =
          std::span(result.output.logits)
              .subspan(static_cast<size_t>(row * columns), static_cast<size_t>(columns));
      if (name == "label") {
        const size_t best = ArgMax(logits);
        texts.push_back(LabelOf(info, best));
        continue;
      }
      floats.insert(floats.end(), logits.begin(), logits.end());
      if (name == "scores") {
        ToScores(info, std::span(floats).last(static_cast<size_t>(columns)));
      }
    }
  }
  if (name == "label") return make({head_rows}, texts);
  return make({head_rows, columns}, floats);
}

/// What was computed, summed over the rows.
void FillRowsWork(const InferenceAnswer& answer, InferFacts* facts) {
  v1::PruningReport::Work total;
  for (const InferenceResult& result : answer.results) {
    AddWork(result.output.report.total(), &total);
  }
  (*facts)["policy"].set_string_param(answer.results.front().output.report.policy());
  FillWork(total, facts);
}

/// Each row's whole report as JSON, a list.
std::string ReportsText(const InferenceAnswer& answer) {
  Json reports = Json::array();
  for (const InferenceResult& result : answer.results) {
    reports.push_back(ReportJson(result.output.report,
                                 ToTokens(*answer.model->model->tokenizer, result.encoding)));
  }
  return Dump(reports);
}

/// The bounds that a profile promises: "0.01, 0.02".
std::string BoundsText(const QualityProfile& profile) {
  std::vector<double> bounds;
  for (const QualityProfile::Entry& entry : profile.entries()) bounds.push_back(entry.max_loss);
  return fmt::format("{}", fmt::join(bounds, ", "));
}

void FillFacts(const InferenceAnswer& answer, ModelInferResponse* response) {
  auto& facts = *response->mutable_parameters();
  const auto seconds = [&](const char* name, absl::Duration duration) {
    facts[name].set_double_param(absl::ToDoubleSeconds(duration));
  };
  FillRowsWork(answer, &facts);
  seconds("queue_seconds", answer.times.queue);
  seconds("tokenize_seconds", answer.times.tokenize);
  seconds("compute_seconds", answer.times.compute);
  seconds("total_seconds", answer.times.total);
  int64_t tokens = 0;
  bool truncated = false;
  for (const InferenceResult& result : answer.results) {
    tokens += static_cast<int64_t>(result.encoding.tokens.size());
    truncated |= result.encoding.truncated;
  }
  facts["tokens"].set_int64_param(tokens);
  facts["truncated"].set_bool_param(truncated);
}

ModelInferResponse MakeResponse(const ModelInferRequest& request,
                                const std::vector<std::string>& outputs, bool explain,
                                const InferenceAnswer& answer) {
  ModelInferResponse response;
  response.set_model_name(answer.model->name);
  response.set_model_version(answer.model->version);
  response.set_id(request.id());
  FillFacts(answer, &response);
  if (explain) (*response.mutable_parameters())["report"].set_string_param(ReportsText(answer));
  const bool raw = request.raw_input_contents_size() > 0;
  for (const std::string& name : outputs) {
    AddOutput(MakeOutput(name, answer.model->model->info, answer.results), raw, &response);
  }
  return response;
}

}  // namespace

OpenInference::Handle OpenInference::Infer(ModelInferRequest* request, const Context& context,
                                           InferDone done) {
  class Whole final : public InferReceiver {
   public:
    explicit Whole(InferDone done) : done_(std::move(done)) {}
    bool OnResponse(ModelInferResponse) override { return true; }  // There is but the last.
    void OnEnd(absl::StatusOr<ModelInferResponse> last) override { done_(std::move(last)); }

   private:
    const InferDone done_;
  };
  return Start(request, context, /*streams=*/false, std::make_shared<Whole>(std::move(done)));
}

OpenInference::Handle OpenInference::Stream(ModelInferRequest* request, const Context& context,
                                            std::shared_ptr<InferReceiver> receiver) {
  return Start(request, context, /*streams=*/true, std::move(receiver));
}

OpenInference::Handle OpenInference::Start(ModelInferRequest* message, const Context& context,
                                           bool streams, std::shared_ptr<InferReceiver> receiver) {
  const ModelInferRequest& request = *message;
  // The rows that the first input claims; the tensors are read when the model is known.
  const bool sized = request.inputs_size() > 0 && request.inputs(0).shape_size() > 0;
  const int64_t claimed = sized ? request.inputs(0).shape(0) : 1;
  const auto count = static_cast<size_t>(std::max<int64_t>(claimed, 1));
  auto model =
      inference_->Admit(Method::kModelInfer, request.model_name(), request.model_version(), count);
  if (!model.ok()) {
    receiver->OnEnd(model.status());
    return nullptr;
  }
  if ((*model)->generator == nullptr) {
    InferRowsOf(request, context, *model, count, std::move(receiver));
    return nullptr;
  }
  const auto text = ParseInferText(request);
  if (!text.ok()) {
    receiver->OnEnd(inference_->Refuse(Method::kModelInfer, (*model)->name, count, text.status()));
    return nullptr;
  }
  const absl::Time deadline = std::min(context.deadline, context.arrival + text->timeout);
  auto responses = MakeTextResponses(request, **model, *text, streams, receiver);
  // The text has its own copy. Clearing them would keep their memory.
  message->mutable_inputs()->DeleteSubrange(0, message->inputs_size());
  message->mutable_raw_input_contents()->DeleteSubrange(0, message->raw_input_contents_size());
  auto handle = generation_->Generate(Method::kModelInfer, *model, text->request,
                                      {context.arrival, deadline}, std::move(responses));
  if (!handle.ok()) {
    receiver->OnEnd(handle.status());
    return nullptr;
  }
  return *std::move(handle);
}

void OpenInference::InferRowsOf(const ModelInferRequest& request, const Context& context,
                                const std::shared_ptr<const ServedModel>& model, size_t count,
                                std::shared_ptr<InferReceiver> receiver) {
  // What the work's views point to lives as long as the work.
  struct Parts {
    InferRows rows;
    InferOptions options;
    std::vector<std::string> outputs;
  };
  const auto parts = std::make_shared<Parts>();
  const absl::Status status = [&] {
    THRESHER_ASSIGN_OR_RETURN(parts->options, ParseInferOptions(request.parameters()));
    THRESHER_ASSIGN_OR_RETURN(parts->outputs, ChooseOutputs(request, model->model->info));
    THRESHER_ASSIGN_OR_RETURN(parts->rows, ParseInferRows(request, inference_->max_inputs()));
    return absl::OkStatus();
  }();
  if (!status.ok()) {
    return receiver->OnEnd(inference_->Refuse(Method::kModelInfer, model->name, count, status));
  }

  InferenceRequest work;
  work.method = Method::kModelInfer;
  work.model = model;
  work.noun = "row";
  work.all_or_none = true;
  work.truncate = parts->options.truncate;
  work.priority = parts->options.priority;
  work.policy = parts->options.sparsity;
  work.max_quality_loss = parts->options.max_quality_loss;
  work.explain = parts->options.explain;
  work.arrival = context.arrival;
  work.deadline = std::min(context.deadline, context.arrival + parts->options.timeout);
  work.cancelled = context.cancelled;
  const InferRows& rows = parts->rows;
  work.inputs.resize(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    InferenceInput& input = work.inputs[i];
    if (!rows.texts.empty()) input.text = rows.texts[i];
    if (!rows.pairs.empty()) input.pair = rows.pairs[i];
    if (!rows.ids.empty()) input.ids = rows.ids[i];
    if (!rows.type_ids.empty()) input.type_ids = rows.type_ids[i];
  }
  inference_->Run(std::move(work), [&request, parts, receiver = std::move(receiver)](
                                       absl::StatusOr<InferenceAnswer> answer) {
    if (!answer.ok()) return receiver->OnEnd(answer.status());
    receiver->OnEnd(MakeResponse(request, parts->outputs, parts->options.explain, *answer));
  });
}

inference::ServerMetadataResponse OpenInference::ServerMetadata() const {
  inference::ServerMetadataResponse response;
  response.set_name("thresher");
  response.set_version(GetBuildInfo().version);
  for (const char* extension :
       {"model_configuration", "model_repository", "statistics", "parameters"}) {
    response.add_extensions(extension);
  }
  return response;
}

absl::StatusOr<inference::ModelReadyResponse> OpenInference::ModelReady(
    const inference::ModelReadyRequest& request) const {
  const auto model = repository_->Find(request.name(), request.version());
  if (!model.ok() && !absl::IsUnavailable(model.status())) return model.status();
  inference::ModelReadyResponse response;
  response.set_ready(model.ok());
  return response;
}

absl::StatusOr<inference::ModelMetadataResponse> OpenInference::ModelMetadata(
    const inference::ModelMetadataRequest& request) const {
  THRESHER_ASSIGN_OR_RETURN(const auto model, repository_->Find(request.name(), request.version()));
  const ModelInfo& info = model->model->info;
  inference::ModelMetadataResponse response;
  response.set_name(model->name);
  for (const auto& ready : repository_->Ready()) {
    if (ready->name == model->name) response.add_versions(ready->version);
  }
  response.set_platform("thresher");
  const auto add = [](const TensorSpec& spec, auto* tensor) {
    tensor->set_name(std::string(spec.name));
    tensor->set_datatype(std::string(spec.datatype));
    tensor->mutable_shape()->Add(spec.shape.begin(), spec.shape.end());
  };
  for (const TensorSpec& spec : InputsOf(info)) add(spec, response.add_inputs());
  for (const TensorSpec& spec : OutputsOf(info)) add(spec, response.add_outputs());
  auto& properties = *response.mutable_properties();
  properties["version"] = model->version;
  properties["architecture"] = info.architecture;
  properties["task"] = std::string(TaskName(info.task));
  properties["precision"] = std::string(Name(info.precision));
  properties["max_tokens"] = std::to_string(info.max_tokens);
  properties["hidden_size"] = std::to_string(info.hidden_size);
  properties["layers"] = std::to_string(info.layers);
  properties["heads"] = std::to_string(info.heads);
  properties["vocab_size"] = std::to_string(info.vocab_size);
  properties["parameters"] = std::to_string(info.parameters);
  properties["packed_bytes"] = std::to_string(info.packed_bytes);
  if (info.task == Task::kGeneration) {
    properties["kv_heads"] = std::to_string(info.kv_heads);
    if (info.bos) properties["bos_token_id"] = std::to_string(*info.bos);
    properties["eos_token_ids"] = fmt::format("{}", fmt::join(info.eos, ","));
  } else {
    properties["pooling"] = info.pooling == Pooling::kCls ? "cls" : "mean";
    properties["normalize"] = info.normalize ? "true" : "false";
  }
  if (model->quality.ok()) properties["max_quality_loss"] = BoundsText(*model->quality);
  if (!info.labels.empty()) properties["labels"] = fmt::format("{}", fmt::join(info.labels, ","));
  return response;
}

absl::StatusOr<inference::ModelConfigResponse> OpenInference::ModelConfig(
    const inference::ModelConfigRequest& request) const {
  THRESHER_ASSIGN_OR_RETURN(const auto model, repository_->Find(request.name(), request.version()));
  const ModelInfo& info = model->model->info;
  inference::ModelConfigResponse response;
  inference::ModelConfig* config = response.mutable_config();
  config->set_name(model->name);
  config->set_platform("thresher");
  config->set_backend("thresher");
  // A decoder takes one prompt in a request, and answers with any number of responses.
  const bool decoder = info.task == Task::kGeneration;
  config->set_max_batch_size(decoder ? 0 : inference_->max_inputs());
  const v1::VersionPolicy& versions = model->config.versions();
  if (versions.has_all()) {
    config->mutable_version_policy()->mutable_all();
  } else if (versions.has_named()) {
    *config->mutable_version_policy()->mutable_specific()->mutable_versions() =
        versions.named().versions();
  } else {
    config->mutable_version_policy()->mutable_latest()->set_num_versions(
        static_cast<uint32_t>(std::max(versions.latest().count(), 1)));
  }
  const auto add = [decoder](const TensorSpec& spec, auto* tensor) {
    tensor->set_name(std::string(spec.name));
    tensor->set_data_type(ToDataType(spec.datatype));
    // Without the batch's size, where there is one.
    tensor->mutable_dims()->Add(spec.shape.begin() + (decoder ? 0 : 1), spec.shape.end());
  };
  for (const TensorSpec& spec : InputsOf(info)) {
    inference::ModelInput* input = config->add_input();
    add(spec, input);
    input->set_optional(spec.optional);
  }
  for (const TensorSpec& spec : OutputsOf(info)) add(spec, config->add_output());
  inference::ModelInstanceGroup* group = config->add_instance_group();
  group->set_count(1);
  group->set_kind(inference::ModelInstanceGroup::KIND_CPU);
  if (!decoder) config->mutable_dynamic_batching();  // Batches are made here; clients need not.
  auto& parameters = *config->mutable_parameters();
  parameters["architecture"].set_string_value(info.architecture);
  parameters["precision"].set_string_value(std::string(Name(info.precision)));
  parameters["max_tokens"].set_string_value(std::to_string(info.max_tokens));
  config->mutable_model_transaction_policy()->set_decoupled(decoder);
  return response;
}

absl::StatusOr<inference::ModelStatisticsResponse> OpenInference::ModelStatistics(
    const inference::ModelStatisticsRequest& request) const {
  if (!request.name().empty()) {
    const auto model = repository_->Find(request.name(), request.version());
    if (!model.ok()) return model.status();
  }
  inference::ModelStatisticsResponse response;
  for (const auto& model : repository_->Ready()) {
    if (!request.name().empty() && model->name != request.name()) continue;
    if (!request.version().empty() && model->version != request.version()) continue;
    *response.add_model_stats() = inference_->statistics().Get(model->name, model->version);
  }
  return response;
}

inference::RepositoryIndexResponse OpenInference::RepositoryIndex(
    const inference::RepositoryIndexRequest& request) const {
  inference::RepositoryIndexResponse response;
  for (const ModelIndexEntry& entry : repository_->Index()) {
    if (request.ready() && entry.state != ModelState::kReady) continue;
    auto* model = response.add_models();
    model->set_name(entry.name);
    model->set_version(entry.version);
    model->set_state(std::string(Name(entry.state)));
    model->set_reason(entry.reason);
  }
  return response;
}

}  // namespace thresher
