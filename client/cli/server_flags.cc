#include "client/cli/server_flags.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <set>

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
      ->envname("THRESHER_SERVER")
      ->check(CheckAddress)
      ->option_text("HOST:PORT")
      ->group("Server");
  const bool none = flags.deadline == absl::InfiniteDuration();
  AddDuration(app, "--deadline", flags.deadline,
              fmt::format("Time that each call may take (default {})",
                          none ? "without end" : absl::FormatDuration(flags.deadline)))
      ->group("Server");
  app.add_flag("--json", flags.json, "Print one JSON object a line");
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

absl::StatusOr<std::unique_ptr<Client>> Connect(const ServerFlags& flags, std::stop_token stop) {
  THRESHER_ASSIGN_OR_RETURN(auto client,
                            Client::Connect({.server = flags.server, .deadline = flags.deadline}));
  const auto live = client->Call(inference::ServerLiveRequest(), {.stop = stop});
  if (live.status().code() == absl::StatusCode::kUnavailable) {
    return Unavailable(
        "no server answers at {} ({})\n"
        "  start one:     thresherd --listen {} --model NAME=DIRECTORY\n"
        "  or name yours: --server HOST:PORT, or THRESHER_SERVER in the environment",
        flags.server, Printable(Message(live.status())), flags.server);
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
  return fmt::format("{}: {}", absl::StatusCodeToString(status.code()), Printable(Message(status)));
}

int Fail(const absl::Status& status, std::stop_token stop) {
  if (stop.stop_requested()) {
    fmt::print(stderr, "thresher: interrupted\n");
    return kInterrupted;
  }
  // Our own messages may have several lines; the server's are made printable where they enter.
  fmt::print(stderr, "thresher: {}\n", Message(status));
  return status.code() == absl::StatusCode::kInvalidArgument ? kUsage : kSomeFailed;
}

}  // namespace thresher::cli
