// The wire schema never loses or changes what a released client may use.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/proto/schema.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using google::protobuf::FileDescriptorSet;
using google::protobuf::TextFormat;
using testing::Describe;
using ::testing::ElementsAre;
using testing::Incompatibilities;
using ::testing::IsEmpty;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

/// proto/, as protoc saw it when this test was built.
FileDescriptorSet Current() {
  FileDescriptorSet files;
  EXPECT_TRUE(files.ParseFromString(ReadFile(THRESHER_SCHEMA_FILE)));
  return files;
}

TEST(WireSchemaTest, KeepsEverythingOfTheGoldenSchema) {
  FileDescriptorSet golden;
  ASSERT_TRUE(TextFormat::ParseFromString(
      ReadFile(testing::SourceDir() / "tests/proto/golden.txtpb"), &golden));
  ASSERT_GT(golden.file_size(), 0);
  std::string text;
  for (const std::string& line : Incompatibilities(golden, Current())) text += "  " + line + "\n";
  EXPECT_TRUE(text.empty())
      << "The schema breaks clients that were built before this change:\n"
      << text
      << "Keep what there was (a new meaning gets a new field number; an unwanted field stays, "
         "marked deprecated).\nIf no release has this part yet and the change is meant, run "
         "tests/proto/update_golden.sh and commit golden.txtpb with it.";
}

// The published schema, https://github.com/kserve/open-inference-protocol, and for the extension
// calls Triton's grpc_service.proto and model_config.proto: what each message of ours may have.
// `whole` messages must have all of it.
struct Published {
  std::string type;
  bool whole;
  std::vector<std::string> lines;
};

