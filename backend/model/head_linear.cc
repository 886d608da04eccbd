#include "backend/model/head_linear.h"

#include <algorithm>

#include "backend/model/rows.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

/// Rows [first, first + count) of a stored matrix; for a bias, those columns of its one row.
StoredMatrix Part(const StoredMatrix& stored, int64_t first, int64_t count, bool vector) {
  StoredMatrix part = stored;
  const int64_t elements = vector ? first : first * stored.cols;
  part.data = static_cast<const char*>(stored.data) + elements * ElementSize(stored.type);
  (vector ? part.cols : part.rows) = count;
  return part;
}

}  // namespace

absl::StatusOr<HeadLinear> HeadLinear::Pack(Device& device, const StoredLinear& stored,
                                            int32_t heads, Precision precision) {
  HeadLinear packed;
  const int64_t size = stored.weight.rows / heads;
  for (int32_t h = 0; h < heads; ++h) {
    const StoredMatrix weight = Part(stored.weight, h * size, size, false);
    const StoredMatrix bias =
        stored.bias.empty() ? StoredMatrix() : Part(stored.bias, h * size, size, true);
    THRESHER_ASSIGN_OR_RETURN(auto head, device.Pack(weight, bias, precision));
    packed.heads_.push_back(std::move(head));
  }
  return packed;
}

absl::Status HeadLinear::Run(Device& device, ConstMatrix x, std::span<const uint8_t> wanted,
                             Workspace& workspace, Matrix y) const {
  if (static_cast<int64_t>(wanted.size()) != static_cast<int64_t>(heads_.size()) * x.rows) {
    return Internal("linear by head: {} flags for {} heads and {} rows", wanted.size(),
                    heads_.size(), x.rows);
  }
  for (size_t h = 0; h < heads_.size(); ++h) {
    const PackedLinear& head = *heads_[h];
    const int64_t column = static_cast<int64_t>(h) * head.out_features();
    const Matrix part(y.data + column, y.rows, head.out_features(), y.stride);
    std::vector<int32_t>& rows = workspace.rows;
    rows.clear();
    for (int64_t i = 0; i < x.rows; ++i) {
      if (wanted[h * x.rows + i] != 0) rows.push_back(static_cast<int32_t>(i));
    }
    if (static_cast<int64_t>(rows.size()) == x.rows) {
      THRESHER_RETURN_IF_ERROR(device.Linear(head, x, Activation::kNone, part));
      continue;
    }
    const auto count = static_cast<int64_t>(rows.size());
    workspace.input.Resize(count, x.cols);
    workspace.output.Resize(count, head.out_features());
    GatherRows(x, rows, workspace.input.view());
    THRESHER_RETURN_IF_ERROR(
        device.Linear(head, workspace.input.view(), Activation::kNone, workspace.output.view()));
    ScatterRows(workspace.output.view(), rows, part);
  }
  return absl::OkStatus();
}

size_t HeadLinear::bytes() const {
  size_t sum = 0;
  for (const auto& head : heads_) sum += head->bytes();
  return sum;
}

}  // namespace thresher
