// A device that has another one compute, for those that watch what is computed: they override what
// they watch. Every operation is handed on, so that nothing falls back to Device's plain loops.
#ifndef THRESHER_BACKEND_DEVICE_FORWARDING_DEVICE_H_
#define THRESHER_BACKEND_DEVICE_FORWARDING_DEVICE_H_

#include <memory>
#include <span>
#include <utility>

#include "backend/device/device.h"

namespace thresher {

class ForwardingDevice : public Device {
 public:
  explicit ForwardingDevice(std::unique_ptr<Device> inner) : inner_(std::move(inner)) {}

  const DeviceDescription& description() const override { return inner_->description(); }
  SimulatedHardware* simulated() override { return inner_->simulated(); }
  absl::StatusOr<std::unique_ptr<PackedLinear>> Pack(const StoredMatrix& weight,
                                                     const StoredMatrix& bias,
                                                     Precision precision) override {
    return inner_->Pack(weight, bias, precision);
  }
  absl::Status Linear(const PackedLinear& weights, ConstMatrix x, Activation activation,
                      Matrix y) override {
    return inner_->Linear(weights, x, activation, y);
  }
  absl::Status LinearOfColumns(const PackedLinear& weights, ConstMatrix x,
                               std::span<const ColumnRange> columns, Matrix y) override {
    return inner_->LinearOfColumns(weights, x, columns, y);
  }
  absl::Status LinearOfOutputs(const PackedLinear& weights, ConstMatrix x,
                               std::span<const uint8_t> wanted, Activation activation,
                               Matrix y) override {
    return inner_->LinearOfOutputs(weights, x, wanted, activation, y);
  }
  absl::Status Attention(const AttentionInput& input, Matrix out) override {
    return inner_->Attention(input, out);
  }
  absl::Status PlannedAttention(const AttentionInput& input,
                                std::span<const SequencePlan* const> plans, Matrix out,
                                std::span<AttentionRecord> records) override {
    return inner_->PlannedAttention(input, plans, out, records);
  }
  absl::Status FlowAttention(const AttentionInput& input, Matrix out) override {
    return inner_->FlowAttention(input, out);
  }
  absl::Status EncodeLeadingOne(const LeadingOneInput& input, int32_t bits, int64_t group,
                                Matrix codes, Matrix scales) override {
    return inner_->EncodeLeadingOne(input, bits, group, codes, scales);
  }
  absl::Status EncodeVectors(const VectorCodes& encoder, ConstMatrix x,
                             std::span<const float> center, Matrix codes, Matrix scales) override {
    return inner_->EncodeVectors(encoder, x, center, codes, scales);
  }
  absl::Status PredictScores(const ScoreOperands& operands, std::span<const int32_t> heads,
                             ScoreBlockBody body) override {
    return inner_->PredictScores(operands, heads, body);
  }
  absl::Status LayerNorm(ConstMatrix x, ConstMatrix residual, std::span<const float> gamma,
                         std::span<const float> beta, float epsilon, Matrix y) override {
    return inner_->LayerNorm(x, residual, gamma, beta, epsilon, y);
  }
  absl::Status RmsNorm(ConstMatrix x, std::span<const float> gamma, float epsilon,
                       Matrix y) override {
    return inner_->RmsNorm(x, gamma, epsilon, y);
  }
  absl::Status Add(ConstMatrix x, Matrix y) override { return inner_->Add(x, y); }
  absl::Status Multiply(ConstMatrix x, Matrix y) override { return inner_->Multiply(x, y); }
  absl::Status Rotate(const RotaryTable& table, std::span<const int32_t> positions, int32_t heads,
                      Matrix x) override {
    return inner_->Rotate(table, positions, heads, x);
  }
  absl::Status StoreKeysValues(const KvLayout& layout, int32_t layer, ConstMatrix key,
                               ConstMatrix value,
                               std::span<const CachedSequence> sequences) override {
    return inner_->StoreKeysValues(layout, layer, key, value, sequences);
  }
  absl::Status CachedAttention(const CachedAttentionInput& input, Matrix out,
                               std::span<CachedRecord> records) override {
    return inner_->CachedAttention(input, out, records);
  }
  absl::Status Embed(std::span<const Lookup> lookups, Matrix y) override {
    return inner_->Embed(lookups, y);
  }
  absl::Status MeanPool(ConstMatrix x, std::span<const int32_t> offsets, Matrix y) override {
    return inner_->MeanPool(x, offsets, y);
  }

 private:
  const std::unique_ptr<Device> inner_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_FORWARDING_DEVICE_H_
