#include "backend/device/simulator/units/fetch_network.h"

#include <algorithm>
#include <utility>

namespace thresher {
namespace {

constexpr int kChannelBits = 16;  // Of a tag: the channel below, the job's slot above.

}  // namespace

FetchPart BytesAt(uint64_t address, int64_t bytes, bool write, int32_t burst_bytes) {
  const auto burst = static_cast<uint64_t>(burst_bytes);
  FetchPart part;
  part.base = address / burst * burst;
  part.stride = burst;
  part.count = (bytes + burst_bytes - 1) / burst_bytes;
  part.bursts = 1;
  part.write = write;
  return part;
}

FetchNetwork::FetchNetwork(const Options& options, Dram* dram)
    : options_(options),
      dram_(dram),
      burst_bytes_(dram->burst_bytes()),
      lanes_(options.lanes),
      on_channel_(dram->channels()),
      granted_(dram->channels()) {
  Reset();
}

void FetchNetwork::Reset() {
  for (auto& queue : queues_) queue.clear();
  slots_.clear();
  free_slots_.clear();
  empty_jobs_.clear();
  for (Lane& lane : lanes_) {
    lane = {};
    lane.ring.resize(options_.lane_queue);
  }
  std::fill(on_channel_.begin(), on_channel_.end(), 0);
  std::fill(granted_.begin(), granted_.end(), -1);
  next_lane_ = first_lane_ = 0;
  waiting_ = outstanding_ = transactions_ = 0;
  moved_ = false;
}

void FetchNetwork::Submit(FetchClass fetch_class, FetchJob job) {
  moved_ = true;
  Active active;
  std::erase_if(job.parts,
                [](const FetchPart& part) { return part.count <= 0 || part.bursts <= 0; });
  for (const FetchPart& part : job.parts) active.left += part.count * part.bursts;
  if (active.left == 0) {
    empty_jobs_.push_back(job.cookie);
    return;
  }
  waiting_ += active.left;
  active.job = std::move(job);
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[slot] = std::move(active);
  queues_[static_cast<size_t>(fetch_class)].push_back(slot);
}

void FetchNetwork::Tick(int64_t now, std::vector<Completion>* completions) {
  moved_ = false;
  Collect(now, completions);
  if (waiting_ == 0) return;
  Cross(now);
  Generate(now);
}

void FetchNetwork::Collect(int64_t now, std::vector<Completion>* completions) {
  for (const uint64_t cookie : empty_jobs_) completions->push_back({cookie, now});
  empty_jobs_.clear();
  dram_completions_.clear();
  dram_->AdvanceTo(Picoseconds(now), &dram_completions_);
  for (const DramCompletion& completion : dram_completions_) {
    --outstanding_;
    --on_channel_[completion.tag & ((1 << kChannelBits) - 1)];
    const auto slot = static_cast<uint32_t>(completion.tag >> kChannelBits);
    if (--slots_[slot].left > 0) continue;
    const auto cycle = static_cast<int64_t>(
        std::ceil(static_cast<double>(completion.time_ps) / options_.cycle_ps));
    completions->push_back({slots_[slot].job.cookie, cycle + options_.crossbar_cycles});
    slots_[slot].job.parts.clear();
    free_slots_.push_back(slot);
  }
}

void FetchNetwork::Cross(int64_t now) {
  size_t at = first_lane_;
  for (size_t i = 0; i < lanes_.size(); ++i, at = After(at)) {
    Lane& lane = lanes_[at];
    if (lane.size == 0 || lane.front().cycle > now) continue;
    const Transaction& transaction = lane.front();
    const int32_t channel = transaction.channel;
    if (granted_[channel] == now || on_channel_[channel] >= options_.outstanding_per_channel ||
        !dram_->TrySend(transaction.request, Picoseconds(now))) {
      continue;
    }
    granted_[channel] = now;
    ++on_channel_[channel];
    ++outstanding_;
    ++transactions_;
    --waiting_;
    lane.Pop();
    moved_ = true;
  }
  first_lane_ = After(first_lane_);
}

void FetchNetwork::Generate(int64_t now) {
  auto queue = queues_.begin();
  size_t at = next_lane_;
  for (size_t i = 0; i < lanes_.size(); ++i, at = After(at)) {
    while (queue != queues_.end() && queue->empty()) ++queue;
    if (queue == queues_.end()) return;
    Lane& lane = lanes_[at];
    if (lane.full()) continue;
    const uint32_t slot = queue->front();
    Transaction transaction = NextOf(slot);
    transaction.cycle = now + options_.crossbar_cycles;
    lane.Push(transaction);
    moved_ = true;
    if (slots_[slot].part == static_cast<int64_t>(slots_[slot].job.parts.size())) {
      queue->pop_front();
    }
  }
  next_lane_ = After(next_lane_);
}

FetchNetwork::Transaction FetchNetwork::NextOf(uint32_t slot) {
  Active& active = slots_[slot];
  const FetchPart& part = active.job.parts[active.part];
  Transaction transaction;
  transaction.request.address =
      part.Address(active.word) + static_cast<uint64_t>(active.burst) * burst_bytes_;
  transaction.request.write = part.write;
  transaction.channel = dram_->ChannelOf(transaction.request.address);
  transaction.request.tag =
      static_cast<uint64_t>(slot) << kChannelBits | static_cast<uint64_t>(transaction.channel);
  if (++active.burst == part.bursts) {
    active.burst = 0;
    if (++active.word == part.count) {
      active.word = 0;
      ++active.part;
    }
  }
  return transaction;
}

int64_t FetchNetwork::NextTick(int64_t now) const {
  if (!empty_jobs_.empty() || (waiting_ > 0 && moved_)) return now + 1;
  int64_t next = kNever;
  if (outstanding_ > 0) {
    const int64_t event = dram_->NextEvent();
    if (event != Dram::kNever) {
      next = static_cast<int64_t>(std::ceil(static_cast<double>(event) / options_.cycle_ps));
    }
  }
  for (const Lane& lane : lanes_) {
    if (lane.size > 0 && lane.front().cycle > now) next = std::min(next, lane.front().cycle);
  }
  return std::max(next, now + 1);
}

}  // namespace thresher
