// A model's sparsity profile: the file that calibration writes beside the model, and what a server
// chooses from it.
#ifndef THRESHER_BACKEND_EVALUATION_PROFILE_H_
#define THRESHER_BACKEND_EVALUATION_PROFILE_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/device/device.h"
#include "backend/engine/engine.h"
#include "backend/evaluation/labelled_data.h"
#include "backend/sparsity/policy.h"
#include "thresher/v1/profile.pb.h"

namespace thresher {

inline constexpr std::string_view kProfileFile = "sparsity_profile.textproto";

/// Reads and checks the text of a profile. INVALID_ARGUMENT beginning with `name` and, where there
/// is one, line and column: text that is no profile, a metric that is not known, numbers out of
/// range, an entry whose measured upper bound is above what it promises.
absl::StatusOr<v1::SparsityProfile> ParseProfile(const std::string& text, const std::string& name);

/// Writes the file as a whole or not at all: readers see the old one or the new one.
/// PERMISSION_DENIED or FAILED_PRECONDITION says why it can't be written.
absl::Status WriteProfile(const v1::SparsityProfile& profile, const std::string& path);

/// A profile made ready to serve a model. Immutable.
class QualityProfile {
 public:
  struct Entry {
    double max_loss = 0;
    double speedup = 1;
    std::shared_ptr<const Policy> policy;
    /// Upper bound of the mean drift from dense that was measured: nats of KL divergence
    /// (kAccuracy), or 1 - cosine of the pooled state (kSimilarity). Unset: the file lacks it.
    std::optional<double> drift_upper;
  };

  /// The profile of the model in `directory`, which `engine` runs in `precision`. NOT_FOUND: it has
  /// none. INVALID_ARGUMENT: it is broken, or has a policy that the model can't have.
  /// FAILED_PRECONDITION: it was made for another model or precision.
  static absl::StatusOr<QualityProfile> Load(const std::string& directory, const Engine& engine,
                                             Precision precision);

  /// The fastest entry that promises a loss of at most `max_loss`; null: none does, so run dense.
  const Entry* Choose(double max_loss) const;

  /// What the losses were measured in: a bound holds for answers that are measured so, and no
  /// others.
  Measure measure() const { return measure_; }

  const std::vector<Entry>& entries() const { return entries_; }

 private:
  Measure measure_ = Measure::kAccuracy;
  std::vector<Entry> entries_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_PROFILE_H_
