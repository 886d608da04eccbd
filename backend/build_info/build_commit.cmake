# Run at each build (cmake -P) with SOURCE_DIR and OUTPUT: asks git for the commit and writes the header
# only when it has changed, so that nothing but build_info.cc is rebuilt, and that only then. Where there
# is no history (a container's build) the environment's THRESHER_COMMIT tells.
set(THRESHER_COMMIT unknown)
if("$ENV{THRESHER_COMMIT}" MATCHES "^[0-9a-f]+(-dirty)?$")
  set(THRESHER_COMMIT $ENV{THRESHER_COMMIT})
endif()
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE_DIR}/.git)
  execute_process(
    COMMAND ${GIT} -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
  if(result EQUAL 0 AND commit MATCHES "^[0-9a-f]+(-dirty)?$")
    set(THRESHER_COMMIT ${commit})
  endif()
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/build_commit.h.in ${OUTPUT} @ONLY)
