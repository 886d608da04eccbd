#include "backend/sparsity/report_json.h"

#include <algorithm>
#include <string>
#include <utility>

#include "backend/sparsity/report.h"

namespace thresher {

Json ReportJson(const v1::PruningReport& report,
                const google::protobuf::RepeatedPtrField<v1::Token>& pieces) {
  Json keep;
  for (const auto& [kind, share] : KeepRatios(report.total())) keep[std::string(kind)] = share;
  Json json;
  json["policy"] = report.policy();
  json["keep"] = std::move(keep);
  json["bytes"] = ToJson(report.total().bytes());
  json["refetch_share"] = RefetchShare(report.total());
  const Json parts = ToJson(report);
  for (const auto& [name, value] : parts.items()) {
    if (name != "policy" && !value.empty()) json[name] = value;  // No lists without explain.
  }
  for (int i = 0; i < std::min(pieces.size(), report.token_layers_size()); ++i) {
    json["tokens"].push_back({{"text", pieces[i].text()},
                              {"begin", pieces[i].begin()},
                              {"end", pieces[i].end()},
                              {"sequence", pieces[i].sequence()},
                              {"layers", report.token_layers(i)}});
  }
  return json;
}

}  // namespace thresher
