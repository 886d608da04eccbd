// What a policy left out, for people: the text with the layer after which each piece was dropped,
// and what each layer kept.
#ifndef THRESHER_CLIENT_CLI_EXPLAIN_H_
#define THRESHER_CLIENT_CLI_EXPLAIN_H_

#include <string>
#include <string_view>

#include "thresher/v1/thresher.pb.h"

namespace thresher::cli {

enum class ColorMode { kAuto, kAlways, kNever };

/// Whether standard output gets colours. kAuto: on a terminal, unless NO_COLOR is set to anything
/// (no-color.org) or TERM is "dumb".
bool UseColor(ColorMode mode);

/// Lines about the answer to `first` (and `second`, where a pair was asked) that was explained:
/// - the text as it was sent; in colour, what stayed is bold and the rest the paler the earlier it
///   went; without, {piece|N} was dropped after layer N (1, 2, ..). Pieces of one character show it
///   once, with the latest layer of all.
/// - a table of what each layer did, as shares of dense;
/// - the policy, refetched rows, and the attention's entropy and sink;
/// - what a prediction added, where there was one.
/// Layers and pieces may be missing or contradict each other: what is not there is not shown.
std::string ExplainText(std::string_view first, std::string_view second, const v1::ResultInfo& info,
                        bool color);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_EXPLAIN_H_
