// A small HTTP/1.1 server for metrics, health and the like, on CivetWeb.
//
// It is built to be left open to strangers' patience: a bounded number of threads, a bounded size
// of headers and body, a bounded time for a client to send its request and to take its answer. Each
// connection serves one request. Errors are JSON: {"error": "..."}.
#ifndef THRESHER_SERVER_HTTP_SERVER_H_
#define THRESHER_SERVER_HTTP_SERVER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace thresher {

struct HttpRequest {
  std::string method;  // "GET"; a HEAD request arrives as GET.
  std::string path;    // Decoded, without the query.
  std::string query;   // As sent, without the '?'.
  std::string body;    // Only where the route's method takes one: POST, PUT, PATCH.
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
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
};

struct HttpServerOptions {
  std::string listen = "127.0.0.1:8002";  // HOST:PORT; port 0 picks a free one.
  int threads = 16;                       // Most requests at a time; more wait, then are refused.
  size_t max_body_bytes = 16 << 20;
  absl::Duration timeout = absl::Seconds(5);  // To send a request; to take the answer.
};

class HttpServer {
 public:
  /// INVALID_ARGUMENT: not an address. UNAVAILABLE: can't listen there, with the reason.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           std::vector<HttpRoute> routes);
  /// Stops to listen and waits for the requests that run.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  /// HOST:PORT, with the port that was really taken.
  std::string address() const;

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_HTTP_SERVER_H_
