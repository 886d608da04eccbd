#include "client/load/tally.h"

#include <algorithm>

#include "client/load/early_stopping.h"

namespace thresher::load {

bool IsGood(const Completion& call, absl::Duration due, const std::optional<Bound>& bound) {
  if (call.code != absl::StatusCode::kOk) return false;
  if (!bound) return true;
  const bool first = bound->of == Bound::Of::kFirstToken && call.first_token;
  return (first ? *call.first_token : call.received) - due <= bound->limit;
}

void Tally::Add(const Completion& call, absl::Duration due, const std::optional<Bound>& bound) {
  ++ended_;
  ++outcomes[call.code];
  if (call.code != absl::StatusCode::kOk) {
    messages.emplace(call.code, call.message);
    if (call.code == absl::StatusCode::kResourceExhausted) refusal.Add(call.received - due);
    return;
  }
  latency.Add(call.received - due);
  client_ += call.sent - due;
  inputs += call.inputs;
  input_tokens += call.input_tokens;
  output_tokens += call.output_tokens;
  labelled += call.labelled;
  right += call.right;
  if (call.first_token) first_token.Add(*call.first_token - due);
  for (const absl::Duration gap : call.token_gaps) inter_token.Add(gap);
  if (IsGood(call, due, bound)) ++good;
  if (call.server) {
    ++timed_;
    // Clocks of two machines tick differently by a hair.
    const absl::Duration outside = call.received - call.sent - call.server->total;
    network_ += std::max(outside, absl::ZeroDuration());
    server_.queue += call.server->queue;
    server_.tokenize += call.server->tokenize;
    server_.compute += call.server->compute;
    server_.total += call.server->total;
  }
}

Split Tally::MeanSplit() const {
  Split split;
  if (ok() > 0) split.client = client_ / ok();
  if (timed_ > 0) {
    split.network = network_ / timed_;
    split.queue = server_.queue / timed_;
    split.tokenize = server_.tokenize / timed_;
    split.compute = server_.compute / timed_;
    // A text's steps may overlap with its queue in the server's own account.
    split.other =
        std::max((server_.total - server_.queue - server_.tokenize - server_.compute) / timed_,
                 absl::ZeroDuration());
  }
  return split;
}

std::optional<absl::Duration> Tally::AtMost(double p) const {
  const auto from_top = RankFromTop(ended_, p);
  if (!from_top) return std::nullopt;
  const int64_t rank = ended_ - *from_top + 1;
  if (rank > ok()) return std::nullopt;
  return latency.AtRank(rank);
}

}  // namespace thresher::load
