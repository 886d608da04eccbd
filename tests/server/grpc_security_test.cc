// The gRPC front with TLS, client certificates, tokens and limits.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include "backend/tensor/status.h"
#include "server/authorizer.h"
#include "server/security_metrics.h"
#include "server/tls_files.h"
#include "tests/server/server_fixture.h"
#include "tests/testing/certificates.h"

namespace thresher {
namespace {

using grpc::StatusCode;
using testing::CertificateAuthority;
using ::testing::HasSubstr;
using testing::PemPair;

constexpr char kToken[] = "aaaaaaaaaaaaaaaaaaaa";

class GrpcSecurityTest : public testing::ServerTest {
 protected:
  void SetUp() override {}

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = (directory_.path() / name).string();
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
    return path;
  }

  void UseTokens() {
    Authorizer::Options options;
    options.tokens = Write("tokens", std::string("search:") + kToken);
    SecurityMetrics& security = metrics_.security();
    options.events.accepted = [&](std::string_view caller) { security.OnAccepted(caller); };
    options.events.refused = [&](std::string_view front, std::string_view reason) {
      security.OnRefused(front, reason);
    };
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

  void StartSecured(GrpcServerOptions options = {}) {
    options.tls = tls_.get();
    options.authorizer = authorizer_.get();
    Start({}, options);
  }

  std::shared_ptr<grpc::Channel> Dial(const std::shared_ptr<grpc::ChannelCredentials>& how) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(server_->address(), how, arguments);
  }
  std::shared_ptr<grpc::Channel> DialTls(const std::string& ca, const PemPair& client = {}) {
    return Dial(grpc::SslCredentials({ca, client.key, client.certificate}));
  }

  /// One call, with these authorization headers.
  static grpc::Status Call(const std::shared_ptr<grpc::Channel>& channel,
                           const std::vector<std::string>& authorizations = {}) {
    grpc::ClientContext context;
    for (const std::string& value : authorizations) context.AddMetadata("authorization", value);
    v1::ClassifyResponse response;
    return v1::Thresher::NewStub(channel)->Classify(&context, ClassifyRequest({"good"}), &response);
  }

  bool Tells(const std::string& metric) {
    return metrics_.Exposition().find(metric) != std::string::npos;
  }

  testing::TempDir directory_;
  CertificateAuthority authority_{"authority"};
  std::unique_ptr<Authorizer> authorizer_;
  std::unique_ptr<TlsFiles> tls_;
};

TEST_F(GrpcSecurityTest, CallsNeedAToken) {
  UseTokens();
  StartSecured();
  EXPECT_TRUE(Call(channel_, {std::string("Bearer ") + kToken}).ok());
  const grpc::Status missing = Call(channel_);
  EXPECT_EQ(missing.error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(missing.error_message(), HasSubstr("Bearer"));
  EXPECT_EQ(Call(channel_, {"Bearer b"}).error_code(), StatusCode::UNAUTHENTICATED);
  // A right one and another: which would count?
  EXPECT_EQ(Call(channel_, {std::string("Bearer ") + kToken, "Bearer b"}).error_code(),
            StatusCode::UNAUTHENTICATED);
  // The connection has lived through it.
  EXPECT_TRUE(Call(channel_, {std::string("Bearer ") + kToken}).ok());

  EXPECT_TRUE(Tells("thresher_auth_accepted_total{caller=\"search\"} 2"));
  for (const char* reason : {"missing", "wrong", "malformed"}) {
    EXPECT_TRUE(Tells("{front=\"grpc\",reason=\"" + std::string(reason) + "\"} 1")) << reason;
  }
  EXPECT_FALSE(Tells(kToken));
}

TEST_F(GrpcSecurityTest, EveryServiceIsBehindTheSameDoorButHealth) {
  UseTokens();
  StartSecured();
  grpc::GenericStub stub(channel_);
  const auto code = [&](const std::string& method) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const grpc::Slice nothing;
    const auto call =
        stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&nothing, 1), &queue);
    grpc::ByteBuffer response;
    grpc::Status status;
    call->StartCall();
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status.error_code();
  };
  EXPECT_EQ(code("/grpc.health.v1.Health/Check"), StatusCode::OK);
  EXPECT_EQ(code("/inference.GRPCInferenceService/ServerLive"), StatusCode::OK);
  for (const char* method :
       {"/inference.GRPCInferenceService/ServerMetadata",
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "/inference.GRPCInferenceService/RepositoryModelUnload", "/thresher.v1.Thresher/Generate",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/no.such/Method"}) {
    EXPECT_EQ(code(method), StatusCode::UNAUTHENTICATED) << method;
  }
}

