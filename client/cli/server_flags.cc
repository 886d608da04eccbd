#include "client/cli/server_flags.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <utility>

#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/format.h"

namespace thresher::cli {

using client::Client;

std::string CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  const bool other = address.find(":/") != std::string::npos || address.starts_with("unix");
  if (other) return "";
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  if (digits && std::stoi(port) >= 1 && std::stoi(port) <= 65535 && colon > 0) return "";
  return fmt::format("'{}' is not HOST:PORT with a port from 1 to 65535", address);
}

void AddServerFlags(CLI::App& app, ServerFlags& flags) {
  app.add_option("--server", flags.server,
                 "Where the server listens for gRPC (default 127.0.0.1:8001)")
      ->envname("THRESHER_SERVER")  // Checked later: CLI11 2.4 passes over a variable that fails.
      ->option_text("HOST:PORT")
      ->group("Server");
  const bool none = flags.deadline == absl::InfiniteDuration();
  AddDuration(app, "--deadline", flags.deadline,
              fmt::format("Time that each call may take (default {})",
                          none ? "without end" : absl::FormatDuration(flags.deadline)))
      ->group("Server");
  AddSecurityFlags(app, flags.security, "Server");
  app.add_flag("--json", flags.json, "Print one JSON object a line");
}

void AddSecurityFlags(CLI::App& app, SecurityFlags& flags, const std::string& group) {
  const auto file = [&](const char* name, std::string& value, const char* help) {
    app.add_option(name, value, help)->option_text("FILE")->group(group);
  };
  app.add_flag("--tls", flags.tls, "Connect under TLS, as the flags that begin like it imply")
      ->group(group);
  file("--tls-ca", flags.files.ca_file,
       "Authorities to believe the server's certificate from (default: the system's)");
  file("--tls-cert", flags.files.cert_file, "Show the server this certificate");
  file("--tls-key", flags.files.key_file, "The certificate's private key");
  app.add_option("--tls-name", flags.files.server_name,
                 "The name that the server's certificate must have (default: the host)")
      ->option_text("NAME")
      ->group(group);
  file("--token-file", flags.token_file,
       "Call with the token in this file (default: that of THRESHER_TOKEN, if it is set)");
}

void AddModelFlags(CLI::App& app, ModelFlags& flags) {
  // thresherd reads the same variable as NAME=DIRECTORY, and the two may share an environment.
  const char* variable = std::getenv("THRESHER_MODEL");
  const std::string_view name = variable != nullptr ? variable : "";
  flags.name = name.substr(0, name.find('='));
  app.add_option("--model", flags.name,
                 "Which model, or THRESHER_MODEL; needless if the server has only one")
      ->option_text("NAME")
      ->group("Server");
  app.add_option("--model-version", flags.version, "Which version; by default the server chooses")
      ->option_text("N")
      ->group("Server");
}

CLI::Option* AddDuration(CLI::App& app, const std::string& name, absl::Duration& value,
                         const std::string& description) {
  const auto parse = [&value](const CLI::results_t& results) {
    return absl::ParseDuration(results.at(0), &value) && value > absl::ZeroDuration();
  };
  return app.add_option(name, parse, description)
      ->option_text("TIME")
      ->check([](const std::string& text) -> std::string {
        absl::Duration parsed;
        if (absl::ParseDuration(text, &parsed) && parsed > absl::ZeroDuration()) return "";
        return fmt::format("'{}' is not a positive time span with a unit, such as 10s or 250ms",
                           text);
      });
}

namespace {

/// What the user can do about an error that the server can't know how to mend.
std::string_view HintOf(const absl::Status& status) {
  if (!absl::IsUnauthenticated(status)) return "";
  return " (--token-file FILE, or THRESHER_TOKEN in the environment)";
}

/// The first token of a file as thresherd reads it: comments and names are left out.
absl::StatusOr<std::string> ReadToken(const std::string& path) {
  std::ifstream file(path);
  if (!file) return InvalidArgument("{}: can't open: {}", path, std::strerror(errno));
  constexpr std::string_view kBlank = " \t\r";
  for (std::string line; std::getline(file, line);) {
    line.erase(0, line.find_first_not_of(kBlank));
    line.erase(line.find_last_not_of(kBlank) + 1);
    if (line.empty() || line.front() == '#') continue;
    line.erase(0, line.find(':') + 1);
    line.erase(0, line.find_first_not_of(kBlank));
    return line;
  }
  return InvalidArgument("{}: holds no token", path);
}

}  // namespace

