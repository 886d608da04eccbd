#include "server/http_server.h"

#include <civetweb.h>
#include <netdb.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/time/clock.h"
#include "backend/scheduler/clock.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"
#include "server/address.h"
#include "server/client_socket.h"
#include "server/tls_front.h"

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

std::map<std::string, std::string, std::less<>> Headers(const mg_request_info& info) {
  std::map<std::string, std::string, std::less<>> headers;
  for (int i = 0; i < info.num_headers; ++i) {
    std::string name = info.http_headers[i].name;
    for (char& letter : name) {
      letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    }
    const char* const value = info.http_headers[i].value;
    std::string& joined = headers[name];
    joined += (joined.empty() ? "" : ", ") + std::string(value == nullptr ? "" : value);
  }
  return headers;
}

/// Sends a body of unknown length: in chunks, or to an old client as it is, up to the hang-up.
class StreamWriter final : public HttpWriter {
 public:
  StreamWriter(mg_connection* connection, bool chunked)
      : connection_(connection), chunked_(chunked) {}

  bool Write(std::string_view piece) override {
    if (piece.empty()) return !broken_;  // An empty chunk would be the last.
    if (!chunked_) return Send(piece);
    return Send(fmt::format("{:x}\r\n{}\r\n", piece.size(), piece));
  }
  /// Whatever is written from now on is lost.
  void Break() { broken_ = true; }
  void End() {
    if (chunked_) Send("0\r\n\r\n");
  }

 private:
  bool Send(std::string_view bytes) {
    if (broken_) return false;
    const int sent = mg_write(connection_, bytes.data(), bytes.size());
    broken_ = sent < 0 || static_cast<size_t>(sent) < bytes.size();
    return !broken_;
  }

  mg_connection* const connection_;
  const bool chunked_;
  bool broken_ = false;
};

/// Where CivetWeb wants the place of its error code (until 1.15); later it holds the code itself.
template <typename ErrorData>
void SetCode(unsigned* code, ErrorData* error) {
  if constexpr (std::is_pointer_v<decltype(error->code)>) error->code = code;
}

}  // namespace

