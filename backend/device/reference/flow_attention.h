// Flow-attention (Flowformer, ICML 2022, arXiv 2202.06258) in plain loops: the oracle for devices
// that do it in time linear in the tokens.
//
// Every query is a sink and every key a source of a flow network; the capacity between them is
// phi(q) . phi(k), phi the sigmoid of each element, and no softmax over keys is ever made. With
// e = 1e-6 added to every element of a vector where `+ e` stands, of one sequence of n tokens and
// one head (i sinks, j sources; sums over all tokens):
//
//   in_i   = 1 / ((phi(q_i) + e) . (sum_j phi(k_j) + e))       1 / incoming flow of a sink
//   out_j  = 1 / ((phi(k_j) + e) . (sum_i phi(q_i) + e))       1 / outgoing flow of a source
//   I_i    = (phi(q_i) + e) . (sum_j out_j phi(k_j) + e)       sinks, sources conserved
//   O_j    = min((phi(k_j) + e) . (sum_i in_i phi(q_i) + e), 1)
//   c_j    = n softmax_j(O)                                     competition of sources
//   y_i    = sigmoid(I_i) in_i sum_j (phi(q_i) . phi(k_j)) c_j v_j
//
// Causal, with sums over the tokens up to the one that is asked for (t, from 1):
//
//   in_i, out_j   as above, times t
//   I_i, O_j      as above, divided by t (before the minimum)
//   c_j    = t exp(O_j) / (sum of exp(O_m) up to j)
//   y_i    = sigmoid(I_i) (in_i / t) sum_j (phi(q_i) . phi(k_j)) c_j v_j
//
// As the authors' released code has it. Scores are not scaled: AttentionInput::scale is not read.
#ifndef THRESHER_BACKEND_DEVICE_REFERENCE_FLOW_ATTENTION_H_
#define THRESHER_BACKEND_DEVICE_REFERENCE_FLOW_ATTENTION_H_

#include "backend/device/device.h"
#include "backend/tensor/matrix.h"

namespace thresher {

/// The input has passed CheckAttention.
void ReferenceFlowAttention(const AttentionInput& input, Matrix out);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_REFERENCE_FLOW_ATTENTION_H_
