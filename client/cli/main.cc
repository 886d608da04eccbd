// The `thresher` command: sets up the process (locale, signals) and runs cli::Run.
#include <signal.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <stop_token>
#include <thread>

#include "client/cli/command.h"

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "");
  // What gRPC has to say comes as the status of a call.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  // A reader that goes away shows as a failed write, not as a signal.
  signal(SIGPIPE, SIG_IGN);
  // Blocked before the first thread starts, so that only the thread below receives them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  std::stop_source stop;
  std::thread([signals, stop]() mutable {
    int signal = 0;
    sigwait(&signals, &signal);
    stop.request_stop();
    // The second one ends it now.
    sigwait(&signals, &signal);
    _exit(128 + signal);
  }).detach();
  return thresher::cli::Run(argc, argv, stop.get_token());
}
