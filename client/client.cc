#include "client/client.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <mutex>

#include "grpc/health/v1/health.grpc.pb.h"
#include "inference/open_inference_grpc.grpc.pb.h"
#include "proto/callback_queue.h"
#include "thresher/v1/thresher.grpc.pb.h"

namespace thresher::client {
namespace {

absl::Status ToAbsl(const grpc::Status& status) {
  // The canonical codes have the same numbers on both sides.
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

/// A time span as the service configuration wants it: "0.1s".
std::string JsonSeconds(absl::Duration span) {
  return fmt::format("{}s", absl::ToDoubleSeconds(span));
}

absl::Status Check(const ClientOptions& options) {
  const RetryPolicy& retry = options.retry;
  if (options.server.empty()) {
    return absl::InvalidArgumentError("the server's address is empty; expected HOST:PORT");
  }
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("the deadline must be positive");
  }
  if (options.max_message_bytes <= 0) {
    return absl::InvalidArgumentError("max_message_bytes must be positive");
  }
  if (retry.max_attempts < 1 || retry.max_attempts > 5) {
    return absl::InvalidArgumentError(
        fmt::format("retry.max_attempts: {} is not in 1..5", retry.max_attempts));
  }
  if (retry.initial_backoff < absl::Milliseconds(1) || retry.max_backoff < retry.initial_backoff ||
      retry.max_backoff > absl::Hours(1) || !(retry.backoff_multiplier >= 1)) {
    return absl::InvalidArgumentError(
        "retry: needs 1 ms <= initial_backoff <= max_backoff <= 1 h and backoff_multiplier >= 1");
  }
  const bool sendable = std::all_of(options.token.begin(), options.token.end(),
                                    [](char c) { return c > 0x20 && c < 0x7f; });
  if (!sendable) {
    return absl::InvalidArgumentError("the token holds other than visible ASCII characters");
  }
  return absl::OkStatus();
}

/// All of a file; nothing where the path is empty.
absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file || text.find("-----BEGIN ") == std::string::npos) {
    return absl::InvalidArgumentError(fmt::format("{}: can't be read as PEM", path));
  }
  return text;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const std::optional<TlsOptions>& tls) {
  if (!tls) return grpc::InsecureChannelCredentials();
  if (tls->cert_file.empty() != tls->key_file.empty()) {
    return absl::InvalidArgumentError("a client's certificate and its key need each other");
  }
  auto ca = ReadPem(tls->ca_file);
  auto cert = ReadPem(tls->cert_file);
  auto key = ReadPem(tls->key_file);
  for (const auto* text : {&ca, &cert, &key}) {
    if (!text->ok()) return text->status();
  }
  return grpc::SslCredentials({*std::move(ca), *std::move(key), *std::move(cert)});
}

}  // namespace

std::string ServiceConfig(const RetryPolicy& retry) {
  if (retry.max_attempts == 1) return "{}";
  // A name without a service matches all methods; a full name beats it.
  return fmt::format(
      R"({{"methodConfig":[{{"name":[{{}}],"retryPolicy":{{"maxAttempts":{},)"
      R"("initialBackoff":"{}","maxBackoff":"{}","backoffMultiplier":{},)"
      R"("retryableStatusCodes":["UNAVAILABLE","RESOURCE_EXHAUSTED"]}}}},)"
      R"({{"name":[)"
      R"({{"service":"inference.GRPCInferenceService","method":"RepositoryModelLoad"}},)"
      R"({{"service":"inference.GRPCInferenceService","method":"RepositoryModelUnload"}}]}}],)"
      R"("retryThrottling":{{"maxTokens":20,"tokenRatio":0.5}}}})",
      retry.max_attempts, JsonSeconds(retry.initial_backoff), JsonSeconds(retry.max_backoff),
      retry.backoff_multiplier);
}

