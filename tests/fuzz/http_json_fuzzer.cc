// The HTTP port's JSON, read from arbitrary bytes: Open Inference's with binary tensors behind it,
// and OpenAI's.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "server/open_inference_json.h"
#include "server/openai_json.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // It tells of every string that is not UTF-8.
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  // The JSON of a body with binary tensors ends at its first newline.
  const size_t line = body.find('\n');
  const auto infer =
      thresher::ReadInferJson(body, line == body.npos ? std::nullopt : std::optional<size_t>(line));
  if (infer.ok()) {
    const auto& request = infer->request;
    if (request.raw_input_contents_size() != request.inputs_size()) std::abort();
    size_t bytes = 0;
    for (const std::string& raw : request.raw_input_contents()) bytes += raw.size();
    if (bytes > 8 * size) std::abort();
    (void)infer->outputs.IsBinary("text");
  }
  const auto completion = thresher::ReadCompletion(body);
  if (completion.ok() && completion->request.model().name().empty()) {
    // An empty name is read as one; the server then does not find it.
    if (body.find("\"model\"") == body.npos && body.find('\\') == body.npos) std::abort();
  }
  const auto embeddings = thresher::ReadEmbeddings(body);
  if (embeddings.ok() && embeddings->request.inputs_size() == 0) std::abort();
  for (const absl::Status& status : {infer.status(), completion.status(), embeddings.status()}) {
    if (!status.ok()) (void)thresher::Dump(thresher::OpenAiError(status));
  }
  return 0;
}
