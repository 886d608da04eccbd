// Certificates and keys from PEM text, as OpenSSL's objects that free themselves.
#ifndef THRESHER_SERVER_PEM_H_
#define THRESHER_SERVER_PEM_H_

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

template <auto kFree>
struct OpenSslFree {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, OpenSslFree<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, OpenSslFree<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, OpenSslFree<EVP_PKEY_free>>;

/// All certificates of a text, at least one. FAILED_PRECONDITION "NAME: what" if there is none or
/// one is malformed.
absl::StatusOr<std::vector<Certificate>> ParseCertificates(const std::string& pem,
                                                           const std::string& name);
/// FAILED_PRECONDITION "NAME: what" if there is none, or if it has a passphrase.
absl::StatusOr<PrivateKey> ParsePrivateKey(const std::string& pem, const std::string& name);

/// "CN=localhost,O=Example".
std::string SubjectOf(const X509& certificate);

}  // namespace thresher

#endif  // THRESHER_SERVER_PEM_H_
