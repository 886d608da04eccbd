#include "backend/sparsity/policy_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <system_error>

#include "backend/tensor/status.h"

namespace thresher {
namespace {

constexpr size_t kLongestText = 4096;

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

/// Names of anything that has a name: "a, b, c".
template <typename Range>
std::string Names(const Range& range) {
  std::string names;
  for (const auto& item : range) {
    if (!names.empty()) names += ", ";
    names += item.name;
  }
  return names;
}

/// What a message may show of bytes that somebody sent: short, and printable ASCII only.
std::string Quote(std::string_view text) {
  std::string shown;
  for (const char c : text.substr(0, 40)) shown += c >= 0x20 && c < 0x7f ? c : '?';
  return fmt::format("'{}{}'", shown, text.size() > 40 ? "..." : "");
}

/// The shortest decimal that reads back as the same number; locale-free.
std::string Shortest(double value) {
  char buffer[32];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, end);
}

std::optional<double> ParseNumber(std::string_view text) {
  // from_chars also reads "-1", "inf" and "nan".
  if (text.empty() || !((text[0] >= '0' && text[0] <= '9') || text[0] == '.')) return std::nullopt;
  double value = 0.0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<double> ParseInteger(std::string_view text) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || stop != end || value > (uint64_t{1} << 53)) {
    return std::nullopt;
  }
  return static_cast<double>(value);
}

bool InRange(const PolicyKey& key, double value) {
  return value <= key.max && (key.above_min ? value > key.min : value >= key.min);
}

/// The numbers of a value, all in range; nullopt when it is not written as its kind asks.
std::optional<std::vector<double>> ParseNumbers(const PolicyKey& key, std::string_view text) {
  const bool whole = key.kind == ValueKind::kInteger || key.kind == ValueKind::kBits;
  const bool several = key.kind == ValueKind::kBits || key.kind == ValueKind::kNumberList;
  if (key.kind == ValueKind::kBits && text == "off") return std::vector<double>();
  std::vector<double> numbers;
  for (const std::string_view item :
       several ? Split(text, '/') : std::vector<std::string_view>{text}) {
    const std::optional<double> number = whole ? ParseInteger(item) : ParseNumber(item);
    if (!number || !InRange(key, *number)) return std::nullopt;
    numbers.push_back(*number);
  }
  if (key.kind == ValueKind::kBits &&
      (numbers.size() != 2 || numbers[0] < 2 || numbers[0] + numbers[1] > 16)) {
    return std::nullopt;
  }
  return numbers;
}

/// Numbers as written in the canonical form. Whole ones have no exponent: its "+" joins parts.
std::string Join(std::span<const double> numbers) {
  std::string text;
  for (const double number : numbers) {
    if (!text.empty()) text += '/';
    text += number == std::floor(number) ? fmt::format("{:.0f}", number) : Shortest(number);
  }
  return text;
}

/// `text` broken into lines of at most `width` columns at blanks, each but the first after
/// `indent`.
std::string Wrap(std::string_view text, size_t indent, size_t width) {
  std::string out;
  size_t column = indent;
  for (const std::string_view word : Split(text, ' ')) {
    if (column > indent && column + 1 + word.size() > width) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  }
  return out;
}

std::string FallbackText(const PolicyKey& key) {
  return key.fallback.empty() ? "" : fmt::format("; default {}", key.fallback);
}

/// A cell of a Markdown table.
std::string Cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string PolicyKey::Range() const {
  switch (kind) {
    case ValueKind::kChoice: {
      std::string words;
      for (const char c : choices) words += c == '|' ? std::string(", ") : std::string(1, c);
      return words;
    }
    case ValueKind::kBits:
      return "off, 2/1 to 12/4";
    case ValueKind::kInteger:
      return fmt::format("{:.0f} to {:.0f}", min, max);
    case ValueKind::kNumber:
    case ValueKind::kNumberList:
      return fmt::format("{}{}, {}]{}", above_min ? '(' : '[', Shortest(min), Shortest(max),
                         kind == ValueKind::kNumberList ? " each, joined by /" : "");
  }
  return "";
}

