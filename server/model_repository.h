// The models that the server serves: names, versions, states; loading and unloading while serving.
//
// A model directory is a Hugging Face directory (one version, "1") or holds integer-named version
// directories, of which the version policy chooses. A version that fails to load is UNAVAILABLE
// with the reason and leaves all others as they were; a reload swaps only when the new one is
// ready, and requests that hold the old one finish on it.
//
// Thread-safe. Load runs on the caller's thread and may take long; lookups never wait for it.
#ifndef THRESHER_SERVER_MODEL_REPOSITORY_H_
#define THRESHER_SERVER_MODEL_REPOSITORY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/engine/kv_cache.h"
#include "backend/engine/loaded_model.h"
#include "backend/evaluation/profile.h"
#include "backend/evaluation/profile_watch.h"
#include "backend/scheduler/generation.h"
#include "thresher/v1/config.pb.h"

namespace thresher {

/// One version that can serve. Hold the pointer for as long as a request needs it. A decoder's must
/// not be let go of in a call of a GenerationSink.
struct ServedModel {
  std::string name;
  std::string version;
  v1::ModelConfig config;
  std::shared_ptr<LoadedModel> model;
  // Exactly one is set: an encoder's engine (aliases `model->engine`; what a scheduler Job holds),
  // or what a decoder's texts are given to.
  std::shared_ptr<Engine> engine;
  std::unique_ptr<Generator> generator;
  std::string directory;  // The checkpoint's.
  /// What `max_quality_loss` is served by; else why nothing can be. A profile that is missing,
  /// broken or another model's leaves the model serving.
  absl::StatusOr<QualityProfile> quality = absl::NotFoundError("it was not looked for");
  /// Set where there is one.
  std::unique_ptr<ProfileWatch> profile_watch;
};

enum class ModelState { kLoading, kReady, kUnloading, kUnavailable };
std::string_view Name(ModelState state);  // "LOADING", "READY", "UNLOADING", "UNAVAILABLE"

struct ModelIndexEntry {
  std::string name;
  std::string version;  // Empty where not even the versions could be listed.
  ModelState state = ModelState::kUnavailable;
  std::string reason;  // Why it is in that state, or why its last reload failed.
  bool wanted = true;  // False once it was unloaded on purpose.
};

struct RepositoryOptions {
  std::string device = "cpu";
  DeviceOptions device_options;
  std::optional<Precision> precision;
  /// A directory with a model in each subdirectory, scanned at start and on Load; empty: none.
  std::string root;
  /// A directory for trace files of what each version runs; empty: nothing is recorded.
  std::string record_traces;
  /// Run once on each new version before it is ready; by default a warm-up of a few lengths.
  std::function<absl::Status(LoadedModel&)> warm_up;
  /// Of decoders, which without a scheduler can't be loaded. It must outlive the repository and
  /// whatever holds its models. Without a pool each model has memory of its own.
  Scheduler* scheduler = nullptr;
  GeneratorOptions generator;
  std::shared_ptr<KvPool> kv_pool;
  /// Hears of the steps of a model's texts; null: nobody does.
  std::function<GenerationObserver*(const std::string& model)> observer;
};

class ModelRepository {
 public:
  ModelRepository(RepositoryOptions options, std::vector<v1::ModelConfig> models);
  ~ModelRepository();
  ModelRepository(const ModelRepository&) = delete;
  ModelRepository& operator=(const ModelRepository&) = delete;

  /// Loads or reloads all that is configured or in `root`, but for what was unloaded on purpose;
  /// one failure does not stop the others. OK if all could be loaded; else the first error (the
  /// others are in the index).
  absl::Status LoadAll();

  /// The version asked for, or (empty version) the highest that is ready. NOT_FOUND: no such model
  /// or version (says which there are); UNAVAILABLE: it exists but is not ready (says why).
  absl::StatusOr<std::shared_ptr<const ServedModel>> Find(std::string_view name,
                                                          std::string_view version) const;

  /// Loads or reloads a configured model, or a new subdirectory of `root`. Picks up new version
  /// directories; what served before goes on serving until all that is chosen is ready, and stays
  /// if something fails. NOT_FOUND, INVALID_ARGUMENT (a bad name), CANCELLED, else as LoadModel.
  absl::Status Load(const std::string& name);
  /// Takes a model out of service; running requests finish. NOT_FOUND if it is not there.
  absl::Status Unload(const std::string& name);

  /// For a server that stops: loads that run end before their next version, later ones at once, all
  /// with CANCELLED. What serves is left alone.
  void CancelLoads();

  /// Where decoders' caches are; null if each has its own.
  const KvPool* kv_pool() const;

  std::vector<ModelIndexEntry> Index() const;
  /// True when every configured model has at least one version ready.
  bool AllReady() const;
  /// All versions that are ready, in order of name and version.
  std::vector<std::shared_ptr<const ServedModel>> Ready() const;
  /// Adds a callback for every change of state, on the thread that made it, without locks held.
  void OnChange(std::function<void()> callback);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thresher

#endif  // THRESHER_SERVER_MODEL_REPOSITORY_H_
