#include "server/grpc_status.h"

#include <utf8proc.h>

#include <string>
#include <string_view>

#include "backend/scheduler/retry_hint.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr size_t kMaxMessageBytes = 2048;

}  // namespace

std::string WireMessage(const absl::Status& status) {
  const std::string message = Message(status);
  std::string wire;
  for (size_t at = 0; at < message.size();) {
    if (wire.size() > kMaxMessageBytes) return wire + "...";
    utf8proc_int32_t code_point;
    const auto length =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(message.data()) + at,
                         static_cast<utf8proc_ssize_t>(message.size() - at), &code_point);
    if (length > 0) {
      wire.append(message, at, static_cast<size_t>(length));
      at += static_cast<size_t>(length);
    } else {
      wire += "\uFFFD";
      ++at;
    }
  }
  return wire;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), WireMessage(status));
}

void AddRetryHint(const absl::Status& status, grpc::CallbackServerContext* context) {
  const auto hint = RetryHint(status);
  if (!hint) return;
  context->AddTrailingMetadata("grpc-retry-pushback-ms",
                               std::to_string(absl::ToInt64Milliseconds(*hint)));
}

v1::Status ToProto(const absl::Status& status) {
  v1::Status proto;
  if (status.ok()) return proto;
  proto.set_code(static_cast<int>(status.code()));
  proto.set_message(WireMessage(status));
  return proto;
}

}  // namespace thresher
