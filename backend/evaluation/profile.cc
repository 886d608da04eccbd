#include "backend/evaluation/profile.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/text_format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "backend/evaluation/fingerprint.h"
#include "backend/evaluation/quality.h"
#include "backend/model/files.h"
#include "backend/tensor/status.h"
#include "proto/text_format.h"

namespace thresher {
namespace {

constexpr size_t kLargestFile = 1 << 20;
constexpr int kMostEntries = 1000;

absl::Status CheckEntry(const v1::SparsityProfile::Entry& entry) {
  // Written so that NaN fails too.
  if (!(entry.max_loss() > 0 && entry.max_loss() <= 1)) {
    return InvalidArgument("max_loss {} is not in (0, 1]", entry.max_loss());
  }
  if (entry.policy().empty()) return InvalidArgument("no policy");
  if (!(entry.loss_upper() <= entry.max_loss() && entry.loss() <= entry.max_loss())) {
    return InvalidArgument("a loss of {}, at most {}, was measured; that can't promise {}",
                           entry.loss(), entry.loss_upper(), entry.max_loss());
  }
  if (!(entry.speedup() > 0 && std::isfinite(entry.speedup()))) {
    return InvalidArgument("speedup {} is not above 0", entry.speedup());
  }
  return absl::OkStatus();
}

absl::Status SystemError(const std::string& path, std::string_view what, int error) {
  const std::string message = fmt::format("{}: {}: {}", path, what, std::strerror(error));
  if (error == EACCES || error == EPERM || error == EROFS) {
    return absl::PermissionDeniedError(message);
  }
  return absl::FailedPreconditionError(message);
}

}  // namespace

absl::StatusOr<v1::SparsityProfile> ParseProfile(const std::string& text, const std::string& name) {
  v1::SparsityProfile profile;
  THRESHER_RETURN_IF_ERROR(ParseText(text, name, &profile));
  if (!MeasureOfMetric(profile.metric())) {
    return InvalidArgument("{}: metric '{}' is neither accuracy nor spearman", name,
                           Shorten(profile.metric()));
  }
  if (profile.entries_size() > kMostEntries) {
    return InvalidArgument("{}: {} entries, at most {}", name, profile.entries_size(),
                           kMostEntries);
  }
  for (int i = 0; i < profile.entries_size(); ++i) {
    THRESHER_RETURN_IF_ERROR(
        Annotate(CheckEntry(profile.entries(i)), fmt::format("{}: entry {}", name, i + 1)));
  }
  return profile;
}

absl::Status WriteProfile(const v1::SparsityProfile& profile, const std::string& path) {
  std::string text;
  if (!google::protobuf::TextFormat::PrintToString(profile, &text)) {
    return Internal("{}: the profile can't be printed", path);
  }
  text =
      "# Made by `thresher calibrate` for the model beside it; read by thresherd.\n"
      "# proto-file: thresher/v1/profile.proto\n"
      "# proto-message: thresher.v1.SparsityProfile\n" +
      text;
  // In the same directory, so that the rename can't cross file systems.
  std::string temporary = path + ".XXXXXX";
  const int fd = mkstemp(temporary.data());
  if (fd < 0) return SystemError(path, "can't write beside it", errno);
  const auto fail = [&](std::string_view what) {
    const int error = errno;
    unlink(temporary.c_str());
    return SystemError(path, what, error);
  };
  for (size_t written = 0; written < text.size();) {
    const ssize_t bytes = write(fd, text.data() + written, text.size() - written);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) {
      const absl::Status status = fail("can't write");
      close(fd);
      return status;
    }
    written += static_cast<size_t>(bytes);
  }
  const bool synced = fchmod(fd, 0644) == 0 && fsync(fd) == 0;
  if (close(fd) != 0 || !synced) return fail("can't write");
  if (rename(temporary.c_str(), path.c_str()) != 0) return fail("can't put it in place");
  return absl::OkStatus();
}

absl::StatusOr<QualityProfile> QualityProfile::Load(const std::string& directory,
                                                    const Engine& engine, Precision precision) {
  const std::string path = (std::filesystem::path(directory) / kProfileFile).string();
  if (!IsFile(path)) return NotFound("it has no {}", kProfileFile);
  THRESHER_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kLargestFile));
  THRESHER_ASSIGN_OR_RETURN(const v1::SparsityProfile profile, ParseProfile(text, path));
  if (profile.precision() != Name(precision)) {
    return FailedPrecondition("{}: measured in precision '{}', but the model runs in {}", path,
                              Shorten(profile.precision()), Name(precision));
  }
  THRESHER_ASSIGN_OR_RETURN(const std::string fingerprint, FingerprintModel(directory));
  if (profile.model_sha256() != fingerprint) {
    return FailedPrecondition(
        "{}: made for another model, or this one's files have changed since (sha256 '{}', the "
        "model's is {})",
        path, Shorten(profile.model_sha256()), fingerprint);
  }
  QualityProfile result;
  result.measure_ = *MeasureOfMetric(profile.metric());
  for (int i = 0; i < profile.entries_size(); ++i) {
    const v1::SparsityProfile::Entry& entry = profile.entries(i);
    auto policy = engine.ParsePolicy(entry.policy());
    if (!policy.ok()) {
      return Annotate(policy.status(), fmt::format("{}: entry {}", path, i + 1));
    }
    Entry made{entry.max_loss(), entry.speedup(), *std::move(policy), std::nullopt};
    if (result.measure_ == Measure::kAccuracy) {
      if (entry.has_kl_upper()) made.drift_upper = entry.kl_upper();
    } else if (entry.has_cosine_drift_upper()) {
      made.drift_upper = entry.cosine_drift_upper();
    }
    result.entries_.push_back(std::move(made));
  }
  return result;
}

const QualityProfile::Entry* QualityProfile::Choose(double max_loss) const {
  const Entry* best = nullptr;
  for (const Entry& entry : entries_) {
    if (entry.max_loss > max_loss) continue;
    if (best == nullptr || entry.speedup > best->speedup) best = &entry;
  }
  return best;
}

}  // namespace thresher
