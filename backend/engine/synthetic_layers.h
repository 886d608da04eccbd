// Layers that nobody ran: what sequences of a given length would do under a policy, with importance
// and scores drawn at random where the policy would look at the data. How much is kept follows from
// the policy; which rows are kept, and whatever hangs on real scores, does not: the share of rows
// whose scores are made again (progressive quantization) is the caller's to say.
#ifndef THRESHER_BACKEND_ENGINE_SYNTHETIC_LAYERS_H_
#define THRESHER_BACKEND_ENGINE_SYNTHETIC_LAYERS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"

namespace thresher {

struct SyntheticOptions {
  LayerShape shape;
  int64_t tokens = 0;    // Of each sequence; in a decoder, of its prompt.
  int32_t batch = 1;     // Sequences.
  int32_t generate = 0;  // Decode steps after the prompt; needs shape.causal.
  std::string policy = "dense";
  std::vector<std::string_view> hardware;  // Policies that there is hardware for. Empty: for all.
  double refetch_share = 0.0;              // Of the softmax rows that are quantised progressively.
  uint64_t seed = 1;
};

/// Gives the layers in the order in which they would run. The same options give the same layers.
class SyntheticLayers {
 public:
  /// INVALID_ARGUMENT for options out of range, a policy that the shape can't have or that there
  /// is no hardware for, or one that looks at each pair of tokens of a sequence of more than 4096.
  static absl::StatusOr<std::unique_ptr<SyntheticLayers>> Create(const SyntheticOptions& options);

  virtual ~SyntheticLayers() = default;
  /// The next layer, which lives until the next call; null at the end.
  virtual const LayerRecord* Next() = 0;
  /// How many there are in all.
  virtual int64_t layers() const = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_SYNTHETIC_LAYERS_H_