std::string_view HttpRequest::Header(std::string_view name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string_view() : found->second;
}

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
    stopping_ = true;
    front_.reset();
    Mutex mutex;
    CondVar changed;
    bool stopped = false;
    std::thread knocker([&] {
      MutexLock lock(&mutex);
      while (!stopped) {
        Knock(behind_);
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

  bool WaitIdle(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (calls_ > 0) {
      const absl::Duration left = deadline - Clock::Real()->Now();
      if (left <= absl::ZeroDuration()) return false;
      idle_.WaitWithTimeout(&mutex_, left);
    }
    return true;
  }

 private:
  /// A place among the requests for work that run.
  class Call {
   public:
    explicit Call(Impl* server) : server_(server) {
      MutexLock lock(&server_->mutex_);
      taken_ = server_->calls_ < server_->options_.max_calls;
      if (taken_) ++server_->calls_;
    }
    ~Call() {
      if (!taken_) return;
      MutexLock lock(&server_->mutex_);
      if (--server_->calls_ == 0) server_->idle_.SignalAll();
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    bool taken() const { return taken_; }

   private:
    Impl* const server_;
    bool taken_ = false;
  };

  absl::Status Listen() {
    behind_ = address_;
    if (options_.tls != nullptr) {
      TlsFrontOptions options;
      options.listen = ToString(address_);
      options.tls = options_.tls;
      options.max_connections = options_.threads + options_.max_calls + kQueue;
      THRESHER_ASSIGN_OR_RETURN(front_, TlsFront::Start(options));
      behind_ = {"127.0.0.1", 0};
    }
    const std::string listen = ToString(behind_);
    const std::string threads = std::to_string(options_.threads + options_.max_calls);
    const std::string timeout = std::to_string(absl::ToInt64Milliseconds(options_.timeout));
    const std::string header_bytes = std::to_string(kHeaderBytes);
    const std::string queue = std::to_string(kQueue);
    // One request a connection: an idle one that is kept alive would hold a thread.
    std::array<const char*, 15> settings = {"listening_ports",
                                            listen.c_str(),
                                            "num_threads",
                                            threads.c_str(),
                                            "request_timeout_ms",
                                            timeout.c_str(),
                                            "max_request_size",
                                            header_bytes.c_str(),
                                            "enable_keep_alive",
                                            "no",
                                            "connection_queue",
                                            queue.c_str(),
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
    behind_.port = port.port;
    if (front_ != nullptr) front_->Forward(behind_.port);
    address_ = front_ != nullptr ? front_->address() : behind_;
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

  static int OnRequest(mg_connection* connection) { return Self(connection).Serve(connection); }

  /// Returns the status that was sent.
  int Serve(mg_connection* connection) {
    const mg_request_info& info = *mg_get_request_info(connection);
    ClientSocket socket(info);
    const bool head = std::string_view(info.request_method) == "HEAD";
    HttpRequest request;
    request.method = head ? "GET" : info.request_method;
    if (info.local_uri != nullptr) request.path = info.local_uri;
    if (info.query_string != nullptr) request.query = info.query_string;
    request.headers = Headers(info);
    request.gone = [this, &socket] { return stopping_ || socket.Closed(); };
    const absl::Time begin = Clock::Real()->Now();
    const CallIdentity identity = options_.access_log.Begin(
        MethodOf(request), request.Header("x-request-id"), request.Header("traceparent"));
    const std::optional<TlsFront::Peer> peer = PeerOf(info);
    std::string caller;

    std::set<std::string> allowed;
    std::optional<Call> call;  // Until the answer has been sent.
    HttpResponse response = [&] {
      const auto route = FindRoute(request, &allowed);
      const Door door = route.ok() ? route.found->door : Door::kClosed;
      if (auto refused = Authorize(request, peer, door, &caller)) {
        allowed.clear();
        return *std::move(refused);
      }
      if (!route.ok()) return *route.error;
      if (route.found->work && !call.emplace(this).taken()) {
        HttpResponse full = HttpError(503, fmt::format("{} calls are under way, which is as many "
                                                       "as are taken here; come again",
                                                       options_.max_calls));
        full.headers.emplace_back("Retry-After", "1");
        return full;
      }
      return Respond(*route.found, connection, info, socket, &request);
    }();
    // Or it would read what is left of the body, for as long as the client cares to send.
    mg_disable_keep_alive(connection);
    response.headers.emplace_back("X-Request-Id", identity.request_id);
    if (std::string trace = identity.TraceResponse(); !trace.empty()) {
      response.headers.emplace_back("traceresponse", std::move(trace));
    }
    Write(connection, response, allowed, !head);
    if (options_.access_log.Wants(identity)) {
      options_.access_log.End({.front = "http",
                               .method = MethodOf(request),
                               .status = std::to_string(response.status),
                               .time = Clock::Real()->Now() - begin,
                               .identity = identity,
                               .caller = caller,
                               .peer = peer ? peer->address : ""});
    }
    return response.status;
  }

  /// For logs: a path is the caller's words, and may be long.
  static std::string MethodOf(const HttpRequest& request) {
    return request.method + " " + request.path.substr(0, 200);
  }

  /// Nothing: somebody on this machine found the port behind the front.
  std::optional<TlsFront::Peer> PeerOf(const mg_request_info& info) const {
    if (front_ != nullptr) return front_->PeerOf(info.remote_port);
    return TlsFront::Peer{info.remote_addr, ""};
  }

  /// What to answer a caller who may not ask for this.
  std::optional<HttpResponse> Authorize(const HttpRequest& request,
                                        const std::optional<TlsFront::Peer>& peer, Door door,
                                        std::string* caller) const {
    if (!peer) return HttpError(403, "this port is not for you");
    if (options_.authorizer == nullptr) return std::nullopt;
    const bool certified = options_.tls == nullptr || options_.tls->paths().client_ca.empty() ||
                           !peer->certificate.empty();
    const std::string method = MethodOf(request);
    AuthAttempt attempt = {.front = "http",
                           .door = door,
                           .method = method,
                           .peer = peer->address,
                           .certified = certified};
    const auto authorization = request.headers.find("authorization");
    if (authorization != request.headers.end()) attempt.authorization = authorization->second;
    const auto checked = options_.authorizer->Check(attempt);
    if (checked.ok()) {
      *caller = *checked;
      return std::nullopt;
    }
    HttpResponse refused = HttpError(certified ? 401 : 403, Message(checked.status()));
    if (certified) refused.headers.emplace_back("WWW-Authenticate", "Bearer realm=\"thresher\"");
    return refused;
  }

  /// The route, or what to answer without one.
  struct Choice {
    const HttpRoute* found = nullptr;
    std::optional<HttpResponse> error;
    bool ok() const { return found != nullptr; }
  };
  /// Where only the method is wrong, `allowed` tells those there are.
  Choice FindRoute(const HttpRequest& request, std::set<std::string>* allowed) const {
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
    if (longest == 0) return {nullptr, HttpError(404, fmt::format("nothing at {}", request.path))};
    if (chosen == nullptr) {
      if (allowed->contains("GET")) allowed->insert("HEAD");
      return {nullptr, HttpError(405, fmt::format("{} does not take {}; it takes {}", request.path,
                                                  request.method, fmt::join(*allowed, ", ")))};
    }
    allowed->clear();
    return {chosen, std::nullopt};
  }

  HttpResponse Respond(const HttpRoute& route, mg_connection* connection,
                       const mg_request_info& info, ClientSocket& socket,
                       HttpRequest* request) const {
    if (TakesBody(request->method)) {
      if (request->Header("expect") == "100-continue") {
        constexpr std::string_view kGoOn = "HTTP/1.1 100 Continue\r\n\r\n";
        mg_write(connection, kGoOn.data(), kGoOn.size());
      }
      const std::optional<HttpResponse> error = ReadBody(connection, info, socket, &request->body);
      if (error.has_value()) return *error;
    }
    try {
      return route.handler(*request);
    } catch (const std::exception& error) {
      spdlog::error("http: {} {}: {}", request->method, request->path, error.what());
      return HttpError(500, error.what());
    }
  }

  std::optional<HttpResponse> ReadBody(mg_connection* connection, const mg_request_info& info,
                                       ClientSocket& socket, std::string* body) const {
    const auto too_large = [this] {
      return HttpError(413,
                       fmt::format("the body may have at most {} bytes", options_.max_body_bytes));
    };
    if (info.content_length > static_cast<long long>(options_.max_body_bytes)) return too_large();
    // CivetWeb waits until the buffer is full, and its timeout starts anew with each byte: the
    // deadline is for all of them, and a small buffer lets it be seen in time. Of a long body more
    // is asked for where it is known to be there; what is not on the socket is encrypted, or has
    // been read with the headers.
    const absl::Time deadline = absl::Now() + options_.timeout;
    std::array<char, 32768> buffer;
    for (;;) {
      size_t step = kSmallStep;
      if (info.content_length > 0 && info.is_ssl == 0 && body->size() >= kHeaderBytes &&
          body->size() < static_cast<size_t>(info.content_length)) {
        const int there = socket.Await(deadline - absl::Now()).value_or(1);
        step = std::clamp(static_cast<size_t>(there), size_t{1}, buffer.size());
      }
      const int count = mg_read(connection, buffer.data(), step);
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

  static std::string_view Reason(mg_connection* connection, int status) {
    // A server's log knows it by this name; CivetWeb does not know it.
    if (status == 499) return "Client Closed Request";
    return mg_get_response_code_text(connection, status);
  }

  static void Write(mg_connection* connection, const HttpResponse& response,
                    const std::set<std::string>& allowed, bool with_body) {
    const char* const version = mg_get_request_info(connection)->http_version;
    const bool chunked = version != nullptr && std::string_view(version) != "1.0";
    std::string text = fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\n", response.status,
                                   Reason(connection, response.status), response.content_type);
    if (response.stream == nullptr) {
      text += fmt::format("Content-Length: {}\r\n", response.body.size());
    } else if (chunked) {
      text += "Transfer-Encoding: chunked\r\n";
    }
    text += "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n";
    for (const auto& [name, value] : response.headers)
      text += fmt::format("{}: {}\r\n", name, value);
    if (!allowed.empty()) text += fmt::format("Allow: {}\r\n", fmt::join(allowed, ", "));
    text += "\r\n";
    if (with_body) text += response.body;
    const int sent = mg_write(connection, text.data(), text.size());
    if (response.stream == nullptr || !with_body) return;
    StreamWriter writer(connection, chunked);
    if (sent < static_cast<int>(text.size())) writer.Break();
    try {
      response.stream(writer);
    } catch (const std::exception& error) {
      // A stream that ends without its last chunk is seen to be broken.
      spdlog::error("http: {}", error.what());
      return;
    }
    writer.End();
  }

  static constexpr int kQueue = 64;              // Connections that wait for a thread.
  static constexpr size_t kHeaderBytes = 16384;  // Of one request; what comes with them may follow.
  static constexpr size_t kSmallStep = 64;

  Library library_;
  const HttpServerOptions options_;
  const std::vector<HttpRoute> routes_;
  Address address_;
  std::unique_ptr<TlsFront> front_;  // With TLS.
  Address behind_;                   // Where CivetWeb listens: at address_, or behind the front.
  std::atomic<bool> stopping_ = false;
  Mutex mutex_;  // Guards the next four.
  bool starting_ = true;
  std::string start_log_;  // What was logged first while it started.
  int calls_ = 0;          // Requests for work that run.
  CondVar idle_;
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
bool HttpServer::WaitIdle(absl::Time deadline) { return impl_->WaitIdle(deadline); }

}  // namespace thresher
