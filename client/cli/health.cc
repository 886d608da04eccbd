// `thresher health`: what gRPC's health service says. For scripts and container probes.
#include <fmt/format.h>

#include <memory>

#include "backend/tensor/status.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/server_flags.h"

namespace thresher::cli {
namespace {

struct Flags : ServerFlags {
  std::string service;
};

using grpc::health::v1::HealthCheckResponse;

Json ServiceJson(const Flags& flags, HealthCheckResponse::ServingStatus status) {
  return {{"service", flags.service}, {"status", HealthCheckResponse::ServingStatus_Name(status)}};
}

/// There is no status: says `message` to people, and why to whoever reads objects. Never kUsage:
/// whether a server answers, and which services it knows, is not the command line's matter.
int Unanswered(const Flags& flags, const absl::Status& why, const std::string& message,
               std::stop_token stop) {
  if (flags.json && !stop.stop_requested()) {
    Json json = ServiceJson(flags, HealthCheckResponse::UNKNOWN);
    json["error"] = ToJson(why);
    Print(Dump(json) + "\n");
  }
  return Fail(absl::InternalError(message), stop);
}

int Run(const Flags& flags, std::stop_token stop) {
  auto client = Connect(flags, stop);
  if (absl::IsInvalidArgument(client.status())) return Fail(client.status(), stop);
  if (!client.ok()) return Unanswered(flags, client.status(), Message(client.status()), stop);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(flags.service);
  const auto response = (*client)->Call(request, {.stop = stop});
  if (!response.ok()) {
    return Unanswered(flags, response.status(), Describe(response.status()), stop);
  }
  if (flags.json) {
    Print(Dump(ServiceJson(flags, response->status())) + "\n");
  } else {
    Print(HealthCheckResponse::ServingStatus_Name(response->status()) + "\n");
  }
  if (const absl::Status output = OutputStatus(); !output.ok()) return Fail(output, {});
  return response->status() == HealthCheckResponse::SERVING ? kAllAnswered : kSomeFailed;
}

}  // namespace

Command DefineHealth(CLI::App& root) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = root.add_subcommand("health", "Ask whether the server serves (exit code 0: yes)");
  AddServerFlags(*app, *flags);
  app->add_option("--service", flags->service, "One service (default: the server as a whole)")
      ->option_text("NAME");
  app->footer(
      "Examples:\n"
      "  thresher health && echo ready\n"
      "  thresher health --service inference.GRPCInferenceService --deadline 1s\n");
  return {app, [flags](std::stop_token stop) { return Run(*flags, stop); }};
}

}  // namespace thresher::cli
