#include "backend/device/simulator/trace/trace.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <utility>
#include <vector>

#include "backend/device/simulator/trace/trace_row.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr size_t kLongestLine = 64 * 1024;

/// The fields of a line; false if there are not kTraceColumns of them.
bool Split(std::string_view line, TraceFields* fields) {
  for (size_t count = 0; count < fields->size(); ++count) {
    const size_t comma = line.find(',');
    (*fields)[count] = line.substr(0, comma);
    if (comma == std::string_view::npos) return count + 1 == fields->size();
    line.remove_prefix(comma + 1);
  }
  return false;
}

/// Why `row` cannot be of the same layer as `first`; it has the same iteration and layer.
absl::Status CheckSameLayer(const TraceRow& first, const TraceRow& row) {
  const auto differs = [](TraceColumn column) {
    return InvalidArgument("field '{}': differs from the layer's first line", kTraceNames[column]);
  };
  if (row.sentence != first.sentence) return differs(kSentence);
  if (row.bits.key != first.bits.key) return differs(kKeyBits);
  if (row.bits.query != first.bits.query) return differs(kQueryBits);
  if (row.bits.value != first.bits.value) return differs(kValueBits);
  if (row.bits.key_refetch != first.bits.key_refetch) return differs(kRefetchBits);
  if (row.threshold != first.threshold) return differs(kThreshold);
  return absl::OkStatus();
}

/// Lines of a trace as rows, in the order of kTraceNames, then what the last line says.
class RowStream {
 public:
  RowStream(std::unique_ptr<std::istream> stream, std::string name)
      : name_(std::move(name)), stream_(std::move(stream)), buffer_(kLongestLine) {}

  /// Checks the header and learns the order of columns.
  absl::Status Start() {
    stream_->clear();
    stream_->seekg(0);
    line_ = 0;
    ended_ = false;
    THRESHER_ASSIGN_OR_RETURN(const bool more, NextLine());
    if (!more) return Error("is empty");
    std::string_view header = text_;
    order_.fill(-1);
    for (int place = 0; !header.empty() || place == 0; ++place) {
      const std::string_view name = header.substr(0, header.find(','));
      const auto found = std::find(kTraceNames.begin(), kTraceNames.end(), name);
      if (found == kTraceNames.end())
        return Error("column '{}' is not one of a trace's", ShownField(name));
      int& column = order_[found - kTraceNames.begin()];
      if (column >= 0) return Error("column '{}' is there twice", name);
      column = place;
      header.remove_prefix(std::min(header.size(), name.size() + 1));
    }
    for (int i = 0; i < kTraceColumns; ++i) {
      if (order_[i] < 0) return Error("column '{}' is missing", kTraceNames[i]);
    }
    return absl::OkStatus();
  }

  /// The next row; nullopt after the last line, which must be there.
  absl::StatusOr<std::optional<TraceRow>> Next() {
    if (ended_) return std::nullopt;
    THRESHER_ASSIGN_OR_RETURN(const bool more, NextLine());
    if (!more) return Error("ends without the line that names the configuration: is it cut off?");
    TraceFields placed, fields;
    if (!Split(text_, &placed)) return Error("must have {} fields", +kTraceColumns);
    for (int i = 0; i < kTraceColumns; ++i) fields[i] = placed[order_[i]];
    const bool rest_is_empty = std::all_of(placed.begin() + 1, placed.end(),
                                           [](std::string_view field) { return field.empty(); });
    if (rest_is_empty && !placed[0].empty()) return Last(std::string(placed[0]));
    absl::StatusOr<TraceRow> row = ParseTraceRow(fields);
    if (!row.ok()) return Error("{}", Message(row.status()));
    return std::optional<TraceRow>(*row);
  }

  const std::string& last() const { return last_; }

