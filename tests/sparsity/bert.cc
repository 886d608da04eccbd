#include "tests/sparsity/bert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "backend/device/eager_prediction.h"
#include "backend/device/reference/planned_attention.h"
#include "backend/device/top_k.h"
#include "backend/tensor/status.h"
#include "gtest/gtest.h"
#include "tests/sparsity/given_scores.h"

namespace thresher::testing {
namespace {

void Must(const absl::Status& status) {
  if (!status.ok()) ADD_FAILURE() << Message(status);
}

/// The columns of one head.
ConstMatrix Columns(ConstMatrix m, int64_t begin, int64_t count) {
  return ConstMatrix(m.data + begin, m.rows, count, m.stride);
}

StoredMatrix Stored(const MatrixBuffer& m) {
  const ConstMatrix view = m.view();
  return {.type = DType::kF32, .data = view.data, .rows = view.rows, .cols = view.cols};
}

MatrixBuffer Rows(ConstMatrix m, std::span<const int32_t> rows) {
  MatrixBuffer out(static_cast<int64_t>(rows.size()), m.cols);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::ranges::copy(m.row_span(rows[i]), out.view().row(static_cast<int64_t>(i)));
  }
  return out;
}

}  // namespace

Bert::Bert(const std::filesystem::path& directory) {
  std::ifstream config_file(directory / "config.json");
  const auto config = nlohmann::json::parse(config_file);
  shape_ = {.layers = config.at("num_hidden_layers"),
            .heads = config.at("num_attention_heads"),
            .kv_heads = config.at("num_attention_heads"),
            .hidden_size = config.at("hidden_size"),
            .ffn_size = config.at("intermediate_size")};
  shape_.head_dim = shape_.hidden_size / shape_.heads;
  device_ = CreateDevice("reference", {}).value();

  std::ifstream file(directory / "model.safetensors", std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const auto tensors = nlohmann::json::parse(bytes.substr(8, header));
  for (const auto& [name, tensor] : tensors.items()) {
    if (name == "__metadata__") continue;
    EXPECT_EQ(tensor.at("dtype"), "BF16") << name;
    const std::vector<int64_t> dims = tensor.at("shape");
    const int64_t rows = dims.size() == 2 ? dims[0] : 1;
    MatrixBuffer& matrix = tensors_[name];
    matrix.Resize(rows, dims.back());
    ToFloat(DType::kBF16, bytes.data() + 8 + header + tensor.at("data_offsets")[0].get<size_t>(),
            static_cast<size_t>(rows * dims.back()), matrix.view().data);
  }
}

const MatrixBuffer& Bert::Tensor(const std::string& name) const { return tensors_.at(name); }

const Bert::Linear& Bert::LinearOf(const std::string& name) {
  Linear& linear = linears_[name];
  if (linear.packed == nullptr) {
    linear.packed = device_
                        ->Pack(Stored(Tensor(name + ".weight")), Stored(Tensor(name + ".bias")),
                               Precision::kF32)
                        .value();
  }
  return linear;
}

void Bert::Apply(const std::string& name, ConstMatrix x, Activation activation, Matrix y) {
  Must(device_->Linear(*LinearOf(name).packed, x, activation, y));
}

void Bert::Norm(const std::string& name, ConstMatrix x, ConstMatrix residual, Matrix y) {
  const auto vector = [&](const char* part) {
    return Tensor(name + ".LayerNorm." + part).view().row_span(0);
  };
  Must(device_->LayerNorm(x, residual, vector("weight"), vector("bias"), 1e-12f, y));
}

std::vector<MatrixBuffer> Bert::Predict(const std::string& layer, ConstMatrix x, int32_t bits) {
  const LeadingOneMatrix codes = EncodeLeadingOne(x, bits, x.cols);
  const auto project = [&](const char* which) {
    const std::string name = layer + "attention.self." + which;
    MatrixBuffer out(x.rows, x.cols);
    const bool query = std::strcmp(which, "query") == 0;
    PredictProjection(codes, EncodeLeadingOne(Tensor(name + ".weight").view(), bits, x.cols),
                      query ? Tensor(name + ".bias").view().row_span(0) : std::span<const float>(),
                      out.view());
    return EncodeLeadingOne(out.view(), bits, shape_.head_dim);
  };
  const LeadingOneMatrix q = project("query");
  const LeadingOneMatrix k = project("key");
  std::vector<MatrixBuffer> scores(shape_.heads);
  for (int32_t h = 0; h < shape_.heads; ++h) {
    scores[h].Resize(x.rows, x.rows);
    PredictScores(q, h, k, h, 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                  scores[h].view());
  }
  return scores;
}

BertRun Bert::Run(std::span<const int32_t> ids, const Policy& policy) {
  BertRun result;
  const auto tokens = static_cast<int32_t>(ids.size());
  std::vector<int32_t> positions(tokens);
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<int32_t> heads(shape_.heads);
  std::iota(heads.begin(), heads.end(), 0);
  const std::vector<int32_t> types(tokens, 0);
  const std::unique_ptr<PolicyRun> run = policy.Start(tokens, std::vector<int32_t>{0});

  MatrixBuffer x(tokens, shape_.hidden_size);
  const std::string embeddings = "bert.embeddings.";
  const Device::Lookup lookups[] = {
      {Stored(Tensor(embeddings + "word_embeddings.weight")), ids},
      {Stored(Tensor(embeddings + "position_embeddings.weight")), positions},
      {Stored(Tensor(embeddings + "token_type_embeddings.weight")), types}};
  Must(device_->Embed(lookups, x.view()));
  Norm("bert.embeddings", x.view(), {}, x.view());

  for (int32_t l = 0; l < shape_.layers; ++l) {
    const std::string layer = "bert.encoder.layer." + std::to_string(l) + ".";
    const auto rows = static_cast<int64_t>(positions.size());
    result.positions.push_back(positions);

    SequencePlan plan;
    plan.heads = heads;
    std::vector<MatrixBuffer> predicted;
    std::vector<ConstMatrix> scores;
    if (policy.prediction().wanted()) {
      predicted = Predict(layer, x.view(), policy.prediction().bits);
      for (const MatrixBuffer& head : predicted) scores.push_back(head.view());
    }
    const GivenScores prediction(scores);
    run->BeforeProjection(l, positions, scores.empty() ? nullptr : &prediction, &plan);

    MatrixBuffer q(rows, shape_.hidden_size);
    MatrixBuffer k(rows, shape_.hidden_size);
    MatrixBuffer v(rows, shape_.hidden_size);
    Apply(layer + "attention.self.query", x.view(), Activation::kNone, q.view());
    Apply(layer + "attention.self.key", x.view(), Activation::kNone, k.view());
    Apply(layer + "attention.self.value", x.view(), Activation::kNone, v.view());
    const PlannedAttentionInput input = {
        .shape = {shape_.heads, shape_.heads, shape_.head_dim},
        .query = q.view(),
        .key = k.view(),
        .value = v.view(),
        .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim))};
    MatrixBuffer attended(rows, shape_.hidden_size);
    AttentionRecord record;
    Must(PlannedAttention(input, plan, attended.view(), &record));

    TopK<float> guess;
    TopK<float> truth;
    for (size_t h = 0; h < scores.size(); ++h) {
      const ConstMatrix qh = Columns(q.view(), h * shape_.head_dim, shape_.head_dim);
      const ConstMatrix kh = Columns(k.view(), h * shape_.head_dim, shape_.head_dim);
      for (int64_t i = 0; i < rows; ++i) {
        std::vector<float> exact(rows);
        for (int64_t j = 0; j < rows; ++j) {
          exact[j] =
              input.scale * std::inner_product(qh.row(i), qh.row(i) + qh.cols, kh.row(j), 0.0f);
        }
        const int32_t one_hot = plan.one_hot.empty() ? -1 : plan.one_hot[h * rows + i];
        if (one_hot >= 0) {
          double total = 0;
          for (const float score : exact) total += std::exp(score - exact[one_hot]);
          result.queries_skipped += 1;
          result.probability_skipped += 1 - 1 / total;
        }
        const auto guessed = guess(scores[h].row_span(i), KeepCount(rows, 0.25));
        for (const int32_t j : truth(exact, KeepCount(rows, 0.25))) {
          result.top_quarter += 1;
          result.top_quarter_predicted += std::ranges::binary_search(guessed, j) ? 1 : 0;
        }
      }
    }

    MatrixBuffer y(rows, shape_.hidden_size);
    Apply(layer + "attention.output.dense", attended.view(), Activation::kNone, y.view());
    Norm(layer + "attention.output", y.view(), x.view(), x.view());
    MatrixBuffer inner(rows, shape_.ffn_size);
    Apply(layer + "intermediate.dense", x.view(), Activation::kGelu, inner.view());
    Apply(layer + "output.dense", inner.view(), Activation::kNone, y.view());
    Norm(layer + "output", y.view(), x.view(), x.view());

    CascadeDecision decision = {.rows = std::vector<int32_t>(rows), .heads = heads};
    std::iota(decision.rows.begin(), decision.rows.end(), 0);
    run->AfterAttention(l, positions, record, &decision);
    result.records.push_back(std::move(record));
    x = Rows(x.view(), decision.rows);
    for (int32_t& row : decision.rows) row = positions[row];
    positions = std::move(decision.rows);
    heads = std::move(decision.heads);
  }

  MatrixBuffer pooled(1, shape_.hidden_size);
  Apply("bert.pooler.dense", x.view().Rows(0, 1), Activation::kTanh, pooled.view());
  const int64_t labels = Tensor("classifier.weight").view().rows;
  MatrixBuffer logits(1, labels);
  Apply("classifier", pooled.view(), Activation::kNone, logits.view());
  result.logits.assign(logits.view().data, logits.view().data + labels);
  return result;
}

}  // namespace thresher::testing
