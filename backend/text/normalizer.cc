#include "backend/text/normalizer.h"

#include <algorithm>

#include "backend/text/unicode.h"

namespace thresher::text {
namespace {

constexpr int64_t kGrowthCeiling = 1'000'000;  // Where products of growth stop.

// Puts every run of non-starters into canonical order. The sources stay where they are: they are in
// the order of the original text, and spans must not run backwards.
void Reorder(Characters& characters) {
  struct Mark {
    char32_t code;
    int combining_class;
  };
  std::vector<Mark> marks;
  for (size_t i = 0; i < characters.size(); ++i) {
    marks.clear();
    const size_t begin = i;
    for (; i < characters.size(); ++i) {
      const int combining_class = CombiningClass(characters[i].code);
      if (combining_class == 0) break;
      marks.push_back({characters[i].code, combining_class});
    }
    if (marks.size() < 2) continue;
    std::stable_sort(marks.begin(), marks.end(), [](const Mark& a, const Mark& b) {
      return a.combining_class < b.combining_class;
    });
    for (size_t k = 0; k < marks.size(); ++k) characters[begin + k].code = marks[k].code;
  }
}

void DecomposeAll(Characters& characters, bool compatible) {
  Characters result;
  result.reserve(characters.size());
  char32_t parts[kMaxDecomposition];
  for (const Character& character : characters) {
    const int count = Decompose(character.code, compatible, parts);
    for (int i = 0; i < count; ++i) result.push_back({parts[i], character.source});
  }
  characters = std::move(result);
  Reorder(characters);
}

// Canonical composition of decomposed text, in place. A composite has the source of its starter.
void ComposeAll(Characters& characters) {
  constexpr size_t kNone = static_cast<size_t>(-1);
  size_t starter = kNone;  // Where the last starter went.
  size_t written = 0;
  int last_class = 0;
  for (const Character character : characters) {
    const int combining_class = CombiningClass(character.code);
    if (starter != kNone) {
      const bool adjacent = starter + 1 == written;
      const bool blocked = !adjacent && (last_class == 0 || last_class >= combining_class);
      if (!blocked) {
        if (const auto composite = Compose(characters[starter].code, character.code)) {
          characters[starter].code = *composite;
          continue;
        }
      }
    }
    if (combining_class == 0) starter = written;
    last_class = combining_class;
    characters[written++] = character;
  }
  characters.resize(written);
}

void LowercaseAll(Characters& characters) {
  char32_t lower[2];
  Characters grown;  // Used from the first character on that becomes two.
  bool growing = false;
  for (size_t i = 0; i < characters.size(); ++i) {
    const int count = ToLower(characters[i].code, lower);
    if (count == 2 && !growing) {
      growing = true;
      grown.assign(characters.begin(), characters.begin() + static_cast<ptrdiff_t>(i));
    }
    if (!growing) {
      characters[i].code = lower[0];
    } else {
      for (int k = 0; k < count; ++k) grown.push_back({lower[k], characters[i].source});
    }
  }
  if (growing) characters = std::move(grown);
}

void LowercaseAscii(std::string& ascii) {
  for (char& c : ascii) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
}

template <typename Predicate>
void RemoveIf(Characters& characters, Predicate predicate) {
  std::erase_if(characters, [&](const Character& c) { return predicate(c.code); });
}

class BertNormalizer final : public Normalizer {
 public:
  explicit BertNormalizer(const BertNormalizerOptions& options) : options_(options) {}

  void Apply(Characters& characters) const override {
    if (options_.clean_text) {
      RemoveIf(characters, IsBertControl);
      for (Character& c : characters) {
        if (IsWhitespace(c.code)) c.code = ' ';
      }
    }
    if (options_.handle_chinese_chars) SeparateIdeographs(characters);
    if (options_.strip_accents) {
      DecomposeAll(characters, /*compatible=*/false);
      RemoveIf(characters, IsBertAccent);
    }
    if (options_.lowercase) LowercaseAll(characters);
  }

  bool ApplyInPlace(std::string& ascii) const override {
    if (options_.clean_text) {
      for (char& c : ascii) {
        if (c >= ' ' && c != 0x7F) continue;
        if (c != '\t' && c != '\n' && c != '\r') return false;
        c = ' ';
      }
    }
    if (options_.lowercase) LowercaseAscii(ascii);
    return true;
  }

  // Ideographs get two spaces, a decomposition is at most three times as long, a lowercase one
  // half.
  int64_t growth() const override { return 8; }

 private:
  static void SeparateIdeographs(Characters& characters) {
    const auto is_ideograph = [](const Character& c) { return IsBertIdeograph(c.code); };
    const auto count = std::count_if(characters.begin(), characters.end(), is_ideograph);
    if (count == 0) return;
    Characters result;
    result.reserve(characters.size() + 2 * count);
    for (const Character& c : characters) {
      if (is_ideograph(c)) {
        // The spaces only part words, and so their source is never asked for.
        result.insert(result.end(), {{' ', c.source}, c, {' ', c.source}});
      } else {
        result.push_back(c);
      }
    }
    characters = std::move(result);
  }

