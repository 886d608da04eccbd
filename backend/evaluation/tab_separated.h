// Lines of tab-separated tables.
#ifndef THRESHER_BACKEND_EVALUATION_TAB_SEPARATED_H_
#define THRESHER_BACKEND_EVALUATION_TAB_SEPARATED_H_

#include <cstddef>
#include <string_view>
#include <vector>

namespace thresher {

/// The cells of a line, which they refer to: one more than there are tabs.
inline std::vector<std::string_view> SplitCells(std::string_view line) {
  std::vector<std::string_view> cells;
  for (;;) {
    const size_t tab = line.find('\t');
    cells.push_back(line.substr(0, tab));
    if (tab == std::string_view::npos) return cells;
    line.remove_prefix(tab + 1);
  }
}

}  // namespace thresher

#endif  // THRESHER_BACKEND_EVALUATION_TAB_SEPARATED_H_
