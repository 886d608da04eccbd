// Who may call. Callers show a token (`authorization: Bearer TOKEN`) from a file of the operator's:
//
//   # A line for each caller: a token, or a name and a token. The name appears in the log and in
//   # metrics; the token nowhere.
//   search-frontend:Zm9yIGV4YW1wbGUgb25seQ
//
// Both fronts ask here, each in one place and before anything else of a call is looked at.
#ifndef THRESHER_SERVER_AUTHORIZER_H_
#define THRESHER_SERVER_AUTHORIZER_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/scheduler/clock.h"
#include "backend/tensor/mutex.h"

namespace thresher {

/// What a call is for. All doors but kClosed can be left open to everybody; kPublic always is: what
/// is the same on every server, such as the console's page.
enum class Door { kClosed, kHealth, kMetrics, kReflection, kPublic };

struct OpenDoors {
  bool health = false;
  bool metrics = false;
  bool reflection = false;

  bool Has(Door door) const;
};
/// "none", or names separated by commas: "health,metrics".
absl::StatusOr<OpenDoors> ParseOpenDoors(std::string_view text);

/// The door that a gRPC method ("/package.Service/Method") is behind.
Door DoorOfMethod(std::string_view method);

/// The tokens of a file. Immutable.
class Tokens {
 public:
  /// `name` is the file's, for messages, which never hold a token. FAILED_PRECONDITION
  /// "NAME:LINE: what" for a malformed line, a name or a token that is there twice, or no token
  /// at all.
  static absl::StatusOr<Tokens> Parse(std::string_view text, const std::string& name);

  /// The caller whose token it is ("unnamed" if the file does not say), null for a wrong one. Takes
  /// the same time for all tokens of a length.
  const std::string* Find(std::string_view token) const;

  size_t size() const { return entries_.size(); }

 private:
  using Digest = std::array<uint8_t, 32>;  // SHA-256.
  struct Entry {
    Digest digest;
    std::string caller;
  };
  static Digest DigestOf(std::string_view token);

  std::vector<Entry> entries_;
};

/// How an attempt to call ended, for metrics.
struct AuthEvents {
  std::function<void(std::string_view caller)> accepted = [](std::string_view) {};
  /// `reason`: missing, malformed, wrong or certificate.
  std::function<void(std::string_view front, std::string_view reason)> refused =
      [](std::string_view, std::string_view) {};
};

/// An attempt to call.
struct AuthAttempt {
  std::string_view front;  // "grpc" or "http".
  Door door = Door::kClosed;
  std::string_view method;  // What is called, for the log.
  std::string_view peer;    // Who calls, as far as the front can tell, for the log.
  std::optional<std::string_view> authorization;  // The header's value, if it was sent.
  bool certified = true;                          // Shows a certificate, or none is asked for.
};

/// Thread-safe.
class Authorizer {
 public:
  struct Options {
    std::string tokens;  // The file; empty: whoever may connect may call.
    OpenDoors open{.health = true};
    AuthEvents events;
    Clock* clock = Clock::Real();
  };
  /// FAILED_PRECONDITION when the file can't be read, or as Tokens::Parse.
  static absl::StatusOr<std::unique_ptr<Authorizer>> Open(Options options);

  /// The caller's name, empty where nobody needs one; UNAUTHENTICATED, with what is missing.
  /// Counts it, and logs refusals: at most a line in ten seconds.
  absl::StatusOr<std::string> Check(const AuthAttempt& attempt);

  /// Whose token the header's value shows; empty for nobody's. Counts and logs nothing.
  std::string CallerOf(std::string_view authorization) const;

  /// Reads the file again. On an error, what is in use stays so.
  absl::Status Reload();

 private:
  explicit Authorizer(Options options) : options_(std::move(options)) {}

  absl::StatusOr<std::string> Judge(const AuthAttempt& attempt, std::string_view* reason) const;
  void Log(const AuthAttempt& attempt, std::string_view reason);

  const Options options_;
  mutable Mutex mutex_;
  std::shared_ptr<const Tokens> tokens_;  // Null: no file.
  absl::Time next_line_ = absl::InfinitePast();
  int64_t unlogged_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_AUTHORIZER_H_
