#include "backend/evaluation/profile_watch.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "backend/device/device.h"
#include "backend/engine/loaded_model.h"
#include "backend/evaluation/fingerprint.h"
#include "tests/testing/paths.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher {
namespace {

/// A profile of two entries whose measured drift is at most 0.1 and not told.
class ProfileWatchTest : public ::testing::Test {
 protected:
  ProfileWatchTest() {
    testing::RandomCheckpointOptions checkpoint;
    checkpoint.layers = 3;
    checkpoint.hidden_size = 16;
    checkpoint.heads = 2;
    checkpoint.intermediate_size = 16;
    checkpoint.vocab_size = 128;
    checkpoint.positions = 32;
    EXPECT_TRUE(testing::WriteRandomCheckpoint(dir_.path(), checkpoint).ok());
    const std::string path = dir_.path().string();
    const auto model = LoadModel(path, *CreateDevice("reference", {}), {});
    EXPECT_TRUE(model.ok()) << model.status();
    v1::SparsityProfile profile;
    profile.set_metric("accuracy");
    profile.set_precision("f32");
    profile.set_model_sha256(*FingerprintModel(path));
    for (int i = 0; i < 2; ++i) {
      auto* entry = profile.add_entries();
      entry->set_max_loss(0.01 * (i + 1));
      entry->set_policy("spatten:final=0.8");
      entry->set_speedup(1.1);
    }
    profile.mutable_entries(0)->set_kl_upper(0.1);
    EXPECT_TRUE(WriteProfile(profile, (dir_.path() / kProfileFile).string()).ok());
    auto loaded = QualityProfile::Load(path, *(*model)->engine, Precision::kF32);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    profile_ = *std::move(loaded);
  }

  testing::TempDir dir_;
  QualityProfile profile_;
};

TEST_F(ProfileWatchTest, ADriftWithinTheMeasuredBoundIsNoFailure) {
  ProfileWatch watch(profile_);
  std::mt19937 random(1);
  std::exponential_distribution<double> drift(1 / 0.08);
  for (int i = 0; i < 5000; ++i) EXPECT_FALSE(watch.Add(0, drift(random)));
  EXPECT_FALSE(watch.failed());
}

TEST_F(ProfileWatchTest, ADriftFarAboveFailsOnceAndForGood) {
  ProfileWatch watch(profile_);
  // Alternating 0.2 and 0.4: mean 0.3, standard error 0.1 / 7 at 50 checks.
  for (int i = 0; i < ProfileWatch::kFewest - 1; ++i) {
    EXPECT_FALSE(watch.Add(0, i % 2 == 0 ? 0.2 : 0.4)) << i;
  }
  EXPECT_FALSE(watch.failed());
  EXPECT_TRUE(watch.Add(0, 0.4));
  EXPECT_TRUE(watch.failed());
  EXPECT_FALSE(watch.Add(0, 0.4)) << "it had failed before";
  for (int i = 0; i < 2000; ++i) watch.Add(0, 0);
  EXPECT_TRUE(watch.failed());
}

TEST_F(ProfileWatchTest, AFewExtremeDriftsAreAnAccidentUntilTheyAreNot) {
  // 5 of 100 are 3: the mean 0.15 is above 0.1, but its standard error is 0.066.
  ProfileWatch watch(profile_);
  for (int i = 0; i < 100; ++i) watch.Add(0, i % 20 == 19 ? 3 : 0);
  EXPECT_FALSE(watch.failed());
}

TEST_F(ProfileWatchTest, AChangeShowsHoweverLongAllWentWell) {
  ProfileWatch watch(profile_);
  for (int i = 0; i < 100000; ++i) watch.Add(0, 0.01);
  int64_t checks = 0;
  while (!watch.Add(0, 0.3) && checks < 2 * ProfileWatch::kWindow) ++checks;
  EXPECT_LT(checks, ProfileWatch::kWindow);
}

TEST_F(ProfileWatchTest, AnInfiniteDriftFails) {
  ProfileWatch watch(profile_);
  for (int i = 0; i < ProfileWatch::kFewest; ++i) {
    watch.Add(0, std::numeric_limits<double>::infinity());
  }
  EXPECT_TRUE(watch.failed());
}

TEST_F(ProfileWatchTest, AnEntryWithoutAMeasuredDriftNeverFails) {
  ProfileWatch watch(profile_);
  for (int i = 0; i < 200; ++i) EXPECT_FALSE(watch.Add(1, 100));
  EXPECT_FALSE(watch.failed());
}

}  // namespace
}  // namespace thresher
