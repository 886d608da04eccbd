// Workload traces: layer records on disk, in the format of the public SpAtten traces. A CSV text of
// one header line, one line for each query of each head, and a last line whose first field names
// the configuration and whose others are empty. The columns, all of them there, in any order:
//
//   iteration_id, layer_id, head_id   which softmax row this is; heads without a row were pruned
//   embedding_length_D                elements of one head's query, key or value ("64.0")
//   sentence_length_L                 tokens, had none been pruned
//   key_fetch_num, value_fetch_num    K and V rows that this query reads: at most L, at most that
//   quant_key_bit, quant_query_bit, quant_value_bit   widths; -1: not quantised (32-bit float)
//   auto_requant_thres                progressive quantization's threshold; -1: none
//   if_requant, auto_requant_incre    whether K's lower bits were fetched, and how many; -1: none
//   if_accumulate_importance, if_rescale_previous_importance
//   if_topk, topk                     whether a ranking of tokens follows, and how many it keeps
//
// A step of generation has one line for each head and layer. A layer of an encoder, or of a prompt,
// has a line for each query and head: lines of one head follow each other, the last one reads as
// many keys as the head read in all, the others share the rest evenly. So the sums of a head, its
// K rows and its refetches come back as they were; not what single queries read, nor positions,
// nor which keys (`candidates`). A prompt of one row comes back as a step of generation, which
// costs the same. How many the ranking chose from is not held: it is read back as the keys that
// the layer read or, if more are kept, as all tokens. Rows of FACT's prediction and of the
// feed-forward network in low precision are not held either, nor heads and sequences without
// any query, nor one-hot queries and the V rows that they copy, nor the ranking of heads.
//
// The format knows no batches: each sequence of a step has an iteration of its own, and is read
// back as a layer record of its own. The writer adds the model's shape to the name in the last line
// (";shape:layers=12:heads=12:..."). Where there is none, layers and heads are taken to be as many
// as the largest ids say, over the whole trace, K and V to have as many heads as Q, hidden_size to
// be heads * head_dim and the feed-forward network to be 4 times as wide, as GPT-2's are.
//
// Memory: one line and one layer's heads at a time, whatever the length. One thread at a time.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_TRACE_TRACE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_TRACE_TRACE_H_

#include <cstdint>
#include <istream>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"

namespace thresher {

/// Reads records in the order of the file.
class TraceReader {
 public:
  /// Reads the whole file once: all of it is checked before any of it is simulated.
  /// NOT_FOUND; INVALID_ARGUMENT naming the line and the field.
  static absl::StatusOr<std::unique_ptr<TraceReader>> Open(const std::string& path);
  /// The same from a stream that can go back to its start; `name` is for messages.
  static absl::StatusOr<std::unique_ptr<TraceReader>> Read(std::unique_ptr<std::istream> stream,
                                                           const std::string& name);

  virtual ~TraceReader() = default;

  /// The next (iteration, layer), as a record of one sequence; nullopt at the end.
  virtual absl::StatusOr<std::optional<LayerRecord>> Next() = 0;
  /// From the start again.
  virtual void Rewind() = 0;

  /// What the last line names, without the shape.
  virtual const std::string& configuration() const = 0;
  virtual const LayerShape& shape() const = 0;
  virtual int64_t rows() const = 0;  // Softmax rows of the whole trace.
};

/// Writes records as they come.
class TraceWriter {
 public:
  /// `configuration` without commas, semicolons and line ends. The stream must outlive the writer.
  static absl::StatusOr<TraceWriter> Create(std::ostream* stream, std::string_view configuration);

  /// INVALID_ARGUMENT for a record that the format can't hold, or of another model than those
  /// before it; DATA_LOSS when the stream does not take it.
  absl::Status Write(const LayerRecord& record);
  /// Writes the last line. A trace without it is not read back.
  absl::Status Finish();

 private:
  TraceWriter(std::ostream* stream, std::string_view configuration)
      : stream_(stream), configuration_(configuration) {}

  void WriteSequence(const SequenceRecord& sequence, int64_t iteration, int32_t layer);

  std::ostream* stream_;
  std::string configuration_;
  std::optional<LayerShape> shape_;
  int64_t iteration_ = 0;  // Of the step's first sequence.
  int64_t sequences_ = 0;  // Of the step so far, at most in one layer.
  int32_t last_layer_ = -1;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_TRACE_TRACE_H_
