#include "backend/device/memory_resources.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/testing/paths.h"

namespace thresher {
namespace {

/// A root directory with files of our making.
class FakeRoot {
 public:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = directory_.path() / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  MemoryResources Detect() const { return DetectMemoryResources(directory_.path()); }

 private:
  testing::TempDir directory_;
};

TEST(MemoryResources, WithoutCgroupsTheMachineDecides) {
  FakeRoot root;
  root.Write("proc/meminfo", "MemTotal:       2048 kB\nMemFree:  1 kB\n");
  const MemoryResources resources = root.Detect();
  EXPECT_EQ(resources.physical, 2048 * 1024);
  EXPECT_FALSE(resources.limit.has_value());
  EXPECT_EQ(resources.usable(), 2048 * 1024);
}

TEST(MemoryResources, TheLeastLimitOfAllGroupsAboveCounts) {
  FakeRoot root;
  root.Write("proc/meminfo", "MemTotal: 1000000 kB\n");
  root.Write("proc/self/cgroup", "0::/a/b\n");
  root.Write("sys/fs/cgroup/a/b/memory.max", "max\n");
  root.Write("sys/fs/cgroup/a/memory.max", "5000000\n");
  EXPECT_EQ(root.Detect().limit, 5000000);
  EXPECT_EQ(root.Detect().usable(), 5000000);
  root.Write("sys/fs/cgroup/a/b/memory.max", "4000000\n");
  EXPECT_EQ(root.Detect().usable(), 4000000);
}

TEST(MemoryResources, VersionOneWritesANumberForNoLimit) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "7:memory:/x\n");
  root.Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_FALSE(root.Detect().limit.has_value());
  EXPECT_EQ(root.Detect().usable(), 0);
  root.Write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "123456\n");
  EXPECT_EQ(root.Detect().usable(), 123456);
}

TEST(MemoryResources, NonsenseDoesNotLimit) {
  FakeRoot root;
  root.Write("proc/meminfo", "MemTotal: many kB\n");
  root.Write("proc/self/cgroup", "0::/../..\nnonsense\n");
  root.Write("sys/fs/cgroup/memory.max", "-5\n");
  EXPECT_EQ(root.Detect().usable(), 0);
}

TEST(MemoryResources, ThisMachineHasSome) {
  EXPECT_GT(DetectMemoryResources().usable(), int64_t{1} << 26);
}

}  // namespace
}  // namespace thresher