const std::vector<Published>& OpenInferenceMessages() {
  static const auto* const messages = new std::vector<Published>{
      {"ServerLiveRequest", true, {}},
      {"ServerLiveResponse", true, {"bool live = 1"}},
      {"ServerReadyRequest", true, {}},
      {"ServerReadyResponse", true, {"bool ready = 1"}},
      {"ModelReadyRequest", true, {"string name = 1", "string version = 2"}},
      {"ModelReadyResponse", true, {"bool ready = 1"}},
      {"ServerMetadataRequest", true, {}},
      {"ServerMetadataResponse",
       true,
       {"string name = 1", "string version = 2", "repeated string extensions = 3"}},
      {"ModelMetadataRequest", true, {"string name = 1", "string version = 2"}},
      {"ModelMetadataResponse.TensorMetadata",
       true,
       {"string name = 1", "string datatype = 2", "repeated int64 shape = 3"}},
      {"ModelMetadataResponse",
       true,
       {"string name = 1", "repeated string versions = 2", "string platform = 3",
        "repeated inference.ModelMetadataResponse.TensorMetadata inputs = 4",
        "repeated inference.ModelMetadataResponse.TensorMetadata outputs = 5",
        "map<string, string> properties = 6"}},
      {"InferParameter",
       true,
       {"bool bool_param = 1 in oneof parameter_choice",
        "int64 int64_param = 2 in oneof parameter_choice",
        "string string_param = 3 in oneof parameter_choice",
        "double double_param = 4 in oneof parameter_choice",
        "uint64 uint64_param = 5 in oneof parameter_choice"}},
      {"InferTensorContents",
       true,
       {"repeated bool bool_contents = 1", "repeated int32 int_contents = 2",
        "repeated int64 int64_contents = 3", "repeated uint32 uint_contents = 4",
        "repeated uint64 uint64_contents = 5", "repeated float fp32_contents = 6",
        "repeated double fp64_contents = 7", "repeated bytes bytes_contents = 8"}},
      {"ModelInferRequest.InferInputTensor",
       true,
       {"string name = 1", "string datatype = 2", "repeated int64 shape = 3",
        "map<string, inference.InferParameter> parameters = 4",
        "inference.InferTensorContents contents = 5"}},
      {"ModelInferRequest.InferRequestedOutputTensor",
       true,
       {"string name = 1", "map<string, inference.InferParameter> parameters = 2"}},
      {"ModelInferRequest",
       true,
       {"string model_name = 1", "string model_version = 2", "string id = 3",
        "map<string, inference.InferParameter> parameters = 4",
        "repeated inference.ModelInferRequest.InferInputTensor inputs = 5",
        "repeated inference.ModelInferRequest.InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7"}},
      {"ModelInferResponse.InferOutputTensor",
       true,
       {"string name = 1", "string datatype = 2", "repeated int64 shape = 3",
        "map<string, inference.InferParameter> parameters = 4",
        "inference.InferTensorContents contents = 5"}},
      {"ModelInferResponse",
       true,
       {"string model_name = 1", "string model_version = 2", "string id = 3",
        "map<string, inference.InferParameter> parameters = 4",
        "repeated inference.ModelInferResponse.InferOutputTensor outputs = 5",
        "repeated bytes raw_output_contents = 6"}},
      // Extensions.
      {"ModelStreamInferResponse",
       true,
       {"string error_message = 1", "inference.ModelInferResponse infer_response = 2"}},
      {"ModelConfigRequest", true, {"string name = 1", "string version = 2"}},
      {"ModelConfigResponse", true, {"inference.ModelConfig config = 1"}},
      {"ModelStatisticsRequest", true, {"string name = 1", "string version = 2"}},
      {"StatisticDuration", true, {"uint64 count = 1", "uint64 ns = 2"}},
      {"InferStatistics",
       true,
       {"inference.StatisticDuration success = 1", "inference.StatisticDuration fail = 2",
        "inference.StatisticDuration queue = 3", "inference.StatisticDuration compute_input = 4",
        "inference.StatisticDuration compute_infer = 5",
        "inference.StatisticDuration compute_output = 6",
        "inference.StatisticDuration cache_hit = 7", "inference.StatisticDuration cache_miss = 8"}},
      {"InferBatchStatistics",
       true,
       {"uint64 batch_size = 1", "inference.StatisticDuration compute_input = 2",
        "inference.StatisticDuration compute_infer = 3",
        "inference.StatisticDuration compute_output = 4"}},
      {"ModelStatistics",
       false,
       {"string name = 1", "string version = 2", "uint64 last_inference = 3",
        "uint64 inference_count = 4", "uint64 execution_count = 5",
        "inference.InferStatistics inference_stats = 6",
        "repeated inference.InferBatchStatistics batch_stats = 7"}},
      {"ModelStatisticsResponse", true, {"repeated inference.ModelStatistics model_stats = 1"}},
      {"ModelRepositoryParameter",
       true,
       {"bool bool_param = 1 in oneof parameter_choice",
        "int64 int64_param = 2 in oneof parameter_choice",
        "string string_param = 3 in oneof parameter_choice",
        "bytes bytes_param = 4 in oneof parameter_choice"}},
      {"RepositoryIndexRequest", true, {"string repository_name = 1", "bool ready = 2"}},
      {"RepositoryIndexResponse.ModelIndex",
       true,
       {"string name = 1", "string version = 2", "string state = 3", "string reason = 4"}},
      {"RepositoryIndexResponse",
       true,
       {"repeated inference.RepositoryIndexResponse.ModelIndex models = 1"}},
      {"RepositoryModelLoadRequest",
       true,
       {"string repository_name = 1", "string model_name = 2",
        "map<string, inference.ModelRepositoryParameter> parameters = 3"}},
      {"RepositoryModelLoadResponse", true, {}},
      {"RepositoryModelUnloadRequest",
       true,
       {"string repository_name = 1", "string model_name = 2",
        "map<string, inference.ModelRepositoryParameter> parameters = 3"}},
      {"RepositoryModelUnloadResponse", true, {}},
      // The model's configuration.
      {"ModelInput",
       false,
       {"string name = 1", "inference.DataType data_type = 2", "repeated int64 dims = 4",
        "bool is_shape_tensor = 6", "bool allow_ragged_batch = 7", "bool optional = 8"}},
      {"ModelOutput",
       false,
       {"string name = 1", "inference.DataType data_type = 2", "repeated int64 dims = 3",
        "string label_filename = 4", "bool is_shape_tensor = 6"}},
      {"ModelVersionPolicy.Latest", true, {"uint32 num_versions = 1"}},
      {"ModelVersionPolicy.All", true, {}},
      {"ModelVersionPolicy.Specific", true, {"repeated int64 versions = 1"}},
      {"ModelVersionPolicy",
       true,
       {"inference.ModelVersionPolicy.Latest latest = 1 in oneof policy_choice",
        "inference.ModelVersionPolicy.All all = 2 in oneof policy_choice",
        "inference.ModelVersionPolicy.Specific specific = 3 in oneof policy_choice"}},
      {"ModelDynamicBatching",
       false,
       {"repeated int32 preferred_batch_size = 1", "uint64 max_queue_delay_microseconds = 2",
        "bool preserve_ordering = 3", "uint64 priority_levels = 4"}},
      {"ModelInstanceGroup",
       false,
       {"string name = 1", "int32 count = 2", "repeated int32 gpus = 3",
        "inference.ModelInstanceGroup.Kind kind = 4", "repeated string profile = 5",
        "bool passive = 7", "string host_policy = 9"}},
      {"ModelParameter", true, {"string string_value = 1"}},
      {"ModelTransactionPolicy", true, {"bool decoupled = 1"}},
      {"ModelConfig",
       false,
       {"string name = 1", "string platform = 2", "inference.ModelVersionPolicy version_policy = 3",
        "int32 max_batch_size = 4", "repeated inference.ModelInput input = 5",
        "repeated inference.ModelOutput output = 6",
        "repeated inference.ModelInstanceGroup instance_group = 7",
        "string default_model_filename = 8", "map<string, string> cc_model_filenames = 9",
        "map<string, string> metric_tags = 10",
        // Published inside a oneof, which is the same on the wire.
        "inference.ModelDynamicBatching dynamic_batching = 11",
        "map<string, inference.ModelParameter> parameters = 14", "string backend = 17",
        "inference.ModelTransactionPolicy model_transaction_policy = 19", "string runtime = 25"}},
  };
  return *messages;
}

