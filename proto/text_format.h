// Messages from Protobuf text format, as people write it in files.
#ifndef THRESHER_PROTO_TEXT_FORMAT_H_
#define THRESHER_PROTO_TEXT_FORMAT_H_

#include <google/protobuf/message.h>

#include <string>

#include "absl/status/status.h"

namespace thresher {

/// Makes `message` what `text` says. INVALID_ARGUMENT "NAME:LINE:COLUMN: what" for the first thing
/// that is wrong, counted from 1 as editors do; unknown fields are errors. `name` is only for
/// messages.
absl::Status ParseText(const std::string& text, const std::string& name,
                       google::protobuf::Message* message);

}  // namespace thresher

#endif  // THRESHER_PROTO_TEXT_FORMAT_H_
