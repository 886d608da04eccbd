#include "client/cli/gnuplot.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdio>

#include "backend/tensor/status.h"

namespace thresher::cli {

std::string Quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    if (c == '\'') out += '\'';
  }
  return out + "'";
}

absl::StatusOr<std::string> PlotTerminal(const std::string& path, int width, int height) {
  const bool svg = path.ends_with(".svg");
  if (!svg && !path.ends_with(".png")) {
    return InvalidArgument("'{}': a plot's name ends in .svg or .png", path);
  }
  // A fixed name keeps the ids inside an SVG, and so its bytes, the same.
  std::string script =
      svg ? fmt::format(
                "set terminal svg size {},{} font 'sans-serif,14' background rgb 'white' "
                "name 'thresher' noenhanced\n",
                width, height)
          : fmt::format("set terminal pngcairo size {},{} font 'sans,11' noenhanced\n", width,
                        height);
  return script + fmt::format("set output {}\n", Quoted(path));
}

absl::Status Draw(const std::string& script) {
  if (std::system("command -v gnuplot >/dev/null 2>&1") != 0) {
    return NotFound("gnuplot, which draws the curves, is not here: install gnuplot-nox");
  }
  FILE* gnuplot = popen("exec gnuplot", "w");
  if (gnuplot == nullptr) return FailedPrecondition("gnuplot can't be started");
  const bool written = std::fwrite(script.data(), 1, script.size(), gnuplot) == script.size();
  const int status = pclose(gnuplot);
  if (!written || status == -1 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return FailedPrecondition("gnuplot failed; what it said stands above");
  }
  return absl::OkStatus();
}

}  // namespace thresher::cli
