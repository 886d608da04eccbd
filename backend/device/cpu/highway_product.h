// Products by our own kernels (gemm-inl.h): for every processor and precision, and for what oneDNN
// has no kernel for that takes packed weights and keeps the order of summation. bfloat16 weights
// stay bfloat16 in memory and become float in registers; int8 is exact.
#ifndef THRESHER_BACKEND_DEVICE_CPU_HIGHWAY_PRODUCT_H_
#define THRESHER_BACKEND_DEVICE_CPU_HIGHWAY_PRODUCT_H_

#include <memory>
#include <vector>

#include "backend/device/cpu/product.h"

namespace thresher {

/// Packs all of `weight`; `scales` receives each row's.
std::unique_ptr<Product> PackHighwayProduct(WeightRows& weight, std::vector<float>& scales);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_HIGHWAY_PRODUCT_H_
