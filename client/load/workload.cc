#include "client/load/workload.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <utility>

namespace thresher::load {
namespace {

constexpr std::string_view kMethods[] = {"classify", "embed", "generate", "infer"};

void SetInput(Text text, v1::Input* input) {
  input->set_text(std::move(text.text));
  if (text.pair) input->set_pair(*std::move(text.pair));
}

/// Of classify and embed.
template <typename Request>
Request MakeRequest(const PartOptions& part, const v1::RequestOptions& options) {
  Request request;
  *request.mutable_model() = part.model;
  *request.mutable_options() = options;
  return request;
}

}  // namespace

std::string_view Name(Method method) { return kMethods[static_cast<int>(method)]; }

std::optional<Method> ParseMethod(std::string_view name) {
  for (int i = 0; i < 4; ++i) {
    if (kMethods[i] == name) return static_cast<Method>(i);
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<PartOptions>> ParseMix(std::string_view text) {
  std::vector<PartOptions> parts;
  for (;;) {
    const size_t comma = text.find(',');
    const std::string_view whole = text.substr(0, comma);
    const auto refuse = [&](std::string_view why) {
      return absl::InvalidArgumentError(fmt::format(
          "'{}' {}; expected METHOD[:MODEL][=WEIGHT], such as classify:sst2-mini=3", whole, why));
    };
    PartOptions part;
    // Before the weight's '=': a model's name may hold one.
    std::string_view rest = whole;
    if (const size_t equals = rest.rfind('='); equals != std::string_view::npos) {
      const std::string_view number = rest.substr(equals + 1);
      const auto [end, error] =
          std::from_chars(number.data(), number.data() + number.size(), part.weight);
      if (error != std::errc() || end != number.data() + number.size() || !(part.weight > 0) ||
          !std::isfinite(part.weight)) {
        return refuse(fmt::format("has no positive weight but '{}'", number));
      }
      rest = rest.substr(0, equals);
    }
    const size_t colon = rest.find(':');
    const auto method = ParseMethod(rest.substr(0, colon));
    if (!method) return refuse("is neither classify, embed, generate nor infer");
    part.method = *method;
    if (colon != std::string_view::npos) part.model.set_name(std::string(rest.substr(colon + 1)));
    parts.push_back(std::move(part));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

Workload::Workload(WorkloadOptions options, std::unique_ptr<Texts> texts)
    : options_(std::move(options)), texts_(std::move(texts)), random_(options_.seed, /*stream=*/3) {
  for (const PartOptions& part : options_.parts) weights_ += part.weight;
}

int Workload::DrawPart() {
  const int last = parts() - 1;
  if (last == 0) return 0;
  double left = random_.Uniform() * weights_;
  for (int i = 0; i < last; ++i) {
    left -= options_.parts[i].weight;
    if (left < 0) return i;
  }
  return last;
}

Query Workload::Next() {
  Query query;
  query.part = DrawPart();
  query.inputs = options_.batch;
  const PartOptions& part = options_.parts[query.part];
  switch (part.method) {
    case Method::kClassify: {
      auto request = MakeRequest<v1::ClassifyRequest>(part, options_.options);
      for (int i = 0; i < options_.batch; ++i) {
        Text text = texts_->Next();
        query.labels.push_back(text.label);
        SetInput(std::move(text), request.add_inputs());
      }
      query.request = std::move(request);
      break;
    }
    case Method::kEmbed: {
      auto request = MakeRequest<v1::EmbedRequest>(part, options_.options);
      for (int i = 0; i < options_.batch; ++i) SetInput(texts_->Next(), request.add_inputs());
      query.request = std::move(request);
      break;
    }
    case Method::kGenerate: {
      auto request = MakeRequest<v1::GenerateRequest>(part, options_.options);
      request.mutable_prompt()->set_text(texts_->Next().text);
      if (options_.max_tokens) request.set_max_tokens(*options_.max_tokens);
      request.set_ignore_eos(options_.ignore_eos);
      query.inputs = 1;
      query.request = std::move(request);
      break;
    }
    case Method::kInfer: {
      if (!part.infer->takes_batches()) query.inputs = 1;
      auto request = part.infer->Make(options_.batch, *texts_, random_);
      auto& parameters = *request.mutable_parameters();
      const v1::SparsityOptions& sparsity = options_.options.sparsity();
      if (sparsity.has_policy()) parameters["sparsity"].set_string_param(sparsity.policy());
      if (sparsity.has_max_quality_loss()) {
        parameters["max_quality_loss"].set_double_param(sparsity.max_quality_loss());
      }
      if (options_.max_tokens) parameters["max_tokens"].set_int64_param(*options_.max_tokens);
      query.request = std::move(request);
      break;
    }
  }
  return query;
}

}  // namespace thresher::load
