// Products of int8 and bfloat16 by the processor's unit for them (dot_unit.h).
#ifndef THRESHER_BACKEND_DEVICE_CPU_DOT_PRODUCT_H_
#define THRESHER_BACKEND_DEVICE_CPU_DOT_PRODUCT_H_

#include <memory>
#include <vector>

#include "backend/device/cpu/dot_unit.h"
#include "backend/device/cpu/product.h"

namespace thresher {

/// Packs all of `weight`, of int8 or bfloat16, for `unit`, of that precision, which outlives the
/// product; `scales` receives each row's scale.
std::unique_ptr<Product> PackDotProduct(const DotUnit& unit, WeightRows& weight,
                                        std::vector<float>& scales);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_DOT_PRODUCT_H_
