#include "client/cli/evaluation_format.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "backend/sparsity/report.h"

namespace thresher::cli {

Json ToJson(const PolicyResult& result) {
  const Quality& quality = result.quality;
  // JSON knows no infinity.
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  Json json = {{"sparsity", result.sparsity}, {"policy", result.policy}};
  if (quality.accuracy) json["accuracy"] = *quality.accuracy;
  if (quality.pearson) json["pearson"] = *quality.pearson;
  if (quality.spearman) json["spearman"] = *quality.spearman;
  json["agreement"] = quality.agreement;
  json["loss"] = quality.loss;
  json["loss_upper"] = quality.loss_upper;
  if (quality.kl) json["kl"] = number(*quality.kl);
  json["cosine"] = quality.cosine;
  json["requests_per_second"] = number(result.requests_per_second);
  json["speedup"] = number(result.speedup);
  Json& keep = json["keep"] = Json::object();
  for (const auto& [kind, share] : KeepRatios(result.work)) keep[std::string(kind)] = share;
  const v1::PruningReport::Amount& bytes = result.work.bytes();
  json["bytes"] = {{"dense", bytes.dense()}, {"done", bytes.done()}};
  json["refetch_share"] = RefetchShare(result.work);
  if (!result.attention.empty()) {
    Json& attention = json["attention"] = Json::object();
    for (const auto& [name, mean] : result.attention.Means()) attention[std::string(name)] = mean;
  }
  json["n"] = quality.n;
  return json;
}

std::string Points(double loss) { return fmt::format("{:+.2f}", 100 * loss); }

std::string ToTable(std::span<const PolicyResult> results) {
  const bool accuracy = results.front().quality.accuracy.has_value();
  std::vector<std::vector<std::string>> rows = {{"SPARSITY"}};
  std::vector<std::string>& heading = rows.front();
  if (accuracy) {
    heading.insert(heading.end(), {"ACCURACY", "AGREE", "LOSS", "AT MOST", "KL"});
  } else {
    heading.insert(heading.end(), {"PEARSON", "SPEARMAN", "AGREE", "LOSS", "AT MOST"});
  }
  heading.insert(heading.end(),
                 {"COSINE", "TOKEN", "HEAD", "VALUE", "SCORE", "QKV", "FFN", "REQ/S", "SPEEDUP"});
  const bool attention = !results.front().attention.empty();
  if (attention) {
    heading.insert(heading.end(), {"ENTROPY", "COLLAPSED", "OVERLOADED", "SINK", "SINK HEADS"});
  }
  for (const PolicyResult& result : results) {
    const Quality& quality = result.quality;
    std::vector<std::string>& row = rows.emplace_back();
    row.push_back(Printable(result.sparsity));
    if (accuracy) {
      row.push_back(fmt::format("{:.2f} %", 100 * *quality.accuracy));
    } else {
      row.push_back(fmt::format("{:.4f}", *quality.pearson));
      row.push_back(fmt::format("{:.4f}", *quality.spearman));
    }
    row.push_back(fmt::format("{:.2f} %", 100 * quality.agreement));
    row.push_back(Points(quality.loss));
    // Dense loses nothing by definition; a bound would mislead.
    row.push_back(result.sparsity == "dense" ? "" : Points(quality.loss_upper));
    if (accuracy) row.push_back(fmt::format("{:.5f}", *quality.kl));
    row.push_back(fmt::format("{:.4f}", quality.cosine));
    for (const auto& [kind, share] : KeepRatios(result.work)) {
      row.push_back(fmt::format("{:.3f}", share));
    }
    row.push_back(fmt::format("{:.0f}", result.requests_per_second));
    row.push_back(fmt::format("{:.2f}", result.speedup));
    if (!attention) continue;
    for (const auto& [name, mean] : result.attention.Means()) {
      row.push_back(fmt::format("{:.3f}", mean));
    }
  }
  return Table(rows);
}

std::string ToCsv(std::span<const PolicyResult> results) {
  const auto quote = [](const std::string& text) {
    std::string out = "\"";
    for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
    return out + "\"";
  };
  std::string csv;
  for (const PolicyResult& result : results) {
    std::string names, values;
    const auto add = [&](const std::string& name, const Json& value) {
      const char* comma = names.empty() ? "" : ",";
      names += comma + name;
      values += comma + (value.is_string() ? quote(value.get<std::string>())
                         : value.is_null() ? std::string()
                                           : value.dump());
    };
    const Json json = ToJson(result);
    for (const auto& [name, value] : json.items()) {
      if (!value.is_object()) {
        add(name, value);
        continue;
      }
      for (const auto& [kind, share] : value.items()) add(fmt::format("{}_{}", name, kind), share);
    }
    if (csv.empty()) csv = names + "\n";
    csv += values + "\n";
  }
  return csv;
}

}  // namespace thresher::cli
