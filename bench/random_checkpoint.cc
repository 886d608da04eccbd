// Writes a BERT-base or a GPT-2 small of random weights, for measurements (bench/overload,
// bench/peers): what it answers means nothing, what it costs is real.
#include "tests/testing/random_checkpoint.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "backend/tensor/status.h"

int main(int argc, char** argv) {
  const std::string_view shape = argc == 3 ? argv[1] : "";
  if (shape != "bert" && shape != "gpt2") {
    std::fprintf(stderr, "usage: random_checkpoint bert|gpt2 DIRECTORY\n");
    return 2;
  }
  const absl::Status status = shape == "bert"
                                  ? thresher::testing::WriteRandomCheckpoint(argv[2], {})
                                  : thresher::testing::WriteRandomGpt2(argv[2], {});
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "random_checkpoint: %s\n", thresher::Message(status).c_str());
  return EXIT_FAILURE;
}
