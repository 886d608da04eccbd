#include "backend/engine/decoder_engine.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "backend/engine/cache_account.h"
#include "backend/engine/keys_read.h"
#include "backend/engine/layer_pricing.h"
#include "backend/engine/prefix_key.h"
#include "backend/model/decoder_tensor_names.h"
#include "backend/model/weight_reader.h"
#include "backend/sparsity/report.h"
#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

// Rows of logits that are held at once: a vocabulary is wide.
constexpr size_t kLogitRows = 32;

int64_t PagesOf(int64_t slots) { return (slots + kKvPageTokens - 1) / kKvPageTokens; }

KvFormat FormatOf(const CacheRules& rules, DType element, bool rotary) {
  return {.element = element,
          .planes = rules.planes,
          .rotate_on_read = rules.rotate_on_read && rotary,
          .stretch = rules.stretch};
}

/// What begins the keys of the pages of one engine: no two engines share them.
std::string NewScope() {
  static std::atomic<uint64_t> engines = 0;
  return fmt::format("{}/", engines.fetch_add(1));
}

}  // namespace

class CachedText {
 public:
  CachedText(std::shared_ptr<const Policy> policy, const PolicyShape& shape, const KvLayout& layout,
             const ReportDetail& detail, std::string_view scope)
      : layout_(layout),
        policy_(std::move(policy)),
        rules_(policy_ != nullptr ? policy_->cache_rules() : CacheRules()),
        run_(policy_ != nullptr ? policy_->StartCache() : std::make_unique<CacheRun>()),
        account_(shape, layout, policy_ != nullptr ? policy_->text() : "dense", detail),
        key_(scope) {
    if (detail.tokens) keys_read_.emplace(layout.layers(), layout.kv_heads());
    if (policy_ != nullptr) speculation_ = policy_->speculation();
    measures_ = detail.wrong_zeros;
  }

  const KvLayout& layout() const { return layout_; }
  const CachedSequence& sequence() const { return sequence_; }
  bool RescalesAfter(int32_t layer) const { return run_->RescalesAfter(layer); }
  /// What its layers would have cost, on a simulated device.
  v1::Simulation* simulation() { return &simulation_; }
  int32_t tokens() const { return tokens_; }
  bool sums_wanted() const { return rules_.wants_prompt_sums; }
  size_t held_bytes() const { return static_cast<size_t>(slots_) * layout_.token_bytes(); }
  v1::PruningReport Report() const {
    v1::PruningReport report = account_.Report(tokens_, held_bytes());
    if (keys_read_) keys_read_->Report(&report);
    if (!simulation_.preset().empty()) *report.mutable_simulation() = simulation_;
    return report;
  }

  /// Pages of its prompt that others may read, or that it may have from others: those of texts that
  /// evict are written to again.
  bool shares_pages() const { return !rules_.evicts; }

  /// Holds the pages of the prompt that the pool knows; returns how many.
  size_t TakePrefix(const KvPool& pool, std::span<const int32_t> prompt) {
    if (!shares_pages() || sums_wanted()) return 0;
    while (tokens_ + kKvPageTokens < static_cast<int32_t>(prompt.size())) {
      PrefixKey key = key_;
      std::string name = key.Next(prompt.subspan(static_cast<size_t>(tokens_), kKvPageTokens));
      KvPage page = pool.Find(name);
      if (page == nullptr) break;
      key_ = std::move(key);
      names_.push_back(std::move(name));
      AddPage(std::move(page));
      tokens_ += kKvPageTokens;
      slots_ += kKvPageTokens;
    }
    return pages_.size();
  }
  /// Before the first step.
  void SetReservation(KvPool::Reservation reservation) { reservation_ = std::move(reservation); }
  void Touch(KvPool& pool) const { pool.Touch(names_); }