  BertNormalizerOptions options_;
};

class Lowercase final : public Normalizer {
 public:
  int64_t growth() const override { return 2; }
  void Apply(Characters& characters) const override { LowercaseAll(characters); }
  bool ApplyInPlace(std::string& ascii) const override {
    LowercaseAscii(ascii);
    return true;
  }
};

class StripAccents final : public Normalizer {
 public:
  int64_t growth() const override { return 1; }
  void Apply(Characters& characters) const override { RemoveIf(characters, IsMark); }
  bool ApplyInPlace(std::string&) const override { return true; }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  void Apply(Characters& characters) const override {
    const auto is_text = [](const Character& c) { return !IsWhitespace(c.code); };
    if (right_) {
      const auto last = std::find_if(characters.rbegin(), characters.rend(), is_text);
      characters.erase(last.base(), characters.end());
    }
    if (left_) {
      const auto first = std::find_if(characters.begin(), characters.end(), is_text);
      characters.erase(characters.begin(), first);
    }
  }

  bool ApplyInPlace(std::string& ascii) const override {
    if (ascii.empty()) return true;
    return !(left_ && IsWhitespace(ascii.front())) && !(right_ && IsWhitespace(ascii.back()));
  }
  int64_t growth() const override { return 1; }

 private:
  bool left_;
  bool right_;
};

class Replace final : public Normalizer {
 public:
  Replace(std::string_view pattern, std::string_view content)
      : pattern_(ToCharacters(pattern, 0)),
        content_(ToCharacters(content, 0)),
        text_(pattern),
        growth_(1 + static_cast<int64_t>(content.size() / pattern.size())) {}

  void Apply(Characters& characters) const override {
    Characters result;
    const auto same = [](const Character& a, const Character& b) { return a.code == b.code; };
    auto position = characters.begin();
    while (true) {
      const auto match =
          std::search(position, characters.end(), pattern_.begin(), pattern_.end(), same);
      if (match == characters.end() && position == characters.begin()) return;
      result.insert(result.end(), position, match);
      if (match == characters.end()) break;
      position = match + static_cast<ptrdiff_t>(pattern_.size());
      // As in the reference implementation, what is put in has the source of the last character
      // that it replaces.
      for (const Character& c : content_) result.push_back({c.code, std::prev(position)->source});
    }
    characters = std::move(result);
  }

  bool ApplyInPlace(std::string& ascii) const override {
    return ascii.find(text_) == std::string::npos;
  }
  int64_t growth() const override { return growth_; }

 private:
  Characters pattern_;
  Characters content_;
  std::string text_;
  int64_t growth_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string_view prefix)
      : prefix_(ToCharacters(prefix, 0)), growth_(1 + static_cast<int64_t>(prefix.size())) {}

  void Apply(Characters& characters) const override {
    if (characters.empty()) return;
    const Span source = characters.front().source;
    characters.insert(characters.begin(), prefix_.begin(), prefix_.end());
    for (size_t i = 0; i < prefix_.size(); ++i) characters[i].source = source;
  }
  bool ApplyInPlace(std::string& ascii) const override { return ascii.empty(); }
  int64_t growth() const override { return growth_; }

 private:
  Characters prefix_;
  int64_t growth_;
};

class Form final : public Normalizer {
 public:
  explicit Form(NormalizationForm form) : form_(form) {}

  void Apply(Characters& characters) const override {
    DecomposeAll(characters, form_.compatible);
    if (form_.compose) ComposeAll(characters);
  }
  bool ApplyInPlace(std::string&) const override { return true; }
  // U+FDFA becomes 18 characters, 11 times its bytes.
  int64_t growth() const override { return form_.compatible ? 11 : 3; }

 private:
  NormalizationForm form_;
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> normalizers)
      : normalizers_(std::move(normalizers)) {}

  void Apply(Characters& characters) const override {
    for (const auto& normalizer : normalizers_) normalizer->Apply(characters);
  }
  bool ApplyInPlace(std::string& ascii) const override {
    return std::all_of(normalizers_.begin(), normalizers_.end(),
                       [&](const auto& normalizer) { return normalizer->ApplyInPlace(ascii); });
  }
  int64_t growth() const override {
    int64_t product = 1;
    for (const auto& normalizer : normalizers_) {
      product = std::min(product * normalizer->growth(), kGrowthCeiling);
    }
    return product;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> normalizers_;
};

}  // namespace

AlignedText Normalizer::Normalize(std::string_view text, int32_t base) const {
  if (IsAscii(text)) {
    std::string ascii(text);
    if (ApplyInPlace(ascii)) return AlignedText(std::move(ascii), base);
  }
  Characters characters = ToCharacters(text, base);
  Apply(characters);
  return AlignedText(characters);
}

std::unique_ptr<Normalizer> MakeBertNormalizer(const BertNormalizerOptions& options) {
  return std::make_unique<BertNormalizer>(options);
}
std::unique_ptr<Normalizer> MakeLowercase() { return std::make_unique<Lowercase>(); }
std::unique_ptr<Normalizer> MakeStripAccents() { return std::make_unique<StripAccents>(); }
std::unique_ptr<Normalizer> MakeStrip(bool left, bool right) {
  return std::make_unique<Strip>(left, right);
}
std::unique_ptr<Normalizer> MakeReplace(std::string_view pattern, std::string_view content) {
  return std::make_unique<Replace>(pattern, content);
}
std::unique_ptr<Normalizer> MakePrepend(std::string_view prefix) {
  return std::make_unique<Prepend>(prefix);
}
std::unique_ptr<Normalizer> MakeNormalizationForm(NormalizationForm form) {
  return std::make_unique<Form>(form);
}
std::unique_ptr<Normalizer> MakeSequence(std::vector<std::unique_ptr<Normalizer>> normalizers) {
  return std::make_unique<Sequence>(std::move(normalizers));
}

}  // namespace thresher::text
