#include "backend/device/cpu_resources.h"

#include <gtest/gtest.h>
#include <sched.h>

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
  CpuResources Detect() const { return DetectCpuResources(directory_.path()); }

 private:
  testing::TempDir directory_;
};

TEST(CpuResources, WithoutCgroupsTheAffinityDecides) {
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  const CpuResources resources = FakeRoot().Detect();
  EXPECT_EQ(resources.affinity, CPU_COUNT(&set));
  EXPECT_FALSE(resources.quota.has_value());
  EXPECT_EQ(resources.usable(), resources.affinity);
}

TEST(CpuResources, OneCpuOfAffinityIsOneThread) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &before)) continue;
    CPU_SET(cpu, &one);
    break;
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  const CpuResources resources = FakeRoot().Detect();
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  EXPECT_EQ(resources.affinity, 1);
  EXPECT_EQ(resources.usable(), 1);
}

TEST(CpuResources, AQuotaIsRoundedUpAndNeverBelowOneThread) {
  EXPECT_EQ((CpuResources{.affinity = 8, .quota = 2.5}).usable(), 3);
  EXPECT_EQ((CpuResources{.affinity = 8, .quota = 2.0}).usable(), 2);
  EXPECT_EQ((CpuResources{.affinity = 8, .quota = 0.1}).usable(), 1);
  EXPECT_EQ((CpuResources{.affinity = 2, .quota = 64.0}).usable(), 2);
  EXPECT_EQ((CpuResources{.affinity = 2, .quota = 1e300}).usable(), 2);
}

TEST(CpuResources, VersionTwoQuotaOfTheOwnGroup) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "0::/kubepods/pod1\n");
  root.Write("sys/fs/cgroup/kubepods/pod1/cpu.max", "150000 100000\n");
  EXPECT_DOUBLE_EQ(root.Detect().quota.value(), 1.5);
}

TEST(CpuResources, VersionTwoTakesTheLeastOfAllAncestors) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "0::/a/b/c\n");
  root.Write("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
  root.Write("sys/fs/cgroup/a/b/cpu.max", "300000 100000\n");
  root.Write("sys/fs/cgroup/a/cpu.max", "50000 100000\n");
  EXPECT_DOUBLE_EQ(root.Detect().quota.value(), 0.5);
}

TEST(CpuResources, VersionTwoWithinANamespaceSeesItsGroupAsTheRoot) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "0::/\n");
  root.Write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_DOUBLE_EQ(root.Detect().quota.value(), 2.0);
}

TEST(CpuResources, VersionTwoWithoutLimit) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "0::/a\n");
  root.Write("sys/fs/cgroup/a/cpu.max", "max 100000\n");
  EXPECT_FALSE(root.Detect().quota.has_value());
}

TEST(CpuResources, VersionOneQuotaByController) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "5:cpuset:/x\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/\n");
  root.Write("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "250000\n");
  root.Write("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
  root.Write("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "-1\n");
  root.Write("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(root.Detect().quota.value(), 2.5);
}

TEST(CpuResources, VersionOneWithoutLimit) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "4:cpu:/docker/1\n");
  root.Write("sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "-1\n");
  root.Write("sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(root.Detect().quota.has_value());
}

TEST(CpuResources, NonsenseDoesNotLimit) {
  FakeRoot root;
  root.Write("proc/self/cgroup", "garbage\n0::\n::\n0::/../../../etc\n");
  root.Write("sys/fs/cgroup/cpu.max", "0 0\n");
  root.Write("sys/fs/cgroup/etc/cpu.max", "lots of it");
  EXPECT_FALSE(root.Detect().quota.has_value());
}

TEST(CpuResources, ThisMachineHasAtLeastOneCpu) { EXPECT_GE(DetectCpuResources().usable(), 1); }

}  // namespace
}  // namespace thresher
