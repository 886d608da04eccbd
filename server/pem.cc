#include "server/pem.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <utility>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

Bio Memory(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

/// There is nobody to ask for a passphrase.
int NoPassphrase(char*, int, int, void*) { return -1; }

}  // namespace

absl::StatusOr<std::vector<Certificate>> ParseCertificates(const std::string& pem,
                                                           const std::string& name) {
  const Bio bio = Memory(pem);
  std::vector<Certificate> certificates;
  ERR_clear_error();
  for (;;) {
    Certificate next(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
    if (next == nullptr) break;
    certificates.push_back(std::move(next));
  }
  // The end of a well-formed text shows as the lack of another beginning.
  const auto error = ERR_peek_last_error();
  ERR_clear_error();
  const bool at_end =
      ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  if (!at_end) {
    return FailedPrecondition("{}: certificate {} is malformed", name, certificates.size() + 1);
  }
  if (certificates.empty()) return FailedPrecondition("{}: holds no PEM certificate", name);
  return certificates;
}

absl::StatusOr<PrivateKey> ParsePrivateKey(const std::string& pem, const std::string& name) {
  PrivateKey key(PEM_read_bio_PrivateKey(Memory(pem).get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (key != nullptr) return key;
  if (pem.find("ENCRYPTED") != std::string::npos) {
    return FailedPrecondition(
        "{}: the private key has a passphrase, which the server can't ask for; store it without "
        "one, in a file that only the server may read",
        name);
  }
  return FailedPrecondition("{}: holds no PEM private key", name);
}

std::string SubjectOf(const X509& certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), X509_get_subject_name(&certificate), 0, XN_FLAG_RFC2253);
  char* text = nullptr;
  const auto bytes = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<size_t>(bytes));
}

}  // namespace thresher
