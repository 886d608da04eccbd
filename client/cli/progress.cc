#include "client/cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

#include "absl/time/clock.h"
#include "client/cli/format.h"

namespace thresher::cli {

std::string ProgressLine(int64_t done, int64_t failed, double share, absl::Duration elapsed) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  std::string line = fmt::format("{} done", done);
  if (failed > 0) line += fmt::format(", {} failed", failed);
  if (seconds > 0) line += fmt::format("  {:.0f}/s", static_cast<double>(done) / seconds);
  if (share >= 0) line += fmt::format("  |{}| {:3.0f}%", Bar(share, 20), share * 100);
  if (share > 0) {
    const absl::Duration left = elapsed * ((1 - share) / share);
    line += fmt::format("  {} left", absl::FormatDuration(absl::Trunc(left, absl::Seconds(1))));
  }
  return line;
}

Progress::Progress(bool wanted)
    : enabled_(wanted && isatty(STDERR_FILENO) != 0),
      began_(absl::Now()),
      drawn_(absl::InfinitePast()) {}

Progress::~Progress() { Hide(); }

bool Progress::Due() const {
  if (!enabled_) return false;
  const absl::Time now = absl::Now();
  return now - began_ >= absl::Milliseconds(500) &&
         !(visible_ && now - drawn_ < absl::Milliseconds(100));
}

void Progress::Update(int64_t done, int64_t failed, double share) {
  if (Due()) UpdateLine(ProgressLine(done, failed, share, absl::Now() - began_));
}

void Progress::UpdateLine(const std::string& line) {
  if (!Due()) return;
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  fmt::print(stderr, "\r{}\x1b[K", Shorten(line, known ? size.ws_col - 1 : 79));
  std::fflush(stderr);
  drawn_ = absl::Now();
  visible_ = true;
}

void Progress::Hide() {
  if (!visible_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  visible_ = false;
}

}  // namespace thresher::cli
