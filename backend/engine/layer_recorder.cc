#include "backend/engine/layer_recorder.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<std::unique_ptr<LayerRecorder>> LayerRecorder::Create(const std::string& path,
                                                                     std::string_view configuration,
                                                                     int64_t max_bytes) {
  auto file = std::make_unique<std::ofstream>(path, std::ios::binary);
  if (!*file) return FailedPrecondition("{}: {}", path, std::strerror(errno));
  THRESHER_ASSIGN_OR_RETURN(TraceWriter writer, TraceWriter::Create(file.get(), configuration));
  return std::unique_ptr<LayerRecorder>(
      new LayerRecorder(path, std::move(file), std::move(writer), max_bytes));
}

LayerRecorder::LayerRecorder(std::string path, std::unique_ptr<std::ofstream> file,
                             TraceWriter writer, int64_t max_bytes)
    : path_(std::move(path)),
      max_bytes_(max_bytes),
      file_(std::move(file)),
      writer_(std::move(writer)) {}

LayerRecorder::~LayerRecorder() { (void)Finish(); }

void LayerRecorder::Write(const LayerRecord& record) {
  MutexLock lock(&mutex_);
  if (ended_) return;
  if (const absl::Status written = writer_.Write(record); !written.ok()) return End(written);
  if (file_->tellp() >= max_bytes_) {
    End(ResourceExhausted("the trace has come to its limit of {} bytes", max_bytes_));
  }
}

absl::Status LayerRecorder::Finish() {
  MutexLock lock(&mutex_);
  if (!ended_) End(absl::OkStatus());
  return status_;
}

absl::Status LayerRecorder::status() const {
  MutexLock lock(&mutex_);
  return status_;
}

void LayerRecorder::End(absl::Status status) {
  ended_ = true;
  status_ = std::move(status);
  status_.Update(writer_.Finish());
  file_->close();
  status_.Update(*file_ ? absl::OkStatus() : DataLoss("{}", std::strerror(errno)));
  status_ = Annotate(status_, path_);
}

}  // namespace thresher
