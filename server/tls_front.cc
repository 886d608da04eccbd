#include "server/tls_front.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <list>
#include <map>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "backend/scheduler/clock.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"
#include "server/listen.h"
#include "server/pem.h"
#include "server/tls_context.h"

namespace thresher {
namespace {

using Session = std::unique_ptr<SSL, OpenSslFree<SSL_free>>;

/// Bytes on their way.
class Pipe {
 public:
  bool empty() const { return begin_ == end_; }
  std::string_view bytes() const { return {data_.data() + begin_, end_ - begin_}; }
  void Drop(size_t count) { begin_ += count; }
  /// Room for new bytes, once the pipe is empty.
  std::array<char, 16384>& Refill() {
    begin_ = end_ = 0;
    return data_;
  }
  void Filled(size_t count) { end_ = count; }

 private:
  std::array<char, 16384> data_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

class File {
 public:
  explicit File(int file = -1) : file_(file) {}
  ~File() {
    if (file_ >= 0) close(file_);
  }
  File(File&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  int get() const { return file_; }

 private:
  int file_;
};

std::string HostOf(int connection) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  std::array<char, NI_MAXHOST> text = {};
  getpeername(connection, reinterpret_cast<sockaddr*>(&address), &size);
  getnameinfo(reinterpret_cast<sockaddr*>(&address), size, text.data(), text.size(), nullptr, 0,
              NI_NUMERICHOST);
  return text.data();
}

bool Later(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

/// A client, its counterpart behind, and what is between them. What poll must wait for is in
/// client_events and behind_events after each Pump.
class Connection {
 public:
  Connection(File client, Session session, absl::Time now)
      : client_(std::move(client)), session_(std::move(session)), last_progress_(now) {
    SSL_set_fd(session_.get(), client_.get());
    SSL_set_accept_state(session_.get());
    peer_.address = HostOf(client_.get());
  }

  int client() const { return client_.get(); }
  int behind() const { return behind_.get(); }
  int behind_port() const { return behind_port_; }
  const TlsFront::Peer& peer() const { return peer_; }
  bool open() const { return open_; }
  short client_events = 0;  // NOLINT(google-runtime-int): as poll has them.
  short behind_events = 0;  // NOLINT(google-runtime-int)

  /// Waits for nothing but its own client.
  bool idle() const { return !open_ || behind_ended_; }
  absl::Time last_progress() const { return last_progress_; }

  enum class Step { kWaits, kOpened, kEnded };
  /// Moves what can be moved. kOpened, once: the handshake is done, and Connect is wanted.
  Step Pump(absl::Time now) {
    client_events = behind_events = 0;
    ERR_clear_error();  // The queue is the thread's, and so of all connections.
    if (!open_) return Shake(now);
    bool moved = true;
    while (moved) {
      moved = false;
      client_events = behind_events = 0;
      if (!FromClient(&moved) || !ToBehind(&moved) || !FromBehind(&moved) || !ToClient(&moved)) {
        return Step::kEnded;
      }
      if (moved) last_progress_ = now;
      if (behind_ended_ && down_.empty()) {
        SSL_shutdown(session_.get());
        return Step::kEnded;
      }
    }
    return Step::kWaits;
  }

  /// False if there is nobody behind.
  bool Connect(int port) {
    behind_ = File(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(behind_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 &&
        errno != EINPROGRESS) {
      return false;
    }
    const int yes = 1;
    setsockopt(behind_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    socklen_t size = sizeof(address);
    getsockname(behind_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    behind_port_ = ntohs(address.sin_port);
    return true;
  }

 private:
  Step Shake(absl::Time now) {
    const int result = SSL_do_handshake(session_.get());
    if (result != 1) return Wait(result) ? Step::kWaits : Step::kEnded;
    open_ = true;
    last_progress_ = now;
    const Certificate certificate(SSL_get1_peer_certificate(session_.get()));
    if (certificate != nullptr && SSL_get_verify_result(session_.get()) == X509_V_OK) {
      peer_.certificate = SubjectOf(*certificate);
    }
    return Step::kOpened;
  }

  /// True if OpenSSL's call is to be repeated when the client's socket is ready.
  bool Wait(int result) {
    const int error = SSL_get_error(session_.get(), result);
    if (error == SSL_ERROR_WANT_READ) client_events |= POLLIN;
    if (error == SSL_ERROR_WANT_WRITE) client_events |= POLLOUT;
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
  }

  // Each false when the connection is broken.

  bool FromClient(bool* moved) {
    if (client_ended_ || !up_.empty()) return true;
    auto& room = up_.Refill();
    const int count = SSL_read(session_.get(), room.data(), static_cast<int>(room.size()));
    if (count > 0) {
      up_.Filled(static_cast<size_t>(count));
      *moved = true;
      return true;
    }
    if (Wait(count)) return true;
    if (SSL_get_error(session_.get(), count) != SSL_ERROR_ZERO_RETURN) return false;
    client_ended_ = true;
    shutdown(behind_.get(), SHUT_WR);
    return true;
  }

  bool ToBehind(bool* moved) {
    if (up_.empty()) return true;
    const std::string_view bytes = up_.bytes();
    const ssize_t count = send(behind_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0) {
      behind_events |= POLLOUT;
      // What was answered before it hung up is still to be read.
      if (errno == EPIPE || errno == ECONNRESET) up_.Drop(bytes.size());
      return Later(errno) || errno == ENOTCONN || up_.empty();
    }
    up_.Drop(static_cast<size_t>(count));
    *moved = true;
    return true;
  }

  bool FromBehind(bool* moved) {
    if (behind_ended_ || !down_.empty()) return true;
    auto& room = down_.Refill();
    const ssize_t count = recv(behind_.get(), room.data(), room.size(), 0);
    if (count < 0 && (Later(errno) || errno == ENOTCONN)) {
      behind_events |= POLLIN;
      return true;
    }
    if (count <= 0) {
      behind_ended_ = true;
      return true;
    }
    down_.Filled(static_cast<size_t>(count));
    *moved = true;
    return true;
  }

  bool ToClient(bool* moved) {
    if (down_.empty()) return true;
    const std::string_view bytes = down_.bytes();
    const int count = SSL_write(session_.get(), bytes.data(), static_cast<int>(bytes.size()));
    if (count <= 0) return Wait(count);
    down_.Drop(static_cast<size_t>(count));
    *moved = true;
    return true;
  }

  File client_;
  Session session_;
  File behind_;
  int behind_port_ = 0;
  TlsFront::Peer peer_;
  Pipe up_, down_;
  bool open_ = false;
  bool client_ended_ = false;
  bool behind_ended_ = false;
  absl::Time last_progress_;
};

}  // namespace

class TlsFront::Impl {
 public:
  Impl(const TlsFrontOptions& options, Address address, std::vector<int> listeners)
      : options_(options), address_(std::move(address)), stop_(eventfd(0, EFD_CLOEXEC)) {
    for (const int listener : listeners) listeners_.emplace_back(listener);
  }

  ~Impl() {
    const uint64_t one = 1;
    while (write(stop_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    if (thread_.joinable()) thread_.join();
  }

  void Forward(int port) {
    port_ = port;
    thread_ = std::thread([this] { Loop(); });
  }

  const Address& address() const { return address_; }

  std::optional<Peer> PeerOf(int port) const {
    MutexLock lock(&mutex_);
    const auto found = peers_.find(port);
    if (found == peers_.end()) return std::nullopt;
    return found->second;
  }

 private:
  void Loop() {
    std::vector<pollfd> files;
    for (;;) {
      const bool full = static_cast<int>(connections_.size()) >= options_.max_connections;
      // A descriptor of -1 is left out by poll.
      files.assign(1, {stop_.get(), POLLIN, 0});
      for (const File& listener : listeners_) {
        files.push_back({full ? -1 : listener.get(), POLLIN, 0});
      }
      for (const Connection& connection : connections_) {
        files.push_back({connection.client_events == 0 ? -1 : connection.client(),
                         connection.client_events, 0});
        files.push_back({connection.behind_events == 0 ? -1 : connection.behind(),
                         connection.behind_events, 0});
      }
      if (poll(files.data(), files.size(), connections_.empty() ? -1 : 1000) < 0 &&
          errno != EINTR) {
        spdlog::critical("HTTP accepts no more connections: poll: {}", std::strerror(errno));
        return;
      }
      if (files[0].revents != 0) return;
      const absl::Time now = Clock::Real()->Now();
      size_t at = 1 + listeners_.size();
      for (auto connection = connections_.begin(); connection != connections_.end(); at += 2) {
        const bool ready = files[at].revents != 0 || files[at + 1].revents != 0;
        const bool late =
            connection->idle() && now - connection->last_progress() > options_.timeout;
        const bool keep = ready ? Pump(*connection, now) : !late;
        if (keep) {
          ++connection;
        } else {
          connection = Remove(connection);
        }
      }
      for (size_t i = 0; i < listeners_.size(); ++i) {
        if (files[1 + i].revents != 0) Accept(files[1 + i].fd, now);
      }
    }
  }

  void Accept(int listener, absl::Time now) {
    File client(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (client.get() < 0) return;
    const auto identity = options_.tls->current();
    if (identity != identity_) {
      // It has been tried before.
      if (auto context = MakeTlsContext(*identity); context.ok()) context_ = *std::move(context);
      identity_ = identity;
    }
    Session session(SSL_new(context_.get()));
    if (session == nullptr) return;
    const int yes = 1;
    setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    Connection& connection = connections_.emplace_back(std::move(client), std::move(session), now);
    if (!Pump(connection, now)) Remove(std::prev(connections_.end()));
  }

  /// False when the connection is over.
  bool Pump(Connection& connection, absl::Time now) {
    Connection::Step step = connection.Pump(now);
    if (step == Connection::Step::kOpened) {
      if (!connection.Connect(port_)) return false;
      {
        MutexLock lock(&mutex_);
        peers_[connection.behind_port()] = connection.peer();
      }
      step = connection.Pump(now);
    }
    return step == Connection::Step::kWaits;
  }

  std::list<Connection>::iterator Remove(std::list<Connection>::iterator connection) {
    {
      // Before the port is free for others.
      MutexLock lock(&mutex_);
      peers_.erase(connection->behind_port());
    }
    return connections_.erase(connection);
  }

  const TlsFrontOptions options_;
  const Address address_;
  std::vector<File> listeners_;
  const File stop_;
  int port_ = 0;
  mutable Mutex mutex_;  // Guards the next.
  std::map<int, Peer> peers_;
  // The thread's:
  std::shared_ptr<const TlsIdentity> identity_;
  TlsContext context_;
  std::list<Connection> connections_;
  std::thread thread_;
};

TlsFront::TlsFront(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TlsFront::~TlsFront() = default;

absl::StatusOr<std::unique_ptr<TlsFront>> TlsFront::Start(const TlsFrontOptions& options) {
  THRESHER_ASSIGN_OR_RETURN(Address address, ParseAddress(options.listen));
  THRESHER_ASSIGN_OR_RETURN(std::vector<int> listeners, ListenOn(&address));
  return std::unique_ptr<TlsFront>(
      new TlsFront(std::make_unique<Impl>(options, std::move(address), std::move(listeners))));
}

void TlsFront::Forward(int port) { impl_->Forward(port); }
const Address& TlsFront::address() const { return impl_->address(); }
std::optional<TlsFront::Peer> TlsFront::PeerOf(int port) const { return impl_->PeerOf(port); }

}  // namespace thresher