  /// Makes room for the part's tokens; what it adds to the batch is then in sequence().
  absl::Status Begin(const StepPart& part, int32_t first_row) {
    const auto rows = static_cast<int32_t>(part.ids.size());
    if (part.prompt() && tokens_ + rows > part.prompt_tokens) {
      return InvalidArgument("a chunk ends at token {} of a prompt of {}", tokens_ + rows,
                             part.prompt_tokens);
    }
    victims_.clear();
    if (!part.prompt()) run_->PlaceNew(slots_, &victims_);
    if (!part.prompt() && keys_read_) keys_read_->Place(tokens_, victims_);
    if (victims_.empty()) slots_ += rows;
    while (static_cast<int64_t>(pages_.size()) < PagesOf(slots_)) {
      KvPage page = reservation_.Allocate(layout_.page_bytes());
      if (page == nullptr) {
        return ResourceExhausted("the text needs more of the KV cache than was reserved for it");
      }
      AddPage(std::move(page));
    }
    if (part.prompt()) prompt_.insert(prompt_.end(), part.ids.begin(), part.ids.end());
    sequence_ = {.first_row = first_row,
                 .rows = rows,
                 .decode = !part.prompt(),
                 .pages = bytes_,
                 .slots = slots_,
                 .new_slots = victims_};
    if (layout_.format().rotate_on_read) {
      positions_.clear();
      if (part.prompt()) {
        positions_.resize(static_cast<size_t>(slots_));
        std::iota(positions_.begin(), positions_.end(), 0);
      } else {
        run_->Positions(slots_, &positions_);
      }
      sequence_.positions = positions_;
    }
    if (!part.prompt()) {
      sequence_.value_keep = rules_.value_keep;
      sequence_.refetch_threshold = rules_.refetch_threshold;
    } else if (rules_.prompt_sum_rows) {
      sequence_.sums_from =
          std::clamp(part.prompt_tokens - *rules_.prompt_sum_rows - tokens_, 0, rows);
    }
    return absl::OkStatus();
  }

  /// Where row `row` of the part stands.
  int32_t Position(int32_t row) const {
    return sequence_.decode && layout_.format().rotate_on_read ? slots_ - 1 : tokens_ + row;
  }

  const CachedSequence& BeginLayer(int32_t layer) {
    reads_.clear();
    if (sequence_.decode) run_->ChooseReads(layer, slots_, &reads_);
    sequence_.reads = reads_;
    if (sequence_.decode) sequence_.read_stretches = run_->StretchesToRead(layer, slots_);
    sequence_.want_sums = sequence_.sums_from < sequence_.rows && run_->WantsSums(layer);
    return sequence_;
  }

  const std::optional<ZeroSpeculation>& speculation() const { return speculation_; }
  /// Adds the part's rows, if they speculate on zeros.
  void AddSpeculated(std::vector<SpeculatedRows>& to) {
    if (!speculation_) return;
    to.push_back({.first = sequence_.first_row,
                  .rows = sequence_.rows,
                  .rule = *speculation_,
                  .measure = measures_,
                  .record = &speculated_});
  }

  void EndLayer(int32_t layer, const CachedRecord& record) {
    if (sequence_.want_sums) run_->AddSums(layer, slots_, record.sums);
    account_.Add(layer, sequence_, tokens_, record, std::exchange(speculated_, {}));
    if (sequence_.decode && keys_read_)
      keys_read_->Read(layer, tokens_, layout_, sequence_, record);
  }

  absl::Status End(const StepPart& part, KvPool& pool) {
    tokens_ += sequence_.rows;
    if (!part.prompt()) return absl::OkStatus();
    if (shares_pages()) RememberPages(pool);
    if (tokens_ < part.prompt_tokens) return absl::OkStatus();
    prompt_ = {};
    std::vector<std::vector<int32_t>> survivors;
    run_->EndPrompt(tokens_, &survivors);
    if (keys_read_) keys_read_->EndPrompt(tokens_, survivors);
    return survivors.empty() ? absl::OkStatus() : Evict(survivors);
  }

 private:
  void AddPage(KvPage page) {
    bytes_.push_back(page->data());
    pages_.push_back(std::move(page));
  }

