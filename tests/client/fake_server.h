// A real gRPC server in the test's process whose answers the test decides.
#ifndef THRESHER_TESTS_CLIENT_FAKE_SERVER_H_
#define THRESHER_TESTS_CLIENT_FAKE_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "inference/open_inference_grpc.grpc.pb.h"
#include "proto/callback_queue.h"
#include "thresher/v1/thresher.grpc.pb.h"

namespace thresher::testing {

/// Every text is answered by its length; the text "bad" fails alone with INVALID_ARGUMENT.
class FakeServer {
 public:
  using Context = grpc::CallbackServerContext;

  FakeServer() {
    KeepCallbackQueue();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&thresher_);
    builder.RegisterService(&inference_);
    builder.RegisterService(&health_);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeServer() {
    server_->Shutdown(std::chrono::system_clock::now());
    for (std::thread& thread : threads_) thread.join();
  }

  const std::string& address() const { return address_; }

  /// Runs in each call of thresher.v1, on a thread of its own, so it may wait; an error is the
  /// call's answer. Set before the first call.
  std::function<grpc::Status(Context&)> before;
  /// The inputs of each Classify call go here, where it is set.
  std::function<void(const v1::ClassifyRequest&)> on_classify;
  /// Each Generate call goes here, where it is set.
  std::function<void(const v1::GenerateRequest&)> on_generate;
  std::vector<std::string> models = {"m"};
  std::map<std::string, grpc::health::v1::HealthCheckResponse::ServingStatus> health = {
      {"", grpc::health::v1::HealthCheckResponse::SERVING}};
  std::atomic<int> calls = 0;  // Of thresher.v1.
  std::atomic<int> loads = 0;

  static float Score(const std::string& text) {
    return 1.0f / (1.0f + static_cast<float>(text.size()));
  }

 private:
  using Reactor = grpc::ServerUnaryReactor;

  static Reactor* Reply(Context* context, const grpc::Status& status = grpc::Status::OK) {
    Reactor* reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }

  /// What every call of thresher.v1 ends with.
  Reactor* Finish(Context* context) {
    ++calls;
    Reactor* reactor = context->DefaultReactor();
    std::lock_guard lock(mutex_);
    threads_.emplace_back([this, context, reactor] {
      reactor->Finish(before ? before(*context) : grpc::Status::OK);
    });
    return reactor;
  }

  static v1::ResultInfo Info(const std::string& text) {
    v1::ResultInfo info;
    if (text == "bad") {
      info.mutable_status()->set_code(static_cast<int>(absl::StatusCode::kInvalidArgument));
      info.mutable_status()->set_message("it is bad");
    }
    info.mutable_timings()->set_queue(0.25);
    info.mutable_timings()->set_total(0.5);
    info.set_tokens(static_cast<int>(text.size()));
    info.mutable_report()->set_policy("dense");
    info.mutable_report()->mutable_total()->mutable_tokens()->set_dense(5'000'000'000);
    return info;
  }

  class ThresherService final : public v1::Thresher::CallbackService {
   public:
    explicit ThresherService(FakeServer& fake) : fake_(fake) {}
    Reactor* Classify(Context* context, const v1::ClassifyRequest* request,
                      v1::ClassifyResponse* response) override {
      if (fake_.on_classify) fake_.on_classify(*request);
      response->add_labels("negative");
      response->add_labels("positive");
      for (const v1::Input& input : request->inputs()) {
        v1::Classification& result = *response->add_results();
        *result.mutable_info() = Info(input.text());
        result.set_label("negative");
        result.add_scores(1 - FakeServer::Score(input.text()));
        result.add_scores(FakeServer::Score(input.text()));
      }
      return fake_.Finish(context);
    }
    Reactor* Embed(Context* context, const v1::EmbedRequest* request,
                   v1::EmbedResponse* response) override {
      for (const v1::Input& input : request->inputs()) {
        v1::Embedding& result = *response->add_results();
        *result.mutable_info() = Info(input.text());
        result.add_values(FakeServer::Score(input.text()));
        result.add_values(request->pooling());
        result.add_values(!request->has_normalize() ? -1.0f : request->normalize() ? 1.0f : 0.0f);
      }
      return fake_.Finish(context);
    }
    Reactor* TokenClassify(Context* context, const v1::TokenClassifyRequest* request,
                           v1::TokenClassifyResponse* response) override {
      for (const v1::Input& input : request->inputs()) {
        v1::TokenClassification& result = *response->add_results();
        *result.mutable_info() = Info(input.text());
        v1::TokenLabel& token = *result.add_tokens();
        token.set_token(input.text());
        token.set_label("B-PER");
        token.set_score(0.5f);
        token.set_end(static_cast<int>(input.text().size()));
      }
      return fake_.Finish(context);
    }
    Reactor* Answer(Context* context, const v1::AnswerRequest* request,
                    v1::AnswerResponse* response) override {
      for (const v1::Question& question : request->questions()) {
        v1::AnswerResult& result = *response->add_results();
        *result.mutable_info() = Info(question.question());
        v1::AnswerSpan& span = *result.add_answers();
        span.set_text(question.context());
        span.set_score(0.5f);
      }
      return fake_.Finish(context);
    }
    Reactor* Tokenize(Context* context, const v1::TokenizeRequest* request,
                      v1::TokenizeResponse* response) override {
      for (const v1::Input& input : request->inputs()) {
        v1::Tokenization& result = *response->add_results();
        *result.mutable_info() = Info(input.text());
        for (size_t i = 0; i < input.text().size(); ++i) {
          v1::Token& token = *result.add_tokens();
          token.set_id(static_cast<unsigned char>(input.text()[i]));
          token.set_text(input.text().substr(i, 1));
          token.set_begin(static_cast<int>(i));
          token.set_end(static_cast<int>(i) + 1);
        }
      }
      return fake_.Finish(context);
    }

    Reactor* Score(Context* context, const v1::ScoreRequest* request,
                   v1::ScoreResponse* response) override {
      for (const v1::Input& input : request->inputs()) {
        v1::TextScore& result = *response->add_results();
        *result.mutable_info() = Info(input.text());
        result.set_logprob(-static_cast<double>(input.text().size()));
      }
      return fake_.Finish(context);
    }
    /// A token for each byte of the prompt, and "!" at the end; "bad" fails.
    grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
        Context* context, const v1::GenerateRequest* request) override {
      class Writer final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
       public:
        explicit Writer(const v1::GenerateRequest& request) : prompt_(request.prompt().text()) {
          if (prompt_ == "bad") {
            Finish({grpc::StatusCode::INVALID_ARGUMENT, "it is bad"});
          } else {
            Next();
          }
        }
        void OnWriteDone(bool ok) override {
          if (!ok) {
            Finish(grpc::Status::CANCELLED);
          } else if (message_.has_end()) {
            Finish(grpc::Status::OK);
          } else {
            Next();
          }
        }
        void OnDone() override { delete this; }

       private:
        void Next() {
          message_.Clear();
          if (at_ < prompt_.size()) {
            v1::GeneratedToken& token = *message_.add_tokens();
            token.set_id(static_cast<unsigned char>(prompt_[at_]));
            token.set_text(prompt_.substr(at_++, 1));
            token.set_logprob(-0.5f);
          } else {
            v1::GenerateEnd& end = *message_.mutable_end();
            end.set_text("!");
            end.set_finish_reason("stop");
            end.mutable_usage()->set_prompt_tokens(3);
            end.mutable_usage()->set_generated_tokens(static_cast<int>(prompt_.size()));
            end.mutable_timings()->set_first_token(0.25);
            end.mutable_timings()->set_total(0.5);
            end.mutable_report()->set_policy("dense");
            end.set_seed(9);
          }
          StartWrite(&message_);
        }
        const std::string prompt_;
        size_t at_ = 0;
        v1::GenerateResponse message_;
      };
      ++fake_.calls;
      if (fake_.on_generate) fake_.on_generate(*request);
      return new Writer(*request);
    }

