#include "backend/device/simulator/units/chunk_stream.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr uint64_t kOutputCookie = ~uint64_t{0};
constexpr std::string_view kWorks;
constexpr std::string_view kWaitsForMemory = "waits for memory";

}  // namespace

absl::StatusOr<int64_t> RunChunkStream(const ChunkStream& stream, int64_t begin,
                                       FetchNetwork* network, UnitClock* unit) {
  const int64_t chunks = stream.chunks;
  std::array<int64_t, 2> came = {FetchNetwork::kNever, FetchNetwork::kNever};
  int64_t now = begin, last = begin, asked = 0, done = 0, written = 0, unit_free = begin;
  bool working = false;
  std::vector<FetchNetwork::Completion> completions;
  unit->Start(begin);
  while (written < chunks) {
    if (working && unit_free <= now) {
      working = false;
      network->Submit(FetchClass::kOutput,
                      {.parts = stream.writes(done++), .cookie = kOutputCookie});
    }
    for (; asked < std::min(chunks, done + 2); ++asked) {
      network->Submit(FetchClass::kKey,
                      {.parts = stream.reads(asked), .cookie = static_cast<uint64_t>(asked)});
    }
    if (!working && done < chunks && came[done % 2] <= now) {
      came[done % 2] = FetchNetwork::kNever;
      unit_free = now + std::max<int64_t>(1, stream.cycles(done));
      working = true;
    }
    unit->Set(now, working ? kWorks : done < chunks ? stream.waits : kWaitsForMemory);
    const int64_t tick = network->NextTick(now);
    int64_t next = std::min(tick, working ? unit_free : FetchNetwork::kNever);
    if (!working && done < chunks) next = std::min(next, came[done % 2]);
    if (next == FetchNetwork::kNever) return Internal("nothing moves, and chunks are left");
    now = next;
    completions.clear();
    if (now == tick) network->Tick(now, &completions);
    for (const auto& completion : completions) {
      if (completion.cookie == kOutputCookie) {
        ++written;
        last = std::max(last, completion.cycle);
      } else {
        came[completion.cookie % 2] = completion.cycle;
      }
    }
  }
  // The network may hear of a write a little before it has ended.
  now = std::max(now, last);
  unit->Stop(now);
  return now;
}

}  // namespace thresher
