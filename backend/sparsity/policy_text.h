// The text of a policy, `NAME[:key=value,...]`, parts joined by `+`, as it stands on command lines,
// in files and in requests: what may be written, what it means, its one canonical form.
//
// All of it comes from one table (policy_table.cc): the parser, the checks, the canonical text,
// `--help` and the table in docs/policies.md.
#ifndef THRESHER_BACKEND_SPARSITY_POLICY_TEXT_H_
#define THRESHER_BACKEND_SPARSITY_POLICY_TEXT_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace thresher {

/// How a value is written.
enum class ValueKind {
  kNumber,      // A decimal number, such as 0.25.
  kInteger,     // A whole number.
  kChoice,      // One of a few words.
  kBits,        // "off", or two whole numbers: 6/4.
  kNumberList,  // Numbers joined by "/": 1/1/0.8.
};

/// A key that has an effect only if another key has (or has not) a certain value.
struct KeyCondition {
  std::string_view key;  // Empty: always.
  std::string_view value;
  bool equal = true;
};

struct PolicyKey {
  std::string_view name;
  ValueKind kind = ValueKind::kNumber;
  double min = 0.0;
  double max = 1.0;
  bool above_min = false;         // min itself is out of range.
  std::string_view choices;       // kChoice: the words, joined by "|".
  std::string_view fallback;      // The default as written; empty: not set.
  std::string_view alternatives;  // Keys with the same one say the same thing: give at most one.
  KeyCondition condition;         // Given without it, the key is refused.
  std::string_view measure;       // Unit, denominator and rounding.
  std::string_view source;        // Where it is published.
  std::string_view help;

  /// The values it takes, for people: "(0, 1]", "ramp, flat".
  std::string Range() const;
};

/// What is turned to make a policy skip more or less, when policies are compared at the same work
/// (`thresher compare`). The work that is left never grows on the way from `least` to `most`.
struct PolicyKnob {
  /// As in a policy's text, with * for the number: "heavy=*,recent=*". Empty: the policy saves no
  /// work.
  std::string_view keys;
  double least = 1.0;        // The number with which the policy skips least,
  double most = 0.001;       // and most.
  bool integer = false;      // It is a whole number.
  bool logarithmic = false;  // Its order of magnitude is what counts.
};

struct PolicySpec {
  std::string_view name;
  std::string_view title;
  bool encoders;  // Which models it is for.
  bool decoders;
  std::span<const PolicyKey> keys;
  PolicyKnob knob = {};

  /// The same for people: "encoders", "encoders and decoders".
  std::string_view Models() const;
};

/// Every policy but "dense", which has no keys. The order is that of documents and canonical texts.
std::span<const PolicySpec> PolicySpecs();

/// One part of a policy's text with all its keys, given or by default; every value is in range.
class PolicyValues {
 public:
  const PolicySpec& spec() const { return *spec_; }
  /// Whether the key has a value at all. False for an alternative that was not given.
  bool has(std::string_view key) const { return !Find(key).text.empty(); }
  /// The value as written in the canonical form.
  std::string_view text(std::string_view key) const { return Find(key).text; }
  /// kNumber and kInteger: the value. kBits: the first of two, 0 when "off". kChoice: the word as a
  /// number, 0 if it is none.
  double number(std::string_view key) const;
  /// kBits (none when "off") and kNumberList.
  std::span<const double> numbers(std::string_view key) const { return Find(key).numbers; }
  /// `NAME:key=value,...` with every key that has an effect, in the table's order.
  std::string Canonical() const;

 private:
  friend absl::StatusOr<PolicyValues> ParsePolicyPart(std::string_view part);
  struct Value {
    std::string text;
    std::vector<double> numbers;
    bool given = false;
  };
  explicit PolicyValues(const PolicySpec& spec) : spec_(&spec), values_(spec.keys.size()) {}
  const Value& Find(std::string_view key) const;
  bool Holds(const KeyCondition& condition) const;
  absl::Status Assign(std::string_view name, std::string_view text);
  absl::Status FillAndCheck();

  const PolicySpec* spec_;
  std::vector<Value> values_;  // As spec_->keys.
};

/// The parts of a text, in order; none for "dense". Total: any bytes at all give values or
/// INVALID_ARGUMENT, which names the part and key and says what would be right. Numbers are plain
/// decimals in any locale: no nan, inf, hexadecimal, sign, blank or trailing letter.
absl::StatusOr<std::vector<PolicyValues>> ParsePolicyText(std::string_view text);

/// One part: `NAME[:key=value,...]`, not "dense".
absl::StatusOr<PolicyValues> ParsePolicyPart(std::string_view part);

/// Every key's range, default, measure and source, as plain text of at most 100 columns, for the
/// `--help` of commands that take a policy.
std::string PolicyKeysText();
/// All that the table tells, likewise, for `thresher policies`.
std::string PolicyHelpText();
/// The same as Markdown tables, for docs/policies.md.
std::string PolicyHelpMarkdown();

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_POLICY_TEXT_H_
