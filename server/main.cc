// thresherd: the server's program. Reads its configuration, puts the parts together, serves until
// it is told to stop.
#include <malloc.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "backend/build_info/build_info.h"
#include "backend/device/cpu_resources.h"
#include "backend/device/memory_resources.h"
#include "backend/engine/kv_cache.h"
#include "backend/scheduler/scheduler.h"
#include "backend/tensor/status.h"
#include "server/access_log.h"
#include "server/address.h"
#include "server/authorizer.h"
#include "server/config.h"
#include "server/console_routes.h"
#include "server/file_watcher.h"
#include "server/flags.h"
#include "server/generation_metrics.h"
#include "server/grpc_server.h"
#include "server/http_call.h"
#include "server/http_server.h"
#include "server/libraries.h"
#include "server/lifecycle.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/model_repository.h"
#include "server/open_inference_routes.h"
#include "server/openai_routes.h"
#include "server/security_metrics.h"
#include "server/signals.h"
#include "server/span_export.h"
#include "server/status_routes.h"
#include "server/thresher_routes.h"
#include "server/tls_files.h"

namespace thresher {
namespace {

constexpr int kFailure = 1;
constexpr int kUsage = 2;

int Fail(const absl::Status& status) {
  spdlog::critical("{}", Message(status));
  return kFailure;
}

SchedulerOptions MakeSchedulerOptions(const v1::ServerConfig& config) {
  SchedulerOptions options;
  options.max_batch_cost = config.max_batch_tokens();
  options.max_batch_sequences = config.max_batch_sequences();
  options.max_queue = config.max_queue();
  if (config.has_max_queue_delay()) {
    options.max_queue_delay = ToDuration(config.max_queue_delay());
  } else {
    options.patience = absl::Seconds(1);
  }
  options.max_batch_delay = ToDuration(config.max_batch_delay());
  return options;
}

/// A quarter of the memory there is, where the configuration says nothing.
size_t KvCacheBytes(const v1::ServerConfig& config) {
  if (config.has_kv_cache_bytes()) return static_cast<size_t>(config.kv_cache_bytes());
  constexpr int64_t kUnknown = int64_t{1} << 30;
  const int64_t usable = DetectMemoryResources().usable();
  return static_cast<size_t>((usable > 0 ? usable : kUnknown) / 4);
}

/// The scheduler and the metrics must outlive the repository.
absl::StatusOr<RepositoryOptions> MakeRepositoryOptions(const v1::ServerConfig& config, int threads,
                                                        Scheduler* scheduler, Metrics* metrics) {
  RepositoryOptions options;
  options.device = config.device();
  options.device_options.threads = threads;
  if (config.has_pace()) {
    THRESHER_ASSIGN_OR_RETURN(options.device_options.pace, ParsePace(config.pace()));
  }
  options.record_traces = config.record_traces();
  if (config.has_precision()) {
    THRESHER_ASSIGN_OR_RETURN(options.precision, ParsePrecision(config.precision()));
  }
  options.root = config.model_repository();
  options.scheduler = scheduler;
  options.generator.max_step_tokens = config.max_batch_tokens();
  options.generator.prefill_chunk = config.prefill_chunk();
  options.generator.max_running = config.max_batch_sequences();
  options.generator.max_waiting = config.max_queue();
  options.kv_pool = std::make_shared<KvPool>(KvCacheBytes(config));
  options.observer = [metrics](const std::string& model) { return &metrics->TextsOf(model); };
  return options;
}

/// Null without TLS.
absl::StatusOr<std::unique_ptr<TlsFiles>> OpenTls(const v1::ServerConfig& config) {
  if (config.tls_cert().empty()) return nullptr;
  THRESHER_ASSIGN_OR_RETURN(
      auto tls, TlsFiles::Open({config.tls_cert(), config.tls_key(), config.tls_client_ca()}));
  const auto identity = tls->current();
  spdlog::info("TLS as {}, valid until {}{}", identity->subject,
               absl::FormatTime("%Y-%m-%d", identity->not_after, absl::UTCTimeZone()),
               identity->client_ca.empty() ? "" : "; clients need a certificate");
  if (identity->key_is_public) {
    spdlog::warn("{}: everybody on this machine may read the key; chmod o-r", config.tls_key());
  }
  return tls;
}

absl::StatusOr<std::unique_ptr<Authorizer>> OpenAuthorizer(const v1::ServerConfig& config,
                                                           SecurityMetrics* metrics) {
  Authorizer::Options options;
  options.tokens = config.auth_tokens();
  THRESHER_ASSIGN_OR_RETURN(options.open, ParseOpenDoors(config.auth_open()));
  options.events.accepted = [metrics](std::string_view caller) { metrics->OnAccepted(caller); };
  options.events.refused = [metrics](std::string_view front, std::string_view reason) {
    metrics->OnRefused(front, reason);
  };
  return Authorizer::Open(std::move(options));
}

/// What is read again when it changes: tokens and, where there are any, certificates.
void WatchFiles(const v1::ServerConfig& config, TlsFiles* tls, Authorizer* authorizer,
                FileWatcher* watcher) {
  const auto reload = [](const char* what, const absl::Status& status) {
    if (status.ok()) {
      spdlog::info("{} were read again", what);
    } else {
      spdlog::error("{} stay as they were: {}", what, Message(status));
    }
  };
  if (tls != nullptr) {
    std::vector<std::string> paths = {tls->paths().cert, tls->paths().key};
    if (!tls->paths().client_ca.empty()) paths.push_back(tls->paths().client_ca);
    watcher->Watch(paths, [tls, reload] { reload("certificates", tls->Reload()); });
  }
  if (!config.auth_tokens().empty()) {
    watcher->Watch({config.auth_tokens()},
                   [authorizer, reload] { reload("tokens", authorizer->Reload()); });
  }
  watcher->Start();
}

/// Plain text that leaves the machine is for the operator to know of.
void WarnOfPlainText(const v1::ServerConfig& config) {
  if (!config.tls_cert().empty()) return;
  for (const std::string& address : {config.listen(), config.http()}) {
    if (const auto parsed = ParseAddress(address); parsed.ok() && !IsLoopback(*parsed)) {
      spdlog::warn(
          "{} is served in plain text beyond this machine: give --tls-cert and --tls-key, "
          "or see that the network protects it",
          address);
    }
  }
}

/// More open files are more connections; the limit that a process begins with is a low one.
void RaiseFileLimit() {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

/// All that the HTTP address answers.
std::vector<HttpRoute> Routes(const std::function<std::string_view()>& phase, Metrics* metrics,
                              const Handlers& handlers) {
  const ModelRepository* const repository = handlers.repository;
  std::vector<HttpRoute> routes = StatusRoutes(phase, metrics, repository);
  const auto ready = [phase, repository] { return phase() == "serving" && repository->AllReady(); };
  for (const auto& more :
       {ThresherRoutes(handlers), OpenInferenceRoutes(handlers, ready), OpenAiRoutes(handlers)}) {
    routes.insert(routes.end(), more.begin(), more.end());
  }
  AddConsole(&routes);
  return routes;
}

/// How many models have a version that serves.
size_t CountReady(const ModelRepository& repository) {
  std::set<std::string> names;
  for (const auto& served : repository.Ready()) names.insert(served->name);
  return names.size();
}

/// Says in one line each why nothing can be served.
int FailWithoutModels(const ModelRepository& repository, const absl::Status& loaded) {
  const std::vector<ModelIndexEntry> index = repository.Index();
  for (const ModelIndexEntry& entry : index) {
    spdlog::critical("model '{}'{}{}: {}", entry.name, entry.version.empty() ? "" : " version ",
                     entry.version, entry.reason);
  }
  return Fail(loaded.ok() || !index.empty()
                  ? FailedPrecondition("no model could be loaded, so there is nothing to serve")
                  : loaded);
}

/// Reloads all models, one reload at a time, on a thread of its own: signals are heard meanwhile.
class Reloader {
 public:
  explicit Reloader(ModelRepository* repository) : repository_(repository) {}
  ~Reloader() {
    repository_->CancelLoads();
    if (thread_.joinable()) thread_.join();
  }
  Reloader(const Reloader&) = delete;
  Reloader& operator=(const Reloader&) = delete;

  void Reload() {
    if (running_.exchange(true)) {
      spdlog::warn("SIGHUP ignored: a reload is running");
      return;
    }
    if (thread_.joinable()) thread_.join();
    thread_ = std::thread([this] {
      spdlog::info("SIGHUP: reloading all models");
      const absl::Status status = repository_->LoadAll();
      if (!status.ok()) spdlog::error("reload: {}", Message(status));
      running_ = false;
    });
  }

 private:
  ModelRepository* repository_;
  std::atomic<bool> running_ = false;
  std::thread thread_;
};

int Serve(const v1::ServerConfig& config) {
  std::signal(SIGPIPE, SIG_IGN);
  RaiseFileLimit();
  LifecycleOptions lifecycle_options;
  lifecycle_options.lame_duck = ToDuration(config.lame_duck());
  lifecycle_options.drain_timeout = ToDuration(config.drain_timeout());
  Lifecycle lifecycle(lifecycle_options);
  // Before any other thread, so that all of them leave these signals to the watcher.
  const auto signals = SignalWatcher::Start({SIGTERM, SIGINT, SIGHUP},
                                            [&](int signal) { lifecycle.OnSignal(signal); });
  if (!signals.ok()) return Fail(signals.status());

  const CpuResources cpus = DetectCpuResources();
  const int threads = config.threads() > 0 ? config.threads() : cpus.usable();
  spdlog::info("thresherd {} ({}): {} compute threads", GetBuildInfo().version,
               GetBuildInfo().commit, threads);
  // Each part outlives those below it.
  Metrics metrics({.attention_every = config.metrics_attention_every(),
                   .per_layer = config.metrics_per_layer()});
  Scheduler scheduler(MakeSchedulerOptions(config), &metrics);
  const auto repository_options = MakeRepositoryOptions(config, threads, &scheduler, &metrics);
  if (!repository_options.ok()) return Fail(repository_options.status());
  spdlog::info("texts may hold {} MiB of KV cache", repository_options->kv_pool->limit() >> 20);
  ModelRepository repository(*repository_options, {config.models().begin(), config.models().end()});
  metrics.SetThreads(threads, cpus.quota.value_or(0));
  metrics.Watch(&scheduler, &repository);

  const auto tls = OpenTls(config);
  if (!tls.ok()) return Fail(Annotate(tls.status(), "TLS"));
  const auto authorizer = OpenAuthorizer(config, &metrics.security());
  if (!authorizer.ok()) return Fail(Annotate(authorizer.status(), "--auth-tokens"));
  FileWatcher watcher;
  WatchFiles(config, tls->get(), authorizer->get(), &watcher);
  WarnOfPlainText(config);

  const auto spans = SpanExport::FromEnvironment();
  if (!spans.ok() && !absl::IsUnimplemented(spans.status())) return Fail(spans.status());
  if (!spans.ok()) spdlog::warn("no spans are exported: {}", Message(spans.status()));
  const AccessLog access_log(config.access_log(), spans.ok() ? spans->get() : nullptr);

  GrpcServerOptions grpc_options;
  grpc_options.listen = config.listen();
  grpc_options.max_message_bytes = config.max_message_bytes();
  grpc_options.max_inputs = config.max_inputs();
  grpc_options.elastic = config.elastic();
  grpc_options.max_connections = config.max_connections();
  grpc_options.max_streams = config.max_streams();
  grpc_options.access_log = access_log;
  grpc_options.tls = tls->get();
  // Without tokens there is nothing to ask: whoever must have a certificate could not connect.
  if (!config.auth_tokens().empty()) grpc_options.authorizer = authorizer->get();
  grpc_options.shadow_every = config.shadow_every();
  const auto grpc = GrpcServer::Start(grpc_options, &repository, &scheduler, &metrics);
  if (!grpc.ok()) return Fail(Annotate(grpc.status(), "gRPC"));
  metrics.security().Watch([server = grpc->get(), tls = tls->get()] {
    SecurityState state;
    state.grpc_connections = server->connections();
    if (tls != nullptr) state.certificate_not_after = tls->current()->not_after;
    return state;
  });

  HttpServerOptions http_options;
  http_options.listen = config.http();
  http_options.max_body_bytes = static_cast<size_t>(config.max_message_bytes());
  http_options.max_calls = config.max_http_calls();
  http_options.tls = tls->get();
  http_options.authorizer = authorizer->get();
  http_options.access_log = access_log;
  const auto http = HttpServer::Start(
      http_options, Routes([&lifecycle] { return Name(lifecycle.phase()); }, &metrics,
                           {(*grpc)->inference(), (*grpc)->generation(), &repository}));
  if (!http.ok()) return Fail(Annotate(http.status(), "HTTP"));

  const absl::Status loaded = repository.LoadAll();
  const size_t ready = CountReady(repository);
  if (ready == 0) return FailWithoutModels(repository, loaded);
  if (!loaded.ok()) {
    spdlog::warn("serving without what could not be loaded; the server is not ready until it is");
  }

  lifecycle.SetServing();
  (*grpc)->SetServing(true);
  std::printf("serving grpc=%s http=%s models=%zu\n", (*grpc)->address().c_str(),
              (*http)->address().c_str(), ready);
  std::fflush(stdout);

  bool drained = false;
  {
    Reloader reloader(&repository);
    while (lifecycle.Wait() == Lifecycle::Request::kReload) {
      watcher.Touch();
      reloader.Reload();
    }
    StopActions stop;
    stop.leave_rotation = [&] { (*grpc)->SetServing(false); };
    stop.refuse_new_work = [&] { (*grpc)->RefuseNewWork(); };
    stop.drain = [&](absl::Time deadline) {
      repository.CancelLoads();
      // Connections stay open meanwhile: gRPC cancels what still arrives after its own shutdown,
      // where a refusal tells the caller to ask elsewhere.
      scheduler.StopAccepting();
      const bool idle = scheduler.WaitIdle(deadline);
      // Sends the last answers; what is left after the deadline is cancelled.
      (*grpc)->Shutdown(deadline);
      return (*http)->WaitIdle(deadline) && idle && Clock::Real()->Now() < deadline;
    };
    drained = lifecycle.Stop(stop);
  }
  return drained ? EXIT_SUCCESS : kFailure;
}

/// glibc lets threads spread over eight arenas for each processor, and each keeps what was freed in
/// it: with the threads that gRPC and HTTP have, bursts of connections would leave twice the memory
/// behind. MALLOC_ARENA_MAX says otherwise.
void LimitArenas() {
#ifdef __GLIBC__
  if (std::getenv("MALLOC_ARENA_MAX") == nullptr) {
    mallopt(M_ARENA_MAX, std::max(2, DetectCpuResources().usable()));
  }
#endif
}

int Main(const std::vector<std::string>& arguments) {
  LimitArenas();
  const auto line = ParseCommandLine(arguments, ProcessEnvironment);
  if (!line.ok()) {
    std::fprintf(stderr, "thresherd: %s\nRun with --help for more information.\n",
                 Message(line.status()).c_str());
    return kUsage;
  }
  switch (line->action) {
    case CommandLine::Action::kHelp:
      std::fputs(line->help.c_str(), stdout);
      return EXIT_SUCCESS;
    case CommandLine::Action::kVersion:
      std::fputs(VersionText("thresherd", ServerLibraries()).c_str(), stdout);
      return EXIT_SUCCESS;
    case CommandLine::Action::kServe:
      break;
  }
  InitLog(line->config.log_level(), line->config.log_format());
  return Serve(line->config);
}

}  // namespace
}  // namespace thresher

int main(int argc, char** argv) { return thresher::Main({argv + 1, argv + argc}); }
