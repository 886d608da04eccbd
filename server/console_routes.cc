#include "server/console_routes.h"

#include <algorithm>
#include <string>
#include <utility>

namespace thresher {
namespace {

constexpr std::string_view kPage = "index.html";

std::string_view ContentType(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".js") || name.ends_with(".mjs")) return "text/javascript; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  return "text/plain; charset=utf-8";
}

HttpResponse File(const EmbeddedText& file) {
  HttpResponse response{200, std::string(ContentType(file.name)), std::string(file.content)};
  // Nothing is loaded from elsewhere, nothing runs that is not a file of ours, nobody frames it.
  response.headers = {
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
       "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
      {"Referrer-Policy", "no-referrer"}};
  return response;
}

}  // namespace

void AddConsole(std::vector<HttpRoute>* routes) {
  for (const EmbeddedText& file : kConsoleFiles) {
    const HttpHandler handler = [&file](const HttpRequest&) { return File(file); };
    routes->push_back(
        {"GET", "/console/" + std::string(file.name), handler, /*work=*/false, Door::kPublic});
    if (file.name != kPage) continue;
    HttpRoute root = {"GET", "/", handler, /*work=*/false, Door::kPublic};
    const auto there = std::find_if(routes->begin(), routes->end(), [](const HttpRoute& route) {
      return route.method == "GET" && route.path == "/";
    });
    if (there != routes->end()) {
      root.handler = [page = handler, other = there->handler](const HttpRequest& request) {
        const bool html = request.Header("accept").find("text/html") != std::string_view::npos;
        HttpResponse response = html ? page(request) : other(request);
        response.headers.emplace_back("Vary", "Accept");
        return response;
      };
      routes->erase(there);
    }
    routes->push_back(std::move(root));
  }
}

}  // namespace thresher
