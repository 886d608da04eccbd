#include "backend/device/simulator/chrome_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace thresher {
namespace {

using nlohmann::json;

json Written(const Timeline& timeline) {
  std::ostringstream out;
  WriteChromeTrace(timeline, "fusemax-cloud", &out);
  return json::parse(out.str());
}

std::map<int, std::string> ThreadNames(const json& trace) {
  std::map<int, std::string> names;
  for (const json& event : trace["traceEvents"]) {
    if (event["name"] == "thread_name") names[event["tid"]] = event["args"]["name"];
  }
  return names;
}

TEST(ChromeTrace, UnitsAreThreadsAndSpansAreSlices) {
  Timeline timeline;
  timeline.Add("memory", "Q", 0, 2'500'000);
  timeline.Add("array_2d", "QK", 2'500'000, 2'500'001);
  timeline.Add("memory", "K", 2'500'000, 4'000'000);
  const json trace = Written(timeline);
  EXPECT_EQ(trace["otherData"]["spans_left_out"], 0);
  EXPECT_EQ(trace["traceEvents"][0]["args"]["name"], "fusemax-cloud");
  const auto names = ThreadNames(trace);
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names.begin()->second, "memory");  // The first to appear.
  std::vector<json> slices;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] == "X") slices.push_back(event);
  }
  ASSERT_EQ(slices.size(), 3u);
  EXPECT_EQ(slices[0]["name"], "Q");
  EXPECT_EQ(slices[0]["ts"], 0.0);
  EXPECT_EQ(slices[0]["dur"], 2.5);  // Microseconds.
  EXPECT_EQ(names.at(slices[1]["tid"]), "array_2d");
  EXPECT_EQ(slices[1]["ts"], 2.5);
  EXPECT_EQ(slices[1]["dur"], 1e-6);
  EXPECT_EQ(names.at(slices[2]["tid"]), "memory");
}

TEST(ChromeTrace, WhatAUnitDoesAtOnceIsOnThreadsOfItsOwn) {
  Timeline timeline;
  timeline.Add("dram", "late", 20, 30);  // Spans need not come in order.
  timeline.Add("dram", "a", 0, 10);
  timeline.Add("dram", "b", 5, 15);
  timeline.Add("dram", "c", 10, 20);
  const json trace = Written(timeline);
  const auto names = ThreadNames(trace);
  ASSERT_EQ(names.size(), 2u);
  std::map<std::string, std::string> thread_of;
  double last = -1;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    thread_of[event["name"]] = names.at(event["tid"]);
    EXPECT_GE(event["ts"], last);
    last = event["ts"];
  }
  EXPECT_EQ(thread_of["a"], "dram");
  EXPECT_EQ(thread_of["b"], "dram 2");
  EXPECT_EQ(thread_of["c"], "dram");
  EXPECT_EQ(thread_of["late"], "dram");
}

TEST(ChromeTrace, TellsWhatIsLeftOut) {
  Timeline timeline(1);
  timeline.Add("x", "1", 0, 1);
  timeline.Add("x", "2", 1, 2);
  EXPECT_EQ(Written(timeline)["otherData"]["spans_left_out"], 1);
  EXPECT_EQ(Written(Timeline())["traceEvents"].size(), 1u);
}

TEST(ChromeTrace, AnyTextIsJson) {
  Timeline timeline;
  timeline.Add("a\"b\\\n", "\xff\xfe{}", 10, 5);  // It ends before it begins, too.
  const json trace = Written(timeline);
  EXPECT_EQ(ThreadNames(trace).begin()->second, "a\"b\\\n");
  EXPECT_EQ(trace["traceEvents"].back()["dur"], 0.0);
}

}  // namespace
}  // namespace thresher
