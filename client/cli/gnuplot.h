// gnuplot, which draws all pictures of the command line.
#ifndef THRESHER_CLIENT_CLI_GNUPLOT_H_
#define THRESHER_CLIENT_CLI_GNUPLOT_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thresher::cli {

/// A string of gnuplot's that means just its characters; it knows no line end.
std::string Quoted(std::string_view text);

/// The commands that begin a picture of that size in `path`. INVALID_ARGUMENT unless it ends in
/// .svg or .png.
absl::StatusOr<std::string> PlotTerminal(const std::string& path, int width, int height);

/// Runs gnuplot. NOT_FOUND, naming the package, if it is not installed; FAILED_PRECONDITION if it
/// fails, after what it said on standard error.
absl::Status Draw(const std::string& script);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_GNUPLOT_H_
