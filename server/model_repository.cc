#include "server/model_repository.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "backend/engine/layer_recorder.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"
#include "server/config.h"
#include "server/model_versions.h"
#include "server/warm_up.h"

namespace thresher {
namespace fs = std::filesystem;

namespace {

/// The names for an error message; not more than fit one.
std::string List(const std::vector<std::string>& names) {
  constexpr size_t kMost = 20;
  if (names.empty()) return "there are none";
  const auto end = names.begin() + static_cast<int64_t>(std::min(names.size(), kMost));
  return fmt::format("there are: {}{}", fmt::join(names.begin(), end, ", "),
                     names.size() > kMost ? ", ..." : "");
}

/// What a client wrote, short enough to be quoted; still UTF-8 if it was.
std::string_view Quotable(std::string_view text) {
  size_t length = std::min<size_t>(text.size(), 128);
  const auto continues = [&](size_t at) {
    return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
  };
  while (length > 0 && continues(length)) --length;
  return text.substr(0, length);
}

using Served = std::shared_ptr<const ServedModel>;

/// One version of one model.
struct Version {
  bool loading = false;
  bool unloaded = false;  // On purpose: by Unload, or since the policy chooses others now.
  std::string reason;     // Why nothing serves, or why the last reload failed.
  Served served;          // Null: not ready.
  std::weak_ptr<const ServedModel> leaving;  // What was served, alive while requests hold it.

  ModelState state() const {
    if (served != nullptr) return ModelState::kReady;
    if (loading) return ModelState::kLoading;
    return leaving.expired() ? ModelState::kUnavailable : ModelState::kUnloading;
  }
  /// Returns what it served, to be let go without locks: freeing a model's weights takes a while.
  Served TakeOut() {
    if (served != nullptr) leaving = served;
    unloaded = true;
    reason = "unloaded";
    return std::exchange(served, nullptr);
  }
};

}  // namespace

std::string_view Name(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return "LOADING";
    case ModelState::kReady:
      return "READY";
    case ModelState::kUnloading:
      return "UNLOADING";
    case ModelState::kUnavailable:
      return "UNAVAILABLE";
  }
  return "UNAVAILABLE";
}

class ModelRepository::Impl {
 public:
  Impl(RepositoryOptions options, std::vector<v1::ModelConfig> models)
      : options_(std::move(options)) {
    if (!options_.warm_up) options_.warm_up = WarmUp;
    for (v1::ModelConfig& model : models) {
      auto entry = std::make_shared<Entry>();
      entry->wanted = true;
      entry->config = std::move(model);
      entries_.emplace(entry->config.name(), entry);
    }
  }

  absl::Status LoadAll() {
    absl::Status first = ScanRoot();
    for (const auto& [name, entry] : Entries()) {
      if (!IsWanted(*entry)) continue;
      const absl::Status status = LoadEntry(*entry);
      if (first.ok()) first = status;
    }
    return first;
  }

  absl::StatusOr<Served> Find(std::string_view name, std::string_view version) const {
    MutexLock lock(&mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end()) {
      std::vector<std::string> names;
      for (const auto& [known, entry] : entries_) names.push_back(known);
      return NotFound("no model '{}'; {}", Quotable(name), List(names));
    }
    const auto& versions = found->second->versions;
    if (version.empty()) {
      for (auto it = versions.rbegin(); it != versions.rend(); ++it) {
        if (it->second.served != nullptr) return it->second.served;
      }
      if (versions.empty()) {
        return Unavailable("model '{}' is not ready: {}", name, found->second->reason);
      }
      return NotReady(name, versions.rbegin()->first, versions.rbegin()->second);
    }
    const auto number = ParseVersion(version);
    const auto chosen = number.has_value() ? versions.find(*number) : versions.end();
    if (chosen == versions.end()) {
      std::vector<std::string> numbers;
      numbers.reserve(versions.size());
      for (const auto& [known, unused] : versions) numbers.push_back(std::to_string(known));
      return NotFound("model '{}' has no version '{}'; {}", name, Quotable(version), List(numbers));
    }
    if (chosen->second.served == nullptr) return NotReady(name, *number, chosen->second);
    return chosen->second.served;
  }

  absl::Status Load(const std::string& name) {
    THRESHER_ASSIGN_OR_RETURN(const std::shared_ptr<Entry> entry, FindOrAddFromRoot(name));
    return LoadEntry(*entry);
  }