  /// Pages whose last token the prompt has written.
  void RememberPages(KvPool& pool) {
    const int32_t before = tokens_ - static_cast<int32_t>(prompt_.size());  // Taken from others.
    while (static_cast<int32_t>(names_.size() + 1) * kKvPageTokens <= tokens_) {
      const size_t page = names_.size();
      const size_t first = page * kKvPageTokens - static_cast<size_t>(before);
      names_.push_back(key_.Next(std::span(prompt_).subspan(first, kKvPageTokens)));
      pool.Remember(names_.back(), pages_[page]);
    }
    Touch(pool);
  }

  /// Copies what survives, for each layer and head, to new pages, and lets go of the old ones.
  absl::Status Evict(const std::vector<std::vector<int32_t>>& survivors) {
    const auto heads = static_cast<size_t>(layout_.kv_heads());
    if (survivors.size() != heads * static_cast<size_t>(layout_.layers())) {
      return Internal("the policy keeps slots of {} heads", survivors.size());
    }
    const std::vector<KvPage> old = std::exchange(pages_, {});
    bytes_.clear();
    slots_ = static_cast<int32_t>(survivors.front().size());
    while (static_cast<int64_t>(pages_.size()) < PagesOf(slots_)) {
      KvPage page = reservation_.Allocate(layout_.page_bytes());
      if (page == nullptr) {
        return ResourceExhausted("the text needs more of the KV cache than was reserved for it");
      }
      AddPage(std::move(page));
    }
    for (size_t i = 0; i < survivors.size(); ++i) {
      if (survivors[i].size() != static_cast<size_t>(slots_)) {
        return Internal("the policy keeps {} slots in one head and {} in another", slots_,
                        survivors[i].size());
      }
      for (int32_t to = 0; to < slots_; ++to) {
        const int32_t from = survivors[i][static_cast<size_t>(to)];
        CopySlot(layout_, static_cast<int32_t>(i / heads), static_cast<int32_t>(i % heads),
                 old[static_cast<size_t>(from / kKvPageTokens)]->data(), from % kKvPageTokens,
                 bytes_[static_cast<size_t>(to / kKvPageTokens)], to % kKvPageTokens);
      }
    }
    return absl::OkStatus();
  }

  const KvLayout& layout_;
  const std::shared_ptr<const Policy> policy_;  // Null: dense.
  const CacheRules rules_;
  const std::unique_ptr<CacheRun> run_;
  CacheAccount account_;
  std::optional<KeysRead> keys_read_;  // Where each token is asked for.
  std::optional<ZeroSpeculation> speculation_;
  bool measures_ = false;         // How much of it goes wrong.
  SpeculationRecord speculated_;  // In the layer that runs.
  v1::Simulation simulation_;
  KvPool::Reservation reservation_;  // Before the pages: its pool outlives them.
  std::vector<KvPage> pages_;
  std::vector<std::byte*> bytes_;  // Of the pages.
  int32_t slots_ = 0;
  int32_t tokens_ = 0;
  // Of the prompt: its tokens that were run, and the pages that others may have.
  std::vector<int32_t> prompt_;
  PrefixKey key_;
  std::vector<std::string> names_;  // Their keys.
  // Of the step.
  CachedSequence sequence_;
  std::vector<int32_t> victims_, reads_, positions_;
};

void CachedTextDeleter::operator()(CachedText* text) const {
  delete text;  // NOLINT: what a deleter is for
}

/// Used under the device's mutex.
struct DecoderEngine::Workspace {
  /// The texts of a step whose caches are kept alike.
  struct Group {
    const KvLayout* layout;
    std::vector<size_t> parts;
    std::vector<CachedSequence> sequences;
    std::vector<CachedRecord> records;
  };
  std::vector<int32_t> ids, positions;
  std::vector<SpeculatedRows> speculated;
  std::vector<Group> groups;
  Decoder::Workspace decoder;
  MatrixBuffer logits;
};

