// Of a build without OpenTelemetry.
#include <cstdlib>

#include "backend/tensor/status.h"
#include "server/span_export.h"

namespace thresher {

absl::StatusOr<std::unique_ptr<SpanExport>> SpanExport::FromEnvironment() {
  for (const char* name : {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') {
      return Unimplemented(
          "{} is set, but this program was built without OpenTelemetry (Debian 13's "
          "opentelemetry-cpp-dev, which Debian 12 does not have)",
          name);
    }
  }
  return nullptr;
}

const char* SpanExport::LibraryVersion() { return nullptr; }

}  // namespace thresher
