// The value of --model: NAME=DIR[,KEY=VALUE...].
//
//   sentiment=models/sst2-mini,precision=int8,device=cpu,pooling=cls,normalize=true,max_tokens=128
//   sentiment=models/sst2,versions=latest:2      (or versions=all, versions=named:1;3)
#ifndef THRESHER_SERVER_MODEL_FLAG_H_
#define THRESHER_SERVER_MODEL_FLAG_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "thresher/v1/config.pb.h"

namespace thresher {

/// INVALID_ARGUMENT that quotes the bad part. A directory with a comma in its name needs a
/// configuration file.
absl::StatusOr<v1::ModelConfig> ParseModelFlag(std::string_view text);

/// Several values of --model in one text, as THRESHER_MODEL has them: separated by white space, or
/// by a ';' that another NAME= follows (the one in `versions=named:1;3` separates nothing).
std::vector<std::string> SplitModelList(std::string_view text);

}  // namespace thresher

#endif  // THRESHER_SERVER_MODEL_FLAG_H_
