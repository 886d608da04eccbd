// Finds the highest rate that keeps a bound: doubles the rate until the bound breaks, then halves
// the gap, as a ratio, until it is small.
//
//   PeakSearch search({.start = 10});
//   while (const auto rate = search.Next()) search.Report(KeepsBound(*rate));
//   search.peak();
#ifndef THRESHER_CLIENT_LOAD_PEAK_SEARCH_H_
#define THRESHER_CLIENT_LOAD_PEAK_SEARCH_H_

#include <optional>

namespace thresher::load {

class PeakSearch {
 public:
  struct Options {
    double start = 10;        // Requests a second.
    double limit = 1e6;       // Never tries more than this.
    double least = 0.1;       // Never tries less than this.
    double precision = 0.05;  // Ends when the lowest that broke is at most so much above the peak.
  };

  explicit PeakSearch(const Options& options) : options_(options) {}

  /// The rate to try next; nothing once the search has ended. Changes nothing.
  std::optional<double> Next() const;
  /// Whether the rate that Next gave keeps the bound.
  void Report(bool kept);

  /// The highest rate that kept the bound; nothing if none did.
  std::optional<double> peak() const { return kept_; }
  /// The lowest rate that broke it; nothing if `limit` kept it.
  std::optional<double> broken() const { return broken_; }

 private:
  const Options options_;
  std::optional<double> kept_, broken_;
};

}  // namespace thresher::load

#endif  // THRESHER_CLIENT_LOAD_PEAK_SEARCH_H_