   private:
    FakeServer& fake_;
  };

  class InferenceService final : public inference::GRPCInferenceService::CallbackService {
   public:
    explicit InferenceService(FakeServer& fake) : fake_(fake) {}
    Reactor* ServerLive(Context* context, const inference::ServerLiveRequest*,
                        inference::ServerLiveResponse* response) override {
      response->set_live(true);
      return Reply(context);
    }
    Reactor* RepositoryIndex(Context* context, const inference::RepositoryIndexRequest*,
                             inference::RepositoryIndexResponse* response) override {
      for (const std::string& name : fake_.models) {
        auto& model = *response->add_models();
        model.set_name(name);
        model.set_version("1");
        model.set_state("READY");
      }
      return Reply(context);
    }
    Reactor* ModelMetadata(Context* context, const inference::ModelMetadataRequest* request,
                           inference::ModelMetadataResponse* response) override {
      response->set_name(request->name());
      response->set_platform("thresher");
      auto& input = *response->add_inputs();
      input.set_name("text");
      input.set_datatype("BYTES");
      input.add_shape(-1);
      (*response->mutable_properties())["max_tokens"] = "512";
      return Reply(context);
    }
    Reactor* RepositoryModelLoad(Context* context, const inference::RepositoryModelLoadRequest*,
                                 inference::RepositoryModelLoadResponse*) override {
      ++fake_.loads;
      return Reply(context, {grpc::StatusCode::UNAVAILABLE, "not now"});
    }

   private:
    FakeServer& fake_;
  };

  class HealthService final : public grpc::health::v1::Health::CallbackService {
   public:
    explicit HealthService(FakeServer& fake) : fake_(fake) {}
    Reactor* Check(Context* context, const grpc::health::v1::HealthCheckRequest* request,
                   grpc::health::v1::HealthCheckResponse* response) override {
      const auto found = fake_.health.find(request->service());
      if (found == fake_.health.end()) {
        return Reply(context, {grpc::StatusCode::NOT_FOUND, "unknown service"});
      }
      response->set_status(found->second);
      return Reply(context);
    }

   private:
    FakeServer& fake_;
  };

  ThresherService thresher_{*this};
  InferenceService inference_{*this};
  HealthService health_{*this};
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::mutex mutex_;
  std::vector<std::thread> threads_;  // Guarded by mutex_ until the server has shut down.
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_CLIENT_FAKE_SERVER_H_