absl::StatusOr<std::unique_ptr<DecoderEngine>> DecoderEngine::Load(
    const std::string& directory, const DecoderConfig& config, std::shared_ptr<Device> device,
    Precision precision, int32_t max_tokens, std::shared_ptr<KvPool> pool) {
  THRESHER_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(directory));
  WeightReader reader(checkpoint, *device, precision, NamesOf(config.family).prefix);
  DecoderConfig served = config;
  // Rotations need no more; a table of positions has the rows that it has.
  if (config.rotary) served.max_tokens = std::min(config.max_tokens, max_tokens);
  THRESHER_ASSIGN_OR_RETURN(Decoder decoder, Decoder::Load(served, reader));
  std::unique_ptr<DecoderEngine> engine(new DecoderEngine(std::move(device), precision, max_tokens,
                                                          std::move(checkpoint), std::move(decoder),
                                                          std::move(pool)));
  engine->parameters_ = reader.parameters();
  engine->packed_bytes_ = reader.packed_bytes();
  return engine;
}

DecoderEngine::DecoderEngine(std::shared_ptr<Device> device, Precision precision,
                             int32_t max_tokens, Checkpoint checkpoint, Decoder decoder,
                             std::shared_ptr<KvPool> pool)
    : device_(std::move(device)),
      max_tokens_(max_tokens),
      checkpoint_(std::move(checkpoint)),
      decoder_(std::move(decoder)),
      shape_{.layers = decoder_.config().layers,
             .heads = decoder_.config().heads,
             .kv_heads = decoder_.config().kv_heads,
             .head_dim = decoder_.config().head_dim,
             .hidden_size = decoder_.config().hidden_size,
             .ffn_size = decoder_.config().intermediate_size,
             .ffn_matrices = decoder_.config().gated ? 3 : 2,
             .relu = !decoder_.config().gated && decoder_.config().activation == Activation::kRelu,
             .causal = true},
      element_(precision == Precision::kF32 ? DType::kF32 : DType::kBF16),
      pool_(std::move(pool)),
      scope_(NewScope()),
      workspace_(std::make_unique<Workspace>()) {}

DecoderEngine::~DecoderEngine() { pool_->Forget(scope_); }

absl::StatusOr<std::shared_ptr<const Policy>> DecoderEngine::ParsePolicy(
    std::string_view text) const {
  THRESHER_ASSIGN_OR_RETURN(auto policy, Policy::Parse(text, shape_));
  THRESHER_RETURN_IF_ERROR(CheckHardware(*device_, *policy));
  return policy;
}

absl::Status DecoderEngine::ValidatePrompt(std::span<const int32_t> ids) const {
  if (ids.empty()) return InvalidArgument("the prompt has no tokens");
  if (ids.size() > static_cast<size_t>(max_tokens_)) {
    return InvalidArgument("the prompt has {} tokens; the model's context is {}", ids.size(),
                           max_tokens_);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config().vocab_size) {
      return InvalidArgument("token {}: id {} is not within 0 .. {}", i, ids[i],
                             config().vocab_size - 1);
    }
  }
  return absl::OkStatus();
}

int32_t DecoderEngine::MaxTokens(const Policy* policy) const {
  // Where positions are those within the cache, a text that evicts need not end.
  const bool unending =
      policy != nullptr && policy->cache_rules().rotate_on_read && !decoder_.rotary().empty() &&
      policy->CacheSlots(max_tokens_, std::numeric_limits<int32_t>::max()) <= max_tokens_;
  return unending ? std::numeric_limits<int32_t>::max() : max_tokens_;
}

const KvLayout& DecoderEngine::LayoutOf(const Policy* policy) const {
  const KvFormat format = FormatOf(policy != nullptr ? policy->cache_rules() : CacheRules(),
                                   element_, !decoder_.rotary().empty());
  MutexLock lock(&layouts_mutex_);
  for (const auto& layout : layouts_) {
    if (layout->format() == format) return *layout;
  }
  layouts_.push_back(
      std::make_unique<KvLayout>(format, shape_.layers, shape_.kv_heads, shape_.head_dim));
  return *layouts_.back();
}

