// The server's effective configuration: defaults, merging of layers and the one place that checks
// it.
#ifndef THRESHER_SERVER_CONFIG_H_
#define THRESHER_SERVER_CONFIG_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "thresher/v1/config.pb.h"

namespace thresher {

/// Every scalar field set, but for `precision` (the device's choice), `kv_cache_bytes` (a share of
/// the machine's memory), `model_repository`, and `max_inputs`, which depends on the rest: see
/// FillDependentDefaults.
v1::ServerConfig DefaultConfig();

/// Sets what is still unset and follows from other fields.
void FillDependentDefaults(v1::ServerConfig* config);

/// Every field that is set in `layer` replaces that of `config` as a whole, lists included.
void Overlay(const v1::ServerConfig& layer, v1::ServerConfig* config);

/// By field name, what the user calls the place that set it ("--listen", "THRESHER_LISTEN",
/// "listen in server.textproto").
using Origins = std::map<std::string, std::string, std::less<>>;

/// INVALID_ARGUMENT with the origin of the field (its name where `origins` lacks it), its value and
/// what it may be.
absl::Status ValidateConfig(const v1::ServerConfig& config, const Origins& origins = {});
/// The same for one model; errors begin with the bad part's name.
absl::Status ValidateModelConfig(const v1::ModelConfig& config);

/// `simulated:FACTOR`, FACTOR above 0 and at most a million.
absl::StatusOr<double> ParsePace(std::string_view text);

/// A model's name as it appears in requests, metrics and directories: [A-Za-z0-9_.-]+, at most 128
/// bytes, not beginning with a dot (so never a path to elsewhere).
bool IsModelName(std::string_view name);

/// A duration of the configuration, as absl's.
absl::Duration ToDuration(const google::protobuf::Duration& duration);
/// `duration` must be finite and not negative.
void SetDuration(absl::Duration duration, google::protobuf::Duration* field);

}  // namespace thresher

#endif  // THRESHER_SERVER_CONFIG_H_
