// The libraries that the server is linked with.
#ifndef THRESHER_SERVER_LIBRARIES_H_
#define THRESHER_SERVER_LIBRARIES_H_

#include "backend/build_info/build_info.h"

namespace thresher {

LibraryVersions ServerLibraries();

}  // namespace thresher

#endif  // THRESHER_SERVER_LIBRARIES_H_
