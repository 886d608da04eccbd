// A small HTTP/1.1 server for metrics, health and the like, on CivetWeb.
//
// It is built to be left open to strangers' patience: a bounded number of threads, a bounded size
// of headers and body, a bounded time for a client to send its request and to take its answer. Each
// connection serves one request, and a request has a thread to itself; those that do work, which
// may take long, never take the last of them from those that only look. Errors are JSON: {"error":
// "..."}.
#ifndef THRESHER_SERVER_HTTP_SERVER_H_
#define THRESHER_SERVER_HTTP_SERVER_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/access_log.h"
#include "server/authorizer.h"
#include "server/tls_files.h"

namespace thresher {

struct HttpRequest {
  std::string method;  // "GET"; a HEAD request arrives as GET.
  std::string path;    // Decoded, without the query.
  std::string query;   // As sent, without the '?'.
  std::string body;    // Only where the route's method takes one: POST, PUT, PATCH.
  /// Names in lower case; the values of one that was sent several times are joined by ", ".
  std::map<std::string, std::string, std::less<>> headers;
  /// Whether nobody waits for the answer any more: the client has hung up, or the server stops. For
  /// handlers that wait themselves, to be asked some times in a second; only during the call.
  std::function<bool()> gone = [] { return false; };

  /// A header's value; empty if it was not sent.
  std::string_view Header(std::string_view name) const;
};

/// Takes a body piece by piece.
class HttpWriter {
 public:
  virtual ~HttpWriter() = default;
  /// Sends a piece, and waits while the client takes its time. False: it took nothing for the
  /// server's timeout, or has gone; nothing more will be sent.
  virtual bool Write(std::string_view piece) = 0;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers = {};  // Beside those of every answer.
  /// Instead of `body`: called once the headers have been sent, on the same thread. What it writes
  /// is sent at once. The request lives until it returns.
  std::function<void(HttpWriter&)> stream = nullptr;
};

/// {"error": message} with a status.
HttpResponse HttpError(int status, std::string_view message);

/// Called on any of the server's threads, several at a time.
using HttpHandler = std::function<HttpResponse(const HttpRequest&)>;

/// What serves one method of one path. A path that ends in '*' serves all that begin like it; the
/// longest match wins. A path without a route is 404, one without this method 405.
struct HttpRoute {
  std::string method;
  std::string path;
  HttpHandler handler;
  /// It may take long. Of these only HttpServerOptions::max_calls run at a time.
  bool work = false;
  Door door = Door::kClosed;  // What HttpServerOptions::authorizer is asked about.
};

struct HttpServerOptions {
  std::string listen = "127.0.0.1:8002";  // HOST:PORT; port 0 picks a free one.
  int threads = 16;    // Requests at a time that are no work; more wait, then are refused.
  int max_calls = 64;  // Requests for work at a time; more are 503 at once, with Retry-After.
  size_t max_body_bytes = 16 << 20;
  absl::Duration timeout = absl::Seconds(5);  // To send a request; to take the answer.
  /// Null: plain text. Else TLS alone; where it has client authorities, routes behind a door that
  /// is not open need a certificate of theirs.
  const TlsFiles* tls = nullptr;
  /// Asked before a request's body is read, whether or not there is a route. Null: everybody may
  /// call.
  Authorizer* authorizer = nullptr;
  AccessLog access_log = AccessLog(/*info=*/false);
};

class HttpServer {
 public:
  /// INVALID_ARGUMENT: not an address. UNAVAILABLE: can't listen there, with the reason.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           std::vector<HttpRoute> routes);
  /// Stops to listen, tells the requests that run that nobody waits for them, and waits for them.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  /// HOST:PORT, with the port that was really taken.
  std::string address() const;

  /// Waits until no request for work runs, its answer sent; false: not by `deadline`, on
  /// Clock::Real(). They are still taken meanwhile.
  bool WaitIdle(absl::Time deadline);

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_HTTP_SERVER_H_
