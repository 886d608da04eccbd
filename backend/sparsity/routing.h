// Routing Transformer (TACL 2021, arXiv 2003.05997): tokens attend within clusters.
//
// In each layer and head, Q and K at unit length are routed by their nearness (cosine) to
// centroids: each centroid takes the `keep` x tokens queries that are nearest to it and as many
// keys, so that clusters are balanced, and these queries attend to these keys. With qk=shared, as
// in models whose Q is K, a token is routed once, by its key.
//
// The paper learns the centroids in training, as moving averages. The models here have none: they
// are fitted to the sequence itself by ten rounds of k-means, the released code's way to begin,
// from vectors at even distances in the text. Two more readings: a query that several clusters took
// attends to the keys of all of them (there the outputs are averaged), and one that none took to
// those of the cluster that is nearest to it (there its output is zero).
//
// Verified: by hand, and by properties. Not: perplexities as published, which take weights trained
// with the routing.
#ifndef THRESHER_BACKEND_SPARSITY_ROUTING_H_
#define THRESHER_BACKEND_SPARSITY_ROUTING_H_

#include <memory>

#include "absl/status/statusor.h"
#include "backend/sparsity/policy.h"
#include "backend/sparsity/policy_text.h"

namespace thresher {

absl::StatusOr<std::shared_ptr<const Policy>> MakeRouting(const PolicyValues& values,
                                                          const PolicyShape& shape);

}  // namespace thresher

#endif  // THRESHER_BACKEND_SPARSITY_ROUTING_H_
