// `thresher models`: what the server has, and what each model takes and gives.
#include <fmt/format.h>

#include <map>
#include <memory>

#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/server_flags.h"

namespace thresher::cli {
namespace {

using Tensors =
    google::protobuf::RepeatedPtrField<inference::ModelMetadataResponse::TensorMetadata>;

std::string ToText(const Tensors& tensors) {
  std::string out;
  for (const auto& tensor : tensors) {
    std::string shape;
    for (const int64_t size : tensor.shape()) {
      shape += (shape.empty() ? "" : ",") + (size < 0 ? std::string("n") : std::to_string(size));
    }
    out += fmt::format("{}{} {}[{}]", out.empty() ? "" : ", ", Printable(tensor.name()),
                       Printable(tensor.datatype()), shape);
  }
  return out;
}

int Run(const ServerFlags& flags, std::stop_token stop) {
  auto client = Connect(flags, stop);
  if (!client.ok()) return Fail(client.status(), stop);
  const auto index = (*client)->Call(inference::RepositoryIndexRequest(), {.stop = stop});
  if (!index.ok()) return Fail(index.status(), stop);

  bool failed = false;
  std::vector<std::vector<std::string>> rows = {{"MODEL", "VERSION", "STATE", "PLATFORM"}};
  std::string details;
  for (const auto& entry : index->models()) {
    inference::ModelMetadataResponse metadata;
    Json json = {{"name", entry.name()}, {"version", entry.version()}, {"state", entry.state()}};
    if (!entry.reason().empty()) json["reason"] = entry.reason();
    if (entry.state() == "READY") {
      inference::ModelMetadataRequest request;
      request.set_name(entry.name());
      request.set_version(entry.version());
      auto response = (*client)->Call(request, {.stop = stop});
      if (response.ok()) {
        metadata = *std::move(response);
        const Json facts = ToJson(metadata);
        for (const char* key : {"platform", "inputs", "outputs", "properties"}) {
          json[key] = facts.at(key);
        }
      } else {
        // It may have been unloaded in between.
        failed = true;
        fmt::print(stderr, "thresher: model {}: {}\n", Printable(entry.name()),
                   Describe(response.status()));
        json["error"] = ToJson(response.status());
      }
    }
    if (flags.json) {
      Print(Dump(json) + "\n");
      continue;
    }
    rows.push_back({Printable(entry.name()), Printable(entry.version()), Printable(entry.state()),
                    Printable(metadata.platform())});
    details += fmt::format("\n{} {}\n", Printable(entry.name()), Printable(entry.version()));
    if (!entry.reason().empty()) details += "  " + Printable(entry.reason()) + "\n";
    std::vector<std::vector<std::string>> facts;
    if (metadata.inputs_size() > 0) facts.push_back({"  takes", ToText(metadata.inputs())});
    if (metadata.outputs_size() > 0) facts.push_back({"  gives", ToText(metadata.outputs())});
    const std::map<std::string, std::string> properties(metadata.properties().begin(),
                                                        metadata.properties().end());
    for (const auto& [key, value] : properties) {
      facts.push_back({"  " + Printable(key), Printable(value)});
    }
    details += Table(facts);
  }
  if (!flags.json) Print(Table(rows) + details);
  if (const absl::Status output = OutputStatus(); !output.ok()) return Fail(output, {});
  return failed ? kSomeFailed : kAllAnswered;
}

}  // namespace

Command DefineModels(CLI::App& root) {
  auto flags = std::make_shared<ServerFlags>();
  CLI::App* app = root.add_subcommand("models", "List the server's models");
  AddServerFlags(*app, *flags);
  app->footer(
      "Examples:\n"
      "  thresher models\n"
      "  thresher models --json | jq -r 'select(.state == \"READY\").name'\n");
  return {app, [flags](std::stop_token stop) { return Run(*flags, stop); }};
}

}  // namespace thresher::cli
