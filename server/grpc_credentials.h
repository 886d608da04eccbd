// How connections of the gRPC listener are secured, and where every call is authorized.
#ifndef THRESHER_SERVER_GRPC_CREDENTIALS_H_
#define THRESHER_SERVER_GRPC_CREDENTIALS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/authorizer.h"
#include "server/tls_files.h"

namespace thresher {

/// With `tls`, TLS 1.2 or newer under its current identity, which each new connection asks for;
/// where it has client authorities, a client without a certificate of theirs can't connect. Else
/// plain text. With an `authorizer`, every call of every service (health and reflection included,
/// and those that there are not) is first shown to it, before its message is read; what it refuses
/// is answered by its status. Either may be null; both must outlive the server.
///
/// On gRPC's C API, since that of C++ neither reloads certificates only once they have been
/// checked, nor authorizes calls on connections without TLS.
std::shared_ptr<grpc::ServerCredentials> MakeGrpcCredentials(const TlsFiles* tls,
                                                             Authorizer* authorizer);

}  // namespace thresher

#endif  // THRESHER_SERVER_GRPC_CREDENTIALS_H_