TEST_F(GrpcSecurityTest, ServesTlsAlone) {
  UseTls(authority_.Issue("server"));
  StartSecured();
  EXPECT_TRUE(Call(DialTls(authority_.pem())).ok());
  EXPECT_EQ(Call(channel_).error_code(), StatusCode::UNAVAILABLE) << "plain text";
  EXPECT_EQ(Call(DialTls(CertificateAuthority("authority").pem())).error_code(),
            StatusCode::UNAVAILABLE)
      << "another authority of the same name";
}

TEST_F(GrpcSecurityTest, TokensAndTlsGoTogether) {
  UseTokens();
  UseTls(authority_.Issue("server"));
  StartSecured();
  const auto channel = DialTls(authority_.pem());
  EXPECT_EQ(Call(channel).error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(Call(channel, {std::string("Bearer ") + kToken}).ok());
}

TEST_F(GrpcSecurityTest, ClientsNeedACertificateOfTheirAuthority) {
  const CertificateAuthority clients("clients");
  UseTls(authority_.Issue("server"), clients.pem());
  StartSecured();
  EXPECT_TRUE(Call(DialTls(authority_.pem(), clients.Issue("client"))).ok());
  EXPECT_EQ(Call(DialTls(authority_.pem())).error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(DialTls(authority_.pem(), authority_.Issue("client"))).error_code(),
            StatusCode::UNAVAILABLE);
  const absl::Time now = absl::Now();
  const PemPair expired = clients.Issue("client", now - absl::Hours(2), now - absl::Hours(1));
  EXPECT_EQ(Call(DialTls(authority_.pem(), expired)).error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(GrpcSecurityTest, ANewCertificateServesNewConnectionsAndTheOldOnesGoOn) {
  UseTls(authority_.Issue("server"));
  StartSecured();
  const auto before = DialTls(authority_.pem());
  EXPECT_TRUE(Call(before).ok());

  const CertificateAuthority next("next");
  const PemPair server = next.Issue("server");
  Write("cert", server.certificate);
  EXPECT_FALSE(tls_->Reload().ok()) << "the key is still the old one";
  EXPECT_TRUE(Call(DialTls(authority_.pem())).ok());

  Write("key", server.key);
  ASSERT_TRUE(tls_->Reload().ok());
  EXPECT_TRUE(Call(DialTls(next.pem())).ok());
  EXPECT_EQ(Call(DialTls(authority_.pem())).error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Call(before).ok());
}

/// A bare TCP connection.
class Socket {
 public:
  explicit Socket(int port) : file_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(file_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~Socket() { close(file_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  bool connected() const { return connected_; }
  /// Reads to the end.
  void AwaitEnd() {
    char block[256];
    while (read(file_, block, sizeof(block)) > 0) {
    }
  }

 private:
  const int file_;
  bool connected_ = false;
};

TEST_F(GrpcSecurityTest, ConnectionsBeyondTheLimitAreClosedAtOnce) {
  GrpcServerOptions options;
  options.max_connections = 3;
  StartSecured(options);
  const auto first = Dial(grpc::InsecureChannelCredentials());
  EXPECT_TRUE(Call(first).ok());
  std::vector<std::unique_ptr<Socket>> idle;
  for (int i = 0; i < 2; ++i) {
    idle.push_back(std::make_unique<Socket>(server_->port()));
    ASSERT_TRUE(idle.back()->connected());
  }
  Socket one_too_many(server_->port());
  one_too_many.AwaitEnd();
  EXPECT_TRUE(Tells("thresher_grpc_connections_refused_total 1"));
  EXPECT_TRUE(Call(first).ok());

  // Once others have gone, there is room again; gRPC notices by itself.
  idle.clear();
  const auto late = Dial(grpc::InsecureChannelCredentials());
  while (!Call(late).ok()) std::this_thread::yield();
  EXPECT_LE(server_->connections(), 3);
}

TEST_F(GrpcSecurityTest, AnAddressThatIsTakenIsNamed) {
  StartSecured();
  GrpcServerOptions options;
  options.listen = server_->address();
  const auto second = GrpcServer::Start(options, repository_, scheduler_.get(), &metrics_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), HasSubstr(server_->address()));
  EXPECT_THAT(Message(second.status()), HasSubstr("in use"));
}

}  // namespace
}  // namespace thresher
