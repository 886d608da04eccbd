// The machine's limit for whatever reads its data once: plain vector loads, on several threads.
#ifndef THRESHER_BENCH_READ_BANDWIDTH_H_
#define THRESHER_BENCH_READ_BANDWIDTH_H_

#include <cstddef>

namespace thresher {

/// GB/s of `threads` threads that together read `bytes` of memory, the best of some passes.
double MeasureReadBandwidth(int threads, size_t bytes);

}  // namespace thresher

#endif  // THRESHER_BENCH_READ_BANDWIDTH_H_
