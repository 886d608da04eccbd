#include "backend/device/simulator/spatial/einsum_cascade.h"

#include <algorithm>
#include <utility>

#include "backend/tensor/status.h"

namespace thresher {

const std::string_view kThreePassAttention = R"(
  QK[p,m] = Q[p,e] * K[m,e]
  GM[p] = max(QK[p,m])
  SN[p,m] = exp(QK[p,m] - GM[p])
  SD[p] = sum(SN[p,m])
  A[p,m] = SN[p,m] / SD[p]
  AV[p,f] = A[p,m] * V[m,f]
)";

const std::string_view kTwoPassAttention = R"(
  QK[p,m1,m0] = Q[p,e] * K[m1,m0,e]
  LM[p,m1] = max(QK[p,m1,m0])
  SLN[p,m1,m0] = exp(QK[p,m1,m0] - LM[p,m1])
  SLD[p,m1] = sum(SLN[p,m1,m0])
  GM[p] = max(LM[p,m1])
  PLM[p,m1] = exp(LM[p,m1] - GM[p])
  SD[p] = SLD[p,m1] * PLM[p,m1]
  SN[p,m1,m0] = SLN[p,m1,m0] * PLM[p,m1]
  SNV[p,f] = SN[p,m1,m0] * V[m1,m0,f]
  AV[p,f] = SNV[p,f] / SD[p]
)";

const std::string_view kOnePassAttention = R"(
  QK[p,m1,m0] = Q[p,e] * K[m1,m0,e]
  LM[p,m1] = max(QK[p,m1,m0])
  RM[p,m1+1] = max(RM[p,m1], LM[p,m1])
  SLN[p,m1,m0] = exp(QK[p,m1,m0] - RM[p,m1+1])
  SLD[p,m1] = sum(SLN[p,m1,m0])
  SLNV[p,m1,f] = SLN[p,m1,m0] * V[m1,m0,f]
  PRM[p,m1] = exp(RM[p,m1] - RM[p,m1+1])
  SPD[p,m1] = RD[p,m1] * PRM[p,m1]
  RD[p,m1+1] = SLD[p,m1] + SPD[p,m1]
  SPNV[p,m1,f] = RNV[p,m1,f] * PRM[p,m1]
  RNV[p,m1+1,f] = SLNV[p,m1,f] + SPNV[p,m1,f]
  AV[p,f] = RNV[p,f] / RD[p]
)";

