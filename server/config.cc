#include "server/config.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>
#include <vector>

#include "backend/device/device.h"
#include "backend/tensor/status.h"
#include "server/address.h"
#include "server/authorizer.h"

namespace thresher {
namespace {

constexpr absl::Duration kLongestDuration = absl::Hours(24);

/// Runs one check after the other and keeps the first error, told with the field's origin.
class Checker {
 public:
  explicit Checker(const Origins& origins) : origins_(origins) {}

  void Range(std::string_view field, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return;
    if (most == std::numeric_limits<int32_t>::max()) {
      Fail(field, fmt::format("is {}, must be {} or more", value, least));
    } else {
      Fail(field, fmt::format("is {}, must be from {} to {}", value, least, most));
    }
  }
  void OneOf(std::string_view field, std::string_view value,
             const std::vector<std::string_view>& choices) {
    if (std::find(choices.begin(), choices.end(), value) != choices.end()) return;
    Fail(field, fmt::format("is '{}', must be one of {}", value, fmt::join(choices, ", ")));
  }
  void Duration(std::string_view field, const google::protobuf::Duration& value) {
    const absl::Duration duration = ToDuration(value);
    if (duration >= absl::ZeroDuration() && duration <= kLongestDuration) return;
    Fail(field, fmt::format("is {}, must be from 0s to {}", absl::FormatDuration(duration),
                            absl::FormatDuration(kLongestDuration)));
  }
  void Check(std::string_view field, const absl::Status& status) {
    if (!status.ok()) Fail(field, Message(status));
  }
  void Fail(std::string_view field, const std::string& what) {
    if (!status_.ok()) return;
    const auto origin = origins_.find(field);
    status_ = InvalidArgument("{}: {}", origin == origins_.end() ? field : origin->second, what);
  }
  absl::Status status() const { return status_; }

