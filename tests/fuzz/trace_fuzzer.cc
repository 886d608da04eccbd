// Workload traces: whatever is read is written and read again as it
// was.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>

#include "backend/device/simulator/trace/trace.h"

namespace {

using thresher::TraceReader;

std::unique_ptr<TraceReader> Read(const std::string& text) {
  auto reader = TraceReader::Read(std::make_unique<std::istringstream>(text), "fuzz");
  return reader.ok() ? *std::move(reader) : nullptr;
}

void Require(bool condition) {
  if (!condition) std::abort();
}

/// What a trace becomes when it is read and written.
std::string Rewritten(TraceReader* reader) {
  std::ostringstream text;
  auto writer = thresher::TraceWriter::Create(&text, "fuzz");
  Require(writer.ok());
  int64_t rows = 0;
  while (true) {
    auto record = reader->Next();
    Require(record.ok());  // The scan has seen it.
    if (!record->has_value()) break;
    for (const auto& head : (*record)->sequences.at(0).heads) rows += head.queries;
    Require(writer->Write(**record).ok());
  }
  Require(rows == reader->rows());
  Require(writer->Finish().ok());
  return text.str();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto reader = Read(std::string(reinterpret_cast<const char*>(data), size));
  if (reader == nullptr) return 0;
  const std::string once = Rewritten(reader.get());
  const auto again = Read(once);
  Require(again != nullptr);
  Require(Rewritten(again.get()) == once);
  return 0;
}
