// Builds the components of a pipeline from their JSON in tokenizer.json.
//
// UNIMPLEMENTED for a type that is not supported; INVALID_ARGUMENT for what is broken.
#ifndef THRESHER_BACKEND_TEXT_JSON_COMPONENTS_H_
#define THRESHER_BACKEND_TEXT_JSON_COMPONENTS_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "backend/text/added_tokens.h"
#include "backend/text/byte_level.h"
#include "backend/text/decoder.h"
#include "backend/text/json_node.h"
#include "backend/text/metaspace.h"
#include "backend/text/normalizer.h"
#include "backend/text/post_processor.h"
#include "backend/text/pre_tokenizer.h"
#include "backend/text/vocabulary.h"

namespace thresher::text {

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const JsonNode& node);

struct PreTokenizing {
  std::unique_ptr<PreTokenizer> splitter;  // Null: none.
  // After the splitter; at most one of the two.
  std::optional<ByteLevelOptions> byte_level;
  std::optional<MetaspaceOptions> metaspace;
};
absl::StatusOr<PreTokenizing> ParsePreTokenizer(const JsonNode& node);

/// The ids of special tokens must be in the vocabulary.
absl::StatusOr<PostProcessor> ParsePostProcessor(const JsonNode& node,
                                                 const Vocabulary& vocabulary);

absl::StatusOr<Decoder> ParseDecoder(const JsonNode& node);

/// The content and the flags of an added token; not its id.
absl::StatusOr<AddedToken> ParseAddedToken(const JsonNode& node);

/// The `type` of a component.
absl::StatusOr<std::string> ComponentType(const JsonNode& node);
absl::Status Unsupported(const JsonNode& node, std::string_view what);

}  // namespace thresher::text

#endif  // THRESHER_BACKEND_TEXT_JSON_COMPONENTS_H_