class Client::Impl {
 public:
  Impl(ClientOptions options, const std::shared_ptr<grpc::ChannelCredentials>& credentials)
      : options_(std::move(options)) {
    KeepCallbackQueue();
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(options_.max_message_bytes);
    arguments.SetServiceConfigJSON(ServiceConfig(options_.retry));
    // A client with its own connection; else gRPC shares one among all channels with equal
    // arguments.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // A request larger than this is sent only once; the default would not retry a large batch.
    arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, options_.max_message_bytes);
    // Reconnects as often as calls are retried; gRPC's own first pause is a second.
    const auto milliseconds = [](absl::Duration span) {
      return static_cast<int>(absl::ToInt64Milliseconds(span));
    };
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS,
                     std::max(100, milliseconds(options_.retry.initial_backoff)));
    // And what a connection may take to come about, whatever the name says: a second is too little
    // for a server with ten thousand others at the door.
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS,
                     std::max(1000, milliseconds(options_.retry.max_backoff)));
    if (options_.tls && !options_.tls->server_name.empty()) {
      arguments.SetSslTargetNameOverride(options_.tls->server_name);
    }
    const auto channel = grpc::CreateCustomChannel(options_.server, credentials, arguments);
    thresher_ = v1::Thresher::NewStub(channel);
    inference_ = inference::GRPCInferenceService::NewStub(channel);
    health_ = grpc::health::v1::Health::NewStub(channel);
  }

  ~Impl() {
    stop_.request_stop();
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return calls_ == 0; });
  }

  template <typename Request>
  Result<Request> Call(const Request& request, const CallOptions& options);
  template <typename Request>
  void CallAsync(Request request, Callback<Request> done, const CallOptions& options);
  absl::Status Generate(const v1::GenerateRequest& request,
                        absl::FunctionRef<bool(const v1::GenerateResponse&)> take,
                        const CallOptions& options);
  void GenerateAsync(v1::GenerateRequest request,
                     std::function<void(const v1::GenerateResponse&)> take,
                     std::function<void(absl::Status)> done, const CallOptions& options);

 private:
  class TextReader;

  /// A gRPC context that a stop token, and the client's end, cancel.
  class Context : public std::enable_shared_from_this<Context> {
   public:
    static std::shared_ptr<Context> Make(const Impl& impl, const CallOptions& options) {
      auto context = std::make_shared<Context>();
      const absl::Duration deadline = options.deadline.value_or(impl.options_.deadline);
      if (deadline < absl::InfiniteDuration()) {
        context->grpc_.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
      }
      if (!impl.options_.token.empty()) {
        context->grpc_.AddMetadata("authorization", "Bearer " + impl.options_.token);
      }
      context->on_stop_.emplace(options.stop, Cancel{context});
      context->on_shutdown_.emplace(impl.stop_.get_token(), Cancel{context});
      return context;
    }
    grpc::ClientContext* grpc() { return &grpc_; }

   private:
    /// gRPC may end the call, and so drop it, within TryCancel; the context must outlive that.
    struct Cancel {
      std::weak_ptr<Context> context;
      void operator()() const {
        if (const auto alive = context.lock()) alive->grpc_.TryCancel();
      }
    };
    ::grpc::ClientContext grpc_;
    std::optional<std::stop_callback<Cancel>> on_stop_, on_shutdown_;
  };

  template <typename Request>
  struct AsyncCall {
    std::shared_ptr<Context> context;
    Request request;
    Callback<Request> done;
    typename Rpc<Request>::Response response;
  };

  using Done = std::function<void(grpc::Status)>;
#define THRESHER_DEFINE_SEND(service, package, method, request_type, response_type)     \
  grpc::Status Send(grpc::ClientContext* context, const package::request_type& request, \
                    package::response_type* response) {                                 \
    return service##_->method(context, request, response);                              \
  }                                                                                     \
  void SendAsync(grpc::ClientContext* context, const package::request_type* request,    \
                 package::response_type* response, Done done) {                         \
    service##_->async()->method(context, request, response, std::move(done));           \
  }
  THRESHER_UNARY_RPCS(THRESHER_DEFINE_SEND)
#undef THRESHER_DEFINE_SEND

  void Begin() {
    std::lock_guard lock(mutex_);
    ++calls_;
  }
  void End() {
    // Notifies under the lock: the destructor may free the condition as soon as it sees zero.
    std::lock_guard lock(mutex_);
    if (--calls_ == 0) idle_.notify_all();
  }

  const ClientOptions options_;
  std::unique_ptr<v1::Thresher::Stub> thresher_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> inference_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
  std::stop_source stop_;
  std::mutex mutex_;
  std::condition_variable idle_;
  int64_t calls_ = 0;
};

template <typename Request>
Client::Result<Request> Client::Impl::Call(const Request& request, const CallOptions& options) {
  const auto context = Context::Make(*this, options);
  typename Rpc<Request>::Response response;
  const grpc::Status status = Send(context->grpc(), request, &response);
  if (!status.ok()) return ToAbsl(status);
  return response;
}

