// What a load run needs of the world: a clock and something that answers calls. GrpcPort is the
// real one; tests have one whose time is made up.
#ifndef THRESHER_CLIENT_LOAD_PORT_H_
#define THRESHER_CLIENT_LOAD_PORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace thresher::load {

/// What the server says of one call. Its rest, total - queue - tokenize - compute, is its own work
/// around the model: reading, checking and writing messages.
struct ServerTimes {
  absl::Duration queue;
  absl::Duration tokenize;
  absl::Duration compute;
  absl::Duration total;
};

/// How one call ended. Times are on the port's clock.
struct Completion {
  int64_t id = 0;
  int part = 0;  // Of the workload.
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;  // Of an error.
  absl::Duration sent;  // When it was handed to gRPC: the request had been made.
  absl::Duration received;
  std::optional<ServerTimes> server;
  int64_t inputs = 1;  // Texts or samples in the call.
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  std::optional<absl::Duration> first_token;  // When it came, of a generated text.
  std::vector<absl::Duration> token_gaps;     // Between each token and the one before.
  int64_t labelled = 0;                       // Inputs whose class is known,
  int64_t right = 0;                          // and those that got it.
};

/// What the generator has spent, in seconds since it began.
struct CpuTime {
  double process = 0;
  double thread = 0;  // Of the caller.
};

class Port {
 public:
  virtual ~Port() = default;

  /// Never goes back.
  virtual absl::Duration Now() = 0;
  virtual CpuTime Cpu() = 0;
  /// Makes the next request and sends it. Never waits for anything; how the call ended comes out of
  /// Wait, once.
  virtual void Send(int64_t id) = 0;
  /// Adds what has ended. If that is nothing, waits for something, or until `until` or a Wake.
  virtual void Wait(absl::Duration until, std::vector<Completion>* ended) = 0;
  /// Makes the present Wait return, or else the next. The only function for other threads.
  virtual void Wake() = 0;
  /// Ends what is in flight with CANCELLED, which still comes out of Wait.
  virtual void Cancel() = 0;
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_PORT_H_
