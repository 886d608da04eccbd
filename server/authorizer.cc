#include "server/authorizer.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <utility>

#include "backend/tensor/status.h"
#include "server/small_file.h"

namespace thresher {
namespace {

constexpr absl::Duration kLogInterval = absl::Seconds(10);
constexpr size_t kShortToken = 16;
constexpr size_t kLongestToken = 4096;
constexpr std::string_view kUnnamed = "unnamed";

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
}

/// Visible ASCII, as a header can carry it.
bool IsToken(std::string_view token) {
  return !token.empty() && token.size() <= kLongestToken &&
         std::all_of(token.begin(), token.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

bool IsBearer(std::string_view scheme) {
  return std::equal(scheme.begin(), scheme.end(), std::string_view("bearer").begin(),
                    std::string_view("bearer").end(),
                    [](char a, char b) { return (a | 0x20) == b; });
}

}  // namespace

bool OpenDoors::Has(Door door) const {
  switch (door) {
    case Door::kClosed:
      return false;
    case Door::kHealth:
      return health;
    case Door::kMetrics:
      return metrics;
    case Door::kReflection:
      return reflection;
    case Door::kPublic:
      return true;
  }
  return false;
}

absl::StatusOr<OpenDoors> ParseOpenDoors(std::string_view text) {
  OpenDoors doors;
  if (Trim(text) == "none") return doors;
  for (std::string_view rest = text;;) {
    const size_t comma = rest.find(',');
    const std::string_view name = Trim(rest.substr(0, comma));
    if (name == "health") {
      doors.health = true;
    } else if (name == "metrics") {
      doors.metrics = true;
    } else if (name == "reflection") {
      doors.reflection = true;
    } else {
      return InvalidArgument("'{}' must be none, or some of health, metrics, reflection", text);
    }
    if (comma == std::string_view::npos) return doors;
    rest.remove_prefix(comma + 1);
  }
}

Door DoorOfMethod(std::string_view method) {
  for (const std::string_view health :
       {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady",
        "/inference.GRPCInferenceService/ModelReady"}) {
    if (method == health) return Door::kHealth;
  }
  if (method.starts_with("/grpc.reflection.")) return Door::kReflection;
  return Door::kClosed;
}

Tokens::Digest Tokens::DigestOf(std::string_view token) {
  Digest digest = {};
  EVP_Digest(token.data(), token.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  return digest;
}

absl::StatusOr<Tokens> Tokens::Parse(std::string_view text, const std::string& name) {
  Tokens tokens;
  std::set<std::string, std::less<>> callers;
  for (int line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view token = Trim(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (token.empty() || token.front() == '#') continue;
    std::string_view caller = kUnnamed;
    if (const size_t colon = token.find(':'); colon != std::string_view::npos) {
      caller = Trim(token.substr(0, colon));
      token = Trim(token.substr(colon + 1));
      if (!IsName(caller)) {
        return FailedPrecondition(
            "{}:{}: the name before ':' must be 1 to 64 letters, digits, '_', '-' or '.'", name,
            line);
      }
      if (!callers.emplace(caller).second) {
        return FailedPrecondition("{}:{}: '{}' has a token already", name, line, caller);
      }
    }
    if (!IsToken(token)) {
      return FailedPrecondition("{}:{}: a token must be 1 to {} visible ASCII characters", name,
                                line, kLongestToken);
    }
    if (token.size() < kShortToken) {
      spdlog::warn(
          "{}:{}: a token of {} characters can be guessed; `openssl rand -base64 32` "
          "makes a good one",
          name, line, token.size());
    }
    if (tokens.Find(token) != nullptr) {
      return FailedPrecondition("{}:{}: the same token as on a line before", name, line);
    }
    tokens.entries_.push_back({DigestOf(token), std::string(caller)});
  }
  if (tokens.entries_.empty()) {
    return FailedPrecondition("{}: holds no token, so that nobody could call", name);
  }
  return tokens;
}

const std::string* Tokens::Find(std::string_view token) const {
  const Digest digest = DigestOf(token);
  const std::string* found = nullptr;
  for (const Entry& entry : entries_) {  // All of them, whichever it is.
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) {
      found = &entry.caller;
    }
  }
  return found;
}

absl::StatusOr<std::unique_ptr<Authorizer>> Authorizer::Open(Options options) {
  auto authorizer = std::unique_ptr<Authorizer>(new Authorizer(std::move(options)));
  if (!authorizer->options_.tokens.empty()) THRESHER_RETURN_IF_ERROR(authorizer->Reload());
  return authorizer;
}

absl::Status Authorizer::Reload() {
  if (options_.tokens.empty()) return absl::OkStatus();
  THRESHER_ASSIGN_OR_RETURN(const SmallFile file, ReadSmallFile(options_.tokens));
  THRESHER_ASSIGN_OR_RETURN(Tokens tokens, Tokens::Parse(file.content, options_.tokens));
  if (file.others_read) {
    spdlog::warn("{}: everybody on this machine may read the tokens; chmod o-r", options_.tokens);
  }
  spdlog::info("{}: {} tokens", options_.tokens, tokens.size());
  auto next = std::make_shared<const Tokens>(std::move(tokens));
  MutexLock lock(&mutex_);
  tokens_ = std::move(next);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Authorizer::Judge(const AuthAttempt& attempt,
                                              std::string_view* reason) const {
  std::shared_ptr<const Tokens> tokens;
  {
    MutexLock lock(&mutex_);
    tokens = tokens_;
  }
  const auto refuse = [reason](std::string_view why, std::string_view message) {
    *reason = why;
    return absl::UnauthenticatedError(std::string(message));
  };
  if (options_.open.Has(attempt.door)) return std::string();
  if (!attempt.certified) {
    return refuse("certificate", "a client certificate is needed");
  }
  if (tokens == nullptr) return std::string();
  if (!attempt.authorization) {
    return refuse("missing", "a token is needed: authorization: Bearer TOKEN");
  }
  const std::string_view value = Trim(*attempt.authorization);
  const size_t space = std::min(value.find(' '), value.size());
  if (!IsBearer(value.substr(0, space))) {
    return refuse("malformed", "the authorization must be: Bearer TOKEN");
  }
  const std::string* const caller = tokens->Find(Trim(value.substr(space)));
  if (caller == nullptr) return refuse("wrong", "the token is not known");
  return *caller;
}

std::string Authorizer::CallerOf(std::string_view authorization) const {
  std::string_view reason;
  auto caller = Judge({.authorization = authorization}, &reason);
  return caller.ok() ? *std::move(caller) : "";
}

absl::StatusOr<std::string> Authorizer::Check(const AuthAttempt& attempt) {
  std::string_view reason;
  auto judged = Judge(attempt, &reason);
  if (!judged.ok()) {
    options_.events.refused(attempt.front, reason);
    Log(attempt, reason);
  } else if (!judged->empty()) {
    options_.events.accepted(*judged);
  }
  return judged;
}

void Authorizer::Log(const AuthAttempt& attempt, std::string_view reason) {
  int64_t others = 0;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = options_.clock->Now();
    if (now < next_line_) {
      ++unlogged_;
      return;
    }
    next_line_ = now + kLogInterval;
    others = std::exchange(unlogged_, 0);
  }
  constexpr size_t kLongest = 200;  // Both are the caller's words.
  spdlog::warn("refused: {} {} from {}: {} {}; {} more since the last such line", attempt.front,
               attempt.method.substr(0, kLongest), attempt.peer.substr(0, kLongest), reason,
               reason == "certificate" ? "missing" : "token", others);
}

}  // namespace thresher
