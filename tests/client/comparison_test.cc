// `thresher compare`: who takes part, what is written, and the page in docs/.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>

#include "backend/sparsity/policy_text.h"
#include "client/cli/comparison_format.h"
#include "tests/testing/paths.h"

namespace thresher::cli {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::vector<std::string> NamesOf(bool decoder) {
  std::vector<std::string> names;
  for (const Contender& contender : Contenders(decoder)) names.push_back(contender.name);
  return names;
}

TEST(Contenders, AreThePoliciesOfTheTableAndTheirControls) {
  for (const bool decoder : {false, true}) {
    const std::vector<std::string> names = NamesOf(decoder);
    for (const PolicySpec& spec : PolicySpecs()) {
      const bool takes_part = (decoder ? spec.decoders : spec.encoders) && !spec.knob.keys.empty();
      EXPECT_EQ(std::ranges::count(names, spec.name), takes_part ? 1 : 0) << spec.name;
    }
    EXPECT_THAT(names, Contains("spatten:importance=random"));
    EXPECT_THAT(names, Contains("spatten:importance=inverse"));
    EXPECT_THAT(names, Not(Contains("spatten:importance=attention")));
  }
}

ComparedPolicy Policy(const std::string& name, double target, double drift, double speedup) {
  return {.name = name,
          .target = target,
          .sparsity = name + ":key=1",
          .saved = target,
          .metric = 0.8,
          .loss = 0.001,
          .loss_upper = 0.005,
          .drift = drift,
          .agreement = 0.99,
          .speedup = speedup};
}

Comparison TwoTargets() {
  Comparison comparison{.model = "mini",
                        .data = "dev.tsv",
                        .metric = "accuracy",
                        .examples = 10,
                        .device = "cpu",
                        .targets = {0.5, 0.25}};
  comparison.policies = {
      {.name = "dense", .sparsity = "dense", .metric = 0.81},
      Policy("good", 0.5, 0.001, 1.4),
      Policy("slow", 0.5, 0.001, 0.8),
      Policy("blind", 0.5, 0.2, 1.5),
      {.name = "other", .target = 0.5, .why_not = "needs | more"},
      Policy("chance", 0.5, 0.1, 1.5),
      Policy("good", 0.25, 0.0005, 1.0),
  };
  comparison.policies[1].recall = 0.75;
  comparison.policies[1].predicted = 1;
  comparison.policies[1].predicted_bits = 4;
  comparison.policies[1].simulated = {{.preset = "chip", .time = 0.5, .energy = 0.25}};
  comparison.policies[5].control = "random";
  return comparison;
}

TEST(Verdicts, SayPlainlyWhoEarnsItsCost) {
  Comparison comparison = TwoTargets();
  const auto verdict = [&](size_t i) { return Judge(comparison, comparison.policies[i]); };
  EXPECT_TRUE(verdict(1).earns);
  EXPECT_THAT(verdict(1).text, StartsWith("earns its cost; loses +0.10 points (at most +0.50)"));
  EXPECT_THAT(verdict(1).text, HasSubstr("drifts 0.001 where chance drifts 0.1"));
  EXPECT_FALSE(verdict(2).earns);
  EXPECT_THAT(verdict(2).text, StartsWith("keeps the quality and costs time here"));
  EXPECT_THAT(verdict(3).text, StartsWith("chooses no better than chance"));
  EXPECT_THAT(verdict(4).text, StartsWith("this model can't have it: needs | more"));
  EXPECT_THAT(verdict(6).text, StartsWith("keeps the quality and saves no time here"));
  EXPECT_THAT(verdict(6).text, Not(HasSubstr("chance")));  // Which was not measured there.
  comparison.policies[1].loss_upper = 0.02;
  EXPECT_THAT(verdict(1).text, StartsWith("may cost too much quality: more data would tell"));
  comparison.policies[1].loss = 0.015;
  EXPECT_THAT(verdict(1).text, StartsWith("costs too much quality"));
  comparison.policies[1].reached = false;
  comparison.policies[1].saved = 0.3;
  EXPECT_EQ(verdict(1).text, "saves at most 30.0 % of this work");
}

TEST(ComparisonJson, HasTheNamesThatStay) {
  const Json json = ToJson(TwoTargets());
  for (const char* key : {"model", "data", "metric", "examples", "device"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  const Json& good = json["policies"][1];
  for (const char* key : {"policy", "control", "target", "sparsity", "reached", "saved", "metric",
                          "loss", "loss_upper", "drift", "agreement", "speedup"}) {
    EXPECT_TRUE(good.contains(key)) << key;
  }
  EXPECT_EQ(good["recall"], 0.75);
  EXPECT_EQ(good["predicted_bits"], 4);
  EXPECT_EQ(good["earns"], true);
  EXPECT_EQ(good["simulated"][0], Json({{"preset", "chip"}, {"time", 0.5}, {"energy", 0.25}}));
  EXPECT_EQ(json["policies"][4]["refused"], "needs | more");
  EXPECT_EQ(json["policies"][5]["control"], "random");
}

TEST(ComparisonTable, HasAPartForEachTarget) {
  const std::string table = ToTable(TwoTargets());
  EXPECT_THAT(table, HasSubstr("50 % of the work saved"));
  EXPECT_THAT(table, HasSubstr("25 % of the work saved"));
  EXPECT_THAT(table, HasSubstr("1.00 in 4 bit"));
  EXPECT_THAT(table, HasSubstr("chip 0.50 / 0.25"));
  EXPECT_LT(table.find("good: earns its cost"), table.find("slow: keeps"));
}

TEST(ComparisonPage, TakesAModelsPartTheLastTime) {
  Comparison comparison = TwoTargets();
  const std::string first = WithSection("", comparison);
  EXPECT_EQ(first, ComparisonIntro() + ComparisonSection(comparison));
  EXPECT_THAT(first, HasSubstr("| other | - |"));
  EXPECT_THAT(first, HasSubstr("needs \\| more |"));
  Comparison another = comparison;
  another.model = "maxi";
  const std::string both = WithSection(first, another);
  EXPECT_EQ(both, first + "\n" + ComparisonSection(another));
  comparison.examples = 20;
  EXPECT_EQ(WithSection(both, comparison),
            ComparisonIntro() + ComparisonSection(comparison) + "\n" + ComparisonSection(another));
  EXPECT_EQ(WithSection("# An old intro\n" + both.substr(ComparisonIntro().size()), comparison),
            WithSection(both, comparison));
}

TEST(ComparisonPlot, ShowsEveryPolicyByName) {
  const auto script = ComparisonPlotScript(TwoTargets(), "x.svg");
  ASSERT_TRUE(script.ok());
  EXPECT_THAT(*script, HasSubstr("1.4 0.001 \"good\"\n"));
  EXPECT_THAT(*script, HasSubstr("$target1 using"));
  EXPECT_THAT(*script, Not(HasSubstr("dense\"")));
  EXPECT_FALSE(ComparisonPlotScript(TwoTargets(), "x.pdf").ok());
}

TEST(Compare, HoldsEverythingAgainstDense) {
  const std::string data = (testing::SourceDir() / "tests/evaluation/reviews.tsv").string();
  ComparisonOptions options{.directory = (testing::SourceDir() / "models/sst2-mini").string(),
                            .targets = {0.5},
                            .rounds = 1,
                            .simulated = 1};
  options.data.path = data;
  options.data.limit = 12;
  options.local.threads = 1;
  const auto comparison = Compare(options);
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  EXPECT_EQ(comparison->model, "sst2-mini");
  EXPECT_EQ(comparison->policies.size(), Contenders(false).size() + 1);
  EXPECT_EQ(comparison->policies.front().sparsity, "dense");
  for (const ComparedPolicy& policy : comparison->policies) {
    SCOPED_TRACE(policy.name);
    if (policy.target == 0 || !policy.measured()) continue;
    if (policy.reached) {
      EXPECT_NEAR(policy.saved, 0.5, 0.05);
    }
    if (policy.recall) {
      EXPECT_GT(*policy.recall, 0.0);
      EXPECT_LE(*policy.recall, 1.0);
    }
    EXPECT_GT(policy.speedup, 0.0);
  }
  const auto& fact = *std::ranges::find(comparison->policies, "fact", &ComparedPolicy::name);
  EXPECT_TRUE(fact.reached);
  EXPECT_GT(fact.recall.value(), 0.5);
  EXPECT_EQ(fact.predicted, 1.0);
  EXPECT_FALSE(fact.simulated.empty());
  options.progress = [](const std::string&, double) { return false; };
  EXPECT_TRUE(absl::IsCancelled(Compare(options).status()));
  options.directory = "/nowhere";
  EXPECT_TRUE(absl::IsInvalidArgument(Compare(options).status()));
}

/// What a line of a table begins with.
std::string FirstCell(const std::string& line) { return line.substr(2, line.find(" |", 2) - 2); }

TEST(ComparisonPage, InDocsIsWhatTheCommandWrites) {
  const auto path = testing::SourceDir() / "docs/comparison.md";
  std::ifstream file(path);
  const std::string page((std::istreambuf_iterator<char>(file)), {});
  const std::string renew =
      "renew docs/comparison.md: thresher compare --markdown (docs/comparison.md says how)";
  ASSERT_THAT(page, StartsWith(ComparisonIntro())) << renew;
  const std::string section = ComparisonSection(TwoTargets());
  const std::string heading = section.substr(section.find("| policy"));
  const std::string columns = heading.substr(0, heading.find('\n'));
  std::set<std::string> models;
  size_t tables = 0;
  for (size_t at = page.find("\n## "); at != page.npos;) {
    const size_t end = page.find("\n## ", at + 1);
    const std::string part = page.substr(at + 1, end - at - 1);
    at = end;
    models.insert(part.substr(3, part.find(" on ") - 3));
    const bool decoder = part.find(" tokens scored; ") != part.npos;
    for (size_t table = part.find(columns); table != part.npos;
         table = part.find(columns, table + 1)) {
      ++tables;
      // Dense, and then who took part, which may be fewer than would today.
      std::vector<std::string> names = NamesOf(decoder);
      names.insert(names.begin(), "dense");
      std::vector<std::string> rows;
      size_t line = part.find('\n', part.find('\n', table) + 1) + 1;
      for (; part.compare(line, 2, "| ") == 0; line = part.find('\n', line) + 1) {
        rows.push_back(FirstCell(part.substr(line)));
      }
      EXPECT_GE(rows.size(), 5u);
      std::erase_if(names,
                    [&](const std::string& name) { return std::ranges::count(rows, name) == 0; });
      EXPECT_EQ(rows, names) << part.substr(0, 60) << renew;
    }
  }
  EXPECT_EQ(models,
            (std::set<std::string>{"agnews-mini", "sst2-mini", "stories260k", "tinystories-656k"}));
  EXPECT_EQ(tables, 8u);
}

}  // namespace
}  // namespace thresher::cli
