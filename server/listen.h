// Sockets that listen.
#ifndef THRESHER_SERVER_LISTEN_H_
#define THRESHER_SERVER_LISTEN_H_

#include <vector>

#include "absl/status/statusor.h"
#include "server/address.h"

namespace thresher {

/// Listens on all addresses that the host has, with one port, which is filled in where it was 0.
/// The sockets don't block, and are the caller's to close. UNAVAILABLE when it can't be, with the
/// kernel's reason.
absl::StatusOr<std::vector<int>> ListenOn(Address* address);

}  // namespace thresher

#endif  // THRESHER_SERVER_LISTEN_H_
