// ModelInfer's tensors and parameters from arbitrary bytes.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "server/open_inference_tensors.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // It tells of every string that is not UTF-8.
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  inference::ModelInferRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return 0;
  constexpr int64_t kMaxRows = 16;
  const auto rows = thresher::ParseInferRows(request, kMaxRows);
  if (rows.ok()) {
    if (rows->size() < 1 || rows->size() > kMaxRows) std::abort();
    if (!rows->pairs.empty() && rows->pairs.size() != rows->texts.size()) std::abort();
    for (size_t i = 0; i < rows->ids.size(); ++i) {
      if (rows->ids[i].empty()) std::abort();
      if (!rows->type_ids.empty() && rows->type_ids[i].size() != rows->ids[i].size()) std::abort();
    }
  }
  (void)thresher::ParseInferOptions(request.parameters());
  return 0;
}
