// A device that does what another does and counts it: an account of a run that owes nothing to the
// engine's own.
#ifndef THRESHER_TESTS_ENGINE_COUNTING_DEVICE_H_
#define THRESHER_TESTS_ENGINE_COUNTING_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/device.h"
#include "backend/model/checkpoint.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"

namespace thresher::testing {

class CountingDevice final : public Device {
 public:
  struct Counts {
    /// Rows that went through the weights of a module (the last parts of its name, such as
    /// "self.query", "intermediate.dense"), those of a part of it counted as that part: in units
    /// of `unit` output features, by the precision that they were packed in.
    std::map<std::pair<std::string, Precision>, int64_t> linear;
    /// Of each call of PlannedAttention.
    std::vector<std::vector<AttentionRecord>> records;
    /// Groups of columns of projections that were encoded, and what PredictScores read and gave.
    int64_t encoded_rows = 0;
    int64_t predicted_rows = 0;
    int64_t predicted_scores = 0;
  };

  /// Weights are told by what they hold: `modules` are those of `checkpoint` to be counted, each
  /// with its output features in one unit.
  CountingDevice(std::unique_ptr<Device> device, const Checkpoint& checkpoint, int layers,
                 std::map<std::string, int64_t> modules)
      : device_(std::move(device)), modules_(std::move(modules)) {
    for (const auto& [module, unit] : modules_) {
      for (int layer = 0; layer < layers; ++layer) {
        const StoredTensor* tensor = checkpoint.Find("bert.encoder.layer." + std::to_string(layer) +
                                                     "." + module + ".weight");
        if (tensor != nullptr) tensors_.emplace_back(module, tensor);
      }
    }
  }

  /// What was counted since it was last asked.
  Counts Take() { return std::exchange(counts_, {}); }

  const DeviceDescription& description() const override { return device_->description(); }

  absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(const StoredMatrix& weight,
                                                     const StoredMatrix& bias,
                                                     Precision precision) override {
    THRESHER_ASSIGN_OR_RETURN(auto packed, device_->Pack(weight, bias, precision));
    MutexLock lock(&packed_mutex_);
    packed_[packed.get()] = {ModuleOf(weight), precision};
    return packed;
  }

  absl::Status Linear(const PackedLinear& weights, ConstMatrix x, Activation activation,
                      Matrix y) override {
    Count(weights, x.rows);
    return device_->Linear(weights, x, activation, y);
  }
  absl::Status LinearOfColumns(const PackedLinear& weights, ConstMatrix x,
                               std::span<const ColumnRange> columns, Matrix y) override {
    Count(weights, x.rows);
    return device_->LinearOfColumns(weights, x, columns, y);
  }
  absl::Status LinearOfOutputs(const PackedLinear& weights, ConstMatrix x,
                               std::span<const uint8_t> wanted, Activation activation,
                               Matrix y) override {
    Count(weights, x.rows);
    return device_->LinearOfOutputs(weights, x, wanted, activation, y);
  }
  absl::Status Attention(const AttentionInput& input, Matrix out) override {
    return device_->Attention(input, out);
  }
  absl::Status PlannedAttention(const AttentionInput& input,
                                std::span<const SequencePlan* const> plans, Matrix out,
                                std::span<AttentionRecord> records) override {
    THRESHER_RETURN_IF_ERROR(device_->PlannedAttention(input, plans, out, records));
    counts_.records.emplace_back(records.begin(), records.end());
    return absl::OkStatus();
  }
  absl::Status FlowAttention(const AttentionInput& input, Matrix out) override {
    return device_->FlowAttention(input, out);
  }
  absl::Status EncodeLeadingOne(const LeadingOneInput& input, int32_t bits, int64_t group,
                                Matrix codes, Matrix scales) override {
    if (!input.row_scales.empty()) counts_.encoded_rows += input.x.rows * (input.x.cols / group);
    return device_->EncodeLeadingOne(input, bits, group, codes, scales);
  }
  absl::Status EncodeVectors(const VectorCodes& encoder, ConstMatrix x,
                             std::span<const float> center, Matrix codes, Matrix scales) override {
    counts_.encoded_rows += x.rows * scales.cols;
    return device_->EncodeVectors(encoder, x, center, codes, scales);
  }
  absl::Status PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                             ScoreBlockBody body) override {
    counts_.predicted_rows +=
        (operands.query_codes.rows + operands.key_codes.rows) * static_cast<int64_t>(heads.size());
    std::atomic<int64_t> scores = 0;
    const absl::Status status = device_->PredictScores(
        operands, heads, [&](int32_t head, int64_t first, ConstMatrix block) {
          scores += block.rows * block.cols;
          body(head, first, block);
        });
    counts_.predicted_scores += scores;
    return status;
  }
  absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                         std::span<const float> beta, float epsilon, Matrix y) override {
    return device_->LayerNorm(x, residual, gamma, beta, epsilon, y);
  }
  absl::Status Embed(std::span<const Lookup> lookups, Matrix y) override {
    return device_->Embed(lookups, y);
  }
  absl::Status MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) override {
    return device_->MeanPool(x, offsets, y);
  }

 private:
  /// The module that these rows of weights are of; empty: none that is counted.
  std::string ModuleOf(const StoredMatrix& weight) const {
    const size_t bytes = static_cast<size_t>(weight.rows * weight.cols) * ElementSize(weight.type);
    for (const auto& [module, tensor] : tensors_) {
      if (tensor->type != weight.type || tensor->shape[1] != weight.cols) continue;
      for (size_t begin = 0; begin + bytes <= tensor->bytes; begin += bytes) {
        const char* part = static_cast<const char*>(tensor->data) + begin;
        if (std::memcmp(part, weight.data, bytes) == 0) return module;
      }
    }
    return "";
  }

  void Count(const PackedLinear& weights, int64_t rows) {
    MutexLock lock(&packed_mutex_);
    const auto& key = packed_.at(&weights);
    if (key.first.empty()) return;
    counts_.linear[key] += rows * (weights.out_features() / modules_.at(key.first));
  }

  const std::unique_ptr<Device> device_;
  const std::map<std::string, int64_t> modules_;
  std::vector<std::pair<std::string, const StoredTensor*>> tensors_;
  Mutex packed_mutex_;
  std::map<const PackedLinear*, std::pair<std::string, Precision>> packed_;
  Counts counts_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_ENGINE_COUNTING_DEVICE_H_
