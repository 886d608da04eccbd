// What a load test found, as a page with plots that any browser opens from disk: one file, without
// scripts, in light or dark as the reader's system is.
#ifndef THRESHER_CLIENT_CLI_LOAD_REPORT_HTML_H_
#define THRESHER_CLIENT_CLI_LOAD_REPORT_HTML_H_

#include <string>

#include "client/load/load_report.h"

namespace thresher::cli {

std::string ToHtml(const load::LoadReport& report);

}  // namespace thresher::cli

#endif  // THRESHER_CLIENT_CLI_LOAD_REPORT_HTML_H_
