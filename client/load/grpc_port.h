// The real port: calls over gRPC, answers as they come, the steady clock.
#ifndef THRESHER_CLIENT_LOAD_GRPC_PORT_H_
#define THRESHER_CLIENT_LOAD_GRPC_PORT_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "client/load/port.h"
#include "client/load/workload.h"

namespace thresher::load {

class GrpcPort final : public Port {
 public:
  /// The clients take turns, and each call has this deadline; all outlive the port. Clients should
  /// not retry, since each attempt is to be measured.
  GrpcPort(std::vector<client::Client*> clients, absl::Duration deadline,
           std::unique_ptr<Workload> workload);
  /// Cancels what is in flight and waits for its end.
  ~GrpcPort() override;

  /// What is asked from now on. Call it between runs.
  void SetWorkload(std::unique_ptr<Workload> workload) { workload_ = std::move(workload); }

  absl::Duration Now() override;
  CpuTime Cpu() override;
  void Send(int64_t id) override;
  void Wait(absl::Duration until, std::vector<Completion>* ended) override;
  void Wake() override;
  void Cancel() override;

 private:
  struct Sender;

  void Ended(Completion completion);

  const std::vector<client::Client*> clients_;
  const absl::Duration deadline_;
  const std::chrono::steady_clock::time_point epoch_;
  std::unique_ptr<Workload> workload_;
  size_t next_client_ = 0;
  std::stop_source stop_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Completion> ended_;
  int64_t in_flight_ = 0;
  bool woken_ = false;
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_GRPC_PORT_H_
