#include "server/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "backend/tensor/status.h"
#include "server/config.h"
#include "server/config_file.h"
#include "server/model_flag.h"

namespace thresher {
namespace {

using google::protobuf::FieldDescriptor;

/// How one scalar field of ServerConfig is presented. Its type, its flag, its environment variable
/// and its default all follow from the field.
struct Setting {
  const char* field;
  const char* group;
  const char* value;  // What the help calls the value.
  const char* help;
};

constexpr std::array kSettings = {
    Setting{"model_repository", "Models", "DIR",
            "Serve each subdirectory of DIR as a model of that name"},
    Setting{
        "device", "Models", "NAME",
        "Where models run: cpu, cpu:onednn (oneDNN's matrix products), reference (slow, exact), or "
        "sim:PRESET[@NAME]: cpu, or NAME of these, with a modelled accelerator beside it"},
    Setting{"pace", "Models", "simulated:FACTOR",
            "On simulated devices, answer no sooner than after FACTOR times the simulated time"},
    Setting{"record_traces", "Models", "DIR",
            "Record the layers of all traffic as trace files, for thresher simulate --trace"},
    Setting{"precision", "Models", "f32|bf16|int8",
            "Of matrix products [bf16 where the processor has AMX, else f32]"},
    Setting{"listen", "Addresses", "HOST:PORT", "gRPC; port 0 picks a free one"},
    Setting{"http", "Addresses", "HOST:PORT", "Metrics and health; port 0 picks a free one"},
    Setting{"threads", "Batching", "N",
            "Compute threads; 0: from the cgroup quota and the CPU affinity"},
    Setting{"max_batch_tokens", "Batching", "N", "Budget of one batch, in dense tokens"},
    Setting{"max_batch_sequences", "Batching", "N", "Sequences in one batch"},
    Setting{"max_batch_delay", "Batching", "TIME",
            "How long a batch may wait to fill; 0s: run what is there"},
    Setting{"prefill_chunk", "Generation", "N",
            "Prompt tokens that one step reads while other texts are being generated"},
    Setting{"kv_cache_bytes", "Generation", "SIZE",
            "Memory for the keys and values of all texts [a quarter of the memory there is]"},
    Setting{"max_queue", "Limits", "N", "Sequences that may wait; more are refused at once"},
    Setting{
        "max_queue_delay", "Limits", "TIME",
        "Refuse whoever is expected to wait longer than this; 0s: no bound [1s or a tenth of the "
        "call's deadline, once 12 calls wait]"},
    Setting{
        "elastic", "Limits", "true|false",
        "Serve requests that allow a quality loss densely while nothing waits, and prune more as "
        "the queue fills"},
    Setting{
        "shadow_every", "Limits", "N",
        "Run one in N pruned sequences again densely when there is time, and compare; a quality "
        "profile that drifts is switched off; 0: none"},
    Setting{"max_inputs", "Limits", "N", "Inputs in one call [256, or max-queue if that is less]"},
    Setting{"max_message_bytes", "Limits", "N", "Size of one gRPC message or HTTP body"},
    Setting{"max_connections", "Limits", "N",
            "gRPC connections; more are closed at once; 0: as the limit of open files allows"},
    Setting{"max_streams", "Limits", "N", "Calls at a time on one gRPC connection; 0: no bound"},
    Setting{"max_http_calls", "Limits", "N",
            "Calls for work on the HTTP address at a time; each has a thread"},
    Setting{"tls_cert", "Security", "FILE",
            "Serve TLS alone, on both addresses, under this certificate and its chain (PEM)"},
    Setting{"tls_key", "Security", "FILE", "The certificate's private key (PEM)"},
    Setting{"tls_client_ca", "Security", "FILE",
            "Ask clients for a certificate that one of these authorities signed (PEM)"},
    Setting{"auth_tokens", "Security", "FILE",
            "Answer only callers with one of these tokens, [NAME:]TOKEN a line"},
    Setting{"auth_open", "Security", "LIST",
            "What everybody may call all the same: none, or health,metrics,reflection"},
    Setting{"lame_duck", "Shutdown", "TIME",
            "How long to serve new work after readiness has gone down"},
    Setting{"drain_timeout", "Shutdown", "TIME",
            "How long accepted work may take to finish after that"},
    Setting{"metrics_attention_every", "Metrics", "N",
            "Measure the attention's entropy and sink in one of N sequences of a model; 0: only "
            "where a request asks for explain"},
    Setting{"metrics_per_layer", "Metrics", "true|false", "Count work by layer too"},
    Setting{"log_level", "Logging", "LEVEL", "trace, debug, info, warn or error"},
    Setting{"log_format", "Logging", "text|json", "One record a line, on stderr"},
    Setting{"access_log", "Logging", "true|false",
            "A record of each call at level info instead of debug"},
};

constexpr std::string_view kUsage =
    "Serves transformer checkpoints over gRPC.\n\n"
    "  thresherd --model sentiment=models/sst2-mini\n";

constexpr std::string_view kFooter =
    "Options of --model, after the directory and each after a comma: precision=f32|bf16|int8,\n"
    "device=NAME, pooling=cls|mean, normalize=true|false, max_tokens=N, "
    "versions=latest:COUNT|all|\n"
    "named:N;N (which integer-named subdirectories to serve; latest:1).\n\n"
    "TIME is a number with a unit: 0s, 5ms, 1.5s, 2m; SIZE one of bytes, or with KiB, MiB or GiB:\n"
    "512MiB. Each flag has an environment variable:\n"
    "--max-queue is THRESHER_MAX_QUEUE; THRESHER_MODEL holds one or more models separated by "
    "spaces\n"
    "or ';'. A flag beats the environment, which beats the file.\n\n"
    "A request says what may be left out by a policy, such as spatten:keep=0.5; thresher policies\n"
    "lists them all with their keys.\n\n"
    "SIGTERM or SIGINT drains and exits, a second one ends the server at once; SIGHUP reloads all\n"
    "models, certificates and tokens (the latter two are also read again when their files "
    "change).\n"
    "Exit status: 0 stopped and drained, 1 failed (no model could be loaded, an address is taken,\n"
    "work was left over at the drain timeout), 2 wrong usage, 128 + N ended by signal N.";

std::string FlagName(std::string_view field) {
  std::string name = fmt::format("--{}", field);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string EnvironmentName(std::string_view field) {
  std::string name = fmt::format("THRESHER_{}", field);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return name;
}

const FieldDescriptor& Field(const std::string& name) {
  return *v1::ServerConfig::descriptor()->FindFieldByName(name);
}

/// "1000", "512MiB", "2GiB".
absl::StatusOr<int64_t> ParseSize(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [parsed, code] = std::from_chars(text.data(), end, value);
  const std::string_view unit(parsed, static_cast<size_t>(end - parsed));
  const int shift = unit.empty()    ? 0
                    : unit == "KiB" ? 10
                    : unit == "MiB" ? 20
                    : unit == "GiB" ? 30
                                    : -1;
  int64_t bytes = 0;
  if (text.empty() || code != std::errc() || value < 0 || shift < 0 ||
      __builtin_mul_overflow(value, int64_t{1} << shift, &bytes)) {
    return InvalidArgument("'{}' is not a size such as 1000000, 512MiB or 2GiB", text);
  }
  return bytes;
}

/// Parses `text` as the field's type wants it.
absl::Status SetField(const FieldDescriptor& field, const std::string& text,
                      v1::ServerConfig* config) {
  const auto* reflection = config->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      const char* end = text.data() + text.size();
      const auto [parsed, code] = std::from_chars(text.data(), end, value);
      if (text.empty() || code != std::errc() || parsed != end) {
        return InvalidArgument("'{}' is not a whole number (of at most {})", text,
                               std::numeric_limits<int32_t>::max());
      }
      reflection->SetInt32(config, &field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      THRESHER_ASSIGN_OR_RETURN(const int64_t value, ParseSize(text));
      reflection->SetInt64(config, &field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") {
        return InvalidArgument("'{}' is neither true nor false", text);
      }
      reflection->SetBool(config, &field, text == "true");
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_STRING:
      reflection->SetString(config, &field, text);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      absl::Duration value;
      if (!absl::ParseDuration(text, &value) || value < absl::ZeroDuration() ||
          value == absl::InfiniteDuration()) {
        return InvalidArgument("'{}' is not a time such as 30s, 500ms or 0s", text);
      }
      SetDuration(value, static_cast<google::protobuf::Duration*>(
                             reflection->MutableMessage(config, &field)));
      return absl::OkStatus();
    }
    default:
      return Internal("field {} has a type that flags do not know", field.full_name());
  }
}

/// A field's default as the help shows it; empty for none.
std::string DefaultText(const FieldDescriptor& field) {
  const v1::ServerConfig defaults = DefaultConfig();
  const auto* reflection = defaults.GetReflection();
  if (!reflection->HasField(defaults, &field)) return "";
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return fmt::format("{}", reflection->GetInt32(defaults, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return fmt::format("{}", reflection->GetInt64(defaults, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(defaults, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection->GetString(defaults, &field);
    default: {
      const absl::Duration duration = ToDuration(
          static_cast<const google::protobuf::Duration&>(reflection->GetMessage(defaults, &field)));
      return duration == absl::ZeroDuration() ? "0s" : absl::FormatDuration(duration);
    }
  }
}

absl::Status AddModels(const std::vector<std::string>& texts, v1::ServerConfig* config) {
  for (const std::string& text : texts) {
    THRESHER_ASSIGN_OR_RETURN(*config->add_models(), ParseModelFlag(text));
  }
  return absl::OkStatus();
}

/// One source of settings: what it sets and what the user calls each place.
struct Layer {
  v1::ServerConfig config;
  Origins origins;
};

/// What CLI11 found: the text of each flag that was given.
struct Flags {
  std::array<std::optional<std::string>, kSettings.size()> values;
  std::vector<std::string> models;
  std::optional<std::string> config;
  bool version = false;
};

std::unique_ptr<CLI::App> MakeApp(Flags* flags) {
  auto app = std::make_unique<CLI::App>(std::string(kUsage), "thresherd");
  app->footer(std::string(kFooter));
  app->set_help_flag("-h,--help", "Print this and exit");
  app->add_flag("--version", flags->version, "Print version, build and libraries, and exit");
  app->add_option("--config", flags->config,
                  "Read settings and models from FILE (text of v1.ServerConfig)")
      ->type_name("FILE");
  app->add_option("--model", flags->models,
                  "Serve the checkpoint in DIR under NAME; may be repeated")
      ->type_name("NAME=DIR[,KEY=VALUE...]")
      ->group("Models")
      ->allow_extra_args(false);
  for (size_t i = 0; i < kSettings.size(); ++i) {
    const Setting& setting = kSettings[i];
    const std::string initial = DefaultText(Field(setting.field));
    const std::string help =
        initial.empty() ? setting.help : fmt::format("{} [{}]", setting.help, initial);
    CLI::Option* option = app->add_option(FlagName(setting.field), flags->values[i], help)
                              ->type_name(setting.value)
                              ->group(setting.group);
    // The name alone of a switch turns it on.
    if (Field(setting.field).cpp_type() == FieldDescriptor::CPPTYPE_BOOL) option->expected(0, 1);
  }
  app->get_formatter()->column_width(33);
  return app;
}

absl::StatusOr<Layer> FromFlags(const Flags& flags) {
  Layer layer;
  for (size_t i = 0; i < kSettings.size(); ++i) {
    if (!flags.values[i].has_value()) continue;
    const std::string name = FlagName(kSettings[i].field);
    const bool alone = flags.values[i]->empty() &&
                       Field(kSettings[i].field).cpp_type() == FieldDescriptor::CPPTYPE_BOOL;
    THRESHER_RETURN_IF_ERROR(Annotate(
        SetField(Field(kSettings[i].field), alone ? "true" : *flags.values[i], &layer.config),
        name));
    layer.origins[kSettings[i].field] = name;
  }
  THRESHER_RETURN_IF_ERROR(Annotate(AddModels(flags.models, &layer.config), "--model"));
  if (!flags.models.empty()) layer.origins["models"] = "--model";
  return layer;
}

absl::StatusOr<Layer> FromEnvironment(const Environment& environment) {
  Layer layer;
  for (const Setting& setting : kSettings) {
    const std::string name = EnvironmentName(setting.field);
    const std::optional<std::string> value = environment(name);
    if (!value.has_value() || value->empty()) continue;
    THRESHER_RETURN_IF_ERROR(Annotate(SetField(Field(setting.field), *value, &layer.config), name));
    layer.origins[setting.field] = name;
  }
  if (const auto models = environment("THRESHER_MODEL"); models.has_value()) {
    THRESHER_RETURN_IF_ERROR(
        Annotate(AddModels(SplitModelList(*models), &layer.config), "THRESHER_MODEL"));
    if (!layer.config.models().empty()) layer.origins["models"] = "THRESHER_MODEL";
  }
  return layer;
}

absl::StatusOr<Layer> FromFile(const std::string& path) {
  Layer layer;
  THRESHER_ASSIGN_OR_RETURN(layer.config, ReadConfigFile(path));
  std::vector<const FieldDescriptor*> fields;
  layer.config.GetReflection()->ListFields(layer.config, &fields);
  for (const FieldDescriptor* field : fields) {
    layer.origins[field->name()] = fmt::format("{}: {}", path, field->name());
  }
  return layer;
}

absl::StatusOr<v1::ServerConfig> Merge(const Flags& flags, const Environment& environment) {
  Layer merged{DefaultConfig(), {}};
  const auto add = [&merged](absl::StatusOr<Layer> layer) {
    if (!layer.ok()) return layer.status();
    Overlay(layer->config, &merged.config);
    for (auto& [field, origin] : layer->origins) merged.origins[field] = origin;
    return absl::OkStatus();
  };
  std::string path = flags.config.value_or("");
  std::string origin = "--config";
  if (!flags.config.has_value()) {
    path = environment("THRESHER_CONFIG").value_or("");
    origin = "THRESHER_CONFIG";
  }
  if (!path.empty() || flags.config.has_value()) {
    THRESHER_RETURN_IF_ERROR(Annotate(add(FromFile(path)), origin));
  }
  THRESHER_RETURN_IF_ERROR(add(FromEnvironment(environment)));
  THRESHER_RETURN_IF_ERROR(add(FromFlags(flags)));
  FillDependentDefaults(&merged.config);
  THRESHER_RETURN_IF_ERROR(ValidateConfig(merged.config, merged.origins));
  return merged.config;
}

}  // namespace

std::optional<std::string> ProcessEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

absl::StatusOr<CommandLine> ParseCommandLine(std::span<const std::string> arguments,
                                             const Environment& environment) {
  CommandLine result;
  Flags flags;
  try {
    const std::unique_ptr<CLI::App> app = MakeApp(&flags);
    try {
      // CLI11 takes a vector from its end.
      app->parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    } catch (const CLI::CallForHelp&) {
      result.action = CommandLine::Action::kHelp;
      result.help = app->help();
      return result;
    }
  } catch (const CLI::Error& error) {
    return InvalidArgument("{}", error.what());
  }
  if (flags.version) {
    result.action = CommandLine::Action::kVersion;
    return result;
  }
  THRESHER_ASSIGN_OR_RETURN(result.config, Merge(flags, environment));
  return result;
}

}  // namespace thresher