size_t DecoderEngine::CacheBytes(const Policy* policy, int32_t prompt, int32_t tokens) const {
  const KvLayout& layout = LayoutOf(policy);
  int64_t pages = PagesOf(std::max(prompt, tokens));
  if (policy != nullptr && policy->cache_rules().evicts) {
    // While it evicts, the prompt and what stays of it are both there.
    pages = PagesOf(prompt) + PagesOf(policy->CacheSlots(prompt, tokens));
  }
  return static_cast<size_t>(pages) * layout.page_bytes();
}

absl::StatusOr<CachedTextPtr> DecoderEngine::Start(std::shared_ptr<const Policy> policy,
                                                   const ReportDetail& detail, size_t bytes,
                                                   std::span<const int32_t> prompt) {
  const KvLayout& layout = LayoutOf(policy.get());
  const KvFormat& format = layout.format();
  // What a prompt's keys and values depend on beside its tokens.
  const auto speculation = policy != nullptr ? policy->speculation() : std::nullopt;
  const std::string scope = fmt::format(
      "{}{}{}{}/{}/{}/", scope_, Name(format.element), format.rotate_on_read ? "r" : "",
      format.stretch > 0 ? fmt::format("b{}", format.stretch) : "",
      format.planes ? fmt::format("{}+{}", format.planes->msb_bits, format.planes->lsb_bits) : "",
      speculation ? fmt::format("z{}m{}", speculation->bits, speculation->margin) : "");
  CachedTextPtr text(new CachedText(std::move(policy), shape_, layout, detail, scope));
  // What others have left is held before room is made, which might be at its cost.
  const size_t found = text->TakePrefix(*pool_, prompt);
  KvPool::Reservation reservation;
  if (!pool_->Reserve(bytes - std::min(bytes, found * layout.page_bytes()), &reservation)) {
    return ResourceExhausted("the KV cache has no room for {} bytes now", bytes);
  }
  text->SetReservation(std::move(reservation));
  text->Touch(*pool_);
  const auto whole = static_cast<int64_t>(prompt.size()) / kKvPageTokens;
  pool_->CountPrefix(static_cast<int64_t>(found), whole - static_cast<int64_t>(found));
  return text;
}

absl::Status DecoderEngine::Step(std::span<const StepPart> parts, OnLogits on_logits) {
  MutexLock lock(&device_->mutex());
  Workspace& w = *workspace_;
  w.ids.clear();
  w.positions.clear();
  for (Workspace::Group& group : w.groups) group.parts.clear();  // Their memory stays.
  for (size_t p = 0; p < parts.size(); ++p) {
    CachedText& text = *parts[p].text;
    THRESHER_RETURN_IF_ERROR(text.Begin(parts[p], static_cast<int32_t>(w.ids.size())));
    for (size_t i = 0; i < parts[p].ids.size(); ++i) {
      w.ids.push_back(parts[p].ids[i]);
      w.positions.push_back(text.Position(static_cast<int32_t>(i)));
    }
    auto group = std::ranges::find(w.groups, &text.layout(), &Workspace::Group::layout);
    if (group == w.groups.end()) {
      group = w.groups.insert(group, {.layout = &text.layout()});
    }
    group->parts.push_back(p);
  }
  THRESHER_RETURN_IF_ERROR(Prepare(parts));
  w.speculated.clear();
  for (const StepPart& part : parts) part.text->AddSpeculated(w.speculated);
  const DecoderBatch batch = {.ids = w.ids, .positions = w.positions, .speculated = w.speculated};
  THRESHER_RETURN_IF_ERROR(decoder_.Embed(batch, w.decoder));
  std::vector<CacheGroup> groups;
  LayerPricing pricing(*device_, shape_, recorder_.get());
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    groups.clear();
    for (Workspace::Group& group : w.groups) {
      if (group.parts.empty()) continue;
      group.sequences.clear();
      for (const size_t p : group.parts) {
        group.sequences.push_back(parts[p].text->BeginLayer(layer));
      }
      group.records.resize(group.parts.size());
      groups.push_back({group.layout, group.sequences, group.records});
    }
    THRESHER_RETURN_IF_ERROR(decoder_.RunLayer(layer, batch, groups, w.decoder));
    if (pricing.on()) THRESHER_RETURN_IF_ERROR(Price(layer, parts, pricing));
    for (const Workspace::Group& group : w.groups) {
      for (size_t i = 0; i < group.parts.size(); ++i) {
        parts[group.parts[i]].text->EndLayer(layer, group.records[i]);
      }
    }
  }
  THRESHER_RETURN_IF_ERROR(TellLogits(parts, on_logits));
  for (const StepPart& part : parts) THRESHER_RETURN_IF_ERROR(part.text->End(part, *pool_));
  pricing.Finish();
  return absl::OkStatus();
}

