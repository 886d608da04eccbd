#include "server/openai_json.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "backend/sparsity/report.h"
#include "backend/sparsity/report_json.h"
#include "backend/tensor/status.h"
#include "server/http_json.h"
#include "server/http_status.h"

namespace thresher {
namespace {

constexpr int32_t kDefaultTokens = 16;  // OpenAI's.
constexpr int32_t kMaxLogprobs = 20;    // As thresher.v1's top_logprobs.

/// Fields that errors of the levels below begin with, without a colon.
constexpr std::array<std::string_view, 6> kNamedInSentences = {
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "input"};

/// Reads one field that is there and not null. Its errors do not name it.
using Reader = std::function<absl::Status(const HttpJson&)>;
using Readers = std::map<std::string, Reader, std::less<>>;

absl::Status Wrong(std::string_view expected, const HttpJson& value) {
  return InvalidArgument("must be {}, and is {}", expected, JsonText(value));
}

/// Calls the reader of each field. `needed` must be there.
absl::Status ReadFields(const HttpJson& json, const Readers& readers,
                        std::initializer_list<std::string_view> needed) {
  for (const auto& [name, value] : json.items()) {
    const auto reader = readers.find(name);
    if (reader == readers.end()) {
      std::vector<std::string_view> known;
      for (const auto& entry : readers) known.push_back(entry.first);
      return InvalidArgument("{}: is not known here; the fields are: {}", JsonText(name),
                             fmt::join(known, ", "));
    }
    if (value.is_null()) continue;
    if (absl::Status status = reader->second(value); !status.ok()) {
      return InvalidArgument("{}: {}", name, Message(status));
    }
  }
  for (const std::string_view name : needed) {
    const auto found = json.find(name);
    if (found == json.end() || found->is_null()) return InvalidArgument("{}: is missing", name);
  }
  return absl::OkStatus();
}

// ---- Readers by type, each of which hands on the value ----

template <typename Set>
Reader String(Set set) {
  return [set](const HttpJson& value) -> absl::Status {
    if (!value.is_string()) return Wrong("a string", value);
    set(value.get<std::string>());
    return absl::OkStatus();
  };
}

template <typename Set>
Reader Number(Set set) {
  return [set](const HttpJson& value) -> absl::Status {
    if (!value.is_number()) return Wrong("a number", value);
    set(value.get<double>());
    return absl::OkStatus();
  };
}

template <typename Set>
Reader Bool(Set set) {
  return [set](const HttpJson& value) -> absl::Status {
    if (!value.is_boolean()) return Wrong("true or false", value);
    set(value.get<bool>());
    return absl::OkStatus();
  };
}

bool IsInt32(const HttpJson& value) {
  return value.is_number_integer() &&
         (value.is_number_unsigned() ? std::in_range<int32_t>(value.get<uint64_t>())
                                     : std::in_range<int32_t>(value.get<int64_t>()));
}

template <typename Set>
Reader Integer(Set set) {
  return [set](const HttpJson& value) -> absl::Status {
    if (!IsInt32(value)) return Wrong("a whole number of 32 bits", value);
    set(value.get<int32_t>());
    return absl::OkStatus();
  };
}

/// A field that is taken where it asks for nothing, so that clients which always send it can stay
/// as they are.
Reader Only(HttpJson neutral) {
  return [neutral](const HttpJson& value) -> absl::Status {
    if (value == neutral) return absl::OkStatus();
    return InvalidArgument("is not supported; leave it out, or send {}", JsonText(neutral));
  };
}

/// For statistics of OpenAI's own.
absl::Status Ignore(const HttpJson&) { return absl::OkStatus(); }

// ---- What both requests have ----

void AddOptions(v1::ModelSpec* model, v1::RequestOptions* options, Readers* readers) {
  readers->insert(
      {{"model", String([model](const std::string& name) { model->set_name(name); })},
       {"sparsity", String([options](const std::string& policy) {
          options->mutable_sparsity()->set_policy(policy);
        })},
       {"truncate", Bool([options](bool value) { options->set_truncate(value); })},
       {"priority", Integer([options](int32_t value) { options->set_priority(value); })},
       {"user", Ignore}});
}

bool IsTokens(const HttpJson& value) {
  return value.is_array() && !value.empty() && std::all_of(value.begin(), value.end(), IsInt32);
}

/// A text, or token ids.
bool SetInput(const HttpJson& value, v1::Input* input) {
  if (value.is_string()) {
    input->set_text(value.get<std::string>());
    return true;
  }
  if (!IsTokens(value)) return false;
  for (const HttpJson& id : value) input->add_token_ids(id.get<int32_t>());
  return true;
}

/// One input, or a list of them. `add` makes room for each.
template <typename Add>
absl::Status ReadInputs(const HttpJson& value, const Add& add) {
  constexpr std::string_view kExpected =
      "a string, a list of token ids, or a list of strings or of such lists";
  if (value.is_string() || IsTokens(value)) {
    SetInput(value, add());
    return absl::OkStatus();
  }
  if (!value.is_array() || value.empty()) return Wrong(kExpected, value);
  for (const HttpJson& item : value) {
    if (!SetInput(item, add())) return Wrong(kExpected, item);
  }
  return absl::OkStatus();
}

absl::Status ReadStop(const HttpJson& value, v1::GenerateRequest* request) {
  if (value.is_string()) {
    request->add_stop(value.get<std::string>());
    return absl::OkStatus();
  }
  if (!value.is_array()) return Wrong("a string or a list of strings", value);
  for (const HttpJson& item : value) {
    if (!item.is_string()) return Wrong("a string or a list of strings", item);
    request->add_stop(item.get<std::string>());
  }
  return absl::OkStatus();
}

int64_t Characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; });
}

