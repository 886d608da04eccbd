// Cascades of Einsums (FuseMax, MICRO 2024): an algorithm such as attention as a list of tensor
// equations, and what follows from the list alone, whatever the hardware: how often the keys must
// be passed over, and what must be held meanwhile.
//
// A cascade is text, one Einsum a line:
//
//   LM[p,m1] = max(QK[p,m1,m0])            m0 is in no output: it is reduced.
//   RM[p,m1+1] = max(RM[p,m1], LM[p,m1])   A running value: that of m1+1 is made from that of m1.
//   AV[p,f] = RNV[p,f] / RD[p]             Of a running value, without its rank: the last one.
//
// Only names and ranks count; what is between them (`max`, `exp`, `*`) is for the reader. A rank is
// a letter, with a digit where it is partitioned (m1: which chunk, m0: where in the chunk). Tensors
// that no Einsum makes are the cascade's inputs.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_EINSUM_CASCADE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_EINSUM_CASCADE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

struct TensorUse {
  std::string tensor;
  std::vector<std::string> ranks;
  bool next = false;  // One rank was written with +1.

  bool Has(std::string_view rank) const;
};

struct Einsum {
  TensorUse output;
  std::vector<TensorUse> inputs;

  /// The ranks of its iteration space, in the order in which they are written.
  std::vector<std::string> Ranks() const;
  bool Iterates(std::string_view rank) const;
};

/// INVALID_ARGUMENT with the place in the text.
absl::StatusOr<Einsum> ParseEinsum(std::string_view text);

class EinsumCascade {
 public:
  /// INVALID_ARGUMENT for none at all, a tensor made twice, one that is read before it is made (but
  /// for running ones) or with ranks that it does not have.
  static absl::StatusOr<EinsumCascade> Create(std::vector<Einsum> einsums);
  /// One Einsum a line; empty lines do not count.
  static absl::StatusOr<EinsumCascade> Parse(std::string_view text);

  const std::vector<Einsum>& einsums() const { return einsums_; }
  /// Index of the Einsum that makes the tensor; -1 for the cascade's inputs.
  int MakerOf(std::string_view tensor) const;

  /// Whether it is a running tensor's value from before the chunk, not from after it or the last.
  bool IsBefore(const TensorUse& use) const;

  /// The outermost partition of a rank: "m1" of "m" where there are m1 and m0, otherwise itself.
  std::string Outermost(std::string_view rank) const;

  /// For each Einsum that iterates over the rank, in which pass over it (from 1) it can run at the
  /// earliest; 0 for the others. A pass is needed whenever a value is only known after every
  /// element of the rank has been visited, and an element is visited again after that.
  std::vector<int> PassOfEinsums(std::string_view rank) const;
  /// The number of passes over the rank: a lower bound, whatever the mapping.
  int Passes(std::string_view rank) const;

  /// Words of each tensor that must be live at once while the rank is passed over: all of the rank
  /// for a tensor that is visited in more than one pass, else one partition of it (one element of
  /// its outermost part). `extents`: of all ranks. Tensors without the rank count as they are.
  std::map<std::string, int64_t> LiveWords(
      std::string_view rank, const std::map<std::string, int64_t, std::less<>>& extents) const;

 private:
  std::vector<Einsum> einsums_;
};

/// Attention in three passes over the keys: as most software has it, and FLAT.
extern const std::string_view kThreePassAttention;
/// Maxima of chunks are corrected in a second pass; the division is deferred.
extern const std::string_view kTwoPassAttention;
/// With running maxima: FlashAttention and FuseMax.
extern const std::string_view kOnePassAttention;

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATIAL_EINSUM_CASCADE_H_
