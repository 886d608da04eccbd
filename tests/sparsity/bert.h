// A BERT classifier run layer by layer under a policy, straight from its files: the hooks, the plan
// and the reference device as an engine uses them, in the least code. One sequence at a time.
#ifndef THRESHER_TESTS_SPARSITY_BERT_H_
#define THRESHER_TESTS_SPARSITY_BERT_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/device/device.h"
#include "backend/sparsity/policy.h"
#include "backend/tensor/matrix.h"

namespace thresher::testing {

/// What a run did, layer by layer.
struct BertRun {
  std::vector<float> logits;
  std::vector<std::vector<int32_t>> positions;  // Present in each layer.
  std::vector<AttentionRecord> records;
  int64_t queries_skipped = 0;
  /// Sum over skipped queries of the true probability of all keys but the one-hot one.
  double probability_skipped = 0;
  /// Of the keys that hold the largest quarter of each row's true scores: how many are among the
  /// largest quarter of the predicted ones. Counted only if the policy wants predictions.
  int64_t top_quarter = 0;
  int64_t top_quarter_predicted = 0;
};

class Bert {
 public:
  /// Reads config.json and model.safetensors of `directory`; every weight becomes float.
  explicit Bert(const std::filesystem::path& directory);

  const PolicyShape& shape() const { return shape_; }
  BertRun Run(std::span<const int32_t> ids, const Policy& policy);

 private:
  struct Linear {
    MatrixBuffer weight;
    MatrixBuffer bias;
    std::unique_ptr<PackedLinear> packed;
  };
  const Linear& LinearOf(const std::string& name);
  const MatrixBuffer& Tensor(const std::string& name) const;
  void Apply(const std::string& name, ConstMatrix x, Activation activation, Matrix y);
  void Norm(const std::string& name, ConstMatrix x, ConstMatrix residual, Matrix y);
  std::vector<MatrixBuffer> Predict(const std::string& layer, ConstMatrix x, int32_t bits);

  PolicyShape shape_;
  std::unique_ptr<Device> device_;
  std::map<std::string, MatrixBuffer> tensors_;
  std::map<std::string, Linear> linears_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SPARSITY_BERT_H_
