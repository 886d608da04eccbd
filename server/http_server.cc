#include "server/http_server.h"

#include <civetweb.h>
#include <netdb.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/time/clock.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"
#include "server/address.h"

namespace thresher {
namespace {

/// CivetWeb's library-wide state, counted by it.
class Library {
 public:
  Library() { mg_init_library(MG_FEATURES_DEFAULT); }
  ~Library() { mg_exit_library(); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
};

/// Connects and hangs up.
void Knock(const Address& address) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(address.port);
  if (getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found) != 0) return;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int file = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (file < 0) continue;
    connect(file, at->ai_addr, at->ai_addrlen);
    close(file);
  }
  freeaddrinfo(found);
}

bool Matches(const std::string& pattern, std::string_view path) {
  if (!pattern.ends_with('*')) return path == pattern;
  return path.starts_with(std::string_view(pattern).substr(0, pattern.size() - 1));
}

bool TakesBody(std::string_view method) {
  return method == "POST" || method == "PUT" || method == "PATCH";
}

/// Where CivetWeb wants the place of its error code (until 1.15); later it holds the code itself.
template <typename ErrorData>
void SetCode(unsigned* code, ErrorData* error) {
  if constexpr (std::is_pointer_v<decltype(error->code)>) error->code = code;
}

}  // namespace

HttpResponse HttpError(int status, std::string_view message) {
  nlohmann::json json;
  json["error"] = message;
  const auto replace = nlohmann::json::error_handler_t::replace;
  return {status, "application/json", json.dump(-1, ' ', false, replace) + "\n"};
}

class HttpServer::Impl {
 public:
  static absl::StatusOr<std::unique_ptr<Impl>> Start(const HttpServerOptions& options,
                                                     std::vector<HttpRoute> routes) {
    THRESHER_ASSIGN_OR_RETURN(Address address, ParseAddress(options.listen));
    auto impl = std::make_unique<Impl>(options, std::move(routes), std::move(address));
    THRESHER_RETURN_IF_ERROR(impl->Listen());
    return impl;
  }

  Impl(const HttpServerOptions& options, std::vector<HttpRoute> routes, Address address)
      : options_(options), routes_(std::move(routes)), address_(std::move(address)) {}

  /// CivetWeb's accepting thread looks for a stop every two seconds only, or when somebody comes:
  /// so somebody does.
  ~Impl() {
    if (context_ == nullptr) return;
    Mutex mutex;
    CondVar changed;
    bool stopped = false;
    std::thread knocker([&] {
      MutexLock lock(&mutex);
      while (!stopped) {
        Knock(address_);
        changed.WaitWithTimeout(&mutex, absl::Milliseconds(10));
      }
    });
    mg_stop(context_);
    {
      MutexLock lock(&mutex);
      stopped = true;
      changed.SignalAll();
    }
    knocker.join();
  }

  const Address& address() const { return address_; }

 private:
  absl::Status Listen() {
    const std::string listen = ToString(address_);
    const std::string threads = std::to_string(options_.threads);
    const std::string timeout = std::to_string(absl::ToInt64Milliseconds(options_.timeout));
    // One request a connection: an idle one that is kept alive would hold a thread.
    std::array<const char*, 15> settings = {"listening_ports",
                                            listen.c_str(),
                                            "num_threads",
                                            threads.c_str(),
                                            "request_timeout_ms",
                                            timeout.c_str(),
                                            "max_request_size",
                                            "16384",
                                            "enable_keep_alive",
                                            "no",
                                            "connection_queue",
                                            "64",
                                            "tcp_nodelay",
                                            "1",
                                            nullptr};
    mg_callbacks callbacks = {};
    callbacks.begin_request = &OnRequest;
    callbacks.http_error = &OnError;
    callbacks.log_message = &OnLog;
    std::array<char, 512> text = {};
    unsigned code = 0;
    mg_error_data error = {};
    SetCode(&code, &error);
    error.text = text.data();
    error.text_buffer_size = text.size();
    mg_init_data init = {&callbacks, this, settings.data()};
    context_ = mg_start2(&init, &error);
    if (context_ == nullptr) {
      return Unavailable("can't listen on {}: {}", listen, StartError(text.data()));
    }
    {
      MutexLock lock(&mutex_);
      starting_ = false;
    }
    mg_server_port port = {};
    if (mg_get_server_ports(context_, 1, &port) < 1) {
      return Internal("can't tell the port of {}", listen);
    }
    address_.port = port.port;
    return absl::OkStatus();
  }

  /// The cause as CivetWeb logged it, which says more than its error.
  std::string StartError(std::string_view text) {
    MutexLock lock(&mutex_);
    const std::string cause = start_log_.empty() ? std::string(text) : start_log_;
    return cause.empty() ? "unknown reason" : cause;
  }

  static Impl& Self(const mg_connection* connection) {
    return *static_cast<Impl*>(mg_get_user_data(mg_get_context(connection)));
  }

