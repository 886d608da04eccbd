// max_quality_loss, from the profile beside the model to the answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>

#include "backend/evaluation/fingerprint.h"
#include "backend/evaluation/profile.h"
#include "tests/server/server_fixture.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using ::testing::HasSubstr;

/// Serves sst2-mini as "calibrated" and "drifting" (by accuracy), "similar" (by similarity),
/// "broken" (its profile can't be read) and "none"; "score" is a head with one output, by
/// similarity.
class QualityTest : public testing::ServerTest {
 protected:
  static void SetUpTestSuite() {
    dir_ = new testing::TempDir;
    std::vector<v1::ModelConfig> models;
    for (const char* name : {"calibrated", "drifting", "similar", "broken", "none"}) {
      fs::create_directories(Directory(name));
      for (const auto& file : fs::directory_iterator(testing::SourceDir() / "models/sst2-mini")) {
        fs::create_symlink(file.path(), Directory(name) / file.path().filename());
      }
    }
    testing::RandomCheckpointOptions score;
    score.layers = 3;
    score.hidden_size = 16;
    score.heads = 2;
    score.intermediate_size = 16;
    score.vocab_size = 128;
    score.positions = 64;
    score.labels = 1;
    ASSERT_TRUE(testing::WriteRandomCheckpoint(Directory("score"), score).ok());
    WriteProfileOf("calibrated", "accuracy");
    WriteProfileOf("drifting", "accuracy", 0);  // No pruned answer is so near.
    WriteProfileOf("similar", "spearman");
    WriteProfileOf("score", "spearman");
    std::ofstream(Directory("broken") / kProfileFile)
        << "metric: 'accuracy' entries { max_loss: 2 }\n";
    for (const char* name : {"calibrated", "drifting", "similar", "broken", "none", "score"}) {
      models.emplace_back().set_name(name);
      models.back().set_path(Directory(name).string());
    }

    RepositoryOptions options;
    options.device = "reference";
    options.precision = Precision::kF32;
    options.warm_up = [](LoadedModel&) { return absl::OkStatus(); };
    repository_ = new ModelRepository(options, models);
    const absl::Status loaded = repository_->LoadAll();
    ASSERT_TRUE(loaded.ok()) << loaded;  // A broken profile takes no model down.
  }
  static void TearDownTestSuite() {
    delete repository_;
    repository_ = nullptr;
    delete dir_;
  }

  static fs::path Directory(const std::string& name) { return dir_->path() / name; }

  static void WriteProfileOf(const std::string& model, const std::string& metric,
                             double drift = 0.5) {
    v1::SparsityProfile profile;
    profile.set_metric(metric);
    profile.set_precision("f32");
    profile.set_model_sha256(*FingerprintModel(Directory(model).string()));
    for (const auto& [bound, policy, speedup] :
         {std::tuple(0.01, "spatten:final=0.8", 1.1), std::tuple(0.02, "spatten:final=0.4", 1.5)}) {
      auto* entry = profile.add_entries();
      entry->set_max_loss(bound);
      entry->set_loss_upper(bound);
      entry->set_policy(policy);
      entry->set_speedup(speedup);
      entry->set_kl_upper(drift);
    }
    ASSERT_TRUE(WriteProfile(profile, (Directory(model) / kProfileFile).string()).ok());
  }

  /// The policy that ran, or the error.
  std::string Ran(const std::string& model, double max_quality_loss) {
    v1::ClassifyRequest request = ClassifyRequest({"a gripping , moving film with a fine cast"});
    request.mutable_model()->set_name(model);
    request.mutable_options()->mutable_sparsity()->set_max_quality_loss(max_quality_loss);
    v1::ClassifyResponse response;
    const grpc::Status status = Classify(request, &response);
    if (!status.ok()) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      return status.error_message();
    }
    return response.results(0).info().report().policy();
  }
  std::string RanEmbed(const std::string& model, v1::EmbedRequest request = {}) {
    request.add_inputs()->set_text("a gripping , moving film with a fine cast");
    request.mutable_model()->set_name(model);
    request.mutable_options()->mutable_sparsity()->set_max_quality_loss(0.02);
    grpc::ClientContext context;
    v1::EmbedResponse response;
    const grpc::Status status = thresher_->Embed(&context, request, &response);
    if (!status.ok()) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      return status.error_message();
    }
    return response.results(0).info().report().policy();
  }

  ModelInferRequest Infer(const std::string& model = "calibrated") const {
    ModelInferRequest request;
    request.set_model_name(model);
    auto* tensor = request.add_inputs();
    tensor->set_name("text");
    tensor->set_datatype("BYTES");
    tensor->add_shape(1);
    tensor->mutable_contents()->add_bytes_contents("a gripping , moving film");
    return request;
  }
  std::string Ran(const ModelInferRequest& request) {
    grpc::ClientContext context;
    ModelInferResponse response;
    const grpc::Status status = inference_->ModelInfer(&context, request, &response);
    if (!status.ok()) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      return status.error_message();
    }
    return response.parameters().at("policy").string_param();
  }

  static inline testing::TempDir* dir_ = nullptr;
};

