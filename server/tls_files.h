// The certificate that the server shows and the authorities whose clients it trusts, read from PEM
// files and checked before anything is done with them.
#ifndef THRESHER_SERVER_TLS_FILES_H_
#define THRESHER_SERVER_TLS_FILES_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/tensor/mutex.h"

namespace thresher {

struct TlsPaths {
  std::string cert;       // The server's certificate, then those between it and its authority.
  std::string key;        // Its private key, without a passphrase.
  std::string client_ca;  // Empty: clients are not asked for a certificate.
};

/// What was in the files, as PEM.
struct TlsIdentity {
  std::string cert_chain;
  std::string key;
  std::string client_ca;
  std::string subject;  // Of the certificate, readable.
  absl::Time not_after;
  bool key_is_public = false;  // Everybody on this machine may read the key's file.
};

/// FAILED_PRECONDITION that names the file when one can't be read or is not PEM, when the key has a
/// passphrase or does not belong to the certificate, or when at `now` the certificate has expired
/// or is not valid yet.
absl::StatusOr<TlsIdentity> ReadTlsFiles(const TlsPaths& paths, absl::Time now);

/// The identity that is in use, which a reload replaces. Thread-safe.
class TlsFiles {
 public:
  /// As ReadTlsFiles.
  static absl::StatusOr<std::unique_ptr<TlsFiles>> Open(TlsPaths paths);

  const TlsPaths& paths() const { return paths_; }
  /// Never null. A new pointer is a new identity.
  std::shared_ptr<const TlsIdentity> current() const;
  /// Reads the files again. On an error, what is in use stays so.
  absl::Status Reload();

 private:
  TlsFiles(TlsPaths paths, TlsIdentity identity);

  const TlsPaths paths_;
  mutable Mutex mutex_;
  std::shared_ptr<const TlsIdentity> current_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_TLS_FILES_H_
