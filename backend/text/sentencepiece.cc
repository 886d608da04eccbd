#include "backend/text/sentencepiece.h"

#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backend/tensor/status.h"
#include "backend/text/sentencepiece_bpe.h"
#include "backend/text/sentencepiece_file.h"
#include "backend/text/sentencepiece_normalizer.h"
#include "backend/text/sentencepiece_unigram.h"
#include "backend/text/special_tokens.h"

namespace thresher::text {
namespace {

using Type = SentencePieceFile::Type;

template <typename Model>
absl::StatusOr<std::unique_ptr<TokenModel>> MakeModel(const SentencePieceFile& file) {
  THRESHER_ASSIGN_OR_RETURN(Model model, Model::Create(file));
  return std::make_unique<Model>(std::move(model));
}

// The pieces that the model itself names for the roles.
TokenizerConfig WithModelDefaults(const TokenizerConfig& given, const SentencePieceFile& file) {
  std::string_view unknown;
  for (const auto& piece : file.pieces) {
    if (piece.type == Type::kUnknown) unknown = piece.text;
  }
  const std::array<DefaultToken, 3> defaults = {
      {{"bos_token", file.bos_piece}, {"eos_token", file.eos_piece}, {"unk_token", unknown}}};
  TokenizerConfig config = WithDefaults(given, defaults);
  // They are found in the text as it was given: what the normalizer makes of them depends on where
  // they stand.
  for (AddedToken& token : config.added_tokens) token.normalized = false;
  return config;
}

// The token of a role, if one is to be added to texts. By default it is only where there is one.
absl::StatusOr<std::optional<int32_t>> FindAround(const TokenizerConfig& config, const char* role,
                                                  std::optional<bool> wanted, bool by_default,
                                                  const Vocabulary& vocabulary,
                                                  std::string_view name) {
  if (!wanted.value_or(by_default)) return std::nullopt;
  const absl::StatusOr<int32_t> id = FindSpecial(config, role, vocabulary, name);
  if (id.ok()) return *id;
  if (wanted) return id.status();
  return std::nullopt;
}

LeadingSpace LeadingSpaceOf(const SentencePieceFile& file) {
  if (file.remove_extra_whitespaces) return LeadingSpace::kDropEach;
  return file.add_dummy_prefix ? LeadingSpace::kDropOne : LeadingSpace::kKeep;
}

}  // namespace

absl::StatusOr<Pipeline> ParseSentencePiece(std::string_view contents, std::string_view name,
                                            const TokenizerConfig& given) {
  static constexpr std::array<std::string_view, 3> kClasses = {"LlamaTokenizer", "GemmaTokenizer",
                                                               "CodeLlamaTokenizer"};
  THRESHER_RETURN_IF_ERROR(CheckClass(given, name, kClasses));
  THRESHER_ASSIGN_OR_RETURN(const SentencePieceFile file, ParseSentencePieceFile(contents, name));
  const TokenizerConfig config = WithModelDefaults(given, file);

  Pipeline pipeline;
  pipeline.vocabulary =
      std::make_unique<Vocabulary>(file.pieces.size() + config.added_tokens.size());
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    auto status = pipeline.vocabulary->Add(file.pieces[id].text, static_cast<int64_t>(id));
    if (!status.ok()) return Annotate(status, name);
  }
  auto normalizer = MakeSentencePieceNormalizer(file);
  if (!normalizer.ok()) return Annotate(normalizer.status(), name);
  pipeline.normalizer = *std::move(normalizer);
  if (const int64_t growth = pipeline.normalizer->growth(); growth > kMostGrowth) {
    return InvalidArgument(
        "{}: its normalizer may make a text {} times as long, more than {} times", name, growth,
        kMostGrowth);
  }
  auto model = file.kind == SentencePieceFile::Kind::kBpe ? MakeModel<SentencePieceBpe>(file)
                                                          : MakeModel<SentencePieceUnigram>(file);
  if (!model.ok()) return Annotate(model.status(), name);
  pipeline.model = *std::move(model);

  if (auto status = AddTokens(config, pipeline); !status.ok()) return Annotate(status, name);
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    if (file.pieces[id].type == Type::kControl || file.pieces[id].type == Type::kUnknown) {
      pipeline.added_tokens.AddSpecial(static_cast<int32_t>(id));
    }
  }
  THRESHER_ASSIGN_OR_RETURN(const std::optional<int32_t> bos,
                            FindAround(config, "bos_token", config.add_bos_token,
                                       /*by_default=*/true, *pipeline.vocabulary, name));
  THRESHER_ASSIGN_OR_RETURN(const std::optional<int32_t> eos,
                            FindAround(config, "eos_token", config.add_eos_token,
                                       /*by_default=*/false, *pipeline.vocabulary, name));
  pipeline.post_processor = AroundEachText(bos, eos);
  std::vector<MakeDecodeStep> steps = {SentencePieceSpaceStep(LeadingSpaceOf(file))};
  if (file.byte_fallback) steps.push_back(ByteFallbackStep());
  pipeline.decoder = Decoder(std::move(steps));
  return pipeline;
}

}  // namespace thresher::text
