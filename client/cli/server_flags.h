// The flags that say which server and which model, and what they lead to.
#ifndef THRESHER_CLIENT_CLI_SERVER_FLAGS_H_
#define THRESHER_CLIENT_CLI_SERVER_FLAGS_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"

namespace thresher::cli {

struct SecurityFlags {
  bool tls = false;
  client::TlsOptions files;
  std::string token_file;
};

struct ServerFlags {
  std::string server = "127.0.0.1:8001";
  SecurityFlags security;
  absl::Duration deadline = absl::Seconds(10);
  bool json = false;
};

struct ModelFlags {
  std::string name;
  std::string version;
};

/// Of the value of a --server: empty, or what is wrong with it. gRPC takes names of other kinds
/// ("unix:PATH", "dns:///NAME"), but a port modulo 65536 too.
std::string CheckAddress(const std::string& address);

void AddServerFlags(CLI::App& app, ServerFlags& flags);
/// --tls and --token-file with what belongs to them; AddServerFlags has them.
void AddSecurityFlags(CLI::App& app, SecurityFlags& flags, const std::string& group);
void AddModelFlags(CLI::App& app, ModelFlags& flags);

/// An option whose value is a time span with its unit: 10s, 250ms, 1m30s.
CLI::Option* AddDuration(CLI::App& app, const std::string& name, absl::Duration& value,
                         const std::string& description);

/// How to reach the server: with the token of the file, else of THRESHER_TOKEN. INVALID_ARGUMENT
/// when the file holds none.
absl::StatusOr<client::ClientOptions> ToClientOptions(const ServerFlags& flags);

/// A client of the server, which has answered: one that can't be reached is UNAVAILABLE, and the
/// message says how to start one.
absl::StatusOr<std::unique_ptr<client::Client>> Connect(const ServerFlags& flags,
                                                        std::stop_token stop);

/// The model asked for, or the only one the server has. INVALID_ARGUMENT, naming the models, when
/// there are several to choose from.
absl::StatusOr<v1::ModelSpec> ChooseModel(client::Client& client, const ModelFlags& flags,
                                          std::stop_token stop);

/// Prints the error; gives kUsage for INVALID_ARGUMENT (which before the first request only the
/// command line can have caused), kInterrupted after a stop, else kSomeFailed.
int Fail(const absl::Status& status, std::stop_token stop);

/// "INVALID_ARGUMENT: the message".
std::string Describe(const absl::Status& status);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SERVER_FLAGS_H_
