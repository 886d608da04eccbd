#include "server/tls_context.h"

#include <openssl/err.h>

#include <utility>
#include <vector>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// ALPN: this, for a client that asks.
int ChooseHttp(SSL*, const unsigned char** chosen, unsigned char* size,
               const unsigned char* offered, unsigned offered_size, void*) {
  static constexpr unsigned char kHttp[] = "\x08http/1.1";
  unsigned char* found = nullptr;
  if (SSL_select_next_proto(&found, size, kHttp, sizeof(kHttp) - 1, offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *chosen = found;
  return SSL_TLSEXT_ERR_OK;
}

absl::Status Refused(const TlsIdentity& identity) {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return FailedPrecondition("OpenSSL does not take the certificate ({}), its chain or its key: {}",
                            identity.subject, reason == nullptr ? "no reason given" : reason);
}

}  // namespace

absl::StatusOr<TlsContext> MakeTlsContext(const TlsIdentity& identity) {
  THRESHER_ASSIGN_OR_RETURN(const auto chain,
                            ParseCertificates(identity.cert_chain, "the certificate"));
  THRESHER_ASSIGN_OR_RETURN(const PrivateKey key, ParsePrivateKey(identity.key, "the key"));
  ERR_clear_error();
  TlsContext context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr) return Refused(identity);
  SSL_CTX* const raw = context.get();
  SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
  SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                            SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(raw, &ChooseHttp, nullptr);
  bool taken = SSL_CTX_use_certificate(raw, chain[0].get()) == 1;
  for (size_t i = 1; taken && i < chain.size(); ++i) {
    taken = SSL_CTX_add1_chain_cert(raw, chain[i].get()) == 1;
  }
  if (!taken || SSL_CTX_use_PrivateKey(raw, key.get()) != 1) return Refused(identity);
  if (identity.client_ca.empty()) return context;

  THRESHER_ASSIGN_OR_RETURN(const auto authorities,
                            ParseCertificates(identity.client_ca, "the client authorities"));
  for (const Certificate& authority : authorities) {
    X509_STORE_add_cert(SSL_CTX_get_cert_store(raw), authority.get());
    SSL_CTX_add_client_CA(raw, authority.get());
  }
  constexpr unsigned char kSessions[] = "thresher";
  SSL_CTX_set_session_id_context(raw, kSessions, sizeof(kSessions) - 1);
  // Whether a certificate is needed depends on what will be asked for.
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER, nullptr);
  return context;
}

}  // namespace thresher
