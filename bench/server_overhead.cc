// What the server adds to the engine's own time for one short request on loopback: the latency that
// a client sees, less the compute time that the answer reports. One call at a time. Between them go
// calls that do nothing (ServerLive): what gRPC itself and the loopback device take, the floor.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <string>
#include <vector>

#include "tests/e2e/server_process.h"

namespace thresher {
namespace {

constexpr int kRequests = 2000;
constexpr double kTargetP50 = 300;  // Microseconds.

/// One part of the latency, request by request, in microseconds.
class Series {
 public:
  void Add(double value) { values_.push_back(value); }
  double Quantile(double share) {
    const auto rank = values_.begin() + static_cast<ptrdiff_t>(share * (values_.size() - 1));
    std::nth_element(values_.begin(), rank, values_.end());
    return *rank;
  }

 private:
  std::vector<double> values_;
};

void ServerOverhead(benchmark::State& state) try {
  testing::ServerProcess server;
  const auto client = server.Connect();
  v1::ClassifyRequest request;
  request.mutable_model()->set_name("sst2-mini");
  request.add_inputs()->set_text("a gripping, moving film");
  const inference::ServerLiveRequest nothing;
  for (int i = 0; i < kRequests / 10; ++i) {  // Warms up.
    (void)client->Call(request);
    (void)client->Call(nothing);
  }

  // `wire` is what no clock of the server sees: both gRPC stacks and the loopback device.
  Series latency, compute, added, queue, tokenize, wire, empty;
  const auto call = [&client](const auto& message, double* microseconds) {
    const auto begin = std::chrono::steady_clock::now();
    auto response = client->Call(message);
    *microseconds =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
    return response;
  };
  for (auto _ : state) {
    double took, nothing_took;
    (void)call(nothing, &nothing_took);
    empty.Add(nothing_took);
    const auto response = call(request, &took);
    if (!response.ok() || response->results_size() != 1) {
      state.SkipWithError(response.status().ToString().c_str());
      break;
    }
    const v1::Timings& timings = response->results(0).info().timings();
    const double computed = timings.compute() * 1e6;
    latency.Add(took);
    compute.Add(computed);
    added.Add(took - computed);
    queue.Add(timings.queue() * 1e6);
    tokenize.Add(timings.tokenize() * 1e6);
    wire.Add(took - response->timings().total() * 1e6);
    state.SetIterationTime(std::max(0.0, took - computed) * 1e-6);
  }
  if (state.iterations() == 0 || state.error_occurred()) return;
  state.counters["added p50 us"] = added.Quantile(0.50);
  state.counters["added p99 us"] = added.Quantile(0.99);
  state.counters["latency p50 us"] = latency.Quantile(0.50);
  state.counters["latency p99 us"] = latency.Quantile(0.99);
  state.counters["compute p50 us"] = compute.Quantile(0.50);
  state.counters["queue p50 us"] = queue.Quantile(0.50);
  state.counters["tokenize p50 us"] = tokenize.Quantile(0.50);
  state.counters["wire p50 us"] = wire.Quantile(0.50);
  state.counters["empty call p50 us"] = empty.Quantile(0.50);
  state.counters["ratio to the target of 300 us"] = kTargetP50 / added.Quantile(0.50);
} catch (const std::exception& error) {
  state.SkipWithError(error.what());
}
BENCHMARK(ServerOverhead)->Iterations(kRequests)->UseManualTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace thresher
