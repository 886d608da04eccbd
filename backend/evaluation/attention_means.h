// What the attention of measured sequences is like in the mean: entropy, collapsed and overloaded
// heads, sinks (backend/engine/ledger.h defines them).
#ifndef THRESHER_BACKEND_EVALUATION_ATTENTION_MEANS_H_
#define THRESHER_BACKEND_EVALUATION_ATTENTION_MEANS_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "thresher/v1/sparsity.pb.h"

namespace thresher {

class AttentionMeans {
 public:
  /// The report of a sequence; nothing if its attention was not measured.
  void Add(const v1::PruningReport& report) {
    if (!report.has_attention_entropy()) return;
    ++sequences_;
    entropy_ += report.attention_entropy();
    collapsed_ += report.collapsed_heads();
    overloaded_ += report.overloaded_heads();
    if (!report.has_sink_share()) return;
    ++with_sink_;
    sink_share_ += report.sink_share();
    sink_heads_ += report.sink_heads();
  }

  bool empty() const { return sequences_ == 0; }
  /// By name: "entropy" in nats, and shares; each the mean over the sequences that had it.
  std::array<std::pair<std::string_view, double>, 5> Means() const {
    const auto mean = [](double sum, int64_t n) {
      return n > 0 ? sum / static_cast<double>(n) : 0.0;
    };
    return {{{"entropy", mean(entropy_, sequences_)},
             {"collapsed_heads", mean(collapsed_, sequences_)},
             {"overloaded_heads", mean(overloaded_, sequences_)},
             {"sink_share", mean(sink_share_, with_sink_)},
             {"sink_heads", mean(sink_heads_, with_sink_)}}};
  }

 private:
  int64_t sequences_ = 0;
  int64_t with_sink_ = 0;  // Those of them whose first token some layer saw.
  double entropy_ = 0;
  double collapsed_ = 0;
  double overloaded_ = 0;
  double sink_share_ = 0;
  double sink_heads_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_ATTENTION_MEANS_H_
