// Writes the layers that a model runs to a trace file (simulator/trace.h), as they run.
// Thread-safe.
//
// Recording never disturbs what is recorded: when the file can't take more, or has come to its
// limit, it is finished and closed, and status() says why.
#ifndef THRESHER_BACKEND_ENGINE_LAYER_RECORDER_H_
#define THRESHER_BACKEND_ENGINE_LAYER_RECORDER_H_

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"
#include "backend/device/simulator/trace/trace.h"
#include "backend/tensor/mutex.h"

namespace thresher {

class LayerRecorder {
 public:
  /// Creates `path`, or empties it. `configuration` is what the trace says of itself.
  /// FAILED_PRECONDITION if it can't be written.
  static absl::StatusOr<std::unique_ptr<LayerRecorder>> Create(const std::string& path,
                                                               std::string_view configuration,
                                                               int64_t max_bytes);
  /// Finishes the file.
  ~LayerRecorder();

  void Write(const LayerRecord& record);
  /// Finishes the file now; nothing is written after it.
  absl::Status Finish();
  /// OK while it records, and after Finish; else why it ended.
  absl::Status status() const;

 private:
  LayerRecorder(std::string path, std::unique_ptr<std::ofstream> file, TraceWriter writer,
                int64_t max_bytes);
  void End(absl::Status status);  // Needs mutex_.

  const std::string path_;
  const int64_t max_bytes_;
  mutable Mutex mutex_;
  std::unique_ptr<std::ofstream> file_;
  TraceWriter writer_;
  bool ended_ = false;
  absl::Status status_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_ENGINE_LAYER_RECORDER_H_
