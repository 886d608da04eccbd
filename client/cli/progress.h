// A progress line on a terminal: how many, how fast, how long still.
#ifndef THRESHER_CLIENT_CLI_PROGRESS_H_
#define THRESHER_CLIENT_CLI_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace thresher::cli {

/// "  1234 done  617/s  [#####     ] 50%  2s left"; `share` is negative where it is unknown.
std::string ProgressLine(int64_t done, int64_t failed, double share, absl::Duration elapsed);

/// Draws on standard error, if that is a terminal and `wanted`; else does nothing at all. Appears
/// only when the work takes longer than half a second, and redraws ten times a second at most.
class Progress {
 public:
  explicit Progress(bool wanted);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Update(int64_t done, int64_t failed, double share);
  /// The same with any line; it is cut to the terminal.
  void UpdateLine(const std::string& line);
  /// Takes the bar away, so that other lines can be printed; the next update brings it back.
  void Hide();

 private:
  /// Whether it is time to draw.
  bool Due() const;

  const bool enabled_;
  const absl::Time began_;
  absl::Time drawn_;
  bool visible_ = false;
};

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_PROGRESS_H_
