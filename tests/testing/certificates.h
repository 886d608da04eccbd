// Certificates for tests, made on the spot.
#ifndef THRESHER_TESTS_TESTING_CERTIFICATES_H_
#define THRESHER_TESTS_TESTING_CERTIFICATES_H_

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace thresher::testing {

/// A certificate and its key, as PEM.
struct PemPair {
  std::string certificate;
  std::string key;
};

class CertificateAuthority {
 public:
  explicit CertificateAuthority(const std::string& name);
  ~CertificateAuthority();
  CertificateAuthority(const CertificateAuthority&) = delete;
  CertificateAuthority& operator=(const CertificateAuthority&) = delete;

  /// Its own certificate.
  const std::string& pem() const { return pem_; }

  /// For localhost and 127.0.0.1, as server or client, with an EC key.
  PemPair Issue(const std::string& name, absl::Time from = absl::Now() - absl::Hours(1),
                absl::Time to = absl::Now() + absl::Hours(24)) const;

 private:
  const std::string name_;
  EVP_PKEY* const key_;
  std::string pem_;
};

/// The key with a passphrase around it.
std::string Encrypt(const std::string& key_pem);

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_TESTING_CERTIFICATES_H_
