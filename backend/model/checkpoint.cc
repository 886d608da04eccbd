#include "backend/model/checkpoint.h"

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory) {
  const std::string single = directory + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (IsFile(single)) {
    Checkpoint checkpoint(single);
    THRESHER_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(single));
    THRESHER_ASSIGN_OR_RETURN(checkpoint.tensors_, ParseSafetensors(file.bytes(), single));
    checkpoint.files_.push_back(std::move(file));
    return checkpoint;
  }
  if (IsFile(index)) {
    Checkpoint checkpoint(index);
    THRESHER_RETURN_IF_ERROR(checkpoint.OpenShards(directory));
    return checkpoint;
  }
  return NotFound("{}: neither model.safetensors nor model.safetensors.index.json is there{}",
                  directory,
                  IsFile(directory + "/pytorch_model.bin")
                      ? "; pytorch_model.bin is not read, save it as safetensors"
                      : "");
}

absl::Status Checkpoint::OpenShards(const std::string& directory) {
  THRESHER_ASSIGN_OR_RETURN(const nlohmann::json index, ReadJson(name_));
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    return InvalidArgument("{}: 'weight_map' is missing or is not an object with tensors", name_);
  }
  std::map<std::string, StoredTensors> shards;
  for (const auto& [tensor, shard_value] : weight_map->items()) {
    if (!shard_value.is_string() || !IsPlainName(shard_value.get_ref<const std::string&>())) {
      return InvalidArgument("{}: tensor '{}': its shard must be a file of the same directory",
                             name_, Shorten(tensor));
    }
    const std::string& shard = shard_value.get_ref<const std::string&>();
    auto found = shards.find(shard);
    if (found == shards.end()) {
      const std::string path = fmt::format("{}/{}", directory, shard);
      auto file = MappedFile::Open(path);
      if (!file.ok()) {
        return Annotate(file.status(), fmt::format("{}: tensor '{}'", name_, Shorten(tensor)));
      }
      THRESHER_ASSIGN_OR_RETURN(StoredTensors tensors, ParseSafetensors(file->bytes(), path));
      files_.push_back(*std::move(file));
      found = shards.emplace(shard, std::move(tensors)).first;
    }
    const auto stored = found->second.find(tensor);
    if (stored == found->second.end()) {
      return InvalidArgument("{}: tensor '{}' is not in its shard '{}'", name_, Shorten(tensor),
                             Shorten(shard));
    }
    tensors_.emplace(tensor, stored->second);
  }
  return absl::OkStatus();
}

const StoredTensor* Checkpoint::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

absl::Status Checkpoint::CheckUnchanged() const {
  for (const MappedFile& file : files_) {
    if (!file.Unchanged()) {
      return FailedPrecondition(
          "{}: the file was changed in place after it was loaded; load the model again, and "
          "replace checkpoints by renaming or in a new version directory",
          file.path());
    }
  }
  return absl::OkStatus();
}

void Checkpoint::ReleasePages() const {
  for (const MappedFile& file : files_) file.ReleasePages();
}

}  // namespace thresher
