#include "backend/sparsity/policy_text.h"

#include <gmock/gmock.h>

#include <clocale>
#include <fstream>
#include <set>
#include <sstream>

#include "backend/tensor/status.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Canonical(std::string_view text) {
  const auto parts = ParsePolicyText(text);
  if (!parts.ok()) return Message(parts.status());
  std::string out;
  for (const PolicyValues& part : *parts) out += (out.empty() ? "" : "+") + part.Canonical();
  return out.empty() ? "dense" : out;
}

std::string Error(std::string_view text) {
  const auto parts = ParsePolicyText(text);
  if (parts.ok()) return "accepted";
  EXPECT_EQ(parts.status().code(), absl::StatusCode::kInvalidArgument);
  return Message(parts.status());
}

TEST(PolicyText, ExamplesOfTheDocumentationAreAccepted) {
  EXPECT_EQ(Canonical("dense"), "dense");
  EXPECT_EQ(Canonical("spatten:keep=0.5"),
            "spatten:keep=0.5,schedule=ramp,heads=1,values=1,bits=off,importance=attention,"
            "protect=model,first=0");
  EXPECT_EQ(Canonical("spatten:keep=0.5,heads=0.75,values=0.3,bits=6/4,refetch=0.1,schedule=ramp"),
            "spatten:keep=0.5,schedule=ramp,heads=0.75,values=0.3,bits=6/4,refetch=0.1,"
            "importance=attention,protect=model,first=0");
  EXPECT_EQ(Canonical("spatten:keeps=1/1/0.8/0.6/0.4/0.3"),
            "spatten:keeps=1/1/0.8/0.6/0.4/0.3,heads=1,values=1,bits=off,importance=attention,"
            "protect=model,first=0");
  EXPECT_EQ(Canonical("fact:topk=0.25,threshold=0.01,ffn=0.5,qskip=gap"),
            "fact:topk=0.25,threshold=0.01,ffn=0.5,ffnbits=8,qskip=gap,gap=5,bits=8,protect=model");
  EXPECT_EQ(Canonical("spatten:final=0.7+fact"),
            "spatten:final=0.7,schedule=ramp,heads=1,values=1,bits=off,importance=attention,"
            "protect=model,first=0+fact:topk=1,threshold=0,ffn=1,qskip=off,bits=8");
  EXPECT_EQ(Canonical("spatten:keep=0.25,values=0.3,bits=6/4"),
            "spatten:keep=0.25,schedule=ramp,heads=1,values=0.3,bits=6/4,refetch=0.1,"
            "importance=attention,protect=model,first=0");
  EXPECT_EQ(Canonical("sinks"), "sinks:first=4,recent=512");
  EXPECT_EQ(Canonical("sinks:first=0,recent=2000"), "sinks:first=0,recent=2000");
  EXPECT_EQ(Canonical("h2o"), "h2o:heavy=0.1,recent=0.1,first=1");
  EXPECT_EQ(Canonical("h2o:recent=.25,first=4"), "h2o:heavy=0.1,recent=0.25,first=4");
}

TEST(PolicyText, CanonicalTextReadsBackAsItself) {
  for (const char* text : {"spatten", "spatten:final=.25", "spatten:keep=0.123456789012345678",
                           "spatten:first=1000000", "spatten:importance=random,seed=4000000000",
                           "spatten:bits=12/4,refetch=0", "spatten:final=1e-7",
                           "fact:qskip=small-gap,gap=100", "fact:topk=1.0,bits=02"}) {
    const std::string canonical = Canonical(text);
    EXPECT_EQ(Canonical(canonical), canonical) << text;
  }
  EXPECT_THAT(Canonical("spatten:importance=random,seed=4000000000"), HasSubstr("seed=4000000000"));
}

TEST(PolicyText, ValuesAreThere) {
  const auto parts = ParsePolicyText("spatten:keeps=1/0.5,bits=6/4");
  ASSERT_TRUE(parts.ok());
  const PolicyValues& values = parts->front();
  EXPECT_THAT(values.numbers("keeps"), ElementsAre(1, 0.5));
  EXPECT_THAT(values.numbers("bits"), ElementsAre(6, 4));
  EXPECT_FALSE(values.has("final"));
  EXPECT_FALSE(values.has("keep"));
  EXPECT_EQ(values.number("heads"), 1.0);
  EXPECT_EQ(values.number("refetch"), 0.1);
  EXPECT_EQ(values.text("importance"), "attention");
  EXPECT_THAT(ParsePolicyText("spatten")->front().numbers("bits"), IsEmpty());
}

