// Writes a BERT-base of random weights, for measurements of a server (bench/overload): what it
// answers means nothing, what it costs is real. Usage: random_bert DIRECTORY
#include <cstdio>
#include <cstdlib>

#include "backend/tensor/status.h"
#include "tests/testing/random_checkpoint.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: random_bert DIRECTORY\n");
    return 2;
  }
  const absl::Status status = thresher::testing::WriteRandomCheckpoint(argv[1], {});
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "random_bert: %s\n", thresher::Message(status).c_str());
  return EXIT_FAILURE;
}
