#include "tests/testing/certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <atomic>
#include <stdexcept>

namespace thresher::testing {
namespace {

void Require(bool condition) {
  if (!condition) throw std::runtime_error("OpenSSL can't make a test's certificate");
}

std::string Text(BIO* bio) {
  char* text = nullptr;
  const auto size = BIO_get_mem_data(bio, &text);
  std::string out(text, static_cast<size_t>(size));
  BIO_free(bio);
  return out;
}

std::string KeyPem(EVP_PKEY* key, const char* passphrase = nullptr) {
  BIO* const bio = BIO_new(BIO_s_mem());
  char* const secret = const_cast<char*>(passphrase);
  Require(PEM_write_bio_PKCS8PrivateKey(bio, key, secret == nullptr ? nullptr : EVP_aes_256_cbc(),
                                        secret, secret == nullptr ? 0 : 6, nullptr, nullptr) == 1);
  return Text(bio);
}

void Extend(X509* certificate, int kind, const char* value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value);
  Require(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

X509_NAME* MakeName(const std::string& name) {
  X509_NAME* const out = X509_NAME_new();
  X509_NAME_add_entry_by_txt(out, "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  return out;
}

std::string Sign(const std::string& subject, const std::string& issuer, EVP_PKEY* subject_key,
                 EVP_PKEY* issuer_key, absl::Time from, absl::Time to) {
  static std::atomic<int> serial = 1;
  X509* const certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
  ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(from));
  ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(to));
  X509_set_pubkey(certificate, subject_key);
  X509_NAME* const subject_name = MakeName(subject);
  X509_NAME* const issuer_name = MakeName(issuer);
  X509_set_subject_name(certificate, subject_name);
  X509_set_issuer_name(certificate, issuer_name);
  X509_NAME_free(subject_name);
  X509_NAME_free(issuer_name);
  if (subject == issuer) {
    Extend(certificate, NID_basic_constraints, "critical,CA:TRUE");
    Extend(certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
  } else {
    Extend(certificate, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  }
  Require(X509_sign(certificate, issuer_key, EVP_sha256()) > 0);
  BIO* const bio = BIO_new(BIO_s_mem());
  Require(PEM_write_bio_X509(bio, certificate) == 1);
  X509_free(certificate);
  return Text(bio);
}

}  // namespace

CertificateAuthority::CertificateAuthority(const std::string& name)
    : name_(name), key_(EVP_EC_gen("P-256")) {
  Require(key_ != nullptr);
  pem_ = Sign(name, name, key_, key_, absl::Now() - absl::Hours(1), absl::Now() + absl::Hours(24));
}

CertificateAuthority::~CertificateAuthority() { EVP_PKEY_free(key_); }

PemPair CertificateAuthority::Issue(const std::string& name, absl::Time from, absl::Time to) const {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  Require(key != nullptr);
  PemPair pair = {Sign(name, name_, key, key_, from, to), KeyPem(key)};
  EVP_PKEY_free(key);
  return pair;
}

std::string Encrypt(const std::string& key_pem) {
  BIO* const bio = BIO_new_mem_buf(key_pem.data(), static_cast<int>(key_pem.size()));
  EVP_PKEY* const key = PEM_read_bio_PrivateKey(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  Require(key != nullptr);
  std::string out = KeyPem(key, "secret");
  EVP_PKEY_free(key);
  return out;
}

}  // namespace thresher::testing
