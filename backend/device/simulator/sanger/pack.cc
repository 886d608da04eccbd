#include "backend/device/simulator/sanger/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace thresher {
namespace {

int64_t Up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Bits [begin, end) of a row of words.
int64_t CountBits(const uint64_t* words, int64_t begin, int64_t end) {
  int64_t count = 0;
  while (begin < end) {
    const int64_t offset = begin % 64;
    const int64_t bits = std::min(end - begin, 64 - offset);
    const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
    count += std::popcount((words[begin / 64] >> offset) & mask);
    begin += bits;
  }
  return count;
}

class Packer {
 public:
  Packer(int64_t keys, const v1::SangerSpec& spec)
      : width_(spec.vector_keys()),
        elements_(spec.row_elements()),
        skips_(spec.skips_empty_vectors()) {
    packed_.sub_rows.resize(static_cast<size_t>(Up(keys, width_)));
  }
  /// What the query keeps of one vector.
  void Add(int64_t segment, int64_t kept) {
    packed_.kept += kept;
    ++(kept > 0 ? packed_.vectors : packed_.empty);
    packed_.sub_rows[static_cast<size_t>(segment)] += kept > 0 || skips_ ? Up(kept, elements_) : 1;
  }
  int64_t width() const { return width_; }
  PackedHead Take() { return std::move(packed_); }

 private:
  const int64_t width_;
  const int64_t elements_;
  const bool skips_;
  PackedHead packed_;
};

}  // namespace

int64_t PackedHead::all_sub_rows() const {
  return std::accumulate(sub_rows.begin(), sub_rows.end(), int64_t{0});
}

int64_t PackedHead::Passes(int64_t array_rows) const {
  int64_t passes = 0;
  for (const int64_t rows : sub_rows) passes += Up(rows, array_rows);
  return passes;
}

double PackedHead::Utilization(int64_t row_elements) const {
  const int64_t rows = all_sub_rows();
  return rows > 0 ? static_cast<double>(kept) / static_cast<double>(rows * row_elements) : 0.0;
}

PackedHead Pack(const SequenceRecord& sequence, const HeadRecord& head, bool causal,
                const v1::SangerSpec& spec) {
  Packer packer(sequence.keys, spec);
  const int64_t width = packer.width();
  if (sequence.candidates != nullptr) {
    const CandidateMask& mask = *sequence.candidates;
    for (int32_t row = 0; row < sequence.rows; ++row) {
      const uint64_t* const words = mask.row(head.head, row);
      const int64_t sight = SangerSight(sequence, causal, row);
      for (int64_t begin = 0; begin < sight; begin += width) {
        packer.Add(begin / width, CountBits(words, begin, std::min(begin + width, sight)));
      }
    }
    return packer.Take();
  }
  // The first of so many queries: those that ran nothing are not known by place either.
  const int64_t rows = sequence.rows;
  double all_sight = 0, sight_so_far = 0;
  for (int64_t row = 0; row < rows; ++row) {
    all_sight += static_cast<double>(SangerSight(sequence, causal, row));
  }
  int64_t given = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t sight = SangerSight(sequence, causal, row);
    sight_so_far += static_cast<double>(sight);
    const int64_t upto =
        row + 1 == rows ? head.scores
                        : std::llround(static_cast<double>(head.scores) * sight_so_far / all_sight);
    const int64_t kept = upto - given;
    given = upto;
    int64_t placed = 0;
    for (int64_t begin = 0; begin < sight; begin += width) {
      const int64_t until = kept * std::min(begin + width, sight) / sight;
      packer.Add(begin / width, until - placed);
      placed = until;
    }
  }
  return packer.Take();
}

}  // namespace thresher
