#include "server/libraries.h"

#include <absl/base/config.h>
#include <civetweb.h>
#include <dnnl.h>
#include <fmt/format.h>
#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/version.h>

#include <CLI/Version.hpp>
#include <nlohmann/json.hpp>

#include "server/span_export.h"

namespace thresher {

LibraryVersions ServerLibraries() {
  const dnnl_version_t& dnnl = *dnnl_version();
  LibraryVersions versions = {
      {"gRPC", grpc::Version()},
      {"Protobuf", VersionOfMillions(GOOGLE_PROTOBUF_VERSION)},
      {"oneDNN", fmt::format("{}.{}.{}", dnnl.major, dnnl.minor, dnnl.patch)},
      {"Highway", THRESHER_HIGHWAY_VERSION},
      {"Abseil", fmt::format("LTS {}.{}", ABSL_LTS_RELEASE_VERSION, ABSL_LTS_RELEASE_PATCH_LEVEL)},
      {"CivetWeb", mg_version()},
      {"prometheus-cpp", THRESHER_PROMETHEUS_CPP_VERSION},
      {"spdlog", fmt::format("{}.{}.{}", SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH)},
      {"CLI11", CLI11_VERSION},
      {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                    NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
  };
  if (const char* version = SpanExport::LibraryVersion(); version != nullptr) {
    versions.emplace_back("opentelemetry-cpp", version);
  }
  return versions;
}

}  // namespace thresher
