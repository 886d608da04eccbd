#include "server/build_info.h"

#include <absl/base/config.h>
#include <civetweb.h>
#include <dnnl.h>
#include <fmt/format.h>
#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/version.h>

#include <CLI/Version.hpp>
#include <nlohmann/json.hpp>

#include "server/build_commit.h"  // Generated: kBuildCommit.

namespace thresher {
namespace {

BuildInfo Make() {
  BuildInfo info;
  info.version = THRESHER_VERSION;
  info.commit = kBuildCommit;
  info.build_type = THRESHER_BUILD_TYPE;
  info.compiler = THRESHER_COMPILER;
  const dnnl_version_t& dnnl = *dnnl_version();
  const int protobuf = GOOGLE_PROTOBUF_VERSION;
  info.libraries = {
      {"gRPC", grpc::Version()},
      {"Protobuf",
       fmt::format("{}.{}.{}", protobuf / 1000000, protobuf / 1000 % 1000, protobuf % 1000)},
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
  return info;
}

}  // namespace

const BuildInfo& GetBuildInfo() {
  static const BuildInfo info = Make();
  return info;
}

std::string VersionText() {
  const BuildInfo& info = GetBuildInfo();
  std::string text = fmt::format("thresherd {}\n  commit    {}\n  build     {}, {}\n", info.version,
                                 info.commit, info.build_type, info.compiler);
  text += "  libraries";
  for (size_t i = 0; i < info.libraries.size(); ++i) {
    const auto& [name, version] = info.libraries[i];
    text += fmt::format("{} {} {}", i == 0 ? "" : ",", name, version);
  }
  return text + "\n";
}

}  // namespace thresher
