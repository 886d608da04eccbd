// What the queries of one sequence ask for, one head after the other, one query after the other:
// the keys that they read, and which rows of K and V they are the first to name. Taken from the
// record's candidates where they are known; from its counts otherwise, spread evenly.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_ROWS_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_ROWS_H_

#include <cstdint>
#include <vector>

#include "backend/device/layer_record.h"

namespace thresher {

struct FactRow {
  int64_t sight = 0;     // Keys that the query could read.
  int64_t keys = 0;      // Keys that it reads; 1 if it is one-hot.
  int64_t most = 0;      // Of them, in one place of the K and V banks.
  bool one_hot = false;  // Neither Q nor scores: a V row is the output.
};

class FactRows {
 public:
  /// `record` must outlive it. K and V rows lie in `places` places in turn.
  FactRows(const LayerRecord& record, int32_t sequence, int64_t places);

  /// Begins with the next head of the sequence.
  void StartHead(const HeadRecord& head);
  /// The next query. Appends the tokens whose K, and whose V, nobody named before.
  FactRow Next(std::vector<int32_t>* new_keys, std::vector<int32_t>* new_values);

 private:
  /// Rows named little by little.
  struct Named {
    std::vector<bool> seen;  // By token; of candidates.
    int64_t count = 0;
    int64_t total = 0;  // Of counts: how many there will be.
  };

  bool Runs(int64_t row) const;
  FactRow FromMask(std::vector<int32_t>* new_keys, std::vector<int32_t>* new_values);
  FactRow FromCounts(std::vector<int32_t>* new_keys, std::vector<int32_t>* new_values);
  void NameEvenly(const FactRow& row, Named* named, std::vector<int32_t>* tokens) const;

  const SequenceRecord& sequence_;
  const LayerShape& shape_;
  const int64_t places_;
  std::vector<int32_t> kv_heads_;  // That run.
  const HeadRecord* head_ = nullptr;
  int32_t kv_head_ = -1;
  int64_t row_ = 0;
  Named keys_, values_;
  int64_t one_hot_left_ = 0;
  double sight_total_ = 0;  // Of the queries that run.
  double sight_before_ = 0;
  int64_t scores_before_ = 0;
  std::vector<int64_t> by_place_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_FACT_ROWS_H_