  absl::Status Unload(const std::string& name) {
    std::shared_ptr<Entry> entry;
    {
      MutexLock lock(&mutex_);
      const auto found = entries_.find(name);
      if (found == entries_.end()) return NotFound("no model '{}' to unload", Quotable(name));
      entry = found->second;
    }
    std::vector<Served> dropped;
    {
      MutexLock loading(&entry->loading);
      MutexLock lock(&mutex_);
      entry->wanted = false;
      entry->reason = "unloaded";
      for (auto& [number, version] : entry->versions) dropped.push_back(version.TakeOut());
    }
    dropped.clear();
    spdlog::info("model '{}': unloaded", name);
    Changed();
    return absl::OkStatus();
  }

  void CancelLoads() { cancelled_ = true; }

  const KvPool* kv_pool() const { return options_.kv_pool.get(); }

  std::vector<ModelIndexEntry> Index() const {
    std::vector<ModelIndexEntry> index;
    MutexLock lock(&mutex_);
    for (const auto& [name, entry] : entries_) {
      for (const auto& [number, version] : entry->versions) {
        index.push_back({name, std::to_string(number), version.state(), version.reason,
                         entry->wanted && !version.unloaded});
      }
      if (entry->versions.empty()) {
        index.push_back({name, "", ModelState::kUnavailable, entry->reason, entry->wanted});
      }
    }
    return index;
  }

  bool AllReady() const {
    MutexLock lock(&mutex_);
    return std::all_of(entries_.begin(), entries_.end(), [](const auto& item) {
      const auto& versions = item.second->versions;
      return !item.second->wanted ||
             std::any_of(versions.begin(), versions.end(),
                         [](const auto& version) { return version.second.served != nullptr; });
    });
  }

  std::vector<Served> Ready() const {
    std::vector<Served> ready;
    MutexLock lock(&mutex_);
    for (const auto& [name, entry] : entries_) {
      for (const auto& [number, version] : entry->versions) {
        if (version.served != nullptr) ready.push_back(version.served);
      }
    }
    return ready;
  }

  void OnChange(std::function<void()> callback) {
    MutexLock lock(&mutex_);
    callbacks_.push_back(std::move(callback));
  }

 private:
  /// One model name. `config` is fixed; the rest is guarded by mutex_.
  struct Entry {
    v1::ModelConfig config;
    Mutex loading;  // One load or unload of this model at a time. Taken before mutex_.
    bool wanted = false;
    std::string reason = "not loaded yet";  // Where there are no versions.
    std::map<int64_t, Version> versions;
  };
  using EntryMap = std::map<std::string, std::shared_ptr<Entry>, std::less<>>;

  static absl::Status NotReady(std::string_view name, int64_t number, const Version& version) {
    return Unavailable("model '{}' version {} is {}{}{}", name, number, Name(version.state()),
                       version.reason.empty() ? "" : ": ", version.reason);
  }

  EntryMap Entries() const {
    MutexLock lock(&mutex_);
    return entries_;
  }

  bool IsWanted(const Entry& entry) const {
    MutexLock lock(&mutex_);
    return entry.wanted;
  }

  /// Adds what is new in the root directory. A configured model of the same name comes first.
  absl::Status ScanRoot() {
    if (options_.root.empty()) return absl::OkStatus();
    std::error_code code;
    for (auto it = fs::directory_iterator(options_.root, code);
         !code && it != fs::directory_iterator(); it.increment(code)) {
      const std::string name = it->path().filename().string();
      std::error_code ignored;
      if (!it->is_directory(ignored) || name.starts_with('.')) continue;
      if (IsModelName(name)) {
        AddFromRoot(name, /*wanted=*/true);
      } else {
        spdlog::warn(
            "model repository {}: '{}' is left out: a model's name has only letters, "
            "digits, '_', '-' and '.'",
            options_.root, name);
      }
    }
    if (code) return NotFound("model repository {}: {}", options_.root, code.message());
    return absl::OkStatus();
  }

  std::shared_ptr<Entry> AddFromRoot(const std::string& name, bool wanted) {
    MutexLock lock(&mutex_);
    std::shared_ptr<Entry>& entry = entries_[name];
    if (entry == nullptr) {
      entry = std::make_shared<Entry>();
      entry->wanted = wanted;
      entry->config.set_name(name);
      entry->config.set_path((fs::path(options_.root) / name).string());
    }
    return entry;
  }

  absl::StatusOr<std::shared_ptr<Entry>> FindOrAddFromRoot(const std::string& name) {
    {
      MutexLock lock(&mutex_);
      const auto found = entries_.find(name);
      if (found != entries_.end()) return found->second;
    }
    // A name from outside becomes a path here, so nothing but a plain name may pass.
    if (!IsModelName(name)) {
      return InvalidArgument(
          "'{}' is not a model's name (letters, digits, '_', '-' and '.', not beginning with '.')",
          Quotable(name));
    }
    std::error_code code;
    if (options_.root.empty()) {
      return NotFound("no model '{}' is configured, and the server has no model repository", name);
    }
    if (!fs::is_directory(fs::path(options_.root) / name, code)) {
      return NotFound("no model '{}' is configured or in the model repository", name);
    }
    return AddFromRoot(name, /*wanted=*/false);
  }

