// The HTTP front with TLS, client certificates and tokens.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "server/authorizer.h"
#include "server/http_server.h"
#include "server/pem.h"
#include "server/tls_files.h"
#include "tests/testing/certificates.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using testing::CertificateAuthority;
using ::testing::HasSubstr;
using testing::PemPair;
using ::testing::StartsWith;

constexpr char kToken[] = "aaaaaaaaaaaaaaaaaaaa";

class HttpsTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = (directory_.path() / name).string();
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
    return path;
  }

  void UseTokens() {
    Authorizer::Options options;
    options.tokens = Write("tokens", std::string("search:") + kToken);
    Open(std::move(options));
  }
  void Open(Authorizer::Options options) {
    auto authorizer = Authorizer::Open(std::move(options));
    ASSERT_TRUE(authorizer.ok()) << authorizer.status();
    authorizer_ = *std::move(authorizer);
  }

  void UseTls(const PemPair& server, const std::string& client_ca = "") {
    auto tls = TlsFiles::Open({Write("cert", server.certificate), Write("key", server.key),
                               client_ca.empty() ? "" : Write("ca", client_ca)});
    ASSERT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
  }

  void Start() {
    HttpServerOptions options;
    options.listen = "127.0.0.1:0";
    options.threads = 4;
    options.tls = tls_.get();
    options.authorizer = authorizer_.get();
    std::vector<HttpRoute> routes(3);
    routes[0] = {"GET", "/closed", [](const HttpRequest&) { return HttpResponse{.body = "in"}; }};
    routes[1] = {"GET", "/open", [](const HttpRequest&) { return HttpResponse{.body = "out"}; }};
    routes[1].door = Door::kHealth;
    routes[2] = {"POST", "/echo",
                 [](const HttpRequest& request) { return HttpResponse{.body = request.body}; }};
    auto server = HttpServer::Start(options, std::move(routes));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  /// A socket to the server.
  int Dial() const {
    const int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(file, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return file;
  }

  /// The whole answer; empty if there is no TLS connection.
  std::string Ask(const std::string& request, const std::string& ca, const PemPair& client = {},
                  int newest = TLS1_3_VERSION) const {
    const std::unique_ptr<SSL_CTX, OpenSslFree<SSL_CTX_free>> context(
        SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_max_proto_version(context.get(), newest);
    const auto authorities = ParseCertificates(ca, "ca");
    for (const Certificate& authority : *authorities) {
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), authority.get());
    }
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    if (!client.key.empty()) {
      SSL_CTX_use_certificate(context.get(),
                              (*ParseCertificates(client.certificate, "client"))[0].get());
      SSL_CTX_use_PrivateKey(context.get(), ParsePrivateKey(client.key, "client")->get());
    }
    const std::unique_ptr<SSL, OpenSslFree<SSL_free>> session(SSL_new(context.get()));
    const int file = Dial();
    SSL_set_fd(session.get(), file);
    std::string answer;
    if (SSL_connect(session.get()) == 1 &&
        SSL_write(session.get(), request.data(), static_cast<int>(request.size())) > 0) {
      char block[8192];
      for (int count; (count = SSL_read(session.get(), block, sizeof(block))) > 0;) {
        answer.append(block, static_cast<size_t>(count));
      }
    }
    close(file);
    return answer;
  }
  std::string Get(const std::string& path, const std::string& headers = "",
                  const PemPair& client = {}) const {
    return Ask("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n",
               authority_.pem(), client);
  }

  testing::TempDir directory_;
  CertificateAuthority authority_{"authority"};
  std::unique_ptr<Authorizer> authorizer_;
  std::unique_ptr<TlsFiles> tls_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpsTest, ServesTlsAlone) {
  UseTls(authority_.Issue("server"));
  Start();
  EXPECT_THAT(Get("/closed"), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("\r\n\r\nin")));
  EXPECT_THAT(Ask("GET /open HTTP/1.0\r\n\r\n", authority_.pem(), {}, TLS1_2_VERSION),
              StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(Ask("GET /open HTTP/1.0\r\n\r\n", authority_.pem(), {}, TLS1_1_VERSION), "");
  EXPECT_EQ(Ask("GET /open HTTP/1.0\r\n\r\n", CertificateAuthority("other").pem()), "");
  // Plain text is hung up on.
  const int plain = Dial();
  const std::string request = "GET /open HTTP/1.0\r\n\r\n";
  ASSERT_EQ(write(plain, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string said;
  char block[256];
  for (ssize_t count; (count = read(plain, block, sizeof(block))) > 0;) {
    said.append(block, static_cast<size_t>(count));
  }
  close(plain);
  EXPECT_THAT(said, ::testing::Not(HasSubstr("HTTP/1.1 200")));
}

TEST_F(HttpsTest, LargeBodiesGoBothWays) {
  UseTls(authority_.Issue("server"));
  Start();
  std::string body(1 << 20, 'x');
  for (size_t i = 0; i < body.size(); i += 7) body[i] = static_cast<char>('a' + i % 26);
  const std::string answer =
      Ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body,
          authority_.pem());
  EXPECT_THAT(answer.substr(0, 15), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(answer.ends_with(body));
}

TEST_F(HttpsTest, OnlyClosedDoorsNeedACertificate) {
  const CertificateAuthority clients("clients");
  UseTls(authority_.Issue("server"), clients.pem());
  Open({});
  Start();
  EXPECT_THAT(Get("/closed", "", clients.Issue("client")), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/closed"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Get("/open"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(Get("/open", "", authority_.Issue("client")), "") << "of another authority";
}

TEST_F(HttpsTest, ANewCertificateServesNewConnections) {
  UseTls(authority_.Issue("server"));
  Start();
  EXPECT_THAT(Get("/open"), StartsWith("HTTP/1.1 200"));
  const CertificateAuthority next("next");
  const PemPair server = next.Issue("server");
  Write("cert", server.certificate);
  Write("key", server.key);
  ASSERT_TRUE(tls_->Reload().ok());
  EXPECT_EQ(Get("/open"), "");
  EXPECT_THAT(Ask("GET /open HTTP/1.0\r\n\r\n", next.pem()), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpsTest, ClosedDoorsNeedAToken) {
  UseTokens();
  UseTls(authority_.Issue("server"));
  Start();
  const std::string missing = Get("/closed");
  EXPECT_THAT(missing, AllOf(StartsWith("HTTP/1.1 401"), HasSubstr("WWW-Authenticate: Bearer")));
  EXPECT_THAT(Get("/closed", "Authorization: Bearer wrong\r\n"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(Get("/closed", std::string("Authorization: Bearer ") + kToken + "\r\n"),
              StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/open"), StartsWith("HTTP/1.1 200"));
  // Whoever may not call is not told what there is to call.
  EXPECT_THAT(Get("/nothing"), StartsWith("HTTP/1.1 401"));
  // Which of two counts must not be a guess.
  const std::string right = std::string("Authorization: Bearer ") + kToken + "\r\n";
  EXPECT_THAT(Get("/closed", right + right), StartsWith("HTTP/1.1 401"));
}

TEST_F(HttpsTest, AnswersHaveTheCallersIds) {
  UseTls(authority_.Issue("server"));
  Start();
  EXPECT_THAT(Get("/open", "X-Request-Id: mine-1\r\n"), HasSubstr("X-Request-Id: mine-1\r\n"));
  EXPECT_THAT(Get("/open"), ::testing::ContainsRegex("X-Request-Id: [0-9a-f]+\r\n"));
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  EXPECT_THAT(Get("/open", "traceparent: 00-" + trace + "-b7ad6b7169203331-01\r\n"),
              HasSubstr("traceresponse: 00-" + trace + "-"));
  EXPECT_THAT(Get("/open", "traceparent: 00-" + trace + "-0000000000000000-01\r\n"),
              ::testing::Not(HasSubstr("traceresponse")));
}

}  // namespace
}  // namespace thresher