/// The field that a message begins with; empty if it does not.
std::string_view NamedField(std::string_view message) {
  const size_t end = message.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789");
  if (end == std::string_view::npos) return "";
  const std::string_view word = message.substr(0, end);
  const bool field =
      message[end] == ':' || message[end] == '[' || std::ranges::count(kNamedInSentences, word) > 0;
  return field ? word : "";
}

void AddReport(const v1::PruningReport& report, std::optional<v1::PruningReport>* sum) {
  if (!*sum) {
    *sum = report;
    return;
  }
  AddWork(report.total(), (*sum)->mutable_total());
  AddWork(report.decode(), (*sum)->mutable_decode());
  v1::PruningReport::Amount& held = *(*sum)->mutable_kv_held();
  held.set_dense(held.dense() + report.kv_held().dense());
  held.set_done(held.done() + report.kv_held().done());
}

std::string Base64(const google::protobuf::RepeatedField<float>& values) {
  const std::string bytes(reinterpret_cast<const char*>(values.data()),
                          static_cast<size_t>(values.size()) * sizeof(float));
  return absl::Base64Escape(bytes);
}

}  // namespace

absl::StatusOr<EmbeddingsRequest> ReadEmbeddings(std::string_view body) {
  THRESHER_ASSIGN_OR_RETURN(const HttpJson json, ParseJsonObject(body));
  EmbeddingsRequest out;
  v1::EmbedRequest* const request = &out.request;
  Readers readers = {{"input",
                      [request](const HttpJson& value) {
                        return ReadInputs(value, [request] { return request->add_inputs(); });
                      }},
                     {"encoding_format",
                      [&out](const HttpJson& value) -> absl::Status {
                        if (value != "float" && value != "base64")
                          return Wrong("\"float\" or \"base64\"", value);
                        out.base64 = value == "base64";
                        return absl::OkStatus();
                      }},
                     {"dimensions", Only(nullptr)},
                     {"max_quality_loss", Number([request](double loss) {
                        request->mutable_options()->mutable_sparsity()->set_max_quality_loss(loss);
                      })}};
  AddOptions(request->mutable_model(), request->mutable_options(), &readers);
  THRESHER_RETURN_IF_ERROR(ReadFields(json, readers, {"model", "input"}));
  if (json.contains("sparsity") && json.contains("max_quality_loss")) {
    return InvalidArgument(
        "sparsity: and max_quality_loss contradict each other; send one of them");
  }
  return out;
}

Json EmbeddingsJson(const v1::EmbedResponse& response, bool base64) {
  Json json;
  json["object"] = "list";
  json["data"] = Json::array();
  v1::PruningReport report;
  int64_t tokens = 0;
  for (int i = 0; i < response.results_size(); ++i) {
    const v1::Embedding& result = response.results(i);
    json["data"].push_back({{"object", "embedding"}, {"index", i}});
    json["data"].back()["embedding"] =
        base64 ? Json(Base64(result.values())) : JsonFloats(result.values());
    tokens += result.info().tokens();
    report.set_policy(result.info().report().policy());
    AddWork(result.info().report().total(), report.mutable_total());
  }
  json["model"] = response.model().name();
  json["usage"] = {{"prompt_tokens", tokens}, {"total_tokens", tokens}};
  json["report"] = ReportJson(report);
  return json;
}

