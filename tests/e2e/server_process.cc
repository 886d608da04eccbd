#include "tests/e2e/server_process.h"

#include <civetweb.h>

#include <chrono>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "tests/testing/paths.h"

namespace thresher::testing {
namespace {

std::vector<std::string> CommandLine(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {THRESHERD_BINARY, "--listen", "127.0.0.1:0", "--http",
                                   "127.0.0.1:0"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return argv;
}

}  // namespace

std::string EmbeddedModel() {
  return "sst2-mini=" + (SourceDir() / "models" / "sst2-mini").string();
}

ServerProcess::ServerProcess(const std::vector<std::string>& arguments,
                             const Process::Options& options)
    : process_(CommandLine(arguments), options) {
  const auto line =
      process_.WaitForOutput(R"(^serving grpc=(\S+:\d+) http=(\S+:\d+) models=(\d+)\n)");
  if (!line) throw std::runtime_error("thresherd does not serve:\n" + process_.error());
  grpc_ = (*line)[1];
  http_ = (*line)[2];
  models_ = std::stoi((*line)[3]);
}

std::unique_ptr<client::Client> ServerProcess::Connect() const {
  auto client = client::Client::Connect(
      {.server = grpc_, .deadline = absl::InfiniteDuration(), .retry = {.max_attempts = 1}});
  if (!client.ok()) throw std::runtime_error(client.status().ToString());
  return *std::move(client);
}

Finished ServerProcess::Cli(std::vector<std::string> arguments,
                            const Process::Options& options) const {
  arguments.insert(arguments.begin(), THRESHER_BINARY);
  arguments.insert(arguments.end(), {"--server", grpc_, "--deadline", "2m"});
  return RunProcess(arguments, options);
}

double ServerProcess::Metric(const std::string& series) const {
  std::istringstream lines(HttpGet(http_, "/metrics").body);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(series + " ")) return std::stod(line.substr(series.size() + 1));
  }
  return 0;
}

bool ServerProcess::Eventually(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + Process::kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

HttpResponse HttpGet(const std::string& address, const std::string& path) {
  static const unsigned initialised = mg_init_library(MG_FEATURES_DEFAULT);
  (void)initialised;
  const size_t colon = address.rfind(':');
  char error[256] = "";
  mg_connection* connection = mg_download(
      address.substr(0, colon).c_str(), std::stoi(address.substr(colon + 1)), /*use_ssl=*/0, error,
      sizeof error, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path.c_str(),
      address.c_str());
  if (connection == nullptr) return {};
  HttpResponse response;
  response.status = mg_get_response_info(connection)->status_code;
  char chunk[4096];
  for (int bytes; (bytes = mg_read(connection, chunk, sizeof chunk)) > 0;) {
    response.body.append(chunk, static_cast<size_t>(bytes));
  }
  mg_close_connection(connection);
  return response;
}

}  // namespace thresher::testing