TEST_F(QualityTest, UnderElasticTheFillingQueueDecidesHowMuchOfTheBoundIsUsed) {
  GrpcServerOptions options;
  options.elastic = true;
  SchedulerOptions scheduler;
  scheduler.max_queue = 40;
  Start(scheduler, options);
  EXPECT_EQ(Ran("calibrated", 0.02), "dense");  // Nothing waits.
  // Each call below finds so many waiting; with half the queue full all of the bound is used.
  for (const auto& [waiting, policy] :
       {std::pair(4, "dense"), std::pair(11, "spatten:final=0.8"),
        std::pair(20, "spatten:final=0.4"), std::pair(30, "spatten:final=0.4")}) {
    SCOPED_TRACE(waiting);
    Hold();
    auto others = std::async(std::launch::async, [this, waiting = waiting] {
      v1::ClassifyRequest request =
          ClassifyRequest(std::vector<std::string>(static_cast<size_t>(waiting), "x"));
      request.mutable_model()->set_name("none");
      v1::ClassifyResponse response;
      return Classify(request, &response);
    });
    AwaitQueued(waiting);
    auto ran = std::async(std::launch::async, [this] { return Ran("calibrated", 0.02); });
    AwaitQueued(waiting + 1);
    Release();
    EXPECT_TRUE(others.get().ok());
    EXPECT_THAT(ran.get(), ::testing::StartsWith(policy));
  }
  const std::string metrics = metrics_.Exposition();
  EXPECT_THAT(metrics, HasSubstr("thresher_elastic_level_count{model=\"calibrated\"} 5"));
}

TEST_F(QualityTest, OneInSoManyPrunedAnswersIsComparedWithDense) {
  GrpcServerOptions options;
  options.shadow_every = 2;
  Start({}, options);
  for (int i = 0; i < 6; ++i) EXPECT_THAT(Ran("calibrated", 0.02), HasSubstr("spatten"));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Ran("calibrated", 0.001), "dense");  // Nothing to compare.
  ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  const std::string metrics = metrics_.Exposition();
  EXPECT_THAT(metrics, HasSubstr("thresher_shadow_drift_count{model=\"calibrated\"} 3"));
  EXPECT_THAT(metrics, HasSubstr("outcome=\"skipped\"} 0"));
}

TEST_F(QualityTest, AProfileWhoseAnswersDriftIsSwitchedOff) {
  GrpcServerOptions options;
  options.shadow_every = 1;
  Start({}, options);
  metrics_.Watch(scheduler_.get(), repository_);
  for (int64_t i = 0; i < ProfileWatch::kFewest; ++i) {
    EXPECT_THAT(Ran("drifting", 0.02), HasSubstr("spatten"));
    ASSERT_TRUE(scheduler_->WaitIdle(absl::InfiniteFuture()));
  }
  EXPECT_EQ(Ran("drifting", 0.02), "dense");
  const std::string metrics = metrics_.Exposition();
  metrics_.Watch(nullptr, nullptr);
  const std::string name = "thresher_quality_profile_active{model=";
  EXPECT_THAT(metrics, HasSubstr(name + "\"drifting\",version=\"1\"} 0"));
  EXPECT_THAT(metrics, HasSubstr(name + "\"calibrated\",version=\"1\"} 1"));
  EXPECT_THAT(Ran("calibrated", 0.02), HasSubstr("spatten"));
}

TEST_F(QualityTest, TheBoundChoosesThePolicyAndTheReportNamesIt) {
  EXPECT_THAT(Ran("calibrated", 0.01), HasSubstr("spatten:final=0.8"));
  EXPECT_THAT(Ran("calibrated", 0.015), HasSubstr("spatten:final=0.8"));
  EXPECT_THAT(Ran("calibrated", 0.5), HasSubstr("spatten:final=0.4"));
}

TEST_F(QualityTest, ABoundThatNothingKeepsRunsDense) {
  EXPECT_EQ(Ran("calibrated", 0.001), "dense");
  EXPECT_EQ(Ran("calibrated", 0), "dense");
}

