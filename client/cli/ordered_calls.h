// The loop under every command over texts: reads inputs, sends them in calls of several, keeps some
// calls in flight, and hands the answers on in input order. Memory is bounded whatever the size of
// the input.
#ifndef THRESHER_CLIENT_CLI_ORDERED_CALLS_H_
#define THRESHER_CLIENT_CLI_ORDERED_CALLS_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/inputs.h"

namespace thresher::cli {

struct CallLimits {
  int batch = 32;       // Inputs in one call.
  int concurrency = 4;  // Calls in flight.
};

/// --batch and --concurrency, in this group of the help.
void AddCallLimits(CLI::App& app, CallLimits& limits, const std::string& group);

/// Shows the answers of one call; runs on RunOrdered's thread, in input order.
using ShowCall = std::function<void()>;
/// Starts a call for these inputs. `done` must be called once, from any thread, when the answer is
/// there; only then the ShowCall that was returned is run.
using SendCall = std::function<ShowCall(std::vector<Record> records, std::function<void()> done)>;

/// Runs until the source has ended and all is shown: OK, or the source's error after what it gave
/// before. After a stop (which must also end the calls in flight) nothing more is read or
/// shown, and it returns OK as soon as no call is left.
///
/// A call waits until it is full; but when the input pauses (a pipe, a terminal) and nothing is in
/// flight, what there is goes out at once, so that a slow line by line conversation works.
absl::Status RunOrdered(InputSource& source, const CallLimits& limits, const SendCall& send,
                        std::stop_token stop);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_ORDERED_CALLS_H_
