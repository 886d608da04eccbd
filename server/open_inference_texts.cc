#include "server/open_inference_texts.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "backend/sparsity/report_json.h"
#include "backend/tensor/status.h"
#include "server/open_inference_report.h"
#include "server/open_inference_tensors.h"
#include "server/text_request.h"

namespace thresher {
namespace {

using inference::InferParameter;
using inference::ModelInferRequest;
using inference::ModelInferResponse;

constexpr std::array<std::string_view, 3> kOutputs = {"text", "token_ids", "logprobs"};

absl::StatusOr<int32_t> ReadCount(const std::string& name, const InferParameter& parameter) {
  THRESHER_ASSIGN_OR_RETURN(const double value, ReadNumber(name, parameter));
  // Written so that NaN fails too.
  if (!(std::abs(value) <= std::numeric_limits<int32_t>::max()) || value != std::floor(value)) {
    return InvalidArgument("parameter '{}': {} is no whole number of at most {}", name, value,
                           std::numeric_limits<int32_t>::max());
  }
  return static_cast<int32_t>(value);
}

/// A string, or the strings of a JSON list.
absl::Status ReadStop(const InferParameter& parameter, v1::GenerateRequest* out) {
  if (parameter.parameter_choice_case() != InferParameter::kStringParam) {
    return InvalidArgument("parameter 'stop' must be a string, or a JSON list of strings");
  }
  const std::string& text = parameter.string_param();
  // Parsing takes many times a text's size. A byte has at most six characters in JSON (\u00xx), a
  // string its quotes, a comma and a space.
  constexpr size_t kMost = kMaxStopStrings * (6 * kMaxStopBytes + 4);
  if (text.size() > kMost) {
    return InvalidArgument(
        "parameter 'stop' has {} bytes; there may be at most {} strings of at most {} bytes",
        text.size(), kMaxStopStrings, kMaxStopBytes);
  }
  const auto list = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool strings =
      list.is_array() &&
      std::all_of(list.begin(), list.end(), [](const auto& item) { return item.is_string(); });
  if (!strings) {
    out->add_stop(text);
    return absl::OkStatus();
  }
  if (list.empty()) {
    return InvalidArgument("parameter 'stop' is an empty list; leave it out to stop at no string");
  }
  for (const auto& item : list) out->add_stop(item.template get<std::string>());
  return absl::OkStatus();
}

absl::Status ReadParameter(const std::string& name, const InferParameter& parameter,
                           v1::GenerateRequest* out) {
  v1::SamplingOptions& sampling = *out->mutable_sampling();
  if (name == "max_tokens") {
    THRESHER_ASSIGN_OR_RETURN(const int32_t value, ReadCount(name, parameter));
    out->set_max_tokens(value);
  } else if (name == "temperature") {
    THRESHER_ASSIGN_OR_RETURN(const double value, ReadNumber(name, parameter));
    sampling.set_temperature(value);
  } else if (name == "top_k") {
    THRESHER_ASSIGN_OR_RETURN(const int32_t value, ReadCount(name, parameter));
    sampling.set_top_k(value);
  } else if (name == "top_p") {
    THRESHER_ASSIGN_OR_RETURN(const double value, ReadNumber(name, parameter));
    sampling.set_top_p(value);
  } else if (name == "min_p") {
    THRESHER_ASSIGN_OR_RETURN(const double value, ReadNumber(name, parameter));
    sampling.set_min_p(value);
  } else if (name == "repetition_penalty") {
    THRESHER_ASSIGN_OR_RETURN(const double value, ReadNumber(name, parameter));
    sampling.set_repetition_penalty(value);
  } else if (name == "seed") {
    THRESHER_ASSIGN_OR_RETURN(const uint64_t value, ReadUnsigned(name, parameter));
    sampling.set_seed(value);
  } else if (name == "stop") {
    return ReadStop(parameter, out);
  } else if (name == "ignore_eos") {
    THRESHER_ASSIGN_OR_RETURN(const bool value, ReadBool(name, parameter));
    out->set_ignore_eos(value);
  } else if (name == "logprobs") {
    THRESHER_ASSIGN_OR_RETURN(const bool value, ReadBool(name, parameter));
    out->set_logprobs(value);
  } else if (name == "echo") {
    THRESHER_ASSIGN_OR_RETURN(const bool value, ReadBool(name, parameter));
    out->set_echo(value);
  }
  return absl::OkStatus();
}

absl::Status ReadPrompt(const ModelInferRequest& request, v1::Input* out) {
  THRESHER_ASSIGN_OR_RETURN(const InferRows rows,
                            ParseInferRows(request, std::numeric_limits<int32_t>::max()));
  if (rows.size() != 1) {
    return InvalidArgument("{} prompts in one request; a decoder takes one, so send more requests",
                           rows.size());
  }
  if (!rows.texts.empty()) out->set_text(std::string(rows.texts[0]));
  if (!rows.pairs.empty()) out->set_pair(std::string(rows.pairs[0]));
  if (!rows.ids.empty()) out->mutable_token_ids()->Add(rows.ids[0].begin(), rows.ids[0].end());
  if (!rows.type_ids.empty()) {
    out->mutable_token_type_ids()->Add(rows.type_ids[0].begin(), rows.type_ids[0].end());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ChooseOutputs(const ModelInferRequest& request) {
  std::vector<std::string> chosen;
  for (const auto& output : request.outputs()) {
    const std::string& name = output.name();
    if (std::ranges::count(kOutputs, name) == 0) {
      return InvalidArgument("output '{}' is not known; the outputs are: {}", name,
                             fmt::join(kOutputs, ", "));
    }
    if (std::ranges::count(chosen, name) > 0) {
      return InvalidArgument("output '{}' is asked for twice", name);
    }
    if (output.parameters().contains("shared_memory_region")) {
      return Unimplemented("output '{}': shared memory is not supported", name);
    }
    chosen.push_back(name);
  }
  return chosen;
}

class TextResponses final : public TextReceiver {
 public:
  TextResponses(const ModelInferRequest& request, const ServedModel& model, const InferText& text,
                bool streams, std::shared_ptr<InferReceiver> receiver)
      : model_name_(model.name),
        model_version_(model.version),
        id_(request.id()),
        raw_(request.raw_input_contents_size() > 0),
        explain_(text.request.options().sparsity().explain()),
        streams_(streams),
        outputs_(text.outputs),
        receiver_(std::move(receiver)) {}

  bool OnToken(v1::GeneratedToken token) override {
    text_ += token.text();
    ids_.push_back(token.id());
    logprobs_.push_back(token.has_logprob() ? token.logprob()
                                            : std::numeric_limits<float>::quiet_NaN());
    if (!streams_) return true;
    return receiver_->OnResponse(MakeResponse(/*last=*/false));
  }

  void OnEnd(absl::StatusOr<v1::GenerateEnd> end) override {
    if (!end.ok()) return receiver_->OnEnd(end.status());
    text_ += end->text();
    ModelInferResponse response = MakeResponse(/*last=*/true);
    FillEnd(*end, response.mutable_parameters());
    receiver_->OnEnd(std::move(response));
  }

 private:
  using Facts = google::protobuf::Map<std::string, InferParameter>;

  /// Of what has come since the last one.
  ModelInferResponse MakeResponse(bool last) {
    ModelInferResponse response;
    response.set_model_name(model_name_);
    response.set_model_version(model_version_);
    response.set_id(id_);
    (*response.mutable_parameters())["triton_final_response"].set_bool_param(last);
    const auto tokens = static_cast<int64_t>(ids_.size());
    for (const std::string& name : outputs_) {
      OutputTensor tensor = {name, {tokens}, {}};
      if (name == "text") {
        tensor.shape = {1};
        tensor.values = std::vector<std::string>{text_};
      } else if (name == "token_ids") {
        tensor.values = ids_;
      } else {
        tensor.values = logprobs_;
      }
      AddOutput(std::move(tensor), raw_, &response);
    }
    text_.clear();
    ids_.clear();
    logprobs_.clear();
    return response;
  }

  void FillEnd(const v1::GenerateEnd& end, Facts* out) const {
    Facts& facts = *out;
    facts["finish_reason"].set_string_param(end.finish_reason());
    facts["seed"].set_uint64_param(end.seed());
    facts["prompt_tokens"].set_int64_param(end.usage().prompt_tokens());
    facts["generated_tokens"].set_int64_param(end.usage().generated_tokens());
    facts["cached_prompt_tokens"].set_int64_param(end.usage().cached_prompt_tokens());
    const v1::GenerateTimings& timings = end.timings();
    facts["queue_seconds"].set_double_param(timings.queue());
    facts["tokenize_seconds"].set_double_param(timings.tokenize());
    facts["first_token_seconds"].set_double_param(timings.first_token());
    facts["compute_seconds"].set_double_param(timings.compute());
    facts["total_seconds"].set_double_param(timings.total());
    const v1::PruningReport& report = end.report();
    facts["policy"].set_string_param(report.policy());
    FillWork(report.total(), out);
    FillAmount("decode_bytes", report.decode().bytes(), out);
    FillAmount("kv_held", report.kv_held(), out);
    if (explain_) facts["report"].set_string_param(Dump(ReportJson(report)));
  }

  const std::string model_name_, model_version_, id_;
  const bool raw_;
  const bool explain_;
  const bool streams_;
  const std::vector<std::string> outputs_;
  const std::shared_ptr<InferReceiver> receiver_;
  std::string text_;
  std::vector<int32_t> ids_;
  std::vector<float> logprobs_;
};

}  // namespace

absl::StatusOr<InferText> ParseInferText(const ModelInferRequest& request) {
  InferText text;
  THRESHER_ASSIGN_OR_RETURN(const InferOptions options, ParseInferOptions(request.parameters()));
  text.timeout = options.timeout;
  v1::RequestOptions* common = text.request.mutable_options();
  common->set_truncate(options.truncate);
  common->set_priority(options.priority);
  v1::SparsityOptions* sparsity = common->mutable_sparsity();
  sparsity->set_explain(options.explain);
  if (!options.sparsity.empty()) sparsity->set_policy(options.sparsity);
  if (options.max_quality_loss) sparsity->set_max_quality_loss(*options.max_quality_loss);
  for (const auto& [name, parameter] : request.parameters()) {
    THRESHER_RETURN_IF_ERROR(ReadParameter(name, parameter, &text.request));
  }
  THRESHER_ASSIGN_OR_RETURN(text.outputs, ChooseOutputs(request));
  if (text.outputs.empty()) {
    text.outputs = {"text", "token_ids"};
    if (text.request.logprobs()) text.outputs.emplace_back("logprobs");
  } else if (std::ranges::count(text.outputs, "logprobs") > 0) {
    text.request.set_logprobs(true);
  }
  THRESHER_RETURN_IF_ERROR(ReadPrompt(request, text.request.mutable_prompt()));
  return text;
}

std::shared_ptr<TextReceiver> MakeTextResponses(const ModelInferRequest& request,
                                                const ServedModel& model, const InferText& text,
                                                bool streams,
                                                std::shared_ptr<InferReceiver> receiver) {
  return std::make_shared<TextResponses>(request, model, text, streams, std::move(receiver));
}

}  // namespace thresher
