// Status constructors that format, and the two macros that pass errors up.
//
// Errors say what, where and what to do: InvalidArgument("tensor '{}': {} rows, expected {}", ...).
// Formatting is fmt's, since Debian's absl::string_view is not std::string_view and so absl::StrCat
// does not take the latter. Message text becomes the gRPC status message as it is.
#ifndef THRESHER_BACKEND_TENSOR_STATUS_H_
#define THRESHER_BACKEND_TENSOR_STATUS_H_

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thresher {

#define THRESHER_DEFINE_STATUS(Name)                                            \
  template <typename... Args>                                                   \
  absl::Status Name(fmt::format_string<Args...> format, Args&&... args) {       \
    return absl::Name##Error(fmt::format(format, std::forward<Args>(args)...)); \
  }
THRESHER_DEFINE_STATUS(InvalidArgument)
THRESHER_DEFINE_STATUS(NotFound)
THRESHER_DEFINE_STATUS(AlreadyExists)
THRESHER_DEFINE_STATUS(FailedPrecondition)
THRESHER_DEFINE_STATUS(ResourceExhausted)
THRESHER_DEFINE_STATUS(DeadlineExceeded)
THRESHER_DEFINE_STATUS(Cancelled)
THRESHER_DEFINE_STATUS(Unavailable)
THRESHER_DEFINE_STATUS(Unimplemented)
THRESHER_DEFINE_STATUS(OutOfRange)
THRESHER_DEFINE_STATUS(DataLoss)
THRESHER_DEFINE_STATUS(Internal)
#undef THRESHER_DEFINE_STATUS

/// The status message as a std::string.
inline std::string Message(const absl::Status& status) { return std::string(status.message()); }

/// The same code with "where: " before the message; OK stays OK.
inline absl::Status Annotate(const absl::Status& status, std::string_view where) {
  if (status.ok()) return status;
  return absl::Status(status.code(), fmt::format("{}: {}", where, Message(status)));
}

#define THRESHER_CONCAT_INNER(a, b) a##b
#define THRESHER_CONCAT(a, b) THRESHER_CONCAT_INNER(a, b)

#define THRESHER_RETURN_IF_ERROR(expression)                                \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

/// THRESHER_ASSIGN_OR_RETURN(auto value, FunctionThatReturnsStatusOr());
#define THRESHER_ASSIGN_OR_RETURN(left, expression) \
  THRESHER_ASSIGN_OR_RETURN_INNER(THRESHER_CONCAT(status_or_, __LINE__), left, expression)
#define THRESHER_ASSIGN_OR_RETURN_INNER(temporary, left, expression) \
  auto temporary = (expression);                                     \
  if (!temporary.ok()) return std::move(temporary).status();         \
  left = *std::move(temporary)

}  // namespace thresher

#endif  // THRESHER_BACKEND_TENSOR_STATUS_H_
