#include "backend/device/simulator/chrome_trace.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace thresher {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kProcess = 1;
constexpr double kPicosecondsInMicrosecond = 1e6;
// Threads of one unit are sorted together, after those of the units before.
constexpr int64_t kMostLanes = 1000;

// Events go out one by one: a timeline of many spans is never a document in memory.
class EventWriter {
 public:
  explicit EventWriter(std::ostream* out) : out_(*out) {}

  void Write(const Json& event) {
    out_ << (first_ ? "\n" : ",\n")
         << event.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
    first_ = false;
  }

  void Name(const char* what, int64_t thread, const Json& arguments) {
    Write({{"ph", "M"}, {"name", what}, {"pid", kProcess}, {"tid", thread}, {"args", arguments}});
  }

 private:
  std::ostream& out_;
  bool first_ = true;
};

// Spans on one thread may not overlap: a unit that does several things at once gets a thread for
// each.
struct Unit {
  int64_t index = 0;
  std::vector<int64_t> lane_ends;  // Until when each of its threads is taken.

  int64_t LaneFor(const Timeline::Span& span) {
    auto lane = std::find_if(lane_ends.begin(), lane_ends.end(),
                             [&](int64_t end) { return end <= span.begin_ps; });
    if (lane == lane_ends.end()) {
      if (static_cast<int64_t>(lane_ends.size()) < kMostLanes) {
        lane = lane_ends.insert(lane, span.end_ps);
      } else {
        lane = std::min_element(lane_ends.begin(), lane_ends.end());
      }
    }
    *lane = std::max(*lane, span.end_ps);
    return lane - lane_ends.begin();
  }
};

}  // namespace

void WriteChromeTrace(const Timeline& timeline, std::string_view accelerator, std::ostream* out) {
  const std::vector<Timeline::Span>& spans = timeline.spans();
  std::map<std::string, Unit> units;
  for (const Timeline::Span& span : spans) {
    units.try_emplace(span.unit, Unit{static_cast<int64_t>(units.size())});
  }
  std::vector<size_t> order(spans.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return spans[a].begin_ps < spans[b].begin_ps; });

  *out << R"({"displayTimeUnit":"ns","otherData":{"spans_left_out":)" << timeline.left_out()
       << R"(},"traceEvents":[)";
  EventWriter events(out);
  events.Name("process_name", 0, {{"name", accelerator}});
  for (const size_t i : order) {
    const Timeline::Span& span = spans[i];
    Unit& unit = units[span.unit];
    const size_t lanes = unit.lane_ends.size();
    const int64_t lane = unit.LaneFor(span);
    const int64_t thread = unit.index * kMostLanes + lane + 1;
    if (unit.lane_ends.size() > lanes) {
      const std::string name = lane == 0 ? span.unit : span.unit + " " + std::to_string(lane + 1);
      events.Name("thread_name", thread, {{"name", name}});
      events.Name("thread_sort_index", thread, {{"sort_index", thread}});
    }
    const int64_t length = std::max<int64_t>(0, span.end_ps - span.begin_ps);
    events.Write({{"ph", "X"},
                  {"name", span.what},
                  {"pid", kProcess},
                  {"tid", thread},
                  {"ts", static_cast<double>(span.begin_ps) / kPicosecondsInMicrosecond},
                  {"dur", static_cast<double>(length) / kPicosecondsInMicrosecond}});
  }
  *out << "\n]}\n";
}

}  // namespace thresher