const std::vector<Published>& OpenInferenceEnums() {
  static const auto* const enums = new std::vector<Published>{
      {"DataType",
       true,
       {"TYPE_INVALID = 0", "TYPE_BOOL = 1", "TYPE_UINT8 = 2", "TYPE_UINT16 = 3", "TYPE_UINT32 = 4",
        "TYPE_UINT64 = 5", "TYPE_INT8 = 6", "TYPE_INT16 = 7", "TYPE_INT32 = 8", "TYPE_INT64 = 9",
        "TYPE_FP16 = 10", "TYPE_FP32 = 11", "TYPE_FP64 = 12", "TYPE_STRING = 13",
        "TYPE_BF16 = 14"}},
      {"ModelInstanceGroup.Kind",
       true,
       {"KIND_AUTO = 0", "KIND_GPU = 1", "KIND_CPU = 2", "KIND_MODEL = 3"}},
  };
  return *enums;
}

/// The lines below "`kind` inference.`type` `part` ..." of our schema.
std::vector<std::string> Ours(const std::string& kind, const std::string& type,
                              const std::string& part) {
  static const auto* const schema = new std::map<std::string, std::string>(Describe(Current()));
  const std::string where = kind + " inference." + type;
  EXPECT_TRUE(schema->contains(where)) << where << " is missing";
  std::vector<std::string> lines;
  for (const auto& [key, line] : *schema) {
    if (key.starts_with(where + " " + part + " ")) lines.push_back(line);
  }
  return lines;
}

void ExpectAsPublished(const Published& published, const std::vector<std::string>& ours) {
  SCOPED_TRACE(published.type);
  if (published.whole) {
    EXPECT_THAT(ours, ::testing::UnorderedElementsAreArray(published.lines));
  } else {
    EXPECT_THAT(ours, ::testing::IsSubsetOf(published.lines));
  }
}

TEST(OpenInferenceSchemaTest, MessagesAndEnumsAreAsPublished) {
  for (const Published& message : OpenInferenceMessages()) {
    ExpectAsPublished(message, Ours("message", message.type, "field"));
  }
  for (const Published& type : OpenInferenceEnums()) {
    ExpectAsPublished(type, Ours("enum", type.type, "value"));
  }
}

TEST(OpenInferenceSchemaTest, HasNoMessageThatIsNotPublished) {
  std::vector<std::string> published;
  for (const Published& message : OpenInferenceMessages()) {
    published.push_back("message inference." + message.type);
  }
  std::vector<std::string> ours;
  for (const auto& [key, line] : Describe(Current())) {
    if (key.starts_with("message inference.") && line.empty()) ours.push_back(key);
  }
  EXPECT_THAT(ours, ::testing::UnorderedElementsAreArray(published));
}

TEST(OpenInferenceSchemaTest, MethodsAreAsPublished) {
  const auto call = [](const std::string& name) {
    return "(inference." + name + "Request) returns (inference." + name + "Response)";
  };
  EXPECT_THAT(
      Ours("service", "GRPCInferenceService", "method"),
      ::testing::UnorderedElementsAre(
          call("ServerLive"), call("ServerReady"), call("ModelReady"), call("ServerMetadata"),
          call("ModelMetadata"), call("ModelInfer"), call("ModelConfig"), call("ModelStatistics"),
          call("RepositoryIndex"), call("RepositoryModelLoad"), call("RepositoryModelUnload"),
          "(stream inference.ModelInferRequest) returns "
          "(stream inference.ModelStreamInferResponse)"));
}