std::string_view PolicySpec::Models() const {
  return !decoders ? "encoders" : !encoders ? "decoders" : "encoders and decoders";
}

const PolicyValues::Value& PolicyValues::Find(std::string_view key) const {
  const auto found = std::ranges::find(spec_->keys, key, &PolicyKey::name);
  return values_[found - spec_->keys.begin()];
}

double PolicyValues::number(std::string_view key) const {
  const Value& value = Find(key);
  return value.numbers.empty() ? 0.0 : value.numbers[0];
}

bool PolicyValues::Holds(const KeyCondition& condition) const {
  return condition.key.empty() || (text(condition.key) == condition.value) == condition.equal;
}

std::string PolicyValues::Canonical() const {
  std::string out(spec_->name);
  char separator = ':';
  for (size_t i = 0; i < values_.size(); ++i) {
    if (values_[i].text.empty() || !Holds(spec_->keys[i].condition)) continue;
    out += fmt::format("{}{}={}", separator, spec_->keys[i].name, values_[i].text);
    separator = ',';
  }
  return out;
}

absl::Status PolicyValues::Assign(std::string_view name, std::string_view text) {
  const auto key = std::ranges::find(spec_->keys, name, &PolicyKey::name);
  if (key == spec_->keys.end()) {
    return InvalidArgument("{}: unknown key {}; known keys: {}", spec_->name, Quote(name),
                           Names(spec_->keys));
  }
  Value& value = values_[key - spec_->keys.begin()];
  if (value.given) return InvalidArgument("{}: {} is given twice", spec_->name, key->name);
  value.given = true;
  if (key->kind == ValueKind::kChoice) {
    if (std::ranges::count(Split(key->choices, '|'), text) == 0) {
      return InvalidArgument("{}: {}={}: expected one of {}", spec_->name, key->name, Quote(text),
                             key->Range());
    }
    value.text = text;
    double number = 0.0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size()) value.numbers = {number};
    return absl::OkStatus();
  }
  std::optional<std::vector<double>> numbers = ParseNumbers(*key, text);
  if (!numbers) {
    return InvalidArgument("{}: {}={}: expected {} ({})", spec_->name, key->name, Quote(text),
                           key->Range(), key->measure);
  }
  value.numbers = *std::move(numbers);
  value.text = value.numbers.empty() ? "off" : Join(value.numbers);
  return absl::OkStatus();
}

absl::Status PolicyValues::FillAndCheck() {
  const std::span<const PolicyKey> keys = spec_->keys;
  // Alternatives: two that are given contradict each other; one that is given unsets the default.
  const auto rival = [&](size_t i) -> const PolicyKey* {
    for (size_t j = 0; j < keys.size(); ++j) {
      if (j != i && values_[j].given && !keys[i].alternatives.empty() &&
          keys[j].alternatives == keys[i].alternatives) {
        return &keys[j];
      }
    }
    return nullptr;
  };
  for (size_t i = 0; i < keys.size(); ++i) {
    const PolicyKey* other = rival(i);
    if (values_[i].given && other != nullptr) {
      return InvalidArgument("{}: {} and {} contradict each other; give one", spec_->name,
                             keys[i].name, other->name);
    }
    if (values_[i].given || other != nullptr || keys[i].fallback.empty()) continue;
    THRESHER_RETURN_IF_ERROR(Assign(keys[i].name, keys[i].fallback));
    values_[i].given = false;
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    const KeyCondition& condition = keys[i].condition;
    if (!values_[i].given || Holds(condition)) continue;
    return InvalidArgument(
        "{}: {} has no effect {} {}{}", spec_->name, keys[i].name,
        condition.equal && condition.value.empty() ? "beside" : "without", condition.key,
        condition.equal && !condition.value.empty() ? fmt::format("={}", condition.value)
                                                    : std::string());
  }
  return absl::OkStatus();
}

