# The JSON front on the HTTP port and the console. Included by server/CMakeLists.txt.
thresher_library(server_http
  SRCS console_routes.cc http_call.cc http_json.cc http_status.cc http_texts.cc openai_json.cc
       openai_routes.cc open_inference_json.cc open_inference_routes.cc thresher_routes.cc
  DEPS thresher::server_core thresher::server_grpc thresher::json thresher::report_json
       thresher::sparsity nlohmann_json::nlohmann_json)
# The console's files, by name, within the library.
file(GLOB CONSOLE CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/console/*.*
     ${CMAKE_CURRENT_SOURCE_DIR}/console/vendor/*.*)
list(FILTER CONSOLE EXCLUDE REGEX "/\\.")
add_custom_command(
  OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/console_files.cc
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${CMAKE_CURRENT_BINARY_DIR}/console_files.cc
          -DHEADER=server/console_routes.h -DTABLE=kConsoleFiles -DEXTENSIONS=ON "-DFILES=${CONSOLE}"
          -P ${PROJECT_SOURCE_DIR}/cmake/EmbedText.cmake
  DEPENDS ${CONSOLE} ${PROJECT_SOURCE_DIR}/cmake/EmbedText.cmake VERBATIM)
target_sources(thresher_server_http PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/console_files.cc)
