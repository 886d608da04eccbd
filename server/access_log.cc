#include "server/access_log.h"

#include <fmt/format.h>
#include <openssl/rand.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>

#include "server/log.h"
#include "server/span_export.h"

namespace thresher {
namespace {

/// So many bytes in hexadecimal. Ids need not be secret, only different.
std::string RandomId(size_t bytes) {
  std::array<unsigned char, 16> random = {};
  RAND_bytes(random.data(), static_cast<int>(bytes));
  std::string id;
  for (size_t i = 0; i < bytes; ++i) id += fmt::format("{:02x}", random[i]);
  return id;
}

bool IsVisible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

CallIdentity IdentifyCall(std::string_view request_id, std::string_view traceparent) {
  CallIdentity identity;
  const bool given = !request_id.empty() && request_id.size() <= 128 && IsVisible(request_id);
  identity.request_id = given ? std::string(request_id) : RandomId(8);
  // VERSION-TRACE-PARENT-FLAGS; later versions may have more behind.
  constexpr size_t kVersion0 = 55;
  if (traceparent.size() < kVersion0 || traceparent[2] != '-' || traceparent[35] != '-' ||
      traceparent[52] != '-') {
    return identity;
  }
  const std::string_view version = traceparent.substr(0, 2);
  const std::string_view trace = traceparent.substr(3, 32);
  const std::string_view parent = traceparent.substr(36, 16);
  const std::string_view flags = traceparent.substr(53, 2);
  const bool longer = traceparent.size() > kVersion0;
  if (longer && (version == "00" || traceparent[kVersion0] != '-')) return identity;
  if (!IsHex(version) || version == "ff" || !IsHex(trace) || IsZero(trace) || !IsHex(parent) ||
      IsZero(parent) || !IsHex(flags)) {
    return identity;
  }
  identity.trace_id = trace;
  identity.span_id = RandomId(8);
  identity.parent_id = parent;
  identity.trace_flags = flags;
  return identity;
}

}  // namespace

std::string CallIdentity::TraceResponse() const {
  if (trace_id.empty()) return "";
  return fmt::format("00-{}-{}-{}", trace_id, span_id, trace_flags);
}

CallIdentity AccessLog::Begin(std::string_view method, std::string_view request_id,
                              std::string_view traceparent) const {
  CallIdentity identity = IdentifyCall(request_id, traceparent);
  if (spans_ == nullptr) return identity;
  if (identity.trace_id.empty()) {
    identity.trace_id = RandomId(16);
    identity.span_id = RandomId(8);
    identity.trace_flags = "00";
  }
  spans_->Begin(method, &identity);
  return identity;
}

bool AccessLog::Logs() const {
  return spdlog::should_log(info_ ? spdlog::level::info : spdlog::level::debug);
}

void AccessLog::End(const CallRecord& record) const {
  if (record.identity.exported) spans_->End(record);
  if (!Logs()) return;
  const double milliseconds = absl::ToDoubleMilliseconds(record.time);
  const LogFields fields({{"front", record.front},
                          {"method", record.method},
                          {"status", record.status},
                          {"milliseconds", fmt::format("{:.3f}", milliseconds)},
                          {"request_id", record.identity.request_id},
                          {"trace_id", record.identity.trace_id},
                          {"span_id", record.identity.span_id},
                          {"caller", record.caller},
                          {"peer", record.peer}});
  spdlog::log(info_ ? spdlog::level::info : spdlog::level::debug, "call");
}

}  // namespace thresher
