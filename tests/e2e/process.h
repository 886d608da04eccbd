// A child process whose output a test can wait for.
#ifndef THRESHER_TESTS_E2E_PROCESS_H_
#define THRESHER_TESTS_E2E_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace thresher::testing {

class Process {
 public:
  struct Options {
    /// "NAME=VALUE" beside the test's own environment, from which THRESHER_* is taken away.
    std::vector<std::string> environment;
    /// What standard input holds; without it, it is empty (/dev/null).
    std::optional<std::string> input;
    /// Standard input stays open after `input`, until CloseInput.
    bool keep_input_open = false;
    /// A path that standard output goes to instead.
    std::string output_path;
    std::string directory;  // Where it runs; empty: here.
  };
  /// Guards against a hang; never a measure of anything.
  static constexpr std::chrono::seconds kPatience{120};

  /// argv[0] is a path, or a name to be found in PATH. Throws std::runtime_error if it can't start.
  explicit Process(const std::vector<std::string>& argv) : Process(argv, Options()) {}
  Process(const std::vector<std::string>& argv, const Options& options);
  /// Kills it if it still runs.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  /// Waits until the standard output (or error) so far matches; the match, or nothing if the
  /// process closed it without.
  std::optional<std::smatch> WaitForOutput(const std::string& pattern);
  std::optional<std::smatch> WaitForError(const std::string& pattern);
  void WriteInput(std::string_view text);
  void CloseInput();
  /// Stops reading standard output: the process finds it closed.
  void CloseOutput();
  void Signal(int signal);
  /// Waits for the end: the exit code, or 128 + the signal that ended it; -1 if it did not end.
  int Wait();

  /// What has been read so far; all of it after Wait.
  std::string output() const;
  std::string error() const;

 private:
  struct Stream {
    int fd = -1;
    std::string text;
    bool closed = false;
    std::thread reader;
    std::string matched;  // The text that the last match points into.
  };
  void Read(Stream& stream);
  std::optional<std::smatch> WaitFor(Stream& stream, const std::string& pattern);

  pid_t pid_ = -1;
  std::optional<int> exit_;
  int input_ = -1;
  int stop_reading_[2] = {-1, -1};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Stream output_, error_;
};

/// Runs a command to its end.
struct Finished {
  int code = -1;
  std::string output;
  std::string error;
};
Finished RunProcess(const std::vector<std::string>& argv, const Process::Options& options = {});

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_E2E_PROCESS_H_
