// The console: the server's own page at /, which draws its metrics and tries requests. Its files
// are in the binary.
#ifndef THRESHER_SERVER_CONSOLE_ROUTES_H_
#define THRESHER_SERVER_CONSOLE_ROUTES_H_

#include <span>
#include <string_view>
#include <vector>

#include "server/http_server.h"

namespace thresher {

struct EmbeddedText {
  std::string_view name;  // "main.mjs"
  std::string_view content;
};
/// The files of server/console.
extern const std::span<const EmbeddedText> kConsoleFiles;

/// Adds GET /console/NAME for each file, and answers GET / with the page where HTML is taken; for
/// others what was there stays, if anything was. All of it is public: the page's own calls are not.
void AddConsole(std::vector<HttpRoute>* routes);

}  // namespace thresher

#endif  // THRESHER_SERVER_CONSOLE_ROUTES_H_