TEST(PolicyText, UnknownNamesAreAnsweredWithTheKnownOnes) {
  EXPECT_THAT(Error("sparten:keep=0.5"),
              HasSubstr("'sparten'; known: dense, spatten, fact, sinks, h2o"));
  EXPECT_THAT(Error("spatten:kep=0.5"), HasSubstr("'kep'; known keys: final, keep, keeps"));
  EXPECT_THAT(Error("fact:keep=0.5"), HasSubstr("fact: unknown key 'keep'"));
}

TEST(PolicyText, EveryOutOfRangeValueNamesItsKey) {
  for (const char* text : {"spatten:final=0", "spatten:final=1.01", "spatten:final=-0.5"}) {
    EXPECT_THAT(Error(text), HasSubstr("spatten: final=")) << text;
    EXPECT_THAT(Error(text), HasSubstr("expected (0, 1]")) << text;
  }
  EXPECT_THAT(Error("spatten:keeps=1/0/0.5"), HasSubstr("keeps="));
  EXPECT_THAT(Error("spatten:keeps=1//0.5"), HasSubstr("keeps="));
  EXPECT_THAT(Error("spatten:heads=0"), HasSubstr("heads="));
  EXPECT_THAT(Error("spatten:values=2"), HasSubstr("values="));
  EXPECT_THAT(Error("spatten:bits=6/4,refetch=1.5"), HasSubstr("refetch="));
  EXPECT_THAT(Error("spatten:importance=luck"), HasSubstr("attention, random, inverse"));
  EXPECT_THAT(Error("spatten:first=1.5"), HasSubstr("first="));
  EXPECT_THAT(Error("fact:topk=0"), HasSubstr("topk="));
  EXPECT_THAT(Error("fact:bits=9"), HasSubstr("bits="));
  EXPECT_THAT(Error("fact:bits=1"), HasSubstr("bits="));
  EXPECT_THAT(Error("sinks:recent=0"), HasSubstr("sinks: recent='0': expected 1 to 1048576"));
  EXPECT_THAT(Error("sinks:first=1048577"), HasSubstr("first="));
  EXPECT_THAT(Error("sinks:recent=0.5"), HasSubstr("recent="));
  EXPECT_THAT(Error("h2o:heavy=0"), HasSubstr("h2o: heavy='0': expected (0, 1]"));
  EXPECT_THAT(Error("h2o:recent=1.5"), HasSubstr("recent="));
  EXPECT_THAT(Error("h2o:first=-1"), HasSubstr("first="));
}

TEST(PolicyText, BitsAreTwoPlanesOfAtMostSixteen) {
  for (const char* bits : {"6", "6/", "6/4/2", "1/4", "6/0", "13/3", "12/5", "on", "6.0/4"}) {
    EXPECT_THAT(Error(std::string("spatten:bits=") + bits), HasSubstr("bits=")) << bits;
  }
  EXPECT_THAT(Canonical("spatten:bits=12/4"), HasSubstr("bits=12/4"));
}

TEST(PolicyText, NumbersAreStrict) {
  for (const char* number : {"nan", "inf", "-inf", "0x1", "0.5f", "0.5 ", " 0.5", "+0.5", "0,5", "",
                             "1e", "1e-999", "0.5.", "--1", "½", "1e400"}) {
    EXPECT_NE(Error(std::string("spatten:final=") + number), "accepted") << number;
  }
  EXPECT_THAT(Canonical("spatten:final=5e-1"), HasSubstr("final=0.5,"));
}

TEST(PolicyText, NumbersDoNotDependOnTheLocale) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  // Absent locales leave the test as it is.
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  EXPECT_THAT(Canonical("spatten:final=0.5"), HasSubstr("final=0.5,"));
  std::setlocale(LC_ALL, before.c_str());
}

