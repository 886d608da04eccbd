#include "client/load/grpc_port.h"

#include <sys/resource.h>
#include <time.h>

#include <cmath>
#include <string>
#include <utility>

namespace thresher::load {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

template <typename Timings>
ServerTimes ToServerTimes(const Timings& timings) {
  return {.queue = absl::Seconds(timings.queue()),
          .tokenize = absl::Seconds(timings.tokenize()),
          .compute = absl::Seconds(timings.compute()),
          .total = absl::Seconds(timings.total())};
}

void SetError(const absl::Status& status, Completion* completion) {
  completion->code = status.code();
  completion->message = std::string(status.message());
}

/// A call whose inputs did not all succeed failed as its first bad one did.
void TakeInfo(const v1::ResultInfo& info, Completion* completion) {
  completion->input_tokens += info.tokens();
  if (info.status().code() == 0 || completion->code != absl::StatusCode::kOk) return;
  completion->code = static_cast<absl::StatusCode>(info.status().code());
  completion->message = info.status().message();
}

void CheckLabel(const v1::ClassifyResponse& response, const v1::Classification& result, int label,
                Completion* completion) {
  ++completion->labelled;
  if (label < response.labels_size() && response.labels(label) == result.label()) {
    ++completion->right;
  }
}

void TakeResponse(const v1::ClassifyResponse& response,
                  const std::vector<std::optional<int>>& labels, Completion* completion) {
  completion->server = ToServerTimes(response.timings());
  for (int i = 0; i < response.results_size(); ++i) {
    TakeInfo(response.results(i).info(), completion);
    if (static_cast<size_t>(i) < labels.size() && labels[i]) {
      CheckLabel(response, response.results(i), *labels[i], completion);
    }
  }
}

void TakeResponse(const v1::EmbedResponse& response, const std::vector<std::optional<int>>&,
                  Completion* completion) {
  completion->server = ToServerTimes(response.timings());
  for (const v1::Embedding& result : response.results()) TakeInfo(result.info(), completion);
}

/// Thresher tells its timings as parameters; others don't.
void TakeResponse(const inference::ModelInferResponse& response,
                  const std::vector<std::optional<int>>&, Completion* completion) {
  const auto find = [&](const char* name) {
    const auto found = response.parameters().find(name);
    return found == response.parameters().end() ? nullptr : &found->second;
  };
  const auto seconds = [&](const char* name) {
    const auto* value = find(name);
    return absl::Seconds(value == nullptr ? 0 : value->double_param());
  };
  if (const auto* total = find("total_seconds"); total != nullptr && total->has_double_param()) {
    completion->server = ServerTimes{.queue = seconds("queue_seconds"),
                                     .tokenize = seconds("tokenize_seconds"),
                                     .compute = seconds("compute_seconds"),
                                     .total = seconds("total_seconds")};
  }
  for (const char* name : {"tokens", "prompt_tokens"}) {
    if (const auto* tokens = find(name)) completion->input_tokens = tokens->int64_param();
  }
  if (const auto* tokens = find("generated_tokens")) {
    completion->output_tokens = tokens->int64_param();
  }
}

/// What is known of a text while it comes; only ever on one thread at a time.
struct Stream {
  Completion completion;
  absl::Duration last;  // When its last token came.
};

}  // namespace

/// Sends the request that a query holds.
struct GrpcPort::Sender {
  GrpcPort& port;
  client::Client& client;
  Completion completion;
  std::vector<std::optional<int>> labels;

  client::CallOptions Options() const {
    return {.deadline = port.deadline_, .stop = port.stop_.get_token()};
  }

  template <typename Request>
  void operator()(Request& request) {
    completion.sent = port.Now();
    client.CallAsync<Request>(
        std::move(request),
        [this_port = &port, completion = std::move(completion),
         labels = std::move(labels)](client::Client::Result<Request> response) mutable {
          completion.received = this_port->Now();
          if (response.ok()) {
            TakeResponse(*response, labels, &completion);
          } else {
            SetError(response.status(), &completion);
          }
          this_port->Ended(std::move(completion));
        },
        Options());
  }

  void operator()(v1::GenerateRequest& request) {
    auto stream = std::make_shared<Stream>();
    completion.sent = port.Now();
    stream->completion = std::move(completion);
    client.GenerateAsync(
        std::move(request),
        [this_port = &port, stream](const v1::GenerateResponse& message) {
          const absl::Duration now = this_port->Now();
          Completion& completion = stream->completion;
          if (message.tokens_size() > 0) {
            if (!completion.first_token) completion.first_token = now;
            // Tokens that come together share the time since those before them.
            const int fresh = message.tokens_size();
            const bool first = completion.output_tokens == 0;
            for (int i = first ? 1 : 0; i < fresh; ++i) {
              completion.token_gaps.push_back(first ? absl::ZeroDuration()
                                                    : (now - stream->last) / fresh);
            }
            completion.output_tokens += fresh;
            stream->last = now;
          }
          if (message.has_end()) {
            completion.server = ToServerTimes(message.end().timings());
            completion.input_tokens = message.end().usage().prompt_tokens();
          }
        },
        [this_port = &port, stream](const absl::Status& status) {
          Completion& completion = stream->completion;
          completion.received = this_port->Now();
          if (!status.ok()) SetError(status, &completion);
          this_port->Ended(std::move(completion));
        },
        Options());
  }
};

GrpcPort::GrpcPort(std::vector<client::Client*> clients, absl::Duration deadline,
                   std::unique_ptr<Workload> workload)
    : clients_(std::move(clients)),
      deadline_(deadline),
      epoch_(std::chrono::steady_clock::now()),
      workload_(std::move(workload)) {}

GrpcPort::~GrpcPort() {
  stop_.request_stop();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return in_flight_ == 0; });
}

absl::Duration GrpcPort::Now() {
  return absl::FromChrono(std::chrono::steady_clock::now() - epoch_);
}

CpuTime GrpcPort::Cpu() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  timespec thread{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &thread);
  return {
      .process = Seconds(usage.ru_utime) + Seconds(usage.ru_stime),
      .thread = static_cast<double>(thread.tv_sec) + static_cast<double>(thread.tv_nsec) * 1e-9};
}

void GrpcPort::Send(int64_t id) {
  Query query = workload_->Next();
  client::Client& client = *clients_[next_client_];
  next_client_ = (next_client_ + 1) % clients_.size();
  {
    std::lock_guard lock(mutex_);
    ++in_flight_;
  }
  Sender sender = {*this,
                   client,
                   {.id = id, .part = query.part, .inputs = query.inputs},
                   std::move(query.labels)};
  std::visit(sender, query.request);
}

void GrpcPort::Ended(Completion completion) {
  // Notifies under the lock: the destructor may free the condition as soon as nothing is in flight.
  std::lock_guard lock(mutex_);
  --in_flight_;
  ended_.push_back(std::move(completion));
  changed_.notify_all();
}

void GrpcPort::Wait(absl::Duration until, std::vector<Completion>* ended) {
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return woken_ || !ended_.empty(); };
  if (until == absl::InfiniteDuration()) {
    changed_.wait(lock, ready);
  } else {
    changed_.wait_until(lock, epoch_ + absl::ToChronoNanoseconds(until), ready);
  }
  woken_ = false;
  if (ended->empty()) {
    ended->swap(ended_);
  } else {
    for (Completion& completion : ended_) ended->push_back(std::move(completion));
    ended_.clear();
  }
}

void GrpcPort::Wake() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

void GrpcPort::Cancel() { std::exchange(stop_, std::stop_source()).request_stop(); }

}  // namespace thresher::load
