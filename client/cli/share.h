// Shares on the command line: 0.01 or 1%.
#ifndef THRESHER_CLIENT_CLI_SHARE_H_
#define THRESHER_CLIENT_CLI_SHARE_H_

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace thresher::cli {

/// "0.01" and "1%" are 0.01. Nothing for what is no number or not in [0, 1].
std::optional<double> ParseShare(std::string_view text);

/// An option that takes one share.
CLI::Option* AddShare(CLI::App& app, const std::string& name, std::optional<double>& value,
                      const std::string& description);

/// The check and the message for options that take shares.
std::string CheckShare(const std::string& text);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_SHARE_H_
