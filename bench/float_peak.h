// The processor's limit for float products: multiply-adds in registers, on several threads.
#ifndef THRESHER_BENCH_FLOAT_PEAK_H_
#define THRESHER_BENCH_FLOAT_PEAK_H_

namespace thresher {

/// GFLOP/s of `threads` threads at once, the best of some short runs.
double MeasureFloatPeak(int threads);

}  // namespace thresher

#endif  // THRESHER_BENCH_FLOAT_PEAK_H_
