// Timelines as files that chrome://tracing and https://ui.perfetto.dev open (the Trace Event
// format).
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_CHROME_TRACE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_CHROME_TRACE_H_

#include <ostream>
#include <string_view>

#include "backend/device/simulator/timeline.h"

namespace thresher {

/// Writes the timeline as JSON: a process named `accelerator` with a thread for each unit, in the
/// order in which they first appear; more than one where a unit's spans overlap. Times are
/// microseconds. `otherData.spans_left_out` says what the timeline had no room for. Errors are the
/// stream's.
void WriteChromeTrace(const Timeline& timeline, std::string_view accelerator, std::ostream* out);

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_CHROME_TRACE_H_
