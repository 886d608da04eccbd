#include "backend/model/head.h"

#include "backend/model/tensor_names.h"
#include "backend/tensor/status.h"

namespace thresher {

absl::StatusOr<Head> Head::Load(const ModelConfig& config, WeightReader& reader) {
  using Place = WeightReader::Place;
  const TensorNames& names = NamesOf(config.family);
  const int64_t hidden = config.hidden_size;
  Head head(reader.device());
  head.per_token_ = config.task != Task::kSequenceClassification;
  std::string_view logits = names.sequence_logits;
  auto outputs = static_cast<int64_t>(config.labels.size());
  if (config.task == Task::kSequenceClassification) {
    const Place place = names.sequence_dense_in_encoder ? Place::kEncoder : Place::kTop;
    THRESHER_ASSIGN_OR_RETURN(head.dense_,
                              reader.Linear(names.sequence_dense, hidden, hidden, place));
    head.activation_ = names.sequence_activation;
  } else if (config.task == Task::kTokenClassification) {
    logits = names.token_logits;
  } else {
    logits = names.answer_logits;
    outputs = 2;
  }
  THRESHER_ASSIGN_OR_RETURN(head.logits_, reader.Linear(logits, outputs, hidden, Place::kTop));
  return head;
}

absl::Status Head::Run(ConstMatrix rows, MatrixBuffer& dense, Matrix logits) const {
  if (dense_ == nullptr) return device_->Linear(*logits_, rows, Activation::kNone, logits);
  dense.Resize(rows.rows, dense_->out_features());
  THRESHER_RETURN_IF_ERROR(device_->Linear(*dense_, rows, activation_, dense.view()));
  return device_->Linear(*logits_, dense.view(), Activation::kNone, logits);
}

}  // namespace thresher
