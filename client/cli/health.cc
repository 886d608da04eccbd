// `thresher health`: what gRPC's health service says. For scripts and container probes.
#include <fmt/format.h>

#include <memory>

#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/server_flags.h"

namespace thresher::cli {
namespace {

struct Flags : ServerFlags {
  std::string service;
};

int Run(const Flags& flags, std::stop_token stop) {
  using grpc::health::v1::HealthCheckResponse;
  auto client = Connect(flags, stop);
  if (!client.ok()) return Fail(client.status(), stop);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(flags.service);
  const auto response = (*client)->Call(request, {.stop = stop});
  if (!response.ok()) {
    // Never kUsage: whether a service is known is the server's matter.
    Fail(absl::InternalError(Describe(response.status())), stop);
    return stop.stop_requested() ? kInterrupted : kSomeFailed;
  }
  const std::string name = HealthCheckResponse::ServingStatus_Name(response->status());
  if (flags.json) {
    Print(Dump({{"service", flags.service}, {"status", name}}) + "\n");
  } else {
    Print(name + "\n");
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