absl::StatusOr<PolicyValues> ParsePolicyPart(std::string_view part) {
  const size_t colon = part.find(':');
  const std::string_view name = part.substr(0, colon);
  const std::span<const PolicySpec> specs = PolicySpecs();
  const auto spec = std::ranges::find(specs, name, &PolicySpec::name);
  if (spec == specs.end()) {
    if (name == "dense") {
      return InvalidArgument("policy: dense takes no key and joins with nothing");
    }
    return InvalidArgument("policy: unknown name {}; known: dense, {}", Quote(name), Names(specs));
  }
  PolicyValues values(*spec);
  if (colon != std::string_view::npos) {
    for (const std::string_view item : Split(part.substr(colon + 1), ',')) {
      const size_t equals = item.find('=');
      if (equals == std::string_view::npos) {
        return InvalidArgument("{}: {}: expected key=value", spec->name, Quote(item));
      }
      THRESHER_RETURN_IF_ERROR(values.Assign(item.substr(0, equals), item.substr(equals + 1)));
    }
  }
  THRESHER_RETURN_IF_ERROR(values.FillAndCheck());
  return values;
}

absl::StatusOr<std::vector<PolicyValues>> ParsePolicyText(std::string_view text) {
  std::vector<PolicyValues> parts;
  if (text == "dense") return parts;
  if (text.empty()) {
    return InvalidArgument("policy: empty; expected dense or NAME[:key=value,...], NAME one of {}",
                           Names(PolicySpecs()));
  }
  if (text.size() > kLongestText) {
    return InvalidArgument("policy: {} bytes; at most {}", text.size(), kLongestText);
  }
  for (const std::string_view part : Split(text, '+')) {
    THRESHER_ASSIGN_OR_RETURN(PolicyValues values, ParsePolicyPart(part));
    for (const PolicyValues& earlier : parts) {
      if (&earlier.spec() == &values.spec()) {
        return InvalidArgument("policy: {} stands twice; put its keys into one part",
                               values.spec().name);
      }
    }
    parts.push_back(std::move(values));
  }
  return parts;
}

std::string PolicyKeysText() {
  std::string out =
      "A POLICY is dense or NAME[:key=value,...], two that compose joined by +; `thresher "
      "policies`\n"
      "says what each key does.\n";
  for (const PolicySpec& spec : PolicySpecs()) {
    out += fmt::format("  {}\n", spec.name);
    for (const PolicyKey& key : spec.keys) {
      const std::string measure = key.measure == "-" ? "" : fmt::format(" {}", key.measure);
      out += fmt::format(
          "    {:<11}{}\n", key.name,
          Wrap(fmt::format("{}{};{} [{}]", key.Range(), FallbackText(key), measure, key.source), 15,
               100));
    }
  }
  return out;
}

std::string PolicyHelpText() {
  std::string out =
      "A policy is written NAME[:key=value,...]; two that compose are joined by +, such as\n"
      "spatten:keep=0.6+fact:topk=0.25. `dense` skips nothing. A decoder takes one, not several.\n";
  for (const PolicySpec& spec : PolicySpecs()) {
    out += fmt::format(
        "\n{}\n",
        Wrap(fmt::format("{}: {}. For {}.", spec.name, spec.title, spec.Models()), 0, 100));
    for (const PolicyKey& key : spec.keys) {
      out += fmt::format("  {:<11}{}\n", key.name, key.Range() + FallbackText(key));
      const std::string measure = key.measure == "-" ? "" : fmt::format(" Unit: {}.", key.measure);
      out += fmt::format("             {}\n",
                         Wrap(fmt::format("{}{} [{}]", key.help, measure, key.source), 13, 100));
    }
  }
  return out;
}

std::string PolicyHelpMarkdown() {
  std::string out;
  for (const PolicySpec& spec : PolicySpecs()) {
    out += fmt::format("{}### `{}`: {}\n\nFor {}.\n\n", out.empty() ? "" : "\n", spec.name,
                       spec.title, spec.Models());
    out += "| key | values | default | unit, denominator, rounding | from | what it does |\n";
    out += "|---|---|---|---|---|---|\n";
    for (const PolicyKey& key : spec.keys) {
      out += fmt::format("| `{}` | {} | {} | {} | {} | {} |\n", key.name, Cell(key.Range()),
                         key.fallback.empty() ? "-" : fmt::format("`{}`", key.fallback),
                         Cell(key.measure), key.source, Cell(key.help));
    }
  }
  return out;
}

}  // namespace thresher
