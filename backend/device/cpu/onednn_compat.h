// All that differs between oneDNN 2.6 (Debian 12) and 3.x (Debian 13), for what we use of it.
#ifndef THRESHER_BACKEND_DEVICE_CPU_ONEDNN_COMPAT_H_
#define THRESHER_BACKEND_DEVICE_CPU_ONEDNN_COMPAT_H_

#include <dnnl.hpp>

namespace thresher {

/// A product's primitive descriptor; throws dnnl::error where there is no implementation.
inline dnnl::matmul::primitive_desc MakeMatmul(const dnnl::engine& engine,
                                               const dnnl::memory::desc& source,
                                               const dnnl::memory::desc& weights,
                                               const dnnl::memory::desc& destination,
                                               const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, source, weights, destination, attributes};
#else
  return {dnnl::matmul::desc(source, weights, destination), attributes, engine};
#endif
}

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_CPU_ONEDNN_COMPAT_H_
