#include "server/grpc_message.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <utf8proc.h>

#include <map>
#include <optional>
#include <string>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

/// The byte at which the text stops being UTF-8.
std::optional<size_t> BadByte(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t code_point;
    const auto length =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                         static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
    if (length <= 0) return at;
    at += static_cast<size_t>(length);
  }
  return std::nullopt;
}

/// Path of the first string that is not UTF-8 in a message read without its schema; empty if none.
/// As deep as the schema, which does not recurse.
std::string FindBadString(const UnknownFieldSet& fields, const Descriptor& type) {
  std::map<int, int> seen;  // By field number, to count the elements of repeated fields.
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& field = fields.field(i);
    const int index = seen[field.number()]++;
    const FieldDescriptor* known = type.FindFieldByNumber(field.number());
    if (known == nullptr || field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    const std::string name =
        known->is_repeated() ? fmt::format("{}[{}]", known->name(), index) : known->name();
    const std::string& bytes = field.length_delimited();
    if (known->type() == FieldDescriptor::TYPE_STRING) {
      if (const auto bad = BadByte(bytes)) {
        return fmt::format("{} is not UTF-8 at byte {}", name, *bad);
      }
    } else if (known->type() == FieldDescriptor::TYPE_MESSAGE) {
      UnknownFieldSet inner;
      if (!inner.ParseFromString(bytes)) continue;
      const std::string found = FindBadString(inner, *known->message_type());
      if (!found.empty()) return fmt::format("{}.{}", name, found);
    }
  }
  return "";
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& buffer, google::protobuf::Message* message) {
  grpc::ByteBuffer copy = buffer;  // Shares the bytes; the reader wants it mutable.
  {
    grpc::ProtoBufferReader reader(&copy);
    if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  }
  grpc::ProtoBufferReader reader(&copy);
  UnknownFieldSet fields;
  if (reader.status().ok() && fields.ParseFromZeroCopyStream(&reader)) {
    const std::string bad = FindBadString(fields, *message->GetDescriptor());
    if (!bad.empty()) return InvalidArgument("{}", bad);
  }
  return InvalidArgument("the request is not a valid {} message",
                         message->GetDescriptor()->full_name());
}

}  // namespace thresher
