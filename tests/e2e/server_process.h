// A real thresherd on free ports of the loopback device.
#ifndef THRESHER_TESTS_E2E_SERVER_PROCESS_H_
#define THRESHER_TESTS_E2E_SERVER_PROCESS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/e2e/process.h"

namespace thresher::testing {

/// "sst2-mini=/.../models/sst2-mini".
std::string EmbeddedModel();

class ServerProcess {
 public:
  /// Waits until it serves. Throws std::runtime_error with what it said if it ends instead.
  explicit ServerProcess(const std::vector<std::string>& arguments = {"--model", EmbeddedModel()},
                         const Process::Options& options = {});

  const std::string& grpc() const { return grpc_; }
  const std::string& http() const { return http_; }
  int models() const { return models_; }
  Process& process() { return process_; }

  /// A client that never retries and has no deadline.
  std::unique_ptr<client::Client> Connect() const;
  /// `thresher ARGUMENTS --server ...`.
  Finished Cli(std::vector<std::string> arguments, const Process::Options& options = {}) const;
  /// The value of one series of /metrics, named with its labels; 0 if there is none.
  double Metric(const std::string& series) const;
  /// Asks until `condition` holds; false after Process::kPatience.
  static bool Eventually(const std::function<bool()>& condition);

 private:
  Process process_;
  std::string grpc_, http_;
  int models_ = 0;
};

struct HttpResponse {
  int status = 0;  // 0: no answer.
  std::string body;
};
/// GET http://ADDRESS/PATH.
HttpResponse HttpGet(const std::string& address, const std::string& path);

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_E2E_SERVER_PROCESS_H_
