#include "server/tls_files.h"

#include <openssl/err.h>
#include <openssl/x509.h>

#include <ctime>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "backend/tensor/status.h"
#include "server/pem.h"
#include "server/small_file.h"
#include "server/tls_context.h"

namespace thresher {
namespace {

absl::StatusOr<absl::Time> ToTime(const ASN1_TIME* time) {
  std::tm calendar = {};
  if (ASN1_TIME_to_tm(time, &calendar) != 1) return InvalidArgument("not a time");
  return absl::FromTM(calendar, absl::UTCTimeZone());
}

/// Sets subject and not_after.
absl::Status CheckCertificate(const X509& certificate, const std::string& path, absl::Time now,
                              TlsIdentity* identity) {
  identity->subject = SubjectOf(certificate);
  const auto not_before = ToTime(X509_get0_notBefore(&certificate));
  const auto not_after = ToTime(X509_get0_notAfter(&certificate));
  if (!not_before.ok() || !not_after.ok()) {
    return FailedPrecondition("{}: can't tell how long the certificate is valid", path);
  }
  const auto day = [](absl::Time time) {
    return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
  };
  if (now > *not_after) {
    return FailedPrecondition("{}: the certificate ({}) expired on {}", path, identity->subject,
                              day(*not_after));
  }
  if (now < *not_before) {
    return FailedPrecondition("{}: the certificate ({}) is not valid before {}", path,
                              identity->subject, day(*not_before));
  }
  identity->not_after = *not_after;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsIdentity> ReadTlsFiles(const TlsPaths& paths, absl::Time now) {
  TlsIdentity identity;
  THRESHER_ASSIGN_OR_RETURN(SmallFile cert, ReadSmallFile(paths.cert));
  THRESHER_ASSIGN_OR_RETURN(SmallFile key, ReadSmallFile(paths.key));
  identity.key_is_public = key.others_read;
  identity.cert_chain = std::move(cert.content);
  identity.key = std::move(key.content);
  THRESHER_ASSIGN_OR_RETURN(const auto certificates,
                            ParseCertificates(identity.cert_chain, paths.cert));
  THRESHER_RETURN_IF_ERROR(CheckCertificate(*certificates[0], paths.cert, now, &identity));
  THRESHER_ASSIGN_OR_RETURN(const PrivateKey private_key, ParsePrivateKey(identity.key, paths.key));
  if (X509_check_private_key(certificates[0].get(), private_key.get()) != 1) {
    ERR_clear_error();
    return FailedPrecondition("{}: is not the key of the certificate in {} ({})", paths.key,
                              paths.cert, identity.subject);
  }
  if (!paths.client_ca.empty()) {
    THRESHER_ASSIGN_OR_RETURN(SmallFile authorities, ReadSmallFile(paths.client_ca));
    identity.client_ca = std::move(authorities.content);
    THRESHER_RETURN_IF_ERROR(ParseCertificates(identity.client_ca, paths.client_ca).status());
  }
  THRESHER_RETURN_IF_ERROR(Annotate(MakeTlsContext(identity).status(), paths.cert));
  return identity;
}

TlsFiles::TlsFiles(TlsPaths paths, TlsIdentity identity)
    : paths_(std::move(paths)),
      current_(std::make_shared<const TlsIdentity>(std::move(identity))) {}

absl::StatusOr<std::unique_ptr<TlsFiles>> TlsFiles::Open(TlsPaths paths) {
  THRESHER_ASSIGN_OR_RETURN(TlsIdentity identity, ReadTlsFiles(paths, absl::Now()));
  return std::unique_ptr<TlsFiles>(new TlsFiles(std::move(paths), std::move(identity)));
}

std::shared_ptr<const TlsIdentity> TlsFiles::current() const {
  MutexLock lock(&mutex_);
  return current_;
}

absl::Status TlsFiles::Reload() {
  THRESHER_ASSIGN_OR_RETURN(TlsIdentity identity, ReadTlsFiles(paths_, absl::Now()));
  auto next = std::make_shared<const TlsIdentity>(std::move(identity));
  MutexLock lock(&mutex_);
  current_ = std::move(next);
  return absl::OkStatus();
}

}  // namespace thresher