absl::StatusOr<client::ClientOptions> ToClientOptions(const ServerFlags& flags) {
  if (std::string wrong = CheckAddress(flags.server); !wrong.empty()) {
    return InvalidArgument("--server: {}", wrong);
  }
  client::ClientOptions options;
  options.server = flags.server;
  options.deadline = flags.deadline;
  const client::TlsOptions& files = flags.security.files;
  const bool implied = !files.ca_file.empty() || !files.cert_file.empty() ||
                       !files.key_file.empty() || !files.server_name.empty();
  if (flags.security.tls || implied) options.tls = files;
  if (!flags.security.token_file.empty()) {
    THRESHER_ASSIGN_OR_RETURN(options.token, ReadToken(flags.security.token_file));
  } else if (const char* token = std::getenv("THRESHER_TOKEN"); token != nullptr) {
    options.token = token;
  }
  return options;
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const ServerFlags& flags, std::stop_token stop) {
  THRESHER_ASSIGN_OR_RETURN(client::ClientOptions options, ToClientOptions(flags));
  const bool tls = options.tls.has_value();
  THRESHER_ASSIGN_OR_RETURN(auto client, Client::Connect(std::move(options)));
  const auto live = client->Call(inference::ServerLiveRequest(), {.stop = stop});
  const bool handshake = Message(live.status()).find("handshake") != std::string::npos;
  if (tls && handshake && live.status().code() == absl::StatusCode::kUnavailable) {
    return Unavailable(
        "no TLS connection to {} ({})\n"
        "  --tls-ca must hold the authority of the server's certificate, --tls-name a name in it;\n"
        "  --tls-cert and --tls-key are needed where the server asks for a certificate",
        flags.server, Printable(Message(live.status())));
  }
  if (live.status().code() == absl::StatusCode::kUnavailable) {
    return Unavailable(
        "no server answers at {} ({})\n"
        "  start one:     thresherd --listen {} --model NAME=DIRECTORY\n"
        "  or name yours: --server HOST:PORT, or THRESHER_SERVER in the environment{}",
        flags.server, Printable(Message(live.status())), flags.server,
        tls ? "" : "; --tls if it serves TLS");
  }
  // A server that speaks another dialect may not know this call; the next one will tell.
  if (!live.ok() && live.status().code() != absl::StatusCode::kUnimplemented) {
    return Annotate(live.status(), flags.server);
  }
  return client;
}

absl::StatusOr<v1::ModelSpec> ChooseModel(Client& client, const ModelFlags& flags,
                                          std::stop_token stop) {
  v1::ModelSpec model;
  model.set_name(flags.name);
  model.set_version(flags.version);
  if (!flags.name.empty()) return model;
  THRESHER_ASSIGN_OR_RETURN(const auto index,
                            client.Call(inference::RepositoryIndexRequest(), {.stop = stop}));
  std::set<std::string> names;
  for (const auto& entry : index.models()) names.insert(entry.name());
  if (names.empty()) return NotFound("the server has no model");
  if (names.size() > 1) {
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + Printable(name);
    return InvalidArgument("the server has several models; choose one with --model: {}", list);
  }
  model.set_name(*names.begin());
  return model;
}

std::string Describe(const absl::Status& status) {
  return fmt::format("{}: {}{}", absl::StatusCodeToString(status.code()),
                     Printable(Message(status)), HintOf(status));
}

int Fail(const absl::Status& status, std::stop_token stop) {
  if (stop.stop_requested()) {
    fmt::print(stderr, "thresher: interrupted\n");
    return kInterrupted;
  }
  // Our own messages may have several lines; the server's are made printable where they enter.
  fmt::print(stderr, "thresher: {}{}\n", Message(status), HintOf(status));
  return status.code() == absl::StatusCode::kInvalidArgument ? kUsage : kSomeFailed;
}

}  // namespace thresher::cli
