// Any bytes as what `thresher load` reads from flags and files: schedules, ranges, lengths, bounds,
// mixes. What is accepted must keep its promises.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "client/load/bound.h"
#include "client/load/load_plan.h"
#include "client/load/schedule.h"
#include "client/load/texts.h"
#include "client/load/workload.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thresher::load;  // NOLINT(google-build-using-namespace): all of it is at stake.
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto times = ParseTimes(text); times.ok()) {
    absl::Duration last;
    for (const absl::Duration time : *times) {
      Require(time >= last);
      last = time;
    }
    Require(!times->empty() && last <= absl::Hours(24 * 7));
  }
  if (const auto range = Range::Parse(text); range.ok()) {
    const auto values = range->Values();
    Require(!values.empty() && values.size() <= Range::kMostLevels);
    for (const double value : values) Require(value > 0 && value <= 1e9);
  }
  if (const auto lengths = Lengths::Parse(text); lengths.ok()) {
    Random random(size);
    for (int i = 0; i < 20; ++i) {
      const int64_t length = lengths->Draw(random);
      Require(length >= 1 && length <= 1 << 20);
    }
  }
  if (const auto bound = Bound::Parse(text); bound.ok()) {
    Require(bound->percentile > 0 && bound->percentile < 1);
    Require(bound->limit > absl::ZeroDuration() && bound->limit < absl::InfiniteDuration());
  }
  if (const auto parts = ParseMix(text); parts.ok()) {
    Require(!parts->empty());
    for (const PartOptions& part : *parts) Require(part.weight > 0);
  }
  return 0;
}