absl::StatusOr<CompletionRequest> ReadCompletion(std::string_view body) {
  THRESHER_ASSIGN_OR_RETURN(const HttpJson json, ParseJsonObject(body));
  CompletionRequest out;
  v1::GenerateRequest* const request = &out.request;
  v1::SamplingOptions* const sampling = request->mutable_sampling();
  request->set_max_tokens(kDefaultTokens);
  sampling->set_temperature(1);
  bool streams_usage = false;
  std::optional<int32_t> best_of;
  Readers readers = {
      {"prompt",
       [&out](const HttpJson& value) {
         return ReadInputs(value, [&out] { return &out.prompts.emplace_back(); });
       }},
      {"max_tokens", Integer([request](int32_t value) { request->set_max_tokens(value); })},
      {"temperature", Number([sampling](double value) { sampling->set_temperature(value); })},
      {"top_p", Number([sampling](double value) { sampling->set_top_p(value); })},
      {"top_k", Integer([sampling](int32_t value) { sampling->set_top_k(value); })},
      {"min_p", Number([sampling](double value) { sampling->set_min_p(value); })},
      {"repetition_penalty",
       Number([sampling](double value) { sampling->set_repetition_penalty(value); })},
      {"seed",
       [sampling](const HttpJson& value) -> absl::Status {
         if (!value.is_number_unsigned()) return Wrong("a whole number, not below 0", value);
         sampling->set_seed(value.get<uint64_t>());
         return absl::OkStatus();
       }},
      {"stop", [request](const HttpJson& value) { return ReadStop(value, request); }},
      {"ignore_eos", Bool([request](bool value) { request->set_ignore_eos(value); })},
      {"echo", Bool([request](bool value) { request->set_echo(value); })},
      {"logprobs",
       [request](const HttpJson& value) -> absl::Status {
         if (!IsInt32(value) || value < 0 || value > kMaxLogprobs) {
           return Wrong(fmt::format("a whole number from 0 to {}", kMaxLogprobs), value);
         }
         request->set_logprobs(true);
         request->set_top_logprobs(value.get<int32_t>());
         return absl::OkStatus();
       }},
      {"stream", Bool([&out](bool value) { out.stream = value; })},
      {"stream_options",
       [&](const HttpJson& value) -> absl::Status {
         if (!value.is_object()) return Wrong("an object", value);
         streams_usage = true;
         return ReadFields(
             value, {{"include_usage", Bool([&out](bool wanted) { out.include_usage = wanted; })}},
             {});
       }},
      {"n",
       [&out](const HttpJson& value) -> absl::Status {
         if (!IsInt32(value) || value < 1 || value > kMaxChoices) {
           return Wrong(fmt::format("a whole number from 1 to {}", kMaxChoices), value);
         }
         out.n = value.get<size_t>();
         return absl::OkStatus();
       }},
      {"best_of", Integer([&best_of](int32_t value) { best_of = value; })},
      {"presence_penalty", Only(0)},
      {"frequency_penalty", Only(0)},
      {"logit_bias", Only(HttpJson::object())},
      {"suffix", Only("")}};
  AddOptions(request->mutable_model(), request->mutable_options(), &readers);
  THRESHER_RETURN_IF_ERROR(ReadFields(json, readers, {"model", "prompt"}));
  if (streams_usage && !out.stream) {
    return InvalidArgument("stream_options: goes with stream, which is not set");
  }
  if (out.choices() > kMaxChoices) {
    return InvalidArgument("n: {} completions of each of {} prompts are {}, and a request takes {}",
                           out.n, out.prompts.size(), out.choices(), kMaxChoices);
  }
  if (best_of && *best_of != static_cast<int32_t>(out.n)) {
    return InvalidArgument("best_of: is not supported; leave it out, or send {}, as many as n",
                           out.n);
  }
  // Where nothing is drawn, these say nothing: clients send them all the same.
  if (sampling->temperature() == 0) {
    sampling->clear_seed();
    sampling->clear_top_p();
    sampling->clear_top_k();
    sampling->clear_min_p();
  }
  return out;
}

v1::GenerateRequest CompletionRequest::Choice(size_t i) const {
  v1::GenerateRequest choice = request;
  *choice.mutable_prompt() = prompts[i / n];
  v1::SamplingOptions* const sampling = choice.mutable_sampling();
  if (sampling->has_seed()) sampling->set_seed(sampling->seed() + i % n);
  return choice;
}

