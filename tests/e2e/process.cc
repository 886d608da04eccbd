#include "tests/e2e/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

extern char** environ;

namespace thresher::testing {
namespace {

void Require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what + ": " + std::strerror(errno));
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Process::Process(const std::vector<std::string>& argv, const Options& options) {
  int input[2] = {-1, -1}, output[2], error[2];
  const bool with_input = options.input || options.keep_input_open;
  if (with_input) Require(pipe2(input, O_CLOEXEC) == 0, "pipe");
  Require(pipe2(output, O_CLOEXEC) == 0 && pipe2(error, O_CLOEXEC) == 0, "pipe");
  Require(pipe2(stop_reading_, O_CLOEXEC) == 0, "pipe");

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (with_input) {
    posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  }
  if (options.output_path.empty()) {
    posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, options.output_path.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0644);
  }
  posix_spawn_file_actions_adddup2(&actions, error[1], STDERR_FILENO);
  if (!options.directory.empty()) {
    posix_spawn_file_actions_addchdir_np(&actions, options.directory.c_str());
  }
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  sigaddset(&defaults, SIGINT);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<std::string> arguments = argv;
  std::vector<std::string> environment = options.environment;  // The first of a name counts.
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (std::strncmp(*variable, "THRESHER_", 9) != 0) environment.emplace_back(*variable);
  }
  errno = posix_spawnp(&pid_, argv.at(0).c_str(), &actions, &attributes, Pointers(arguments).data(),
                       Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (with_input) close(input[0]);
  close(output[1]);
  close(error[1]);
  Require(errno == 0 || pid_ > 0, "can't start " + argv[0]);

  output_.fd = output[0];
  error_.fd = error[0];
  output_.reader = std::thread([this] { Read(output_); });
  error_.reader = std::thread([this] { Read(error_); });
  input_ = input[1];
  if (options.input) WriteInput(*options.input);
  if (with_input && !options.keep_input_open) CloseInput();
}

Process::~Process() {
  CloseInput();
  if (!exit_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  CloseOutput();
  for (Stream* stream : {&output_, &error_}) {
    if (stream->reader.joinable()) stream->reader.join();
  }
  close(stop_reading_[0]);
}

void Process::Read(Stream& stream) {
  char chunk[4096];
  for (;;) {
    pollfd events[] = {{stream.fd, POLLIN, 0}, {stop_reading_[0], POLLIN, 0}};
    poll(events, &stream == &output_ ? 2 : 1, -1);
    const bool stopped = &stream == &output_ && events[1].revents != 0;
    const ssize_t bytes = stopped ? 0 : read(stream.fd, chunk, sizeof chunk);
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
    if (bytes <= 0) {
      stream.closed = true;
      close(stream.fd);
      return;
    }
    stream.text.append(chunk, static_cast<size_t>(bytes));
  }
}

std::optional<std::smatch> Process::WaitFor(Stream& stream, const std::string& pattern) {
  const std::regex regex(pattern);
  const auto until = std::chrono::steady_clock::now() + kPatience;
  std::unique_lock lock(mutex_);
  for (;;) {
    stream.matched = stream.text;
    std::smatch match;
    if (std::regex_search(stream.matched, match, regex)) return match;
    if (stream.closed || changed_.wait_until(lock, until) == std::cv_status::timeout) return {};
  }
}

std::optional<std::smatch> Process::WaitForOutput(const std::string& pattern) {
  return WaitFor(output_, pattern);
}

std::optional<std::smatch> Process::WaitForError(const std::string& pattern) {
  return WaitFor(error_, pattern);
}

void Process::WriteInput(std::string_view text) {
  // The child may end without reading; the test then sees its exit code, not a signal of its own.
  signal(SIGPIPE, SIG_IGN);
  while (!text.empty()) {
    const ssize_t bytes = write(input_, text.data(), text.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return;
    text.remove_prefix(static_cast<size_t>(bytes));
  }
}

void Process::CloseInput() {
  if (input_ >= 0) close(input_);
  input_ = -1;
}

void Process::CloseOutput() {
  if (stop_reading_[1] >= 0) close(stop_reading_[1]);
  stop_reading_[1] = -1;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return output_.closed; });
}

void Process::Signal(int signal) { kill(pid_, signal); }

int Process::Wait() {
  if (exit_) return *exit_;
  {
    // Both ends closed: it has ended, or is about to.
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return output_.closed && error_.closed; })) {
      return -1;
    }
  }
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return *exit_;
}

std::string Process::output() const {
  const std::lock_guard lock(mutex_);
  return output_.text;
}

std::string Process::error() const {
  const std::lock_guard lock(mutex_);
  return error_.text;
}

Finished RunProcess(const std::vector<std::string>& argv, const Process::Options& options) {
  Process process(argv, options);
  const int code = process.Wait();
  return {code, process.output(), process.error()};
}

}  // namespace thresher::testing
