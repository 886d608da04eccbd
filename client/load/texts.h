// What the requests say: the lines of a file in an order drawn by seed, or words as many as a
// distribution draws.
#ifndef THRESHER_CLIENT_LOAD_TEXTS_H_
#define THRESHER_CLIENT_LOAD_TEXTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "client/load/random.h"

namespace thresher::load {

/// A distribution of lengths in words.
class Lengths {
 public:
  struct Fixed {
    double value = 1;
  };
  struct Uniform {
    double min = 1, max = 1;
  };
  struct Normal {
    double mean = 1, sigma = 0;
  };
  /// `mean` is the distribution's own, and `sigma` that of the logarithm.
  struct LogNormal {
    double mean = 1, sigma = 0.5;
  };

  /// "64", "fixed:value=64", "uniform:min=8,max=64", "normal:mean=64,sigma=16" or
  /// "lognormal:mean=64,sigma=0.5"; the last two take min and max, to which what is drawn is cut.
  /// INVALID_ARGUMENT says which part is wrong.
  static absl::StatusOr<Lengths> Parse(std::string_view text);

  int64_t Draw(Random& random) const;

 private:
  std::variant<Fixed, Uniform, Normal, LogNormal> kind_ = Fixed{32};
  double min_ = 1;
  double max_ = kLongest;

  static constexpr double kLongest = 1 << 20;
};

struct Text {
  std::string text;
  std::optional<std::string> pair;
  /// The class that is right, where it is known.
  std::optional<int> label;
};

class Texts {
 public:
  virtual ~Texts() = default;
  virtual Text Next() = 0;
};

/// Every text once in an order of chance, then all again in another order. `texts` is not empty.
std::unique_ptr<Texts> MakeTexts(std::vector<Text> texts, uint64_t seed);

/// Frequent English words, each of which is one token in most vocabularies.
std::unique_ptr<Texts> MakeTexts(const Lengths& lengths, uint64_t seed);

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_TEXTS_H_