template <typename Request>
void Client::Impl::CallAsync(Request request, Callback<Request> done, const CallOptions& options) {
  Begin();
  auto call = std::make_shared<AsyncCall<Request>>();
  call->context = Context::Make(*this, options);
  call->request = std::move(request);
  call->done = std::move(done);
  // Read the addresses before `call` is moved into the callback that keeps it alive.
  AsyncCall<Request>& parts = *call;
  SendAsync(parts.context->grpc(), &parts.request, &parts.response,
            [this, call = std::move(call)](const grpc::Status& status) mutable {
              if (status.ok()) {
                call->done(std::move(call->response));
              } else {
                call->done(ToAbsl(status));
              }
              // What the caller's function holds must be gone before the call counts as ended.
              call->done = nullptr;
              End();
            });
}

absl::Status Client::Impl::Generate(const v1::GenerateRequest& request,
                                    absl::FunctionRef<bool(const v1::GenerateResponse&)> take,
                                    const CallOptions& options) {
  const auto context = Context::Make(*this, options);
  const auto reader = thresher_->Generate(context->grpc(), request);
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    if (take(message)) continue;
    context->grpc()->TryCancel();
    while (reader->Read(&message)) {
    }
  }
  return ToAbsl(reader->Finish());
}

/// One text on its way; gone when it has ended.
class Client::Impl::TextReader final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  TextReader(Impl& impl, v1::GenerateRequest request,
             std::function<void(const v1::GenerateResponse&)> take,
             std::function<void(absl::Status)> done, std::shared_ptr<Context> context)
      : impl_(impl),
        request_(std::move(request)),
        take_(std::move(take)),
        done_(std::move(done)),
        context_(std::move(context)) {}

  void Start() {
    impl_.thresher_->async()->Generate(context_->grpc(), &request_, this);
    StartRead(&message_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    take_(message_);
    StartRead(&message_);
  }
  void OnDone(const grpc::Status& status) override {
    done_(ToAbsl(status));
    Impl& impl = impl_;
    delete this;
    impl.End();
  }

 private:
  Impl& impl_;
  const v1::GenerateRequest request_;
  const std::function<void(const v1::GenerateResponse&)> take_;
  const std::function<void(absl::Status)> done_;
  const std::shared_ptr<Context> context_;
  v1::GenerateResponse message_;
};

void Client::Impl::GenerateAsync(v1::GenerateRequest request,
                                 std::function<void(const v1::GenerateResponse&)> take,
                                 std::function<void(absl::Status)> done,
                                 const CallOptions& options) {
  Begin();
  // Deletes itself in OnDone.
  (new TextReader(*this, std::move(request), std::move(take), std::move(done),
                  Context::Make(*this, options)))
      ->Start();
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  if (absl::Status status = Check(options); !status.ok()) return status;
  const auto credentials = MakeCredentials(options.tls);
  if (!credentials.ok()) return credentials.status();
  return std::unique_ptr<Client>(
      new Client(std::make_unique<Impl>(std::move(options), *credentials)));
}

template <typename Request>
Client::Result<Request> Client::Call(const Request& request, const CallOptions& options) {
  return impl_->Call(request, options);
}

template <typename Request>
void Client::CallAsync(Request request, Callback<Request> done, const CallOptions& options) {
  impl_->CallAsync(std::move(request), std::move(done), options);
}

absl::Status Client::Generate(const v1::GenerateRequest& request,
                              absl::FunctionRef<bool(const v1::GenerateResponse&)> take,
                              const CallOptions& options) {
  return impl_->Generate(request, take, options);
}

void Client::GenerateAsync(v1::GenerateRequest request,
                           std::function<void(const v1::GenerateResponse&)> take,
                           std::function<void(absl::Status)> done, const CallOptions& options) {
  impl_->GenerateAsync(std::move(request), std::move(take), std::move(done), options);
}

#define THRESHER_INSTANTIATE(service, package, method, request, response)         \
  template Client::Result<package::request> Client::Call(const package::request&, \
                                                         const CallOptions&);     \
  template void Client::CallAsync(package::request, Callback<package::request>, const CallOptions&);
THRESHER_UNARY_RPCS(THRESHER_INSTANTIATE)
#undef THRESHER_INSTANTIATE

}  // namespace thresher::client
