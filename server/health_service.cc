#include "server/health_service.h"

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "backend/tensor/status.h"
#include "server/grpc_status.h"

namespace thresher {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using ServingStatus = HealthCheckResponse::ServingStatus;

namespace {

ServingStatus ToStatus(bool serving) {
  return serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

}  // namespace

/// One open watch. A status that changes while a write is under way is sent when that has ended; of
/// several changes only the last; the end comes after it. Its state is guarded by the service's
/// mutex; gRPC runs no reaction inside Start* or Finish, so they may be called with it held.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService* service, bool known) : service_(service), known_(known) {}

  bool known() const { return known_; }

  void Send(ServingStatus status) {
    if (finished_ || (status == last_ && sent_)) return;
    last_ = status;
    sent_ = true;
    if (writing_) return;
    Write();
  }

  /// After what is still to be sent.
  void End(const grpc::Status& status) {
    end_ = status;
    if (!writing_) EndNow(status);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&service_->mutex_);
    writing_ = false;
    if (!ok) {
      EndNow(grpc::Status(grpc::StatusCode::CANCELLED, "the watcher went away"));
    } else if (!finished_ && message_.status() != last_) {
      Write();
    } else if (end_) {
      EndNow(*end_);
    }
  }

  void OnCancel() override {
    MutexLock lock(&service_->mutex_);
    EndNow(grpc::Status(grpc::StatusCode::CANCELLED, "the watcher went away"));
  }

  void OnDone() override {
    {
      MutexLock lock(&service_->mutex_);
      service_->watchers_.erase(this);
    }
    delete this;
  }

 private:
  void Write() {
    writing_ = true;
    message_.set_status(last_);
    StartWrite(&message_);
  }
  void EndNow(const grpc::Status& status) {
    if (finished_) return;
    finished_ = true;
    Finish(status);
  }

  HealthService* const service_;
  const bool known_;
  bool sent_ = false;
  bool writing_ = false;
  bool finished_ = false;
  std::optional<grpc::Status> end_;
  ServingStatus last_ = HealthCheckResponse::UNKNOWN;
  HealthCheckResponse message_;  // The one that is being written.
};

HealthService::HealthService(std::set<std::string> services, std::function<bool()> ready)
    : services_(std::move(services)), ready_(std::move(ready)) {}

void HealthService::SetServing(bool serving) {
  MutexLock lock(&mutex_);
  wanted_ = serving;
  Update();
}

void HealthService::Refresh() {
  MutexLock lock(&mutex_);
  Update();
}

bool HealthService::serving() {
  MutexLock lock(&mutex_);
  return serving_;
}

void HealthService::Update() {
  serving_ = wanted_ && ready_();
  for (Watcher* watcher : watchers_) {
    if (watcher->known()) watcher->Send(ToStatus(serving_));
  }
}

void HealthService::EndWatches() {
  MutexLock lock(&mutex_);
  ending_ = true;
  const grpc::Status status = ToGrpc(Unavailable("the server is shutting down"));
  for (Watcher* watcher : watchers_) watcher->End(status);
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!request->service().empty() && !services_.contains(request->service())) {
    reactor->Finish(ToGrpc(NotFound("there is no service '{}' here", request->service())));
    return reactor;
  }
  response->set_status(ToStatus(serving()));
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext* context, const HealthCheckRequest* request) {
  const bool known = request->service().empty() || services_.contains(request->service());
  auto* watcher = new Watcher(this, known);
  MutexLock lock(&mutex_);
  watchers_.insert(watcher);
  if (ending_) {
    watcher->End(ToGrpc(Unavailable("the server is shutting down")));
  } else if (!known) {
    watcher->Send(HealthCheckResponse::SERVICE_UNKNOWN);
  } else {
    watcher->Send(ToStatus(serving_));
  }
  return watcher;
}

}  // namespace thresher