  absl::Status LoadEntry(Entry& entry) {
    MutexLock loading(&entry.loading);
    const std::string& name = entry.config.name();
    const auto chosen = ChooseVersions(entry.config.path(), entry.config.versions());
    if (!chosen.ok()) {
      const absl::Status status = Annotate(chosen.status(), fmt::format("model '{}'", name));
      {
        MutexLock lock(&mutex_);
        entry.reason = Message(chosen.status());
        for (auto& [number, version] : entry.versions) {
          version.reason = fmt::format("reload failed: {}", entry.reason);
        }
      }
      spdlog::error("{}", Message(status));
      Changed();
      return status;
    }

    {
      MutexLock lock(&mutex_);
      for (const auto& [number, directory] : *chosen) {
        Version& version = entry.versions[number];
        version.loading = true;
        version.unloaded = false;
        version.reason.clear();
      }
      // Forget what is neither chosen nor alive.
      std::erase_if(entry.versions, [](const auto& item) {
        return item.second.state() == ModelState::kUnavailable;
      });
    }
    Changed();

    absl::Status first;
    for (const auto& [number, directory] : *chosen) {
      const absl::Status status = LoadVersion(entry, number, directory);
      if (first.ok()) first = status;
      Changed();
    }

    // What served before leaves only when all that follows it has come.
    if (!first.ok()) return first;
    std::vector<Served> dropped;
    {
      MutexLock lock(&mutex_);
      entry.wanted = true;
      for (auto& [number, version] : entry.versions) {
        if (!chosen->contains(number)) dropped.push_back(version.TakeOut());
      }
    }
    dropped.clear();
    Changed();
    return absl::OkStatus();
  }

  absl::Status LoadVersion(Entry& entry, int64_t number, const std::string& directory) {
    const std::string where = fmt::format("model '{}' version {}", entry.config.name(), number);
    const absl::Time start = absl::Now();
    absl::StatusOr<Served> served = [&]() -> absl::StatusOr<Served> {
      if (cancelled_) return Cancelled("the server stops");
      try {
        return MakeServed(entry.config, number, directory);
      } catch (const std::bad_alloc&) {
        return ResourceExhausted("out of memory while loading {}", directory);
      } catch (const std::exception& error) {
        return Internal("loading {}: {}", directory, error.what());
      }
    }();
    if (served.ok()) {
      const ModelInfo& info = (*served)->model->info;
      const DeviceDescription& device = (*served)->model->device->description();
      spdlog::info("{}: ready in {}: {} on {} ({}), {}, {:.1f} MB packed, at most {} tokens", where,
                   absl::FormatDuration(absl::Trunc(absl::Now() - start, absl::Milliseconds(1))),
                   info.architecture, device.name, device.isa, Name(info.precision),
                   static_cast<double>(info.packed_bytes) / 1e6, info.max_tokens);
    } else {
      spdlog::error("{}: {}", where, Message(served.status()));
    }

    Served replaced;  // Let go after the lock.
    MutexLock lock(&mutex_);
    Version& version = entry.versions[number];
    version.loading = false;
    if (served.ok()) {
      replaced = std::exchange(version.served, *std::move(served));
      return absl::OkStatus();
    }
    version.reason = version.served == nullptr
                         ? Message(served.status())
                         : fmt::format("reload failed, what was loaded before goes on: {}",
                                       Message(served.status()));
    return Annotate(served.status(), where);
  }

