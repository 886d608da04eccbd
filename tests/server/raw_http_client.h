// HTTP byte by byte, as a test wants it sent.
#ifndef THRESHER_TESTS_SERVER_RAW_HTTP_CLIENT_H_
#define THRESHER_TESTS_SERVER_RAW_HTTP_CLIENT_H_

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace thresher::testing {

/// A connection that sends what it is told.
class RawClient {
 public:
  explicit RawClient(int port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience = {30, 0};  // Only so that a failure does not hang.
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawClient() { close(socket_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }
  void Send(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return;  // The server has hung up, as it may.
      sent += static_cast<size_t>(count);
    }
  }
  void EndSending() { shutdown(socket_, SHUT_WR); }
  /// What comes until `text` is in it, or until the server closes; "(timeout)" at the end if
  /// neither happens.
  std::string ReceiveUntil(const std::string& text) {
    char buffer[4096];
    while (received_.find(text) == std::string::npos) {
      const ssize_t count = recv(socket_, buffer, sizeof(buffer), 0);
      if (count == 0) break;
      if (count < 0) {
        if (errno == EAGAIN) received_ += "(timeout)";
        break;
      }
      received_.append(buffer, static_cast<size_t>(count));
    }
    return std::exchange(received_, "");
  }
  /// All that comes until the server closes.
  std::string Receive() { return ReceiveUntil("(no server says this)"); }

 private:
  int socket_;
  bool connected_ = false;
  std::string received_;
};

struct HttpAnswer {
  int status = 0;
  std::string head;
  std::string body;  // Without the marks of its chunks.

  /// A header's value, as its name was written.
  std::string Header(const std::string& name) const {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const size_t begin = at + name.size() + 4;
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }
};

/// The content of a chunked body; "(broken)" at its end if its last chunk is missing.
inline std::string Unchunk(const std::string& body) {
  std::string all;
  for (size_t at = 0;;) {
    const size_t line = body.find("\r\n", at);
    if (line == std::string::npos) return all + "(broken)";
    const size_t size = std::stoul(body.substr(at, line - at), nullptr, 16);
    if (size == 0) return all;
    all += body.substr(line + 2, size);
    at = line + 2 + size + 2;
  }
}

inline HttpAnswer ParseAnswer(const std::string& text) {
  HttpAnswer answer;
  const size_t end = text.find("\r\n\r\n");
  answer.head = text.substr(0, end);
  if (end != std::string::npos) answer.body = text.substr(end + 4);
  if (text.starts_with("HTTP/1.1 ")) answer.status = std::stoi(text.substr(9, 3));
  if (answer.Header("Transfer-Encoding") == "chunked") answer.body = Unchunk(answer.body);
  return answer;
}

inline std::string GetText(const std::string& path, const std::string& headers = "") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n", path, headers);
}
inline std::string PostText(const std::string& path, const std::string& body,
                            const std::string& headers = "") {
  return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n{}", path,
                     body.size(), headers, body);
}

inline HttpAnswer AskHttp(int port, const std::string& request) {
  RawClient client(port);
  client.Send(request);
  return ParseAnswer(client.Receive());
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SERVER_RAW_HTTP_CLIENT_H_
