// SpAtten in a decoder (HPCA 2021, arXiv 2012.09852): a decode step's row reads less of the cache,
// which itself stays whole.
//
//   s[j] += sum over layers, heads and queries of P[h, i, j], for every slot j of the cache: the
//   prompt's queries, and then each decode step's
//
// In a step layer l reads the floor(share_l * slots) slots with the largest s among those that the
// layer before it read in this step; layer 0 chooses among all, so that a key left out in one step
// may come back in the next. A layer's own row counts from the next layer on. The first tokens that
// are protected and the newest token are always read and count inside the share. Ties as in
// top_k.h. Values and planes of bits are rules of the cache.
//
// The traces that the paper's authors released (GPT-2, 992 tokens and 32 more) have these counts at
// their last token. They differ in three things:
// - Their counts are shares of the final length from the second generated token on, and the first
//   one reads every key. Here a count is a share of what is held, and since the prompt's own
//   attention has been summed, the first one chooses already.
// - Their count of V rows rounds down; here it rounds up as everywhere (CachedSequence), one V row
//   more at most.
// - They mark that s is rescaled once for each generated token, after the last layer; by what, they
//   don't say, nor does the paper's text as far as it is known. Here by `rescale`, before layer 0.
//   Carried on whole (1), what was read long ago outweighs what the text is about now, and quality
//   falls steeply (docs/quality.md); 0.5 did best of what was measured.
#ifndef THRESHER_BACKEND_SPARSITY_SPATTEN_CACHE_H_
#define THRESHER_BACKEND_SPARSITY_SPATTEN_CACHE_H_

#include <memory>

#include "backend/sparsity/policy.h"
#include "backend/sparsity/spatten_settings.h"

namespace thresher {

/// Settings of a decoder.
std::shared_ptr<const Policy> MakeSpattenCache(SpattenSettings settings);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_SPATTEN_CACHE_H_
