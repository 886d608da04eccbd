// The command line of thresherd, its environment twins and its configuration file, merged into one
// effective configuration: flag beats environment beats file beats default.
//
// A flag, an environment variable and a field of v1::ServerConfig are one setting under three
// spellings: --max-queue, THRESHER_MAX_QUEUE, max_queue. A list (the models) is replaced as a whole
// by the stronger layer.
#ifndef THRESHER_SERVER_FLAGS_H_
#define THRESHER_SERVER_FLAGS_H_

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "thresher/v1/config.pb.h"

namespace thresher {

/// Looks up an environment variable. One that is set but empty counts as not set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
/// The process's own.
std::optional<std::string> ProcessEnvironment(const std::string& name);

struct CommandLine {
  enum class Action { kServe, kHelp, kVersion };
  Action action = Action::kServe;
  v1::ServerConfig config;  // With kServe: complete and valid.
  std::string help;         // With kHelp.
};

/// `arguments` without the program's name. Every error is one of usage and says which flag,
/// variable or line of a file is wrong.
absl::StatusOr<CommandLine> ParseCommandLine(std::span<const std::string> arguments,
                                             const Environment& environment);

}  // namespace thresher

#endif  // THRESHER_SERVER_FLAGS_H_
