// What a subcommand of `thresher` is. Each has a file of its own (classify.cc, ...) with one Define
// function, listed in commands.cc.
#ifndef THRESHER_CLIENT_CLI_COMMAND_H_
#define THRESHER_CLIENT_CLI_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <stop_token>
#include <vector>

namespace thresher::cli {

/// Exit codes. An interrupted command ends as a shell expects of SIGINT.
inline constexpr int kAllAnswered = 0;
inline constexpr int kSomeFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kInterrupted = 130;

struct Command {
  CLI::App* app = nullptr;
  /// Runs after `app` has been parsed; gives the exit code. Ends soon after a stop is requested.
  std::function<int(std::stop_token)> run;
};

Command DefineClassify(CLI::App& root);
Command DefineEmbed(CLI::App& root);
Command DefineTokenClassify(CLI::App& root);
Command DefineAnswer(CLI::App& root);
Command DefineTokenize(CLI::App& root);
Command DefineGenerate(CLI::App& root);
Command DefineEvaluate(CLI::App& root);
Command DefineCalibrate(CLI::App& root);
Command DefineCompare(CLI::App& root);
Command DefineLoad(CLI::App& root);
Command DefinePolicies(CLI::App& root);
Command DefineSimulate(CLI::App& root);
Command DefineModels(CLI::App& root);
Command DefineHealth(CLI::App& root);

/// Adds all subcommands to `root`, in the order in which --help shows them.
std::vector<Command> DefineCommands(CLI::App& root);

/// The whole program but for its signals: parses, runs, gives the exit code.
int Run(int argc, const char* const* argv, std::stop_token stop);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_COMMAND_H_
