#include "client/cli/format.h"

#include <fmt/format.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "backend/tensor/status.h"

namespace thresher::cli {
namespace {

/// The next code point and the bytes that it takes; -1 and 1 where the text is not UTF-8.
struct CodePoint {
  utf8proc_int32_t value;
  size_t bytes;
};

CodePoint Next(std::string_view text) {
  utf8proc_int32_t value = -1;
  const auto bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                      static_cast<utf8proc_ssize_t>(text.size()), &value);
  if (bytes <= 0) return {-1, 1};
  return {value, static_cast<size_t>(bytes)};
}

bool Controls(utf8proc_int32_t code_point) {
  const utf8proc_category_t category = utf8proc_category(code_point);
  // Cc; Cf holds the marks that turn the direction of writing; Zl and Zp break lines.
  return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
         category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

int write_error = 0;  // errno of the first write to standard output that failed.

}  // namespace

Json ToJson(const absl::Status& status) {
  return {{"code", absl::StatusCodeToString(status.code())},
          {"message", thresher::Message(status)}};
}

std::string Printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const CodePoint next = Next(text);
    if (next.value < 0) {
      out += "\xEF\xBF\xBD";
    } else if (Controls(next.value)) {
      out += ' ';
    } else {
      out.append(text.substr(0, next.bytes));
    }
    text.remove_prefix(next.bytes);
  }
  return out;
}

int Width(std::string_view text) {
  int width = 0;
  while (!text.empty()) {
    const CodePoint next = Next(text);
    width += next.value < 0 ? 1 : utf8proc_charwidth(next.value);
    text.remove_prefix(next.bytes);
  }
  return width;
}

std::string Shorten(std::string_view text, int width) {
  if (Width(text) <= width) return std::string(text);
  const std::string_view ellipsis = Unicode() ? "…" : "~";
  std::string out;
  for (int used = 0; !text.empty();) {
    const CodePoint next = Next(text);
    used += next.value < 0 ? 1 : utf8proc_charwidth(next.value);
    if (used > width - 1) break;
    out.append(text.substr(0, next.bytes));
    text.remove_prefix(next.bytes);
  }
  if (width > 0) out += ellipsis;
  return out;
}

std::string Pad(std::string_view text, int width) {
  return std::string(text) + std::string(std::max(0, width - Width(text)), ' ');
}

std::string Bar(double share, int cells) {
  // NaN compares false with everything and so becomes 0.
  share = share > 0 ? std::min(share, 1.0) : 0.0;
  if (!Unicode()) return Pad(std::string(std::lround(share * cells), '#'), cells);
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int64_t eighths = std::lround(share * cells * 8);
  std::string bar;
  for (int64_t i = 0; i < eighths / 8; ++i) bar += "█";
  bar += kEighths[eighths % 8];
  return Pad(bar, cells);
}

std::string ToText(const v1::Timings& timings) {
  return fmt::format("queue {:.2f} ms, tokenize {:.2f} ms, compute {:.2f} ms, total {:.2f} ms",
                     timings.queue() * 1e3, timings.tokenize() * 1e3, timings.compute() * 1e3,
                     timings.total() * 1e3);
}

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<int> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += Pad(row[i], widths[i] + 2);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

int TerminalWidth() {
  winsize size{};
  if (isatty(STDOUT_FILENO) == 0) return 0;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

bool Unicode() { return std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }

bool Print(std::string_view text) {
  if (write_error == 0 && std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    write_error = errno;
  }
  return write_error == 0;
}

absl::Status OutputStatus() {
  if (write_error == 0 && std::fflush(stdout) != 0) write_error = errno;
  if (write_error == 0 || write_error == EPIPE) return absl::OkStatus();
  return Internal("can't write to standard output: {}", std::strerror(write_error));
}

absl::Status WriteFile(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  return file ? absl::OkStatus() : FailedPrecondition("{}: {}", path, std::strerror(errno));
}

}  // namespace thresher::cli
