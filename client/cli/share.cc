#include "client/cli/share.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>

namespace thresher::cli {

std::optional<double> ParseShare(std::string_view text) {
  const bool percent = text.ends_with('%');
  if (percent) text.remove_suffix(1);
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || rest != end) return std::nullopt;
  if (percent) value /= 100;
  if (!(value >= 0 && value <= 1)) return std::nullopt;  // Written so that NaN fails too.
  return value;
}

std::string CheckShare(const std::string& text) {
  if (ParseShare(text)) return "";
  return fmt::format("'{}' is not a share from 0 to 1, such as 0.01 or 1%", text);
}

CLI::Option* AddShare(CLI::App& app, const std::string& name, std::optional<double>& value,
                      const std::string& description) {
  return app
      .add_option(
          name,
          [&value](const CLI::results_t& results) {
            value = ParseShare(results.at(0));
            return value.has_value();
          },
          description)
      ->check(CheckShare);
}

}  // namespace thresher::cli