  absl::StatusOr<Served> MakeServed(const v1::ModelConfig& config, int64_t number,
                                    const std::string& directory) {
    THRESHER_ASSIGN_OR_RETURN(const std::shared_ptr<Device> device,
                              FindDevice(config.has_device() ? config.device() : options_.device));
    LoadOptions load;
    load.precision = options_.precision;
    if (config.has_precision()) {
      THRESHER_ASSIGN_OR_RETURN(load.precision, ParsePrecision(config.precision()));
    }
    if (config.has_pooling()) {
      load.pooling = config.pooling() == "cls" ? Pooling::kCls : Pooling::kMean;
    }
    if (config.has_normalize()) load.normalize = config.normalize();
    load.max_tokens = config.max_tokens();
    load.kv_pool = options_.kv_pool;
    THRESHER_ASSIGN_OR_RETURN(std::shared_ptr<LoadedModel> model,
                              LoadModel(directory, device, load));
    THRESHER_RETURN_IF_ERROR(options_.warm_up(*model));
    if (!options_.record_traces.empty()) {
      THRESHER_ASSIGN_OR_RETURN(auto recorder, MakeRecorder(config.name(), number));
      model->SetRecorder(std::move(recorder));
    }

    auto served = std::make_shared<ServedModel>();
    served->name = config.name();
    served->version = std::to_string(number);
    served->config = config;
    served->model = model;
    served->directory = directory;
    if (model->decoder != nullptr) {
      if (options_.scheduler == nullptr) {
        return FailedPrecondition("{}: {} generates text, which nothing here does", directory,
                                  model->info.architecture);
      }
      served->generator = std::make_unique<Generator>(
          model->decoder, options_.generator, options_.scheduler,
          options_.observer ? options_.observer(config.name()) : nullptr);
      served->quality = NotFound("what is measured of a decoder is its perplexity");
      return served;
    }
    served->engine = std::shared_ptr<Engine>(model, model->engine.get());
    served->quality =
        QualityProfile::Load(directory, *served->engine, served->model->info.precision);
    if (served->quality.ok()) {
      served->profile_watch = std::make_unique<ProfileWatch>(*served->quality);
    }
    const absl::Status& quality = served->quality.status();
    if (!quality.ok() && !absl::IsNotFound(quality)) {
      spdlog::warn("model '{}' version {}: max_quality_loss can't be served: {}", config.name(),
                   number, Message(quality));
    }
    return served;
  }

  /// A file of its own for each time that the version is loaded.
  absl::StatusOr<std::shared_ptr<LayerRecorder>> MakeRecorder(const std::string& name,
                                                              int64_t version) const {
    constexpr int64_t kMostBytes = int64_t{1} << 30;
    const std::string stem = fmt::format("{}/{}-{}", options_.record_traces, name, version);
    std::string path = stem + ".csv";
    for (int i = 1; std::filesystem::exists(path); ++i) path = fmt::format("{}.{}.csv", stem, i);
    THRESHER_ASSIGN_OR_RETURN(std::shared_ptr<LayerRecorder> recorder,
                              LayerRecorder::Create(path, name, kMostBytes));
    spdlog::info("model '{}' version {}: recording to {}", name, version, path);
    return recorder;
  }

  /// Devices are made once for each name and shared by models.
  absl::StatusOr<std::shared_ptr<Device>> FindDevice(const std::string& name) {
    MutexLock lock(&devices_mutex_);
    std::shared_ptr<Device>& device = devices_[name];
    if (device == nullptr) {
      absl::StatusOr<std::unique_ptr<Device>> created = CreateDevice(name, options_.device_options);
      if (!created.ok()) {
        devices_.erase(name);
        return created.status();
      }
      device = *std::move(created);
    }
    return device;
  }

  void Changed() {
    std::vector<std::function<void()>> callbacks;
    {
      MutexLock lock(&mutex_);
      callbacks = callbacks_;
    }
    for (const auto& callback : callbacks) callback();
  }

  RepositoryOptions options_;
  std::atomic<bool> cancelled_ = false;
  mutable Mutex mutex_;  // Held for moments only: lookups take it.
  EntryMap entries_;
  std::vector<std::function<void()>> callbacks_;
  Mutex devices_mutex_;
  std::map<std::string, std::shared_ptr<Device>> devices_;
};

ModelRepository::ModelRepository(RepositoryOptions options, std::vector<v1::ModelConfig> models)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(models))) {}
ModelRepository::~ModelRepository() = default;

absl::Status ModelRepository::LoadAll() { return impl_->LoadAll(); }
absl::StatusOr<std::shared_ptr<const ServedModel>> ModelRepository::Find(
    std::string_view name, std::string_view version) const {
  return impl_->Find(name, version);
}
absl::Status ModelRepository::Load(const std::string& name) { return impl_->Load(name); }
absl::Status ModelRepository::Unload(const std::string& name) { return impl_->Unload(name); }
void ModelRepository::CancelLoads() { impl_->CancelLoads(); }
const KvPool* ModelRepository::kv_pool() const { return impl_->kv_pool(); }
std::vector<ModelIndexEntry> ModelRepository::Index() const { return impl_->Index(); }
bool ModelRepository::AllReady() const { return impl_->AllReady(); }
std::vector<std::shared_ptr<const ServedModel>> ModelRepository::Ready() const {
  return impl_->Ready();
}
void ModelRepository::OnChange(std::function<void()> callback) {
  impl_->OnChange(std::move(callback));
}

}  // namespace thresher
