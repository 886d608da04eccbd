// OpenSSL's settings for a server that speaks HTTP/1.1 over TLS.
#ifndef THRESHER_SERVER_TLS_CONTEXT_H_
#define THRESHER_SERVER_TLS_CONTEXT_H_

#include <openssl/ssl.h>

#include <memory>

#include "absl/status/statusor.h"
#include "server/pem.h"
#include "server/tls_files.h"

namespace thresher {

using TlsContext = std::unique_ptr<SSL_CTX, OpenSslFree<SSL_CTX_free>>;

/// TLS 1.2 or newer, http/1.1 by ALPN. With client authorities a client may show a certificate, and
/// one that is not of theirs can't connect. FAILED_PRECONDITION for what OpenSSL does not take,
/// such as a key that is too short.
absl::StatusOr<TlsContext> MakeTlsContext(const TlsIdentity& identity);

}  // namespace thresher

#endif  // THRESHER_SERVER_TLS_CONTEXT_H_
