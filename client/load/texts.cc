#include "client/load/texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

namespace thresher::load {
namespace {

absl::Status Refuse(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(fmt::format(
      "lengths '{}': {}; expected a number, uniform:min=8,max=64, normal:mean=64,sigma=16 or "
      "lognormal:mean=64,sigma=0.5,max=512",
      text, why));
}

std::optional<double> ParseNumber(std::string_view text) {
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || rest != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

class ListedTexts final : public Texts {
 public:
  ListedTexts(std::vector<Text> texts, uint64_t seed)
      : texts_(std::move(texts)), random_(seed, /*stream=*/2), order_(texts_.size()) {
    std::iota(order_.begin(), order_.end(), 0);
  }

  Text Next() override {
    // Fisher and Yates, one step for each text that is taken.
    std::swap(order_[at_], order_[at_ + random_.Below(order_.size() - at_)]);
    const Text& text = texts_[order_[at_]];
    at_ = (at_ + 1) % order_.size();
    return text;
  }

 private:
  const std::vector<Text> texts_;
  Random random_;
  std::vector<size_t> order_;
  size_t at_ = 0;
};

class DrawnTexts final : public Texts {
 public:
  DrawnTexts(const Lengths& lengths, uint64_t seed)
      : lengths_(lengths), random_(seed, /*stream=*/2) {}

  Text Next() override {
    static constexpr std::array<std::string_view, 64> kWords = {
        "the",   "of",   "and",   "to",   "in",   "for",  "is",   "on",    "that",  "by",    "this",
        "with",  "you",  "it",    "not",  "or",   "be",   "are",  "from",  "at",    "as",    "your",
        "all",   "have", "new",   "more", "an",   "was",  "we",   "will",  "home",  "can",   "us",
        "about", "if",   "page",  "my",   "has",  "free", "but",  "our",   "one",   "other", "do",
        "no",    "time", "they",  "he",   "up",   "may",  "what", "which", "their", "news",  "out",
        "use",   "any",  "there", "see",  "only", "so",   "his",  "when",  "here"};
    Text text;
    for (int64_t left = lengths_.Draw(random_); left > 0; --left) {
      text.text += kWords[random_.Below(kWords.size())];
      if (left > 1) text.text += ' ';
    }
    return text;
  }

 private:
  const Lengths lengths_;
  Random random_;
};

}  // namespace

absl::StatusOr<Lengths> Lengths::Parse(std::string_view text) {
  std::string_view rest = text;
  const size_t colon = rest.find(':');
  const std::string name(rest.substr(0, colon));
  rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  std::map<std::string, double> values;
  while (!rest.empty()) {
    const size_t end = rest.find(',');
    const std::string_view part = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    const size_t equals = part.find('=');
    const auto value =
        equals == std::string_view::npos ? std::nullopt : ParseNumber(part.substr(equals + 1));
    if (!value) return Refuse(text, fmt::format("'{}' is not KEY=NUMBER", part));
    if (!values.emplace(part.substr(0, equals), *value).second) {
      return Refuse(text, fmt::format("'{}' comes twice", part.substr(0, equals)));
    }
  }
  const auto take = [&values](const char* key, double otherwise) {
    const auto found = values.find(key);
    if (found == values.end()) return otherwise;
    const double value = found->second;
    values.erase(found);
    return value;
  };
  Lengths lengths;
  double mean = 1;
  double sigma = 0;
  if (const auto number = ParseNumber(name); number && colon == std::string_view::npos) {
    lengths.kind_ = Fixed{mean = *number};
  } else if (name == "fixed") {
    lengths.kind_ = Fixed{mean = take("value", 0)};
  } else if (name == "uniform") {
    lengths.min_ = take("min", 1);
    lengths.max_ = take("max", 0);
    lengths.kind_ = Uniform{lengths.min_, lengths.max_};
    mean = lengths.max_;
  } else if (name == "normal" || name == "lognormal") {
    mean = take("mean", 0);
    lengths.min_ = take("min", 1);
    lengths.max_ = take("max", kLongest);
    if (name == "normal") {
      sigma = take("sigma", mean / 4);
      lengths.kind_ = Normal{mean, sigma};
    } else {
      sigma = take("sigma", 0.5);
      lengths.kind_ = LogNormal{mean, sigma};
    }
  } else {
    return Refuse(text, fmt::format("'{}' is no distribution", name));
  }
  if (!values.empty()) return Refuse(text, fmt::format("no '{}' here", values.begin()->first));
  if (!(mean >= 1 && mean <= kLongest && sigma >= 0)) {
    return Refuse(text, fmt::format("needs a length from 1 to {} and no negative sigma", kLongest));
  }
  if (!(lengths.min_ >= 1 && lengths.min_ <= lengths.max_ && lengths.max_ <= kLongest)) {
    return Refuse(text, fmt::format("needs 1 <= min <= max <= {}", kLongest));
  }
  return lengths;
}

int64_t Lengths::Draw(Random& random) const {
  struct Visitor {
    Random& random;
    double operator()(const Fixed& kind) const { return kind.value; }
    double operator()(const Uniform& kind) const {
      // Whole numbers from min to max, all alike.
      return std::floor(kind.min + random.Uniform() * (kind.max - kind.min + 1));
    }
    double operator()(const Normal& kind) const { return kind.mean + kind.sigma * random.Normal(); }
    double operator()(const LogNormal& kind) const {
      // exp of a normal distribution has the mean exp(mu + sigma^2 / 2).
      const double mu = std::log(kind.mean) - kind.sigma * kind.sigma / 2;
      return std::exp(mu + kind.sigma * random.Normal());
    }
  };
  const double drawn = std::visit(Visitor{random}, kind_);
  return std::llround(std::clamp(drawn, min_, max_));
}

std::unique_ptr<Texts> MakeTexts(std::vector<Text> texts, uint64_t seed) {
  return std::make_unique<ListedTexts>(std::move(texts), seed);
}

std::unique_ptr<Texts> MakeTexts(const Lengths& lengths, uint64_t seed) {
  return std::make_unique<DrawnTexts>(lengths, seed);
}

}  // namespace thresher::load