TEST_F(QualityTest, ABoundOfAccuracyIsNoneOfEmbeddings) {
  const std::string error = RanEmbed("calibrated");
  EXPECT_THAT(error, HasSubstr("was measured in accuracy, which promises nothing for Embed"));
  EXPECT_THAT(error, HasSubstr("thresher calibrate --model " + Directory("calibrated").string() +
                               " --data LABELLED.tsv --max-loss 0.02 --task similarity"));
}

TEST_F(QualityTest, ABoundOfSimilarityIsNoneOfClasses) {
  EXPECT_THAT(RanEmbed("similar"), HasSubstr("spatten:final=0.4"));
  const std::string error = Ran("similar", 0.02);
  EXPECT_THAT(error, HasSubstr("was measured in spearman, which promises nothing for Classify"));
  EXPECT_THAT(error, HasSubstr("--task accuracy"));
  ModelInferRequest infer = Infer("similar");
  (*infer.mutable_parameters())["max_quality_loss"].set_double_param(0.02);
  EXPECT_THAT(Ran(infer), HasSubstr("which promises nothing for ModelInfer"));
}

TEST_F(QualityTest, AHeadWithOneOutputIsMeasuredByThatOutput) {
  EXPECT_THAT(Ran("score", 0.02), HasSubstr("spatten:final=0.4"));
  EXPECT_THAT(RanEmbed("score"), HasSubstr("a head with one output is that output"));
}

TEST_F(QualityTest, EmbeddingsAreMeasuredWithTheModelsOwnPooling) {
  v1::EmbedRequest request;
  request.set_pooling(v1::EmbedRequest::POOLING_CLS);
  EXPECT_THAT(RanEmbed("similar", request), HasSubstr("the model's own pooling"));
}

TEST_F(QualityTest, WithoutAProfileTheCommandToRunIsNamed) {
  const std::string error = Ran("none", 0.02);
  EXPECT_THAT(error, HasSubstr("thresher calibrate --model " + Directory("none").string() +
                               " --data LABELLED.tsv --max-loss 0.02"));
  EXPECT_THAT(error, HasSubstr("no sparsity_profile.textproto"));
}

TEST_F(QualityTest, ABrokenProfileSaysWhatIsWrongAndTheModelServes) {
  EXPECT_THAT(Ran("broken", 0.02), HasSubstr("entry 1: max_loss 2"));
  v1::ClassifyRequest request = ClassifyRequest({"a film"});
  request.mutable_model()->set_name("broken");
  v1::ClassifyResponse response;
  EXPECT_TRUE(Classify(request, &response).ok());
}

TEST_F(QualityTest, BoundsThatMakeNoSenseAreRefused) {
  for (const double bound : {-0.01, 1.01, double{NAN}, double{INFINITY}}) {
    EXPECT_THAT(Ran("calibrated", bound), HasSubstr("max_quality_loss"));
  }
}

TEST_F(QualityTest, OpenInferenceTakesTheBoundInAnyForm) {
  ModelInferRequest request = Infer();
  auto& parameter = (*request.mutable_parameters())["max_quality_loss"];
  parameter.set_double_param(0.02);
  EXPECT_THAT(Ran(request), HasSubstr("spatten:final=0.4"));
  parameter.set_string_param("0.01");
  EXPECT_THAT(Ran(request), HasSubstr("spatten:final=0.8"));
  parameter.set_int64_param(1);
  EXPECT_THAT(Ran(request), HasSubstr("spatten:final=0.4"));
  parameter.set_int64_param(0);
  EXPECT_EQ(Ran(request), "dense");
  parameter.set_string_param("little");
  EXPECT_THAT(Ran(request), HasSubstr("'max_quality_loss' must be a number"));
}

TEST_F(QualityTest, ABoundAndAPolicyContradictEachOther) {
  ModelInferRequest request = Infer();
  (*request.mutable_parameters())["max_quality_loss"].set_double_param(0.02);
  (*request.mutable_parameters())["sparsity"].set_string_param("dense");
  const std::string error = Ran(request);
  EXPECT_THAT(error, HasSubstr("sparsity"));
  EXPECT_THAT(error, HasSubstr("max_quality_loss"));
}

TEST_F(QualityTest, MetadataTellsTheBounds) {
  const auto bounds = [&](const std::string& name) {
    grpc::ClientContext context;
    inference::ModelMetadataRequest request;
    inference::ModelMetadataResponse response;
    request.set_name(name);
    EXPECT_TRUE(inference_->ModelMetadata(&context, request, &response).ok());
    const auto found = response.properties().find("max_quality_loss");
    return found == response.properties().end() ? "none" : found->second;
  };
  EXPECT_EQ(bounds("calibrated"), "0.01, 0.02");
  EXPECT_EQ(bounds("broken"), "none");
}

}  // namespace
}  // namespace thresher
