#include "backend/evaluation/fingerprint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/testing/paths.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;

TEST(Sha256, HasThePublishedValues) {
  EXPECT_EQ(Sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(FingerprintModel, IsOfWhatAnswersDependOn) {
  const testing::TempDir dir;
  const auto write = [&](const std::string& name, const std::string& text) {
    fs::create_directories((dir.path() / name).parent_path());
    std::ofstream(dir.path() / name) << text;
  };
  const auto fingerprint = [&] {
    const auto hex = FingerprintModel(dir.path().string());
    EXPECT_TRUE(hex.ok()) << hex.status();
    return hex.value_or("");
  };
  write("config.json", "{}");
  write("model.safetensors", "weights");
  const std::string first = fingerprint();
  EXPECT_EQ(first.size(), 64u);
  EXPECT_EQ(fingerprint(), first);

  write("README.md", "about it");
  write("sparsity_profile.textproto", "n: 1");
  write("a/b/config.json", "too deep to be read by anything");
  EXPECT_EQ(fingerprint(), first);

  write("1_Pooling/config.json", "{}");
  const std::string pooled = fingerprint();
  EXPECT_NE(pooled, first);
  write("model.safetensors", "weightx");
  EXPECT_NE(fingerprint(), pooled);
}

TEST(FingerprintModel, WhereABoundaryLiesMatters) {
  const testing::TempDir one, two;
  std::ofstream(one.path() / "a.safetensors") << "xy";
  std::ofstream(one.path() / "b.safetensors") << "z";
  std::ofstream(two.path() / "a.safetensors") << "x";
  std::ofstream(two.path() / "b.safetensors") << "yz";
  EXPECT_NE(*FingerprintModel(one.path().string()), *FingerprintModel(two.path().string()));
}

TEST(FingerprintModel, TheDirectoryHasToBeThere) {
  EXPECT_FALSE(FingerprintModel("/no/such/directory").ok());
}

}  // namespace
}  // namespace thresher