 private:
  const Origins& origins_;
  absl::Status status_;
};

}  // namespace

v1::ServerConfig DefaultConfig() {
  v1::ServerConfig config;
  config.set_listen("127.0.0.1:8001");
  config.set_http("127.0.0.1:8002");
  config.set_device("cpu");
  config.set_threads(0);
  config.set_max_batch_tokens(4096);
  config.set_max_batch_sequences(256);
  config.set_max_queue(1024);
  SetDuration(absl::ZeroDuration(), config.mutable_max_batch_delay());
  SetDuration(absl::Seconds(30), config.mutable_drain_timeout());
  SetDuration(absl::ZeroDuration(), config.mutable_lame_duck());
  config.set_max_message_bytes(16 << 20);
  config.set_log_level("info");
  config.set_log_format("text");
  config.set_metrics_attention_every(100);
  config.set_metrics_per_layer(false);
  config.set_prefill_chunk(256);
  config.set_elastic(false);
  config.set_auth_open("health");
  config.set_max_connections(0);
  config.set_max_streams(4096);
  config.set_access_log(false);
  config.set_max_http_calls(64);
  config.set_shadow_every(0);
  return config;
}

void FillDependentDefaults(v1::ServerConfig* config) {
  // A call is queued as a whole or not at all, so it must never be larger than the queue.
  if (!config->has_max_inputs()) config->set_max_inputs(std::min(256, config->max_queue()));
}

void Overlay(const v1::ServerConfig& layer, v1::ServerConfig* config) {
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  layer.GetReflection()->ListFields(layer, &fields);
  for (const auto* field : fields) config->GetReflection()->ClearField(config, field);
  config->MergeFrom(layer);
}

absl::Status ValidateConfig(const v1::ServerConfig& config, const Origins& origins) {
  constexpr int64_t kAny = std::numeric_limits<int32_t>::max();
  Checker check(origins);
  check.Check("listen", ParseAddress(config.listen()).status());
  check.Check("http", ParseAddress(config.http()).status());
  if (config.listen() == config.http() && !config.listen().ends_with(":0")) {
    check.Fail("http", fmt::format("is '{}', which gRPC (listen) has already", config.http()));
  }
  check.Check("device", CheckDeviceName(config.device()));
  if (config.has_precision()) check.Check("precision", ParsePrecision(config.precision()).status());
  if (config.has_pace()) check.Check("pace", ParsePace(config.pace()).status());
  check.Range("threads", config.threads(), 0, 1024);
  check.Range("max_batch_tokens", config.max_batch_tokens(), 1, kAny);
  check.Range("max_batch_sequences", config.max_batch_sequences(), 1, kAny);
  check.Range("max_queue", config.max_queue(), 1, kAny);
  check.Range("metrics_attention_every", config.metrics_attention_every(), 0, kAny);
  check.Range("shadow_every", config.shadow_every(), 0, kAny);
  check.Range("max_message_bytes", config.max_message_bytes(), 1024, kAny);
  check.Range("prefill_chunk", config.prefill_chunk(), 1, kAny);
  if (config.has_kv_cache_bytes() && config.kv_cache_bytes() < 1) {
    check.Fail("kv_cache_bytes", fmt::format("is {}, must be 1 or more", config.kv_cache_bytes()));
  }
  check.Range("max_inputs", config.max_inputs(), 1, kAny);
  if (config.max_inputs() > config.max_queue()) {
    check.Fail("max_inputs", fmt::format("is {}, more than max_queue ({}): such a call could never "
                                         "be taken",
                                         config.max_inputs(), config.max_queue()));
  }
  check.Duration("max_queue_delay", config.max_queue_delay());
  check.Duration("max_batch_delay", config.max_batch_delay());
  check.Duration("drain_timeout", config.drain_timeout());
  check.Duration("lame_duck", config.lame_duck());
  check.Range("max_connections", config.max_connections(), 0, kAny);
  check.Range("max_streams", config.max_streams(), 0, kAny);
  check.Range("max_http_calls", config.max_http_calls(), 1, 4096);
  if (config.tls_cert().empty() != config.tls_key().empty()) {
    const bool key = config.tls_cert().empty();
    check.Fail(key ? "tls_key" : "tls_cert",
               fmt::format("needs {} beside it", key ? "tls_cert" : "tls_key"));
  }
  if (!config.tls_client_ca().empty() && config.tls_cert().empty()) {
    check.Fail("tls_client_ca", "needs tls_cert and tls_key beside it");
  }
  check.Check("auth_open", ParseOpenDoors(config.auth_open()).status());
  check.OneOf("log_level", config.log_level(), {"trace", "debug", "info", "warn", "error"});
  check.OneOf("log_format", config.log_format(), {"text", "json"});

  if (config.models().empty() && config.model_repository().empty()) {
    return InvalidArgument(
        "no model to serve: give --model NAME=DIR (or --model-repository DIR, or models in a "
        "--config file)");
  }
  std::set<std::string> names;
  for (const v1::ModelConfig& model : config.models()) {
    const absl::Status status = ValidateModelConfig(model);
    check.Check("models", Annotate(status, fmt::format("model '{}'", model.name())));
    if (!names.insert(model.name()).second) {
      check.Fail("models", fmt::format("model '{}' is given twice; more versions of one model are "
                                       "version directories of one path",
                                       model.name()));
    }
  }
  return check.status();
}

absl::Status ValidateModelConfig(const v1::ModelConfig& config) {
  if (!IsModelName(config.name())) {
    return InvalidArgument(
        "name '{}': must be 1 to 128 letters, digits, '_', '-' or '.', not beginning with '.'",
        config.name());
  }
  if (config.path().empty()) return InvalidArgument("path: is empty, must be a model's directory");
  if (config.has_precision()) {
    THRESHER_RETURN_IF_ERROR(Annotate(ParsePrecision(config.precision()).status(), "precision"));
  }
  if (config.has_device()) {
    if (const absl::Status known = CheckDeviceName(config.device()); !known.ok()) {
      return InvalidArgument("device: {}", Message(known));
    }
  }
  if (config.has_pooling() && config.pooling() != "cls" && config.pooling() != "mean") {
    return InvalidArgument("pooling: is '{}', must be cls or mean", config.pooling());
  }
  if (config.max_tokens() < 0) {
    return InvalidArgument("max_tokens: is {}, must be 1 or more (0: the model's own)",
                           config.max_tokens());
  }
  if (config.versions().latest().count() < 0) {
    return InvalidArgument("versions: latest {}, must be 1 or more",
                           config.versions().latest().count());
  }
  if (config.versions().has_named()) {
    const auto& named = config.versions().named().versions();
    if (named.empty()) return InvalidArgument("versions: named, but none is named");
    for (const int64_t version : named) {
      if (version < 1) return InvalidArgument("versions: {}, must be 1 or more", version);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<double> ParsePace(std::string_view text) {
  constexpr std::string_view kSimulated = "simulated:";
  double factor = 0.0;
  if (text.starts_with(kSimulated)) {
    const std::string_view number = text.substr(kSimulated.size());
    const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), factor);
    if (code != std::errc() || end != number.data() + number.size()) factor = 0.0;
  }
  if (!(factor > 0.0 && factor <= 1e6)) {
    return InvalidArgument("'{}' is not simulated:FACTOR with FACTOR above 0 and at most 1000000",
                           text);
  }
  return factor;
}

bool IsModelName(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  };
  return !name.empty() && name.size() <= 128 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), allowed);
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

void SetDuration(absl::Duration duration, google::protobuf::Duration* field) {
  field->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  field->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

}  // namespace thresher
