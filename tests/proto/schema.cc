#include "tests/proto/schema.h"

#include <fmt/format.h>

#include <stdexcept>

namespace thresher::testing {
namespace {

namespace pb = google::protobuf;
using Lines = std::map<std::string, std::string>;

std::string TypeName(const pb::FieldDescriptor& field) {
  if (field.is_map()) {
    return fmt::format("map<{}, {}>", TypeName(*field.message_type()->map_key()),
                       TypeName(*field.message_type()->map_value()));
  }
  if (field.message_type() != nullptr) return field.message_type()->full_name();
  if (field.enum_type() != nullptr) return field.enum_type()->full_name();
  return field.type_name();
}

void Add(const pb::EnumDescriptor& type, Lines& lines) {
  const std::string where = "enum " + type.full_name();
  lines[where] = "";
  for (int i = 0; i < type.value_count(); ++i) {
    const pb::EnumValueDescriptor& value = *type.value(i);
    lines[fmt::format("{} value {}", where, value.number())] =
        fmt::format("{} = {}", value.name(), value.number());
  }
}

void Add(const pb::Descriptor& type, Lines& lines) {
  if (type.options().map_entry()) return;  // Seen in the map's field.
  const std::string where = "message " + type.full_name();
  lines[where] = "";
  for (int i = 0; i < type.field_count(); ++i) {
    lines[fmt::format("{} field {}", where, type.field(i)->number())] = Describe(*type.field(i));
  }
  for (int i = 0; i < type.nested_type_count(); ++i) Add(*type.nested_type(i), lines);
  for (int i = 0; i < type.enum_type_count(); ++i) Add(*type.enum_type(i), lines);
}

void Add(const pb::ServiceDescriptor& service, Lines& lines) {
  const std::string where = "service " + service.full_name();
  lines[where] = "";
  for (int i = 0; i < service.method_count(); ++i) {
    const pb::MethodDescriptor& method = *service.method(i);
    lines[fmt::format("{} method {}", where, method.name())] =
        fmt::format("({}{}) returns ({}{})", method.client_streaming() ? "stream " : "",
                    method.input_type()->full_name(), method.server_streaming() ? "stream " : "",
                    method.output_type()->full_name());
  }
}

}  // namespace

std::string Describe(const pb::FieldDescriptor& field) {
  std::string line;
  if (field.is_repeated() && !field.is_map()) line += "repeated ";
  if (field.has_optional_keyword()) line += "optional ";
  line += fmt::format("{} {} = {}", TypeName(field), field.name(), field.number());
  if (field.real_containing_oneof() != nullptr) {
    line += " in oneof " + field.real_containing_oneof()->name();
  }
  return line;
}

Lines Describe(const pb::FileDescriptorSet& files) {
  pb::DescriptorPool pool(pb::DescriptorPool::generated_pool());
  Lines lines;
  for (const pb::FileDescriptorProto& proto : files.file()) {  // Imports come first.
    const pb::FileDescriptor* file = pool.BuildFile(proto);
    if (file == nullptr) throw std::runtime_error("not a valid schema file: " + proto.name());
    for (int i = 0; i < file->message_type_count(); ++i) Add(*file->message_type(i), lines);
    for (int i = 0; i < file->enum_type_count(); ++i) Add(*file->enum_type(i), lines);
    for (int i = 0; i < file->service_count(); ++i) Add(*file->service(i), lines);
  }
  return lines;
}

std::vector<std::string> Incompatibilities(const pb::FileDescriptorSet& before,
                                           const pb::FileDescriptorSet& after) {
  const Lines now = Describe(after);
  std::vector<std::string> breaks;
  for (const auto& [where, line] : Describe(before)) {
    const std::string was = line.empty() ? where : fmt::format("{}: '{}'", where, line);
    const auto found = now.find(where);
    if (found == now.end()) {
      breaks.push_back(was + " is gone");
    } else if (found->second != line) {
      breaks.push_back(fmt::format("{} is now '{}'", was, found->second));
    }
  }
  return breaks;
}

}  // namespace thresher::testing
