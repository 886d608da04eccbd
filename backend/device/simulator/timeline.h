// What each unit of an accelerator was doing when: spans for a picture (Chrome's trace format, read
// by Perfetto). Bounded: past `limit` spans it only counts.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_TIMELINE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_TIMELINE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace thresher {

class Timeline {
 public:
  struct Span {
    std::string unit;  // Such as "qk", "top_k", "dram".
    std::string what;  // Such as "layer 3 head 2".
    int64_t begin_ps = 0;
    int64_t end_ps = 0;
  };

  explicit Timeline(size_t limit = 200'000) : limit_(limit) {}

  void Add(std::string unit, std::string what, int64_t begin_ps, int64_t end_ps) {
    if (spans_.size() < limit_) {
      spans_.push_back({std::move(unit), std::move(what), begin_ps, end_ps});
    } else {
      ++left_out_;
    }
  }
  const std::vector<Span>& spans() const { return spans_; }
  size_t left_out() const { return left_out_; }

 private:
  size_t limit_;
  std::vector<Span> spans_;
  size_t left_out_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_TIMELINE_H_