  static int OnLog(const mg_connection* connection, const char* message) {
    Impl& self = Self(connection);
    MutexLock lock(&self.mutex_);
    if (self.starting_ && self.start_log_.empty()) {
      self.start_log_ = message;
    } else {
      spdlog::warn("http: {}", message);
    }
    return 1;
  }

  /// CivetWeb found the request wrong before it came to OnRequest.
  static int OnError(mg_connection* connection, int status, const char* message) {
    Write(connection, HttpError(status, message == nullptr ? "" : message), {}, true);
    return 0;
  }

  static int OnRequest(mg_connection* connection) {
    const mg_request_info& info = *mg_get_request_info(connection);
    const std::string_view method = info.request_method;
    const bool head = method == "HEAD";
    std::set<std::string> allowed;
    const HttpResponse response = Self(connection).Respond(connection, info, &allowed);
    // Or it would read what is left of the body, for as long as the client cares to send.
    mg_disable_keep_alive(connection);
    Write(connection, response, allowed, !head);
    return response.status;
  }

  HttpResponse Respond(mg_connection* connection, const mg_request_info& info,
                       std::set<std::string>* allowed) const {
    HttpRequest request;
    request.method = info.request_method;
    if (request.method == "HEAD") request.method = "GET";
    if (info.local_uri != nullptr) request.path = info.local_uri;
    if (info.query_string != nullptr) request.query = info.query_string;

    const HttpRoute* chosen = nullptr;
    size_t longest = 0;
    for (const HttpRoute& route : routes_) {
      if (!Matches(route.path, request.path) || route.path.size() < longest) continue;
      if (route.path.size() > longest) {
        longest = route.path.size();
        chosen = nullptr;
        allowed->clear();
      }
      allowed->insert(route.method);
      if (route.method == request.method) chosen = &route;
    }
    if (longest == 0) return HttpError(404, fmt::format("nothing at {}", request.path));
    if (chosen == nullptr) {
      if (allowed->contains("GET")) allowed->insert("HEAD");
      return HttpError(405, fmt::format("{} does not take {}; it takes {}", request.path,
                                        request.method, fmt::join(*allowed, ", ")));
    }
    allowed->clear();
    if (TakesBody(request.method)) {
      const std::optional<HttpResponse> error = ReadBody(connection, info, &request.body);
      if (error.has_value()) return *error;
    }
    try {
      return chosen->handler(request);
    } catch (const std::exception& error) {
      spdlog::error("http: {} {}: {}", request.method, request.path, error.what());
      return HttpError(500, error.what());
    }
  }

  std::optional<HttpResponse> ReadBody(mg_connection* connection, const mg_request_info& info,
                                       std::string* body) const {
    const auto too_large = [this] {
      return HttpError(413,
                       fmt::format("the body may have at most {} bytes", options_.max_body_bytes));
    };
    if (info.content_length > static_cast<long long>(options_.max_body_bytes)) return too_large();
    // CivetWeb waits until the buffer is full, and its timeout starts anew with each byte: the
    // deadline is for all of them, and a small buffer lets it be seen in time.
    const absl::Time deadline = absl::Now() + options_.timeout;
    std::array<char, 64> buffer;
    for (;;) {
      const int count = mg_read(connection, buffer.data(), buffer.size());
      if (count < 0 || absl::Now() > deadline) {
        return HttpError(408, "the body did not arrive in time");
      }
      if (count == 0) break;
      body->append(buffer.data(), static_cast<size_t>(count));
      if (body->size() > options_.max_body_bytes) return too_large();
    }
    if (info.content_length > 0 && body->size() < static_cast<size_t>(info.content_length)) {
      return HttpError(400, "the body is shorter than its Content-Length");
    }
    return std::nullopt;
  }

  static void Write(mg_connection* connection, const HttpResponse& response,
                    const std::set<std::string>& allowed, bool with_body) {
    std::string text = fmt::format(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n",
        response.status, mg_get_response_code_text(connection, response.status),
        response.content_type, response.body.size());
    if (!allowed.empty()) text += fmt::format("Allow: {}\r\n", fmt::join(allowed, ", "));
    text += "\r\n";
    if (with_body) text += response.body;
    mg_write(connection, text.data(), text.size());
  }

  Library library_;
  const HttpServerOptions options_;
  const std::vector<HttpRoute> routes_;
  Address address_;
  Mutex mutex_;  // Guards the next two.
  bool starting_ = true;
  std::string start_log_;          // What was logged first while it started.
  mg_context* context_ = nullptr;  // Null unless it runs.
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              std::vector<HttpRoute> routes) {
  THRESHER_ASSIGN_OR_RETURN(auto impl, Impl::Start(options, std::move(routes)));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::port() const { return impl_->address().port; }
std::string HttpServer::address() const { return ToString(impl_->address()); }

}  // namespace thresher
