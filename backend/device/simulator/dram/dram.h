// A memory that an accelerator reads and writes in bursts. Requests go in, completions come out; in
// between the model queues, reorders, opens rows and refreshes as its specification says
// (hbm2.h), or moves bytes at a flat rate (flat_memory.h).
//
// Time is in picoseconds from the last Reset and never runs backwards: every `now_ps` is at least
// as late as the one before. One thread at a time.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_DRAM_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_DRAM_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

struct DramRequest {
  uint64_t address = 0;  // Of a whole burst: a multiple of burst_bytes().
  bool write = false;
  uint64_t tag = 0;  // Returned with the completion.
};

struct DramCompletion {
  uint64_t tag = 0;
  int64_t time_ps = 0;  // When the last byte of a read has arrived, or a write has been taken.
};

/// A command on the memory's buses, for whoever watches.
struct DramCommand {
  enum class Kind {
    kActivate,
    kRead,
    kWrite,
    kPrecharge,
    kPrechargeAll,  // All banks of the pseudo-channel; `bank` and `row` mean nothing.
    kRefresh,       // Likewise.
    kRefreshBank,
  };
  Kind kind = Kind::kActivate;
  bool auto_precharge = false;  // Of a read or write.
  int32_t channel = 0;
  int32_t pseudo_channel = 0;
  int32_t bank = 0;   // Bank group * 4 + bank in the group.
  int32_t row = 0;    // That is opened, or that the data belong to.
  int64_t clock = 0;  // The memory's: the first that the command holds its bus for.
};

class DramObserver {
 public:
  virtual ~DramObserver() = default;
  /// Commands of a channel come in order of time, those of two channels in any order.
  virtual void Observe(const DramCommand& command) = 0;
};

class Dram {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  virtual ~Dram() = default;

  virtual int32_t burst_bytes() const = 0;
  virtual int32_t channels() const = 0;
  virtual int32_t ChannelOf(uint64_t address) const = 0;
  /// Bytes a second, if nothing ever waited.
  virtual double peak_bandwidth() const = 0;

  /// False when the queue of its channel is full: nothing was taken; ask again after NextEvent().
  virtual bool TrySend(const DramRequest& request, int64_t now_ps) = 0;
  /// Lets time pass until `now_ps`; appends what has completed by then, in order of time.
  virtual void AdvanceTo(int64_t now_ps, std::vector<DramCompletion>* completions) = 0;
  /// If nothing else is sent, no completion comes out and no room is made in a queue before this
  /// time, which is after what time has been let pass; advancing to it, again and again, meets each
  /// completion when it comes. kNever when the memory is idle.
  virtual int64_t NextEvent() const = 0;
  virtual void Reset() = 0;
  /// Shows every command to `observer`, which outlives the memory or is taken back with null. A
  /// memory without commands shows nothing.
  virtual void set_observer(DramObserver* /*observer*/) {}

  /// Since the last Reset, without the energy of standing by.
  virtual const v1::DramCounts& counts() const = 0;
  /// In joules: of the counts.
  virtual double energy() const = 0;
};

/// Shows the commands of `dram` to `observer` (null: to nobody) as long as it lives.
class DramWatch {
 public:
  DramWatch(Dram* dram, DramObserver* observer) : dram_(dram) { dram_->set_observer(observer); }
  ~DramWatch() { dram_->set_observer(nullptr); }
  DramWatch(const DramWatch&) = delete;
  DramWatch& operator=(const DramWatch&) = delete;

 private:
  Dram* const dram_;
};

/// INVALID_ARGUMENT for a specification that can't work, naming the field and the reason.
absl::StatusOr<std::unique_ptr<Dram>> CreateDram(const v1::DramSpec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_DRAM_DRAM_H_
