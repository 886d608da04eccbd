#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "client/cli/command.h"

namespace thresher::cli {

std::vector<Command> DefineCommands(CLI::App& root) {
  std::vector<Command> commands;
  for (Command (*define)(CLI::App&) :
       {&DefineClassify, &DefineEmbed, &DefineTokenClassify, &DefineAnswer, &DefineTokenize,
        &DefineModels, &DefineHealth}) {
    commands.push_back(define(root));
  }
  return commands;
}

int Run(int argc, const char* const* argv, std::stop_token stop) {
  CLI::App root("Asks a Thresher server.", "thresher");
  root.require_subcommand(1);
  root.set_version_flag("--version", "thresher " THRESHER_VERSION);
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
