// Products by oneDNN's kernels, of the device "cpu:onednn".
//
// oneDNN picks a kernel by shape, and two kernels may sum over K in different orders. So a product
// is made of a few primitives of fixed numbers of rows (buckets); a chunk of rows is cut into
// buckets, the last one padded. When a (precision, K, panel) is first seen, every bucket is
// **probed**: one random row, repeated over the bucket, must give the same bits in each position
// and in every bucket. Buckets that differ from the largest are dropped; if the largest differs in
// itself, or oneDNN has no kernel that works on packed weights, there is no oneDNN product.
//
// Measured on oneDNN 2.6: bfloat16 kernels keep one order up to K of about 1536; beyond, K is done
// in fixed pieces, each added to the float accumulators of those before. int8 is exact in any
// order.
#ifndef THRESHER_BACKEND_DEVICE_CPU_ONEDNN_PRODUCT_H_
#define THRESHER_BACKEND_DEVICE_CPU_ONEDNN_PRODUCT_H_

#include <cstdint>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "backend/device/cpu/product.h"
#include "backend/tensor/mutex.h"

namespace thresher {

class OneDnnKernel;

/// Makes oneDNN products and caches their kernels. Thread-safe.
class OneDnn {
 public:
  /// Whether to take an implementation, by oneDNN's name for it.
  using Accept = bool (*)(Precision precision, std::string_view implementation);
  /// Kernels on packed weights, of int8 those that are exact.
  static bool AcceptGood(Precision precision, std::string_view implementation);

  explicit OneDnn(Accept accept = AcceptGood);
  ~OneDnn();

  /// Packs all of `weight`, `scales` receiving each row's; null where oneDNN has no kernel that
  /// passes the probe.
  absl::StatusOr<std::unique_ptr<Product>> Pack(WeightRows& weight, std::vector<float>& scales);

  /// Such as "oneDNN 2.6.3".
  static std::string Version();

  /// What probing found, for logs and tests.
  struct Probe {
    std::string implementation;    // Empty: none was acceptable.
    std::vector<int64_t> buckets;  // Those that passed.
    double seconds = 0.0;          // What it cost, kernel generation included.
  };
  /// Finds or makes the kernel of a panel of `cols` columns.
  absl::StatusOr<Probe> ProbeKernel(Precision precision, int64_t k, int64_t cols);

 private:
  using Key = std::tuple<Precision, int64_t, int64_t>;  // Precision, K, columns.
  std::shared_ptr<const OneDnnKernel> FindKernel(Precision precision, int64_t k, int64_t cols);

  const Accept accept_;
  dnnl::engine engine_;
  Mutex mutex_;
  std::map<Key, std::shared_ptr<const OneDnnKernel>> kernels_;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_ONEDNN_PRODUCT_H_
