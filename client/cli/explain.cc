#include "client/cli/explain.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "backend/sparsity/report.h"
#include "client/cli/format.h"

namespace thresher::cli {
namespace {

constexpr std::string_view kIndent = "    ";

/// Part of the text that has one fate.
struct Piece {
  std::string gap;  // What stands before it and was no token's.
  std::string text;
  int layers = 0;  // It went through so many.
};

/// The tokens in order, those of one character joined.
std::vector<Piece> Pieces(std::string_view first, std::string_view second,
                          const v1::ResultInfo& info) {
  std::vector<Piece> pieces;
  int sequence = -1;
  size_t cursor = 0;
  for (int i = 0; i < info.pieces_size(); ++i) {
    const v1::Token& token = info.pieces(i);
    const int layers = info.report().token_layers(i);
    if (token.sequence() < 0) {
      pieces.push_back({" ", Printable(token.text()), layers});
      sequence = -1;
      continue;
    }
    const std::string_view text = token.sequence() == 0 ? first : second;
    const bool begins = token.sequence() != sequence;
    if (begins) {
      sequence = token.sequence();
      cursor = 0;
    }
    const size_t end = std::clamp<size_t>(std::max(token.end(), 0), cursor, text.size());
    const size_t begin = std::clamp<size_t>(std::max(token.begin(), 0), cursor, end);
    if (begin == end && !begins) {
      pieces.back().layers = std::max(pieces.back().layers, layers);
      continue;
    }
    pieces.push_back({(begins ? " " : "") + Printable(text.substr(cursor, begin - cursor)),
                      Printable(text.substr(begin, end - begin)), layers});
    cursor = end;
  }
  return pieces;
}

/// Neighbours within a word that went together are one.
std::vector<Piece> JoinFates(std::vector<Piece> pieces) {
  std::vector<Piece> joined;
  for (Piece& piece : pieces) {
    if (!joined.empty() && piece.gap.empty() && piece.layers == joined.back().layers) {
      joined.back().text += piece.text;
    } else {
      joined.push_back(std::move(piece));
    }
  }
  return joined;
}

std::string Subscript(int number) {
  static constexpr const char* kDigits[] = {"₀", "₁", "₂", "₃", "₄", "₅", "₆", "₇", "₈", "₉"};
  std::string out;
  for (const char digit : std::to_string(std::max(number, 0))) out += kDigits[digit - '0'];
  return out;
}

/// Writes pieces of text in the manner of their fate.
class Painter {
 public:
  Painter(int layers, bool color) : layers_(layers), color_(color) {}

  std::string operator()(const std::string& text, int layers) const {
    const bool stayed = layers >= layers_;
    if (!color_) return stayed ? text : fmt::format("{{{}|{}}}", text, layers);
    if (stayed) return fmt::format("\x1b[1m{}\x1b[0m", text);
    // Of the 256-colour palette's greys, 238 (after the first layer) to 250.
    const int latest = std::max(layers_ - 1, 2);
    const int grey = 238 + 12 * (std::clamp(layers, 1, latest) - 1) / (latest - 1);
    const std::string mark = Unicode() ? Subscript(layers) : fmt::format("{{{}}}", layers);
    return fmt::format("\x1b[38;5;{}m{}{}\x1b[0m", grey, text, mark);
  }

 private:
  const int layers_;
  const bool color_;
};

std::string Legend(const Painter& paint, int layers, bool color) {
  if (!color) {
    return fmt::format("({{word|N}}: dropped after layer N of {}; the others stayed)", layers);
  }
  std::string out = "(dropped after layer";
  for (int layer = 1; layer < layers; ++layer) out += " " + paint("word", layer);
  return out + " of " + std::to_string(layers) + "; " + paint("stayed", layers) + ")";
}

std::string Sentence(std::string_view first, std::string_view second, const v1::ResultInfo& info,
                     bool color) {
  const int layers = info.report().layers_size();
  if (layers == 0 || info.pieces_size() == 0 ||
      info.pieces_size() != info.report().token_layers_size()) {
    return "";
  }
  const Painter paint(layers, color);
  std::string out;
  bool dropped = false;
  for (const Piece& piece : JoinFates(Pieces(first, second, info))) {
    std::string gap = piece.gap;
    if (out.empty()) gap.erase(0, gap.find_first_not_of(' '));
    out += gap + paint(piece.text, piece.layers);
    dropped |= piece.layers < layers;
  }
  if (info.truncated()) out += Unicode() ? " …" : " ...";
  return fmt::format("{0}{1}\n{0}{2}\n", kIndent, out,
                     dropped ? Legend(paint, layers, color) : "(every token stayed)");
}

std::string LayerTable(const v1::PruningReport& report) {
  std::vector<std::vector<std::string>> rows = {{fmt::format("{}layer", kIndent), "tokens", "heads",
                                                 "values", "scores", "QKV rows", "full FFN",
                                                 "KV bytes"}};
  const auto percent = [](const v1::PruningReport::Amount& amount) {
    return fmt::format("{:.1f} %", 100 * KeepRatio(amount));
  };
  const auto add = [&](const std::string& name, const v1::PruningReport::Work& work, bool counts) {
    const auto count = [&](const v1::PruningReport::Amount& amount) {
      return counts ? fmt::format("{}/{}", amount.done(), amount.dense()) : percent(amount);
    };
    rows.push_back({fmt::format("{}{}", kIndent, name), count(work.tokens()), count(work.heads()),
                    percent(work.values()), percent(work.scores()), percent(work.qkv_rows()),
                    percent(work.ffn_full_precision()), percent(work.bytes())});
  };
  for (int l = 0; l < report.layers_size(); ++l) {
    add(std::to_string(l + 1), report.layers(l), /*counts=*/true);
  }
  add("all", report.total(), /*counts=*/false);
  return Table(rows);
}

std::string Facts(const v1::PruningReport& report) {
  std::string out = fmt::format("{}policy {}", kIndent, Printable(report.policy()));
  if (report.total().refetched_rows() > 0) {
    out +=
        fmt::format("; {:.1f} % of the softmax rows refetched", 100 * RefetchShare(report.total()));
  }
  if (report.has_attention_entropy()) {
    out += fmt::format("; entropy {:.2f} nats", report.attention_entropy());
  }
  if (report.has_collapsed_heads()) {
    out += fmt::format(", {:.0f} % of the heads collapsed, {:.0f} % overloaded",
                       100 * report.collapsed_heads(), 100 * report.overloaded_heads());
  }
  if (report.has_sink_share()) {
    out += fmt::format("; {:.1f} % on the first token, the sink of {:.0f} % of the heads",
                       100 * report.sink_share(), 100 * report.sink_heads());
  }
  out += "\n";
  const v1::PruningReport::Work& total = report.total();
  if (total.predicted_rows() > 0 || total.predicted_scores() > 0) {
    out += fmt::format("{}predicted besides: {} rows of Q and K, {} scores\n", kIndent,
                       total.predicted_rows(), total.predicted_scores());
  }
  return out;
}

}  // namespace

bool UseColor(ColorMode mode) {
  if (mode != ColorMode::kAuto) return mode == ColorMode::kAlways;
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string_view(value != nullptr ? value : "");
  };
  return isatty(STDOUT_FILENO) != 0 && variable("NO_COLOR").empty() && variable("TERM") != "dumb";
}

std::string ExplainText(std::string_view first, std::string_view second, const v1::ResultInfo& info,
                        bool color) {
  if (!info.has_report()) return "";
  return Sentence(first, second, info, color) + LayerTable(info.report()) + Facts(info.report());
}

}  // namespace thresher::cli
