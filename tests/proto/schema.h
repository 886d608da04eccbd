// The wire schema as text lines that can be compared.
#ifndef THRESHER_TESTS_PROTO_SCHEMA_H_
#define THRESHER_TESTS_PROTO_SCHEMA_H_

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <map>
#include <string>
#include <vector>

namespace thresher::testing {

/// All that goes over the wire, or that a caller's code refers to, by where it is. A type's own
/// entry has an empty line.
///   "message inference.ModelReadyRequest"          -> ""
///   "message inference.ModelReadyRequest field 2"  -> "string version = 2"
///   "enum inference.DataType value 3"              -> "TYPE_UINT16 = 3"
///   "service inference.GRPCInferenceService method ModelReady"
///       -> "(inference.ModelReadyRequest) returns (inference.ModelReadyResponse)"
/// Imported files that are not in `files` are taken from Protobuf's own. Throws if the files do not
/// make a valid schema.
std::map<std::string, std::string> Describe(const google::protobuf::FileDescriptorSet& files);

/// "repeated int64 shape = 3", "optional string listen = 1", "map<string, p.M> m = 4",
/// "bool b = 1 in oneof choice".
std::string Describe(const google::protobuf::FieldDescriptor& field);

/// What a client that was built with `before` would no longer find in `after`, a sentence each.
std::vector<std::string> Incompatibilities(const google::protobuf::FileDescriptorSet& before,
                                           const google::protobuf::FileDescriptorSet& after);

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_PROTO_SCHEMA_H_
