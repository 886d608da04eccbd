// How long a unit worked, and how long it stood still, by cause.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_UNIT_CLOCK_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_UNIT_CLOCK_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace thresher {

class UnitClock {
 public:
  explicit UnitClock(std::string name) : name_(std::move(name)) {}

  void Start(int64_t now) { since_ = now; }
  /// From `now` on the unit works (empty) or stands still for this cause (text that stays).
  void Set(int64_t now, std::string_view cause) {
    if (cause.data() == cause_.data()) return;
    Stop(now);
    cause_ = cause;
  }
  void Stop(int64_t now) {
    (cause_.empty() ? busy_ : stalls_[cause_]) += now - since_;
    since_ = now;
  }

  const std::string& name() const { return name_; }
  int64_t busy() const { return busy_; }
  const std::map<std::string_view, int64_t>& stalls() const { return stalls_; }

 private:
  std::string name_;
  std::string_view cause_;
  int64_t since_ = 0;
  int64_t busy_ = 0;
  std::map<std::string_view, int64_t> stalls_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_UNITS_UNIT_CLOCK_H_
