#include "server/grpc_credentials.h"

#include <fmt/format.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>

#include <string>
#include <string_view>
#include <utility>

#include "backend/tensor/mutex.h"

namespace thresher {
namespace {

std::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

/// What is known of who is at the other end: the name in its certificate, and what it calls itself.
std::string Peer(const grpc_auth_context* connection, std::string_view agent) {
  std::string peer;
  grpc_auth_property_iterator names = grpc_auth_context_peer_identity(connection);
  if (const grpc_auth_property* name = grpc_auth_property_iterator_next(&names)) {
    peer = fmt::format("certificate '{}', ", std::string_view(name->value, name->value_length));
  }
  return peer + fmt::format("agent '{}'", agent);
}

class ListenerCredentials final : public grpc::ServerCredentials {
 public:
  ListenerCredentials(const TlsFiles* tls, Authorizer* authorizer) : tls_(tls) {
    credentials_ = tls == nullptr ? grpc_insecure_server_credentials_create() : MakeTls();
    if (authorizer == nullptr) return;
    grpc_server_credentials_set_auth_metadata_processor(
        credentials_, {.process = &Authorize, .destroy = [](void*) {}, .state = authorizer});
  }
  ~ListenerCredentials() override { grpc_server_credentials_release(credentials_); }

  /// The authorizer is asked instead.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* MakeTls() {
    const auto request = tls_->paths().client_ca.empty()
                             ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                             : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(request, &FetchIdentity,
                                                                        this));
  }

  /// Called for each new connection.
  static grpc_ssl_certificate_config_reload_status FetchIdentity(
      void* self_pointer, grpc_ssl_server_certificate_config** config) {
    auto& self = *static_cast<ListenerCredentials*>(self_pointer);
    MutexLock lock(&self.mutex_);
    auto current = self.tls_->current();
    if (current == self.given_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {current->key.c_str(), current->cert_chain.c_str()};
    // gRPC insists on authorities, even where it asks no client for a certificate.
    const std::string& authorities =
        current->client_ca.empty() ? current->cert_chain : current->client_ca;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    self.given_ = std::move(current);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  static void Authorize(void* authorizer, grpc_auth_context* connection,
                        const grpc_metadata* metadata, size_t count,
                        grpc_process_auth_metadata_done_cb done, void* call) {
    std::string_view agent;
    bool twice = false;
    AuthAttempt attempt;
    attempt.front = "grpc";
    for (size_t i = 0; i < count; ++i) {
      const std::string_view name = View(metadata[i].key);
      const std::string_view value = View(metadata[i].value);
      if (name == ":path") {
        attempt.method = value;
      } else if (name == "user-agent") {
        agent = value;
      } else if (name == "authorization") {
        twice = attempt.authorization.has_value();
        attempt.authorization = value;
      }
    }
    // Which of two counts must not be a guess.
    if (twice) attempt.authorization = "";
    attempt.door = DoorOfMethod(attempt.method);
    const std::string peer = Peer(connection, agent);
    attempt.peer = peer;
    const auto caller = static_cast<Authorizer*>(authorizer)->Check(attempt);
    if (caller.ok()) {
      done(call, nullptr, 0, nullptr, 0, GRPC_STATUS_OK, nullptr);
    } else {
      const std::string message(caller.status().message());
      done(call, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(caller.status().code()),
           message.c_str());
    }
  }

  const TlsFiles* const tls_;
  grpc_server_credentials* credentials_;
  Mutex mutex_;
  std::shared_ptr<const TlsIdentity> given_;  // What gRPC has.
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeGrpcCredentials(const TlsFiles* tls,
                                                             Authorizer* authorizer) {
  return std::make_shared<ListenerCredentials>(tls, authorizer);
}

}  // namespace thresher