absl::Status DecoderEngine::Prepare(std::span<const StepPart> parts) {
  for (const StepPart& part : parts) {
    const auto& rule = part.text->speculation();
    if (!rule || decoder_.IsPrepared(rule->bits)) continue;
    THRESHER_RETURN_IF_ERROR(checkpoint_.CheckUnchanged());
    WeightReader reader(checkpoint_, *device_, PrecisionOfBits(rule->bits),
                        NamesOf(config().family).prefix);
    THRESHER_RETURN_IF_ERROR(decoder_.Prepare(rule->bits, reader));
  }
  return absl::OkStatus();
}

void DecoderEngine::SetRecorder(std::shared_ptr<LayerRecorder> recorder) {
  MutexLock lock(&device_->mutex());
  recorder_ = std::move(recorder);
}

absl::Status DecoderEngine::Price(int32_t layer, std::span<const StepPart> parts,
                                  LayerPricing& pricing) const {
  std::vector<SequenceRecord> sequences;
  std::vector<v1::Simulation*> charges;
  for (const Workspace::Group& group : workspace_->groups) {
    for (size_t i = 0; i < group.parts.size(); ++i) {
      CachedText& text = *parts[group.parts[i]].text;
      sequences.push_back(RecordOf(shape_, *group.layout, text.sequence(), text.tokens(),
                                   group.records[i], text.RescalesAfter(layer)));
      charges.push_back(text.simulation());
    }
  }
  return pricing.Price(layer, std::move(sequences), charges);
}

absl::Status DecoderEngine::TellLogits(std::span<const StepPart> parts, OnLogits on_logits) {
  struct Row {
    size_t part;
    int32_t row;
  };
  std::vector<Row> wanted;
  std::vector<int32_t> rows;
  int32_t first = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const auto count = static_cast<int32_t>(parts[p].ids.size());
    int32_t row = 0;
    if (parts[p].logits == StepPart::Logits::kNone) row = count;
    if (parts[p].logits == StepPart::Logits::kLast) row = count - 1;
    for (; row < count; ++row) {
      wanted.push_back({p, row});
      rows.push_back(first + row);
    }
    first += count;
  }
  Workspace& w = *workspace_;
  for (size_t begin = 0; begin < rows.size(); begin += kLogitRows) {
    const size_t count = std::min(kLogitRows, rows.size() - begin);
    w.logits.Resize(static_cast<int64_t>(count), config().vocab_size);
    THRESHER_RETURN_IF_ERROR(
        decoder_.Logits(std::span(rows).subspan(begin, count), w.decoder, w.logits.view()));
    for (size_t i = 0; i < count; ++i) {
      const ConstMatrix logits = w.logits.view();
      on_logits(wanted[begin + i].part, wanted[begin + i].row,
                logits.row_span(static_cast<int64_t>(i)));
    }
  }
  return absl::OkStatus();
}

v1::PruningReport DecoderEngine::Report(const CachedText& text) { return text.Report(); }
int32_t DecoderEngine::Tokens(const CachedText& text) { return text.tokens(); }

}  // namespace thresher