  template <typename... Args>
  absl::Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument("{}: line {}: {}", name_, line_,
                           fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  /// Puts the next line into text_; false at the end.
  absl::StatusOr<bool> NextLine() {
    ++line_;
    stream_->getline(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
    if (stream_->bad()) return DataLoss("{}: cannot be read at line {}", name_, line_);
    if (stream_->fail()) {
      if (stream_->eof() && stream_->gcount() == 0) return false;
      return Error("is longer than {} characters", buffer_.size() - 1);
    }
    // gcount counts the line end, which the last line may lack.
    text_ = std::string_view(buffer_.data(),
                             static_cast<size_t>(stream_->gcount()) - (stream_->eof() ? 0 : 1));
    if (!text_.empty() && text_.back() == '\r') text_.remove_suffix(1);
    return true;
  }

  absl::StatusOr<std::optional<TraceRow>> Last(std::string name) {
    last_ = std::move(name);
    THRESHER_ASSIGN_OR_RETURN(const bool more, NextLine());
    if (more) return Error("follows the line that names the configuration");
    --line_;
    ended_ = true;
    return std::nullopt;
  }

  std::string name_;
  std::unique_ptr<std::istream> stream_;
  std::vector<char> buffer_;
  std::string_view text_;
  int64_t line_ = 0;
  std::array<int, kTraceColumns> order_;
  bool ended_ = false;
  std::string last_;
};

class StreamReader : public TraceReader {
 public:
  explicit StreamReader(RowStream stream) : stream_(std::move(stream)) {}

  /// All of it once, for its shape and its errors.
  absl::Status Scan() {
    LayerShape largest;
    while (true) {
      THRESHER_ASSIGN_OR_RETURN(const std::optional<LayerRecord> record, Next());
      if (!record.has_value()) break;
      largest.layers = std::max(largest.layers, record->layer + 1);
      largest.heads = std::max(largest.heads, record->sequences[0].heads.back().head + 1);
      if (largest.head_dim != 0 && largest.head_dim != record->shape.head_dim) {
        return stream_.Error("field '{}': differs from the layers before", kTraceNames[kWidth]);
      }
      largest.head_dim = record->shape.head_dim;
      for (const HeadRecord& head : record->sequences[0].heads) rows_ += head.queries;
    }
    if (rows_ == 0) return stream_.Error("there are no rows");
    THRESHER_RETURN_IF_ERROR(SetShape(largest));
    Rewind();
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<LayerRecord>> Next() override {
    if (!started_) {
      THRESHER_RETURN_IF_ERROR(stream_.Start());
      THRESHER_ASSIGN_OR_RETURN(ahead_, stream_.Next());
      started_ = true;
    }
    if (!ahead_.has_value()) return std::nullopt;
    const TraceRow first = *ahead_;
    LayerRecord record;
    record.layer = first.layer;
    record.shape = shape_;
    record.shape.head_dim = first.width;
    SequenceRecord& sequence = record.sequences.emplace_back();
    sequence.dense_keys = first.sentence;
    sequence.bits = first.bits;
    sequence.refetch_threshold = first.threshold;
    std::optional<int32_t> top_k;
    while (ahead_.has_value() && ahead_->iteration == first.iteration &&
           ahead_->layer == first.layer) {
      const TraceRow& row = *ahead_;
      if (row.width != first.width) {
        return stream_.Error("field '{}': differs from the layer's first line",
                             kTraceNames[kWidth]);
      }
      if (absl::Status same = CheckSameLayer(first, row); !same.ok()) {
        return stream_.Error("{}", Message(same));
      }
      if (sequence.heads.empty() || row.head > sequence.heads.back().head) {
        sequence.heads.push_back({.head = row.head});
      } else if (row.head < sequence.heads.back().head) {
        return stream_.Error("field '{}': {} comes after {}; heads of a layer must ascend",
                             kTraceNames[kHead], row.head, sequence.heads.back().head);
      }
      HeadRecord& head = sequence.heads.back();
      ++head.queries;
      head.keys = std::max<int64_t>(head.keys, row.keys);
      head.scores += row.keys;
      head.values += row.values;
      head.refetched += row.refetch ? 1 : 0;
      if (head.queries > row.sentence) {
        return stream_.Error("head {} has more lines than sentence_length_L", row.head);
      }
      sequence.accumulates_importance |= row.accumulate;
      sequence.rescales_importance |= row.rescale;
      if (row.top_k.has_value()) {
        if (top_k.has_value())
          return stream_.Error("field '{}': twice in a layer", kTraceNames[kRank]);
        top_k = row.top_k;
      }
      THRESHER_ASSIGN_OR_RETURN(ahead_, stream_.Next());
    }
    Complete(record.shape, top_k, &sequence);
    return record;
  }

  void Rewind() override { started_ = false; }

  const std::string& configuration() const override { return configuration_; }
  const LayerShape& shape() const override { return shape_; }
  int64_t rows() const override { return rows_; }

 private:
  /// What follows from the heads.
  static void Complete(const LayerShape& shape, std::optional<int32_t> top_k,
                       SequenceRecord* sequence) {
    // Before the shape is known every head counts as having K and V of its own.
    const int32_t group = shape.kv_heads > 0 ? shape.heads / shape.kv_heads : 1;
    int64_t queries = 0, keys = 0, kv_heads = 0;
    int32_t last_kv_head = -1;
    for (const HeadRecord& head : sequence->heads) {
      queries = std::max(queries, head.queries);
      keys = std::max(keys, head.keys);
      sequence->query_rows += head.queries;
      if (head.head / group != last_kv_head) ++kv_heads;
      last_kv_head = head.head / group;
    }
    sequence->key_rows = sequence->value_rows = queries * kv_heads;
    sequence->decode = queries == 1;
    sequence->rows = static_cast<int32_t>(queries);
    sequence->dense_rows = sequence->decode ? 1 : sequence->dense_keys;
    // An encoder's rows see each other, though nobody may have read some of their keys.
    sequence->keys =
        sequence->decode ? sequence->dense_keys : static_cast<int32_t>(std::max(keys, queries));
    if (top_k.has_value()) {
      sequence->top_k = *top_k;
      sequence->top_k_from = *top_k <= keys ? static_cast<int32_t>(keys) : sequence->dense_keys;
    }
  }

  absl::Status SetShape(const LayerShape& largest) {
    const std::string& last = stream_.last();
    const size_t mark = last.find(kTraceShapeMark);
    configuration_ = last.substr(0, mark);
    if (mark == std::string::npos) {
      shape_ = largest;
      shape_.kv_heads = shape_.heads;
      const int64_t hidden = static_cast<int64_t>(shape_.heads) * shape_.head_dim;
      if (hidden * 4 > kMaxTraceFeedForward) {
        return stream_.Error("{} heads of {} elements are too wide", shape_.heads, shape_.head_dim);
      }
      shape_.hidden_size = static_cast<int32_t>(hidden);
      shape_.ffn_size = 4 * shape_.hidden_size;
      shape_.causal = true;
      return absl::OkStatus();
    }
    absl::StatusOr<LayerShape> shape =
        ParseTraceShape(std::string_view(last).substr(mark + kTraceShapeMark.size()));
    if (!shape.ok()) return stream_.Error("{}", Message(shape.status()));
    if (largest.layers > shape->layers) {
      return stream_.Error("shape: layers={}, but there is a layer_id of {}", shape->layers,
                           largest.layers - 1);
    }
    if (largest.heads > shape->heads) {
      return stream_.Error("shape: heads={}, but there is a head_id of {}", shape->heads,
                           largest.heads - 1);
    }
    if (largest.head_dim != shape->head_dim) {
      return stream_.Error("shape: head_dim={}, but embedding_length_D is {}", shape->head_dim,
                           largest.head_dim);
    }
    shape_ = *shape;
    return absl::OkStatus();
  }

  RowStream stream_;
  bool started_ = false;
  std::optional<TraceRow> ahead_;  // The first row of the next record.
  std::string configuration_;
  LayerShape shape_;
  int64_t rows_ = 0;
};

/// The i-th of `parts` nearly equal parts of `total`; they sum to it.
int64_t EvenPart(int64_t total, int64_t i, int64_t parts) {
  return total / parts + (i < total % parts ? 1 : 0);
}

absl::Status CheckWritable(const SequenceRecord& sequence, const LayerShape& shape) {
  int32_t last = -1;
  for (const HeadRecord& head : sequence.heads) {
    if (head.head <= last || head.head >= shape.heads) {
      return InvalidArgument("head {}: must ascend within {} heads", head.head, shape.heads);
    }
    last = head.head;
    if (head.queries < 0 || head.keys < 0 || head.keys > sequence.dense_keys ||
        head.queries > sequence.dense_keys || head.scores < head.keys ||
        head.scores > head.queries * head.keys || head.values < 0 ||
        head.values > head.scores + std::max<int64_t>(sequence.rows - head.queries, 0) ||
        head.refetched < 0 || head.refetched > head.queries) {
      return InvalidArgument(
          "head {}: {} queries, {} keys, {} scores, {} values and {} refetched of {} tokens "
          "contradict each other",
          head.head, head.queries, head.keys, head.scores, head.values, head.refetched,
          sequence.dense_keys);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceReader>> TraceReader::Open(const std::string& path) {
  auto file = std::make_unique<std::ifstream>(path, std::ios::binary);
  if (!file->is_open()) return NotFound("{}: the trace cannot be opened", path);
  return Read(std::move(file), path);
}

absl::StatusOr<std::unique_ptr<TraceReader>> TraceReader::Read(std::unique_ptr<std::istream> stream,
                                                               const std::string& name) {
  auto reader = std::make_unique<StreamReader>(RowStream(std::move(stream), name));
  THRESHER_RETURN_IF_ERROR(reader->Scan());
  return std::unique_ptr<TraceReader>(std::move(reader));
}

absl::StatusOr<TraceWriter> TraceWriter::Create(std::ostream* stream,
                                                std::string_view configuration) {
  if (configuration.empty() || configuration.size() > 1024 ||
      configuration.find_first_of(",;\"\r\n") != std::string_view::npos) {
    return InvalidArgument(
        "trace: the configuration '{}' must be 1 to 1024 characters without commas, semicolons, "
        "quotes and line ends",
        ShownField(configuration));
  }
  std::string header;
  for (std::string_view name : kTraceNames) header += fmt::format(",{}", name);
  *stream << header.substr(1) << '\n';
  if (!*stream) return DataLoss("trace: cannot be written");
  return TraceWriter(stream, configuration);
}

absl::Status TraceWriter::Write(const LayerRecord& record) {
  if (shape_.has_value() && *shape_ != record.shape) {
    return InvalidArgument("trace: layer {} is of another model than the layers before",
                           record.layer);
  }
  if (record.layer < 0 || record.layer >= record.shape.layers) {
    return InvalidArgument("trace: layer {} of {}", record.layer, record.shape.layers);
  }
  for (size_t i = 0; i < record.sequences.size(); ++i) {
    THRESHER_RETURN_IF_ERROR(
        Annotate(CheckWritable(record.sequences[i], record.shape),
                 fmt::format("trace: layer {}, sequence {}", record.layer, i)));
  }
  shape_ = record.shape;
  if (record.layer <= last_layer_) {
    iteration_ += sequences_;
    sequences_ = 0;
  }
  last_layer_ = record.layer;
  sequences_ = std::max<int64_t>(sequences_, record.sequences.size());
  for (size_t i = 0; i < record.sequences.size(); ++i) {
    WriteSequence(record.sequences[i], iteration_ + static_cast<int64_t>(i), record.layer);
  }
  if (!*stream_) return DataLoss("trace: cannot be written");
  return absl::OkStatus();
}

void TraceWriter::WriteSequence(const SequenceRecord& sequence, int64_t iteration, int32_t layer) {
  TraceRow row;
  row.iteration = iteration;
  row.layer = layer;
  row.width = shape_->head_dim;
  row.sentence = sequence.dense_keys;
  row.bits = sequence.bits;
  row.threshold = sequence.refetch_threshold;
  row.accumulate = sequence.accumulates_importance;
  for (const HeadRecord& head : sequence.heads) {
    row.head = head.head;
    int64_t scores = 0, values = 0;  // In the lines so far.
    for (int64_t i = 0; i < head.queries; ++i) {
      const bool last = i + 1 == head.queries;
      row.keys = static_cast<int32_t>(
          last ? head.keys : EvenPart(head.scores - head.keys, i, head.queries - 1));
      row.refetch = i < head.refetched;
      // Values in proportion to scores, so that no line reads more of them. (Those beyond are of
      // one-hot queries.)
      scores += row.keys;
      const int64_t until =
          head.scores == 0 ? 0
                           : static_cast<int64_t>(static_cast<__int128>(scores) *
                                                  std::min(head.values, head.scores) / head.scores);
      row.values = static_cast<int32_t>(until - values);
      values = until;
      if (last && &head == &sequence.heads.back()) {
        row.rescale = sequence.rescales_importance;
        if (sequence.top_k_from > 0 && sequence.top_k > 0) row.top_k = sequence.top_k;
      }
      *stream_ << FormatTraceRow(row);
    }
  }
}

absl::Status TraceWriter::Finish() {
  *stream_ << configuration_;
  if (shape_.has_value()) *stream_ << kTraceShapeMark << FormatTraceShape(*shape_);
  *stream_ << std::string(kTraceNames.size() - 1, ',') << '\n';
  stream_->flush();
  if (!*stream_) return DataLoss("trace: cannot be written");
  return absl::OkStatus();
}

}  // namespace thresher
