// Checkpoints that load in milliseconds, for tests of the server.
#ifndef THRESHER_TESTS_SERVER_TINY_CHECKPOINT_H_
#define THRESHER_TESTS_SERVER_TINY_CHECKPOINT_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "server/model_repository.h"
#include "tests/testing/random_checkpoint.h"

namespace thresher::testing {

inline void WriteTinyCheckpoint(const std::filesystem::path& directory, uint64_t seed = 1,
                                int32_t labels = 2) {
  RandomCheckpointOptions options;
  options.layers = 1;
  options.hidden_size = 16;
  options.heads = 2;
  options.intermediate_size = 16;
  options.vocab_size = 128;
  options.positions = 32;
  options.labels = labels;
  options.seed = seed;
  const absl::Status status = WriteRandomCheckpoint(directory, options);
  ASSERT_TRUE(status.ok()) << status;
}

inline v1::ModelConfig ModelAt(const std::string& name, const std::filesystem::path& path) {
  v1::ModelConfig config;
  config.set_name(name);
  config.set_path(path.string());
  return config;
}

inline RepositoryOptions OnReference() {
  RepositoryOptions options;
  options.device = "reference";
  return options;
}

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SERVER_TINY_CHECKPOINT_H_