// The comparison itself, on a schema small enough to see through.
constexpr char kSmall[] = R"pb(
  file {
    name: "small.proto"
    package: "p"
    syntax: "proto3"
    message_type {
      name: "M"
      field { name: "text" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "sizes" number: 2 type: TYPE_INT64 label: LABEL_REPEATED }
      field { name: "kind" number: 3 type: TYPE_ENUM type_name: ".p.E" label: LABEL_OPTIONAL }
      field { name: "a" number: 4 type: TYPE_BOOL label: LABEL_OPTIONAL oneof_index: 0 }
      field {
        name: "maybe"
        number: 5
        type: TYPE_INT32
        label: LABEL_OPTIONAL
        proto3_optional: true
        oneof_index: 1
      }
      oneof_decl { name: "choice" }
      oneof_decl { name: "_maybe" }
    }
    enum_type {
      name: "E"
      value { name: "ZERO" number: 0 }
      value { name: "ONE" number: 1 }
    }
    service {
      name: "S"
      method { name: "Call" input_type: ".p.M" output_type: ".p.M" }
    }
  }
)pb";

class IncompatibilitiesTest : public ::testing::Test {
 protected:
  IncompatibilitiesTest() {
    EXPECT_TRUE(TextFormat::ParseFromString(kSmall, &before_));
    after_ = before_;
  }
  auto* Message() { return after_.mutable_file(0)->mutable_message_type(0); }
  auto* Method() { return after_.mutable_file(0)->mutable_service(0)->mutable_method(0); }

  FileDescriptorSet before_, after_;
};

TEST_F(IncompatibilitiesTest, FindsNoneInTheSameSchema) {
  EXPECT_THAT(Incompatibilities(before_, after_), IsEmpty());
}

TEST_F(IncompatibilitiesTest, AllowsAdditions) {
  auto* const field = Message()->add_field();
  *field = Message()->field(0);
  field->set_name("more");
  field->set_number(6);
  after_.mutable_file(0)->add_message_type()->set_name("New");
  auto* const value = after_.mutable_file(0)->mutable_enum_type(0)->add_value();
  value->set_name("TWO");
  value->set_number(2);
  auto* const method = after_.mutable_file(0)->mutable_service(0)->add_method();
  *method = *Method();
  method->set_name("Other");
  EXPECT_THAT(Incompatibilities(before_, after_), IsEmpty());
  EXPECT_THAT(Incompatibilities(after_, before_),  // And their removal is found.
              ElementsAre("enum p.E value 2: 'TWO = 2' is gone",
                          "message p.M field 6: 'string more = 6' is gone", "message p.New is gone",
                          "service p.S method Other: '(p.M) returns (p.M)' is gone"));
}

TEST_F(IncompatibilitiesTest, FindsChangedFields) {
  Message()->mutable_field(0)->set_type(google::protobuf::FieldDescriptorProto::TYPE_BYTES);
  Message()->mutable_field(1)->set_name("shape");
  Message()->mutable_field(2)->set_label(google::protobuf::FieldDescriptorProto::LABEL_REPEATED);
  Message()->mutable_oneof_decl(0)->set_name("other");
  EXPECT_THAT(
      Incompatibilities(before_, after_),
      ElementsAre(
          "message p.M field 1: 'string text = 1' is now 'bytes text = 1'",
          "message p.M field 2: 'repeated int64 sizes = 2' is now 'repeated int64 shape = 2'",
          "message p.M field 3: 'p.E kind = 3' is now 'repeated p.E kind = 3'",
          "message p.M field 4: 'bool a = 4 in oneof choice' is now "
          "'bool a = 4 in oneof other'"));
}

TEST_F(IncompatibilitiesTest, FindsAFieldThatMoved) {
  Message()->mutable_field(0)->set_number(9);
  EXPECT_THAT(Incompatibilities(before_, after_),
              ElementsAre("message p.M field 1: 'string text = 1' is gone"));
}

TEST_F(IncompatibilitiesTest, FindsLostPresence) {
  Message()->mutable_field(4)->clear_proto3_optional();
  Message()->mutable_field(4)->clear_oneof_index();
  Message()->mutable_oneof_decl()->RemoveLast();
  EXPECT_THAT(
      Incompatibilities(before_, after_),
      ElementsAre("message p.M field 5: 'optional int32 maybe = 5' is now 'int32 maybe = 5'"));
}

TEST_F(IncompatibilitiesTest, FindsChangedEnumsAndMethods) {
  after_.mutable_file(0)->mutable_enum_type(0)->mutable_value(1)->set_name("UNO");
  Method()->set_server_streaming(true);
  EXPECT_THAT(Incompatibilities(before_, after_),
              ElementsAre("enum p.E value 1: 'ONE = 1' is now 'UNO = 1'",
                          "service p.S method Call: '(p.M) returns (p.M)' is now "
                          "'(p.M) returns (stream p.M)'"));
}

}  // namespace
}  // namespace thresher
