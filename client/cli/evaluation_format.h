// How measured policies look: as a table for people, as JSON and as CSV.
#ifndef THRESHER_CLIENT_CLI_EVALUATION_FORMAT_H_
#define THRESHER_CLIENT_CLI_EVALUATION_FORMAT_H_

#include <span>
#include <string>

#include "backend/evaluation/sweep.h"
#include "client/cli/format.h"

namespace thresher::cli {

/// {"sparsity", "policy", "accuracy" | "pearson", "spearman", "agreement", "loss", "loss_upper",
/// "kl", "cosine", "requests_per_second", "speedup", "keep": {...}, "bytes": {"dense", "done"},
/// "refetch_share", "n"}; where it was measured "attention": {"entropy", "collapsed_heads", ...}
/// too.
Json ToJson(const PolicyResult& result);

/// A heading and a line for each.
std::string ToTable(std::span<const PolicyResult> results);

/// The same as ToJson with "keep" and "bytes" flattened to keep_token, ..., bytes_dense,
/// bytes_done; the first line names the columns.
std::string ToCsv(std::span<const PolicyResult> results);

/// A loss of 0.0123 as "1.23": absolute points.
std::string Points(double loss);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_EVALUATION_FORMAT_H_