TEST(PolicyText, ContradictionsAreRefused) {
  EXPECT_THAT(Error("spatten:keep=0.5,final=0.5"), HasSubstr("final and keep contradict"));
  EXPECT_THAT(Error("spatten:keeps=1/1,keep=0.5"), HasSubstr("contradict"));
  EXPECT_THAT(Error("spatten:keep=0.6,keep=0.6"), HasSubstr("keep is given twice"));
  EXPECT_THAT(Error("spatten:keeps=1/1,schedule=ramp"), HasSubstr("no effect beside keeps"));
  EXPECT_THAT(Error("spatten:refetch=0.2"), HasSubstr("refetch has no effect without bits"));
  EXPECT_THAT(Error("spatten:seed=3"), HasSubstr("no effect without importance=random"));
  EXPECT_THAT(Error("fact:topk=0.5,gap=3"), HasSubstr("gap has no effect without qskip"));
  EXPECT_THAT(Error("fact:topk=0.5,protect=none"), HasSubstr("protect has no effect without ffn"));
}

TEST(PolicyText, PartsJoinOnlyWhereTheyCan) {
  EXPECT_THAT(Error("spatten:keep=0.6+spatten:heads=0.5"), HasSubstr("spatten stands twice"));
  EXPECT_THAT(Error("dense+fact"), HasSubstr("dense takes no key and joins with nothing"));
  EXPECT_THAT(Error("dense:keep=1"), HasSubstr("dense takes no key"));
  EXPECT_NE(Error("fact+"), "accepted");
  EXPECT_NE(Error("+"), "accepted");
}

TEST(PolicyText, MalformedTextIsRefused) {
  for (const char* text : {"", ":", "spatten:", "spatten:=", "spatten:keep", "spatten:keep=0.5,",
                           " spatten", "SPATTEN", "spatten;keep=0.5", "spatten:keep=0.5=0.6"}) {
    EXPECT_NE(Error(text), "accepted") << "'" << text << "'";
  }
  EXPECT_THAT(Error(std::string(5000, 'a')), HasSubstr("5000 bytes; at most 4096"));
}

TEST(PolicyText, MessagesShowNoRawBytes) {
  for (const char c : Error(std::string("\x01\xff\n\0spatten", 11))) {
    EXPECT_TRUE(c >= 0x20 && c < 0x7f) << static_cast<int>(c);
  }
}

TEST(PolicyText, TheTableIsSound) {
  for (const PolicySpec& spec : PolicySpecs()) {
    std::set<std::string_view> names;
    for (const PolicyKey& key : spec.keys) {
      EXPECT_TRUE(names.insert(key.name).second) << key.name;
      EXPECT_FALSE(key.help.empty() || key.measure.empty() || key.source.empty()) << key.name;
      if (!key.condition.key.empty()) {
        EXPECT_EQ(std::ranges::count(spec.keys, key.condition.key, &PolicyKey::name), 1)
            << key.name;
      }
    }
    EXPECT_TRUE(spec.encoders || spec.decoders) << spec.name;
    // All defaults are in range, together.
    EXPECT_TRUE(ParsePolicyPart(spec.name).ok()) << spec.name;
  }
}

TEST(PolicyText, HelpListsEveryKeyWithinTheTerminal) {
  const std::string help = PolicyHelpText();
  EXPECT_THAT(help, HasSubstr("recent window. For decoders.\n"));
  for (const PolicySpec& spec : PolicySpecs()) {
    for (const PolicyKey& key : spec.keys) {
      EXPECT_THAT(help, HasSubstr("\n  " + std::string(key.name) + " "));
    }
  }
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(PolicyText, TheDocumentHoldsTheGeneratedTables) {
  const auto path = testing::SourceDir() / "docs/policies.md";
  std::ifstream file(path);
  std::stringstream document;
  document << file.rdbuf();
  EXPECT_THAT(document.str(),
              HasSubstr("<!-- keys: begin -->\n\n" + PolicyHelpMarkdown() + "\n<!-- keys: end -->"))
      << "the tables of docs/policies.md are PolicyHelpMarkdown(); put its output there:\n"
      << PolicyHelpMarkdown();
}

}  // namespace
}  // namespace thresher
