#include <fmt/format.h>
#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>

#include "backend/build_info/build_info.h"
#include "client/cli/command.h"

namespace thresher::cli {

namespace {

std::string Version() {
  std::string text = VersionText(
      "thresher",
      {{"gRPC", grpc::Version()},
       {"Protobuf", VersionOfMillions(GOOGLE_PROTOBUF_VERSION)},
       {"CLI11", CLI11_VERSION},
       {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                     NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)}});
  text.pop_back();  // CLI11 ends the line.
  return text;
}

}  // namespace

std::vector<Command> DefineCommands(CLI::App& root) {
  std::vector<Command> commands;
  for (Command (*define)(CLI::App&) :
       {&DefineClassify, &DefineEmbed, &DefineTokenClassify, &DefineAnswer, &DefineTokenize,
        &DefineGenerate, &DefineLoad, &DefineEvaluate, &DefineCompare, &DefineCalibrate,
        &DefineSimulate, &DefinePolicies, &DefineModels, &DefineHealth}) {
    commands.push_back(define(root));
  }
  return commands;
}

int Run(int argc, const char* const* argv, std::stop_token stop) {
  CLI::App root("Asks a Thresher server.", "thresher");
  root.require_subcommand(1);
  root.set_version_flag("--version", [] { return Version(); });
  root.set_help_flag("-h,--help", "Show the help of the program or of a command");
  root.get_formatter()->column_width(32);
  root.footer(
      "Start a server:  thresherd --model NAME=DIRECTORY\n"
      "Then ask it:     thresher classify 'a gripping, moving film'\n"
      "\n"
      "THRESHER_SERVER and THRESHER_MODEL in the environment stand for --server and --model.\n"
      "Exit codes: 0 all answered, 1 some failed (each on standard error), 2 wrong usage.");
  const std::vector<Command> commands = DefineCommands(root);
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return root.exit(error) == 0 ? kAllAnswered : kUsage;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run(stop);
  }
  return kUsage;
}

}  // namespace thresher::cli
