// A model without weights: one token for each byte of text, logits that a test can predict, and
// runs that it can hold.
#ifndef THRESHER_TESTS_SERVER_FAKE_MODEL_H_
#define THRESHER_TESTS_SERVER_FAKE_MODEL_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/scheduler/scheduler.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"
#include "server/model_repository.h"

namespace thresher::testing {

class FakeTokenizer final : public Tokenizer {
 public:
  absl::StatusOr<Encoding> Encode(std::string_view text,
                                  const EncodeOptions& options) const override {
    Encoding encoding;
    Append(text, 0, &encoding);
    return Limit(std::move(encoding), options);
  }
  absl::StatusOr<Encoding> EncodePair(std::string_view first, std::string_view second,
                                      const EncodeOptions& options) const override {
    Encoding encoding;
    Append(first, 0, &encoding);
    Append(second, 1, &encoding);
    return Limit(std::move(encoding), options);
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool) const override {
    return std::string(ids.begin(), ids.end());
  }
  std::unique_ptr<TextStream> DecodeStream(bool) const override {
    class Stream final : public TextStream {
      absl::StatusOr<std::string> Push(int32_t id) override {
        return std::string(1, static_cast<char>(id));
      }
      std::string Finish() override { return ""; }
    };
    return std::make_unique<Stream>();
  }
  std::string_view TokenText(int32_t) const override { return "t"; }
  int32_t TokenId(std::string_view) const override { return -1; }
  bool IsSpecial(int32_t) const override { return false; }
  int32_t vocab_size() const override { return 128; }
  int32_t model_max_length() const override { return 0; }

 private:
  static void Append(std::string_view text, int32_t sequence, Encoding* encoding) {
    for (size_t i = 0; i < text.size(); ++i) {
      const auto at = static_cast<int32_t>(i);
      encoding->tokens.push_back({text[i], sequence, at, at + 1, sequence});
    }
  }
  static absl::StatusOr<Encoding> Limit(Encoding encoding, const EncodeOptions& options) {
    const auto limit = static_cast<size_t>(options.max_tokens);
    if (limit == 0 || encoding.tokens.size() <= limit) return encoding;
    if (!options.truncate) {
      return InvalidArgument("{} tokens; the limit is {}", encoding.tokens.size(), limit);
    }
    encoding.tokens.resize(limit);
    encoding.truncated = true;
    return encoding;
  }
};

/// Logits are the first id and the length. A '!' is no valid token.
class FakeEngine final : public Engine {
 public:
  /// Runs wait until Open.
  void Close() { SetOpen(false); }
  void Open() { SetOpen(true); }
  /// Waits until so many runs have begun.
  void Await(int runs) {
    MutexLock lock(&mutex_);
    while (runs_ < runs) changed_.Wait(&mutex_);
  }
  int runs() {
    MutexLock lock(&mutex_);
    return runs_;
  }

  absl::Status Validate(const Sequence& sequence) const override {
    for (const int32_t id : sequence.ids) {
      if (id == '!' || id < 0 || id >= 128)
        return InvalidArgument("token id {} is out of range", id);
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<const Policy>> ParsePolicy(std::string_view text) const override {
    return Policy::Parse(text, {.layers = 2, .heads = 2, .kv_heads = 2, .head_dim = 4});
  }
  int64_t Cost(const Sequence& sequence) const override {
    return static_cast<int64_t>(sequence.ids.size());
  }
  absl::Status Run(std::span<const Sequence* const> sequences,
                   std::span<SequenceOutput> outputs) override {
    MutexLock lock(&mutex_);
    ++runs_;
    changed_.SignalAll();
    while (!open_) changed_.Wait(&mutex_);
    for (size_t i = 0; i < sequences.size(); ++i) {
      const std::vector<int32_t>& ids = sequences[i]->ids;
      outputs[i].logits = {static_cast<float>(ids.front()), static_cast<float>(ids.size())};
      outputs[i].logit_rows = 1;
      outputs[i].logit_cols = 2;
      outputs[i].embedding = outputs[i].logits;
    }
    return absl::OkStatus();
  }

 private:
  void SetOpen(bool open) {
    MutexLock lock(&mutex_);
    open_ = open;
    changed_.SignalAll();
  }

  Mutex mutex_;
  CondVar changed_;
  bool open_ = true;
  int runs_ = 0;
};

/// A classifier of two labels, at most 8 tokens long, in version 1.
inline std::shared_ptr<ServedModel> MakeFakeModel(const std::string& name) {
  auto served = std::make_shared<ServedModel>();
  served->name = name;
  served->version = "1";
  served->model = std::make_shared<LoadedModel>();
  ModelInfo& info = served->model->info;
  info.architecture = "FakeForSequenceClassification";
  info.task = Task::kSequenceClassification;
  info.labels = {"no", "yes"};
  info.max_tokens = 8;
  info.layers = 3;
  served->model->tokenizer = std::make_unique<FakeTokenizer>();
  served->engine = std::make_shared<FakeEngine>();
  return served;
}

inline FakeEngine& EngineOf(const ServedModel& model) {
  return static_cast<FakeEngine&>(*model.engine);
}

/// Keeps a scheduler's executor busy from Hold until Release, so that what is asked in between
/// waits.
class ExecutorHold {
 public:
  ~ExecutorHold() { Release(); }
  void Hold(Scheduler& scheduler) {
    blocker_ = std::make_shared<FakeEngine>();
    blocker_->Close();
    std::vector<Job> jobs(1);
    jobs[0].engine = blocker_;
    jobs[0].sequence.ids = {1};
    jobs[0].done = [](const absl::StatusOr<JobResult>&) {};
    ASSERT_TRUE(scheduler.Submit(std::move(jobs)).ok());
    blocker_->Await(1);
  }
  void Release() {
    if (blocker_ != nullptr) blocker_->Open();
    blocker_.reset();
  }

 private:
  std::shared_ptr<FakeEngine> blocker_;
};

}  // namespace thresher::testing

#endif  // THRESHER_TESTS_SERVER_FAKE_MODEL_H_
