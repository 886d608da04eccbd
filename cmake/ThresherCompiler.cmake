# Language level, warnings, sanitizers, ccache. Included once by the top-level file.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

# ccache shares its results between clones: paths below the source tree are hashed relative to it.
find_program(CCACHE ccache)
if(CCACHE)
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
               ${CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()

# Binaries land in build/<preset>/bin, as the documentation says.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

# -O1 keeps sanitizer builds quick to compile and quick to run; -g1 gives line numbers.
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g1 -fno-omit-frame-pointer")
set(CMAKE_C_FLAGS_SANITIZE "${CMAKE_CXX_FLAGS_SANITIZE}")
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

add_compile_options(-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers)
# Results must not depend on whether the compiler fuses a multiply with an add.
add_compile_options(-ffp-contract=off)

if(THRESHER_SANITIZE)
  add_compile_options(-fsanitize=${THRESHER_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${THRESHER_SANITIZE})
  if(THRESHER_SANITIZE MATCHES thread)
    # Debian's Abseil is not instrumented: under tsan the locks are std::mutex (backend/tensor/mutex.h).
    add_compile_definitions(THRESHER_TSAN=1)
  endif()
endif()
if(THRESHER_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
