// Products by AVX-512's dot-product instructions: VNNI's vpdpbusd, which adds four products of int8
// to each 32-bit sum, and BF16's vdpbf16ps, which adds two of bfloat16. By the clock they do four
// and two times as much as a float multiply-add, where they run at full rate (AMD since Zen 4 or 5,
// Intel's VNNI; Intel's vdpbf16ps runs at half of it, so that it gains nothing there but loses
// nothing either).
//
// vpdpbusd takes one factor without a sign: weights are stored as weight + 128, and each sum begins
// at -128 times the sum of its row of the source. Sums may wrap on the way, and are exact at the
// end. vdpbf16ps adds its two products one after the other, flushes what is subnormal to zero, and
// has one order of summation: ascending pairs of K, whatever the rows beside.
#ifndef THRESHER_BACKEND_DEVICE_CPU_DOT_PRODUCT_H_
#define THRESHER_BACKEND_DEVICE_CPU_DOT_PRODUCT_H_

#include <memory>
#include <vector>

#include "backend/device/cpu/isa.h"
#include "backend/device/cpu/product.h"

namespace thresher {

/// Packs all of `weight`, `scales` receiving each row's; null where `isa` has no such instruction
/// for its precision.
std::unique_ptr<Product> PackDotProduct(const Isa& isa, WeightRows& weight,
                                        std::vector<float>& scales);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_DOT_PRODUCT_H_
