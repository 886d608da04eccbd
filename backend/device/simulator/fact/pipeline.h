// FACT's prediction, generation and attention of one layer, event by event: the predictor, the
// array and the softmax each work on one thing at a time and hand on through bounded queues.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_PIPELINE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_PIPELINE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"
#include "backend/device/simulator/fact/geometry.h"
#include "backend/device/simulator/fact/rows.h"
#include "backend/device/simulator/timeline.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/device/simulator/units/unit_clock.h"
#include "thresher/v1/simulator_fact.pb.h"

namespace thresher {

/// What was done for one sequence.
struct FactWork {
  std::array<int64_t, 3> generated = {};  // Rows of Q, K and V.
  int64_t generation_products = 0;
  int64_t attention_products = 0;
  int64_t softmax_rows = 0;
  int64_t softmax_elements = 0;
  int64_t predict_adds = 0;
  int64_t comparisons = 0;
  int64_t sram_bits = 0;
  int64_t plain_bits = 0;  // Asked of the memory.
  int64_t kv_bits = 0;     // Of K and V, generated or fetched.
};

class FactPipeline {
 public:
  /// All must outlive it; the timeline may be null. With `generates` false Q, K and V come from
  /// memory (attention alone).
  FactPipeline(const v1::FactSpec& spec, const LayerRecord& record, bool generates,
               FetchNetwork* network, UnitClock* array, Timeline* timeline);

  /// Runs from cycle `begin`; returns when the outputs are in memory.
  absl::StatusOr<int64_t> Run(int64_t begin);

  const std::vector<FactWork>& work() const { return work_; }  // By sequence.
  const UnitClock& prediction() const { return prediction_; }
  int64_t softmax_busy() const { return softmax_busy_; }
  /// Of the array's cycles, those in which it waited for a bank.
  int64_t conflict_cycles() const { return conflict_cycles_; }

 private:
  static constexpr int64_t kNever = FetchNetwork::kNever;
  enum Operand { kQuery, kKey, kValue, kOperands };

  /// One head of one sequence.
  struct Item {
    int32_t load = 0;  // The head's, in loads_.
    int32_t sequence = 0;
    const HeadRecord* head = nullptr;
    bool first_of_kv = false;  // No head before shares its K and V.
    int64_t left = 0;          // Queries whose output is not there.
    int64_t begin = -1;
  };
  /// The weights of a head, and what else comes with them.
  struct Load {
    int64_t came = kNever;
    int32_t items_left = 0;
  };
  /// A query on its way.
  struct Row {
    int32_t item = 0;
    int32_t token = 0;
    FactRow row;
    std::vector<int32_t> keys, values;  // Named first by it.
    int64_t missing = 0;                // Rows that are not generated yet.
    int64_t ready = 0;                  // When the softmax is through with it.
  };
  /// A row of Q, K or V to be generated.
  struct Named {
    int64_t row = 0;  // The query that named it, counted over all items.
    int32_t token = 0;
  };

  void MakeItems();
  void Fetch(int64_t now);
  bool Predict(int64_t now);
  bool QueueFull() const;
  bool TakeUp();
  bool FinishArray(int64_t now);
  bool StartArray(int64_t now);
  void StartAttention(Row row, int64_t now);
  bool StartGeneration(int64_t now);
  std::vector<size_t> PickGroup(const std::deque<Named>& named) const;
  void RunArray(int64_t now, int64_t cycles, int64_t conflicts);
  void NoteStalls(int64_t now);
  FetchPart Bytes(uint64_t address, int64_t bytes, bool write) const;
  int64_t PredictedRowCycles(const Item& item, const FactRow& row);
  void OutputDone(int32_t item, int64_t now);

  const v1::FactSpec& spec_;
  const FactGeometry geometry_;
  const LayerRecord& record_;
  const LayerShape& shape_;
  const bool generates_;
  const int64_t bits_;
  FetchNetwork* network_;
  Timeline* timeline_;
  std::vector<FactWork> work_;

  std::vector<Item> items_;
  std::vector<Load> loads_;
  int32_t loads_asked_ = 0;
  int32_t loads_done_ = 0;
  int32_t items_done_ = 0;
  int64_t outputs_left_ = 0;

  // Prediction.
  UnitClock prediction_{"prediction"};
  int32_t predicting_ = 0;       // The item,
  int64_t predicting_row_ = -1;  // and its query; -1: its keys come first.
  int64_t predicted_at_ = 0;     // When what is under way is done.
  bool predict_busy_ = false;
  std::vector<std::unique_ptr<FactRows>> rows_;  // By sequence.
  Row next_row_;
  std::deque<Row> predicted_;  // A bounded queue.

  // The array.
  UnitClock* array_;
  int64_t array_done_ = kNever;
  enum class Task { kNone, kGeneration, kScores, kValues } task_ = Task::kNone;
  std::vector<int64_t> generating_;  // Queries that named what is being generated.
  Row attending_;                    // Whose scores, or output, are being made.
  int64_t taken_up_ = 0;             // Queries so far; the first in waiting_ is number
  std::deque<Row> waiting_;          // taken_up_ - waiting_.size(). In order.
  std::array<std::deque<Named>, kOperands> named_;
  int64_t conflict_cycles_ = 0;

  // Softmax, and the queue around it.
  std::deque<Row> scored_;
  int64_t softmax_free_ = 0;
  int64_t softmax_busy_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_PIPELINE_H_
