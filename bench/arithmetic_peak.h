// The processor's limit for matrix products: multiplications and additions in registers, on several
// threads.
#ifndef THRESHER_BENCH_ARITHMETIC_PEAK_H_
#define THRESHER_BENCH_ARITHMETIC_PEAK_H_

#include "backend/device/device.h"

namespace thresher {

/// GFLOP/s of `threads` threads at once, the best of some short runs; measured once.
double FloatPeak(int threads);

/// The same for 8-bit integers in 16-bit lanes, whose products are exact, in GOP/s: the limit where
/// there is nothing better than multiplying pairs of them (AVX2, AVX-512 without VNNI).
double IntegerPeak(int threads);

/// The same of AVX-512's dot-product instructions, on a processor that has them: VNNI's of kInt8,
/// else BF16's.
double DotPeak(int threads, Precision precision);

/// The same of AMX's tile products, where a device was made that uses them: of kInt8 or bfloat16.
double AmxPeak(int threads, Precision precision);

/// The limit of products in `precision` on `device`. bfloat16 without BF16 and AMX is arithmetic in
/// float.
double ProductPeak(const Device& device, Precision precision);

}  // namespace thresher

#endif  // THRESHER_BENCH_ARITHMETIC_PEAK_H_
