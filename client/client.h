// A client of a Thresher server: every call of thresher.v1, and the unary ones of the Open
// Inference Protocol and of gRPC's health service, with deadlines, cancellation and retries.
//
//   auto client = thresher::client::Client::Connect({.server = "127.0.0.1:8001"});
//   if (!client.ok()) ...
//   thresher::v1::ClassifyRequest request;
//   request.mutable_model()->set_name("sst2-mini");
//   request.add_inputs()->set_text("a gripping, moving film");
//   auto response = (*client)->Call(request);          // absl::StatusOr<v1::ClassifyResponse>
//   auto future = (*client)->CallAsync(request);       // the same as a std::future
//   (*client)->Generate(text_request, [](const auto& message) { ...; return true; });
//
// The request's type says which method is called; Rpc<Request>::Response is what comes back. A call
// that fails returns the server's gRPC status as an absl::Status with the same code and message.
// A call that succeeds may still hold inputs that failed alone: see ResultInfo.status in
// thresher.proto.
//
// Thread-safe: one Client serves any number of threads over one connection.
#ifndef THRESHER_CLIENT_CLIENT_H_
#define THRESHER_CLIENT_CLIENT_H_

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/rpcs.h"

namespace thresher::client {

/// Attempts that fail with UNAVAILABLE (the server is starting, draining or gone) or
/// RESOURCE_EXHAUSTED (its queue is full) are repeated by gRPC within the call's deadline, after a
/// random time that grows, or after the pause that the server asks for in its answer
/// (`grpc-retry-pushback-ms`; a negative one forbids it). When most attempts fail, retries are
/// throttled for a while, so that clients don't keep an overloaded server down. Loading and
/// unloading a model is never repeated.
struct RetryPolicy {
  int max_attempts = 4;  // 1: never again. gRPC allows 5 at most.
  absl::Duration initial_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(2);
  double backoff_multiplier = 2;
};

/// A connection under TLS. Files are PEM, and read by Connect.
struct TlsOptions {
  std::string ca_file;      // Whose word is taken for the server; empty: the system's authorities.
  std::string cert_file;    // The client's certificate and chain, where the server asks for one,
  std::string key_file;     // and its private key.
  std::string server_name;  // What the server's certificate must say; empty: its host.
};

struct ClientOptions {
  /// HOST:PORT, or any target that gRPC can name (`unix:/path`, `dns:///host:port`).
  std::string server = "127.0.0.1:8001";
  /// For each call that does not set its own; absl::InfiniteDuration(): none.
  absl::Duration deadline = absl::Seconds(10);
  RetryPolicy retry;
  /// The largest response that is accepted. The server limits the requests.
  int32_t max_message_bytes = 64 << 20;
  std::optional<TlsOptions> tls;  // Unset: plain text.
  /// Sent with every call (`authorization: Bearer TOKEN`), where it is not empty; without TLS it
  /// can be read on the way.
  std::string token;
};

struct CallOptions {
  /// From now to the answer, all attempts included. Unset: the client's.
  std::optional<absl::Duration> deadline;
  /// When a stop is requested, the call ends with CANCELLED and the server drops its work.
  std::stop_token stop;
};

/// The service configuration that Connect gives to gRPC, as JSON.
std::string ServiceConfig(const RetryPolicy& retry);

class Client {
 public:
  template <typename Request>
  using Result = absl::StatusOr<typename Rpc<Request>::Response>;
  template <typename Request>
  using Callback = std::function<void(Result<Request>)>;

  /// INVALID_ARGUMENT for options that make no sense and files that can't be read. Does not wait
  /// for the server: a server that is not there shows as UNAVAILABLE in the first call, and may
  /// come back at any time.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(ClientOptions options);

  /// Cancels what is in flight and waits until the last callback has returned; so don't destroy a
  /// client in one of its callbacks.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Sends the request and waits for the answer on the caller's thread, which must not be in a
  /// callback of this client.
  template <typename Request>
  Result<Request> Call(const Request& request, const CallOptions& options = {});

  /// Sends the request and returns at once. `done` runs exactly once, on a thread of gRPC (or in
  /// the request_stop that cancels the call) which it must not hold up, perhaps before CallAsync
  /// has returned.
  template <typename Request>
  void CallAsync(Request request, Callback<Request> done, const CallOptions& options = {});

  template <typename Request>
  std::future<Result<Request>> CallAsync(Request request, const CallOptions& options = {}) {
    auto promise = std::make_shared<std::promise<Result<Request>>>();
    CallAsync<Request>(
        std::move(request),
        [promise](Result<Request> result) { promise->set_value(std::move(result)); }, options);
    return promise->get_future();
  }

  /// Sends the request and hands each message of the answer to `take` as it comes, on the caller's
  /// thread, which must not be in a callback of this client. False from `take` ends the call with
  /// CANCELLED. While `take` has not returned, at most a window's worth more is sent, and then the
  /// server waits. A call is retried only until its first message.
  absl::Status Generate(const v1::GenerateRequest& request,
                        absl::FunctionRef<bool(const v1::GenerateResponse&)> take,
                        const CallOptions& options = {});

  /// As Generate, but returns at once. `take` gets each message, and then `done` runs exactly once,
  /// on threads of gRPC which they must not hold up, one at a time, perhaps before GenerateAsync
  /// has returned.
  void GenerateAsync(v1::GenerateRequest request,
                     std::function<void(const v1::GenerateResponse&)> take,
                     std::function<void(absl::Status)> done, const CallOptions& options = {});

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher::client

#endif  // THRESHER_CLIENT_CLIENT_H_
