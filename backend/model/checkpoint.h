// The weights of a Hugging Face directory: `model.safetensors`, or the shards that
// `model.safetensors.index.json` names, mapped and checked.
#ifndef THRESHER_BACKEND_MODEL_CHECKPOINT_H_
#define THRESHER_BACKEND_MODEL_CHECKPOINT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/model/files.h"
#include "backend/model/safetensors.h"

namespace thresher {

/// Immutable; safe from any thread. Tensors point into the mappings and live as long as this does.
class Checkpoint {
 public:
  /// NOT_FOUND: neither file is there, or a shard is missing. INVALID_ARGUMENT: a broken header, or
  /// an index that names a file outside the directory or a tensor that its shard does not hold.
  static absl::StatusOr<Checkpoint> Open(const std::string& directory);

  /// Null if there is none of that name.
  const StoredTensor* Find(std::string_view name) const;

  /// What errors call this checkpoint: the path of the file or of the index.
  const std::string& name() const { return name_; }

  /// FAILED_PRECONDITION, naming the file and saying what to do, if one was written to since it was
  /// opened. To be asked before tensors are read long after that.
  absl::Status CheckUnchanged() const;

  /// Gives resident pages of the mappings back to the system; what is read later comes in again.
  void ReleasePages() const;

 private:
  explicit Checkpoint(std::string name) : name_(std::move(name)) {}
  absl::Status OpenShards(const std::string& directory);

  std::string name_;
  std::vector<MappedFile> files_;
  StoredTensors tensors_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_MODEL_CHECKPOINT_H_