absl::Status OfPrompt(const CompletionRequest& request, size_t choice, const absl::Status& status) {
  if (request.prompts.size() == 1 || !absl::IsInvalidArgument(status)) return status;
  const std::string message = Message(status);
  if (!NamedField(message).empty()) return status;
  return InvalidArgument("prompt[{}]: {}", choice / request.n, message);
}

CompletionWriter::CompletionWriter(const CompletionRequest& request, std::string id,
                                   int64_t created)
    : id_(std::move(id)),
      created_(created),
      model_(request.request.model().name()),
      n_(request.n),
      stream_(request.stream),
      logprobs_(request.request.logprobs()),
      choices_(request.choices()) {}

void CompletionWriter::Add(size_t i, const v1::GenerateResponse& message) {
  Choice& choice = choices_[i];
  choice.added = true;
  for (const v1::GeneratedToken& token : message.tokens()) {
    choice.text += token.text();
    if (!logprobs_) continue;
    choice.tokens.push_back(token.text());
    choice.token_logprobs.push_back(token.has_logprob() ? JsonFloat(token.logprob())
                                                        : Json(nullptr));
    Json top = Json::object();
    for (const v1::TokenLogprob& one : token.top()) top[one.token()] = JsonFloat(one.logprob());
    choice.top_logprobs.push_back(token.has_logprob() ? std::move(top) : Json(nullptr));
    choice.text_offset.push_back(choice.offset);
    choice.offset += Characters(token.text());
  }
  if (!message.has_end()) return;
  choice.end = message.end();
  choice.text += message.end().text();
}

Json CompletionWriter::Head() const {
  return {{"id", id_}, {"object", "text_completion"}, {"created", created_}, {"model", model_}};
}

Json CompletionWriter::Usage() const {
  int64_t prompts = 0, cached = 0, generated = 0;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const v1::GenerateUsage& usage = choices_[i].end->usage();
    generated += usage.generated_tokens();
    if (i % n_ != 0) continue;  // A prompt counts once.
    prompts += usage.prompt_tokens();
    cached += usage.cached_prompt_tokens();
  }
  return {{"prompt_tokens", prompts},
          {"completion_tokens", generated},
          {"total_tokens", prompts + generated},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

Json CompletionWriter::TakeChoice(size_t i) {
  Choice& choice = choices_[i];
  choice.added = false;
  Json json;
  json["index"] = i;
  json["text"] = std::exchange(choice.text, "");
  json["logprobs"] = nullptr;
  if (logprobs_) {
    json["logprobs"] = {{"tokens", std::exchange(choice.tokens, Json::array())},
                        {"token_logprobs", std::exchange(choice.token_logprobs, Json::array())},
                        {"top_logprobs", std::exchange(choice.top_logprobs, Json::array())},
                        {"text_offset", std::exchange(choice.text_offset, Json::array())}};
  }
  json["finish_reason"] = choice.end ? Json(choice.end->finish_reason()) : Json(nullptr);
  if (choice.end) json["seed"] = choice.end->seed();
  return json;
}

Json CompletionWriter::Take() {
  Json json = Head();
  json["choices"] = Json::array();
  std::optional<v1::PruningReport> report;
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].added) continue;
    json["choices"].push_back(TakeChoice(i));
    if (choices_[i].end) AddReport(choices_[i].end->report(), &report);
  }
  if (!report) return json;
  if (!stream_) json["usage"] = Usage();
  json["report"] = ReportJson(*report);
  return json;
}

Json CompletionWriter::UsageChunk() const {
  Json json = Head();
  json["choices"] = Json::array();
  json["usage"] = Usage();
  return json;
}

Json OpenAiError(const absl::Status& status) {
  const int code = HttpCode(status.code());
  const std::string message = Message(status);
  const std::string_view field =
      absl::IsInvalidArgument(status) ? NamedField(message) : std::string_view();
  Json error;
  error["message"] = message;
  error["type"] = code == 429  ? "rate_limit_error"
                  : code < 500 ? "invalid_request_error"
                               : "server_error";
  error["param"] = field.empty() ? Json(nullptr) : Json(field);
  error["code"] = absl::IsNotFound(status) ? "model_not_found" : CodeName(status.code());
  return {{"error", std::move(error)}};
}

}  // namespace thresher
