// What layers that ran would have cost on the accelerator of a simulated device, and their record
// in a trace. Records are made from the same plans and records of what ran as the pruning report
// (ledger.h, cache_account.h).
#ifndef THRESHER_BACKEND_ENGINE_LAYER_PRICING_H_
#define THRESHER_BACKEND_ENGINE_LAYER_PRICING_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/device/layer_record.h"
#include "backend/device/plan.h"
#include "backend/device/simulator/simulated_device.h"
#include "backend/engine/layer_recorder.h"
#include "backend/sparsity/policy.h"
#include "thresher/v1/simulator.pb.h"

namespace thresher {

/// INVALID_ARGUMENT if the device is simulated and its accelerator has no hardware for a part of
/// the policy, naming those that it has.
absl::Status CheckHardware(Device& device, const Policy& policy);
/// The same of an accelerator that has hardware for the policies `known`; `who` is for the message.
absl::Status CheckHardware(std::string_view who, std::span<const std::string_view> known,
                           const Policy& policy);

/// A layer of an encoder's sequence, which had `dense_rows` tokens: `positions` were present, and
/// after it `kept_rows` of them and `kept_heads` heads stay. `plan` null: dense. `prediction_bits`
/// 0: nothing was predicted. `plan` must outlive the record.
SequenceRecord RecordOf(const PolicyShape& shape, int32_t dense_rows,
                        std::span<const int32_t> positions, const SequencePlan* plan,
                        int32_t prediction_bits, const AttentionRecord& record, int32_t kept_rows,
                        int32_t kept_heads);

/// A layer of a decoder's text, of which `before` tokens had been run earlier; `rescales`: its
/// importance is scaled down before the next layer.
SequenceRecord RecordOf(const PolicyShape& shape, const KvLayout& layout,
                        const CachedSequence& sequence, int32_t before, const CachedRecord& record,
                        bool rescales);

/// One run of a batch through the layers. Does nothing where nothing is simulated or recorded. Used
/// under the device's mutex.
class LayerPricing {
 public:
  /// Sets the accelerator's clock to 0. `recorder` may be null.
  LayerPricing(Device& device, const PolicyShape& shape, LayerRecorder* recorder);

  bool on() const { return hardware_ != nullptr || recorder_ != nullptr; }

  /// Prices one layer, sequences[i] of which is charged to *charges[i].
  absl::Status Price(int32_t layer, std::vector<SequenceRecord> sequences,
                     std::span<v1::Simulation* const> charges);

  /// After the last layer: waits as the device's pace wants it.
  void Finish() const;

 private:
  const SimulatedHardware* const hardware_;
  LayerRecorder* const recorder_;
  const bool attends_;
  const absl::Time begin_;
  double seconds_ = 0.0;  // Simulated so far.
  LayerRecord record_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_LAYER_PRICING_H_