namespace {

constexpr size_t kLongestText = 1024;

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsRankOf(std::string_view name, std::string_view rank) {
  return name == rank || (name.size() == rank.size() + 1 && name.substr(0, rank.size()) == rank &&
                          IsDigit(name.back()));
}

// Reads uses of tensors, NAME[rank,rank+1], and passes over everything else.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  absl::StatusOr<Einsum> Read() {
    Einsum einsum;
    THRESHER_ASSIGN_OR_RETURN(const bool any, Next(&einsum.output));
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (!any || at_ == text_.size() || text_[at_] != '=') {
      return Error("expected an output and '='");
    }
    for (TensorUse input;;) {
      THRESHER_ASSIGN_OR_RETURN(const bool more, Next(&input));
      if (!more) break;
      einsum.inputs.push_back(std::exchange(input, {}));
    }
    if (einsum.inputs.empty()) return Error("expected inputs, such as Q[p,e]");
    return einsum;
  }

 private:
  absl::Status Error(std::string_view what) const {
    return InvalidArgument("Einsum '{}', column {}: {}", text_, at_ + 1, what);
  }

  // The next use of a tensor; false at the end of the text, or, for the output, at '='.
  absl::StatusOr<bool> Next(TensorUse* use) {
    while (at_ < text_.size()) {
      if (!IsLetter(text_[at_])) {
        ++at_;
        continue;
      }
      const size_t begin = at_;
      while (at_ < text_.size() && (IsLetter(text_[at_]) || IsDigit(text_[at_]))) ++at_;
      if (at_ == text_.size() || text_[at_] != '[') continue;  // The name of an operation.
      use->tensor = text_.substr(begin, at_ - begin);
      do {
        ++at_;
        if (at_ == text_.size() || !IsLetter(text_[at_])) return Error("expected a rank");
        std::string rank(1, text_[at_++]);
        if (at_ < text_.size() && IsDigit(text_[at_])) rank += text_[at_++];
        if (use->Has(rank)) return Error("a rank is there twice");
        use->ranks.push_back(std::move(rank));
        if (text_.substr(at_, 2) == "+1") {
          if (use->next) return Error("one rank alone can run");
          use->next = true;
          std::swap(use->ranks.back(), use->ranks.front());  // The running rank comes first.
          at_ += 2;
        }
      } while (at_ < text_.size() && text_[at_] == ',');
      if (at_ == text_.size() || text_[at_] != ']') return Error("expected ',' or ']'");
      ++at_;
      return true;
    }
    return false;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

bool TensorUse::Has(std::string_view rank) const {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

std::vector<std::string> Einsum::Ranks() const {
  std::vector<std::string> ranks = output.ranks;
  for (const TensorUse& input : inputs) {
    for (const std::string& rank : input.ranks) {
      if (std::find(ranks.begin(), ranks.end(), rank) == ranks.end()) ranks.push_back(rank);
    }
  }
  return ranks;
}

bool Einsum::Iterates(std::string_view rank) const {
  return output.Has(rank) ||
         std::any_of(inputs.begin(), inputs.end(), [&](const auto& use) { return use.Has(rank); });
}

absl::StatusOr<Einsum> ParseEinsum(std::string_view text) {
  if (text.size() > kLongestText) {
    return InvalidArgument("Einsum '{}...': {} characters, at most {}", text.substr(0, 40),
                           text.size(), kLongestText);
  }
  return Reader(text).Read();
}

absl::StatusOr<EinsumCascade> EinsumCascade::Create(std::vector<Einsum> einsums) {
  if (einsums.empty()) return InvalidArgument("a cascade has at least one Einsum");
  EinsumCascade cascade;
  cascade.einsums_ = std::move(einsums);
  for (int i = 0; i < static_cast<int>(cascade.einsums_.size()); ++i) {
    const Einsum& einsum = cascade.einsums_[i];
    if (cascade.MakerOf(einsum.output.tensor) != i) {
      return InvalidArgument("tensor '{}' is made twice", einsum.output.tensor);
    }
    for (const TensorUse& input : einsum.inputs) {
      const int maker = cascade.MakerOf(input.tensor);
      if (maker < 0) continue;
      const TensorUse& made = cascade.einsums_[maker].output;
      for (const std::string& rank : input.ranks) {
        if (!made.Has(rank)) {
          return InvalidArgument("'{}' reads {} with rank {}, which it does not have",
                                 einsum.output.tensor, input.tensor, rank);
        }
      }
      if (maker >= i && !cascade.IsBefore(input)) {
        return InvalidArgument("'{}' reads {} before it is made", einsum.output.tensor,
                               input.tensor);
      }
    }
  }
  return cascade;
}

absl::StatusOr<EinsumCascade> EinsumCascade::Parse(std::string_view text) {
  std::vector<Einsum> einsums;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    THRESHER_ASSIGN_OR_RETURN(einsums.emplace_back(), ParseEinsum(line));
  }
  return Create(std::move(einsums));
}

int EinsumCascade::MakerOf(std::string_view tensor) const {
  for (size_t i = 0; i < einsums_.size(); ++i) {
    if (einsums_[i].output.tensor == tensor) return static_cast<int>(i);
  }
  return -1;
}

bool EinsumCascade::IsBefore(const TensorUse& use) const {
  const int maker = MakerOf(use.tensor);
  if (maker < 0 || use.next) return false;
  const TensorUse& made = einsums_[maker].output;
  return made.next && use.Has(made.ranks.front());
}

std::string EinsumCascade::Outermost(std::string_view rank) const {
  std::string outermost(rank);
  for (const Einsum& einsum : einsums_) {
    for (const std::string& name : einsum.Ranks()) {
      if (IsRankOf(name, rank) && name > outermost) outermost = name;
    }
  }
  return outermost;
}

std::vector<int> EinsumCascade::PassOfEinsums(std::string_view rank) const {
  const std::string outer = Outermost(rank);
  std::vector<int> passes(einsums_.size());
  // Of each Einsum: the pass in which its elements come out (if it iterates over the rank), or
  // after which its output is there.
  std::vector<int> known(einsums_.size());
  for (size_t i = 0; i < einsums_.size(); ++i) {
    const bool iterates = einsums_[i].Iterates(outer);
    int earliest = iterates ? 1 : 0;
    for (const TensorUse& input : einsums_[i].inputs) {
      const int maker = MakerOf(input.tensor);
      if (maker < 0 || maker >= static_cast<int>(i)) continue;
      // An element is read in the pass in which it comes out; what took all of them is only known
      // when the pass is over.
      const bool elementwise = input.Has(outer);
      earliest = std::max(earliest, known[maker] + (iterates && !elementwise ? 1 : 0));
    }
    known[i] = earliest;
    if (iterates) passes[i] = earliest;
  }
  return passes;
}

int EinsumCascade::Passes(std::string_view rank) const {
  const std::vector<int> passes = PassOfEinsums(rank);
  return *std::max_element(passes.begin(), passes.end());
}

std::map<std::string, int64_t> EinsumCascade::LiveWords(
    std::string_view rank, const std::map<std::string, int64_t, std::less<>>& extents) const {
  const std::vector<int> passes = PassOfEinsums(rank);
  const std::string outer = Outermost(rank);
  struct Life {
    const TensorUse* use = nullptr;
    int first = 0;
    int last = 0;
  };
  std::map<std::string, Life> lives;
  const auto visit = [&](const TensorUse& use, int pass) {
    Life& life = lives[use.tensor];
    // The widest use tells the ranks: the last value of a running tensor is read without its own.
    if (life.use == nullptr || use.ranks.size() > life.use->ranks.size()) life.use = &use;
    if (pass == 0) return;
    life.first = life.first == 0 ? pass : std::min(life.first, pass);
    life.last = std::max(life.last, pass);
  };
  for (size_t i = 0; i < einsums_.size(); ++i) {
    visit(einsums_[i].output, passes[i]);
    for (const TensorUse& input : einsums_[i].inputs) visit(input, passes[i]);
  }
  std::map<std::string, int64_t> words;
  for (const auto& [tensor, life] : lives) {
    int64_t count = 1;
    for (const std::string& name : life.use->ranks) {
      const auto extent = extents.find(name);
      if (extent == extents.end() || (name == outer && life.first == life.last)) continue;
      count *= extent->second;
    }
    words[tensor] = count;
  }
  return words;
}

}  // namespace thresher
