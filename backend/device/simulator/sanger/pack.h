// Sanger's pack and split: the keys of each query are cut into vectors of neighbours, a vector into
// sub-rows of no more keys than a row of the array has elements, and empty vectors are left out.
// The array then takes sub-rows of one place of vectors (a segment of keys), as many as it has
// rows, in one pass: all its rows see the same keys go by.
//
// The utilization of the elements is (sum floor(n / e) + sum frac(n / e)) / sum ceil(n / e) over
// vectors of n keys and rows of e elements, as the authors' code evaluates it. (Where it charges
// empty vectors as well, it adds the number of those that are not empty. That is not repeated.)
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_PACK_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_PACK_H_

#include <cstdint>
#include <vector>

#include "backend/device/layer_record.h"
#include "thresher/v1/simulator_sanger.pb.h"

namespace thresher {

/// Keys that the sequence's row-th query sees.
inline int64_t SangerSight(const SequenceRecord& sequence, bool causal, int64_t row) {
  return causal ? sequence.keys - sequence.rows + row + 1 : sequence.keys;
}

/// A head's mask as the array takes it.
struct PackedHead {
  int64_t kept = 0;     // Scores.
  int64_t vectors = 0;  // That hold some,
  int64_t empty = 0;    // and that hold none, in sight of their query.
  std::vector<int64_t>
      sub_rows;  // By segment of keys. Of empty vectors too if they are not skipped.

  int64_t all_sub_rows() const;
  /// Of the array, which has so many rows.
  int64_t Passes(int64_t array_rows) const;
  /// Of the elements of rows that hold a sub-row: their share with a score. 0 without any.
  double Utilization(int64_t row_elements) const;
};

/// From the record's candidates where they are known. Else from its counts: queries keep shares of
/// what they see, in which their keys lie evenly. If all that is in sight is kept, both are the
/// same.
PackedHead Pack(const SequenceRecord& sequence, const HeadRecord& head, bool causal,
                const v1::SangerSpec& spec);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SANGER_PACK_H_
