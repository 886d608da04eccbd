#include "client/cli/progress.h"

#include <fmt/format.h>
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

void Progress::Update(int64_t done, int64_t failed, double share) {
  if (!enabled_) return;
  const absl::Time now = absl::Now();
  if (now - began_ < absl::Milliseconds(500)) return;
  if (visible_ && now - drawn_ < absl::Milliseconds(100)) return;
  fmt::print(stderr, "\r{}\x1b[K", ProgressLine(done, failed, share, now - began_));
  std::fflush(stderr);
  drawn_ = now;
  visible_ = true;
}

void Progress::Hide() {
  if (!visible_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  visible_ = false;
}

}  // namespace thresher::cli
