#include "backend/device/cpu/onednn_product.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <unordered_map>
#include <utility>

#include "backend/device/cpu/onednn_compat.h"
#include "backend/device/cpu/openmp.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using dnnl::memory;

// Heights of primitives, ascending. Eight rows cost an AMX tile as much as sixteen, but not
// AVX-512.
constexpr int64_t kBuckets[] = {8, 16, 32, 64, 128, 256};
static_assert(kBuckets[std::size(kBuckets) - 1] == kMaxChunkRows);
// The longest K over which bfloat16 kernels of different heights agree.
constexpr int64_t kMaxBF16Depth = 1536;

/// oneDNN is Debian's OpenMP build, but all parallelism is the device's own: as long as this lives,
/// the calling thread's OpenMP has one thread, both where primitives are made and where they run.
class SingleThreadedOpenMp {
 public:
  SingleThreadedOpenMp() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreadedOpenMp() { omp_set_num_threads(before_); }
  SingleThreadedOpenMp(const SingleThreadedOpenMp&) = delete;
  SingleThreadedOpenMp& operator=(const SingleThreadedOpenMp&) = delete;

 private:
  int before_;
};

memory::data_type ElementType(Precision precision) {
  switch (precision) {
    case Precision::kBF16:
      return memory::data_type::bf16;
    case Precision::kInt8:
      return memory::data_type::s8;
    default:
      break;
  }
  return memory::data_type::f32;
}

size_t ElementSize(Precision precision) { return memory::data_type_size(ElementType(precision)); }

memory::data_type AccumulatorType(Precision precision) {
  return precision == Precision::kInt8 ? memory::data_type::s32 : memory::data_type::f32;
}

/// Memory for primitives' scratchpads: one for each thread, since primitives are shared by all.
std::byte* ThreadScratchpad(size_t size) {
  thread_local AlignedBuffer<std::byte> scratchpad;
  scratchpad.Resize(size);
  return scratchpad.data();
}

}  // namespace

/// The kernels of one panel shape: rows x k (of the K pieces' total) times k x cols.
class OneDnnKernel {
 public:
  OneDnnKernel(const dnnl::engine& engine, OneDnn::Accept accept, Precision precision, int64_t k,
               int64_t cols)
      : engine_(engine), accept_(accept), precision_(precision), k_(k), cols_(cols) {
    const auto begin = std::chrono::steady_clock::now();
    // Pieces of K of equal depth, in whole blocks of 64, the last perhaps shorter.
    const int64_t limit = precision == Precision::kBF16 ? kMaxBF16Depth : k;
    const int64_t pieces = (k + limit - 1) / limit;
    const int64_t depth = pieces == 1 ? k : ((k + pieces - 1) / pieces + 63) / 64 * 64;
    for (int64_t first = 0; first < k; first += depth) {
      pieces_.push_back({.first = first, .depth = std::min(depth, k - first)});
    }
    MakeBuckets();
    KeepInvariantBuckets();
    probe_seconds_ =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  bool usable() const { return !buckets_.empty(); }
  int64_t cols() const { return cols_; }
  OneDnn::Probe probe() const {
    OneDnn::Probe probe{.implementation = usable() ? implementation_ : "",
                        .seconds = probe_seconds_};
    for (const Bucket& bucket : buckets_) probe.buckets.push_back(bucket.rows);
    return probe;
  }

  /// Bytes of one packed panel; each piece starts at a multiple of 64.
  size_t packed_bytes() const {
    return pieces_.back().offset + RoundUp(pieces_.back().packed.get_size());
  }

  /// Packs a panel: `rows` [cols, k] of elements, in a checkpoint's layout.
  void Pack(const std::byte* rows, std::byte* packed) const {
    dnnl::stream stream(engine_);
    for (const Piece& piece : pieces_) {
      const memory::desc plain({piece.depth, cols_}, ElementType(precision_), memory::dims{1, k_});
      memory from(plain, engine_,
                  const_cast<std::byte*>(rows + piece.first * Element()));  // Only read.
      memory to(piece.packed, engine_, packed + piece.offset);
      dnnl::reorder(from, to).execute(stream, from, to);
      stream.wait();
    }
  }

  /// Product::Multiply for one packed panel. Rows beyond `rows` are read from a padded copy.
  void Multiply(const std::byte* source, int64_t source_stride, int64_t rows,
                const std::byte* packed, std::byte* accumulators) const {
    dnnl::stream stream(engine_);
    while (rows > 0) {
      const Bucket& bucket = ChooseBucket(rows);
      const int64_t taken = std::min(rows, bucket.rows);
      const std::byte* from = source;
      if (taken < bucket.rows || source_stride != k_) {
        thread_local AlignedBuffer<std::byte> copy;
        const size_t row_bytes = static_cast<size_t>(k_) * Element();
        copy.Resize(static_cast<size_t>(bucket.rows) * row_bytes);
        for (int64_t r = 0; r < taken; ++r) {
          std::memcpy(copy.data() + r * row_bytes, source + r * source_stride * Element(),
                      row_bytes);
        }
        std::memset(copy.data() + taken * row_bytes, 0, (bucket.rows - taken) * row_bytes);
        from = copy.data();
      }
      Run(stream, bucket, from, packed, accumulators);
      source += taken * source_stride * Element();
      accumulators += taken * cols_ * 4;  // float and int32_t alike
      rows -= taken;
    }
    stream.wait();
  }

 private:
  /// A range of K, and where its weights lie in a packed panel.
  struct Piece {
    int64_t first = 0;
    int64_t depth = 0;
    size_t offset = 0;
    memory::desc packed;
  };
  struct Primitive {
    dnnl::matmul matmul;
    memory::desc source;
    memory::desc destination;
    memory::desc scratchpad;
  };
  struct Bucket {
    int64_t rows = 0;
    std::vector<Primitive> pieces;
  };

  static size_t RoundUp(size_t bytes) { return (bytes + 63) / 64 * 64; }
  int64_t Element() const { return static_cast<int64_t>(ElementSize(precision_)); }

  /// The primitive of a piece; none where there is no acceptable implementation. The layout of the
  /// packed weights is oneDNN's choice for the largest bucket, and given to the others.
  std::optional<Primitive> MakePrimitive(int64_t rows, Piece& piece) {
    const memory::desc source({rows, piece.depth}, ElementType(precision_), memory::dims{k_, 1});
    const memory::desc weights =
        piece.packed.get_size() > 0
            ? piece.packed
            : memory::desc({piece.depth, cols_}, ElementType(precision_), memory::format_tag::any);
    const memory::desc destination({rows, cols_}, AccumulatorType(precision_),
                                   memory::dims{cols_, 1});
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (piece.first > 0) {
      dnnl::post_ops add;
      add.append_sum(1.0f);
      attributes.set_post_ops(add);
    }
    try {
      const auto descriptor = MakeMatmul(engine_, source, weights, destination, attributes);
      const char* implementation = descriptor.impl_info_str();
      if (!accept_(precision_, implementation)) return std::nullopt;
      implementation_ = implementation;
      piece.packed = descriptor.weights_desc();
      return Primitive{dnnl::matmul(descriptor), source, destination, descriptor.scratchpad_desc()};
    } catch (const dnnl::error&) {
      return std::nullopt;
    }
  }

  void MakeBuckets() {
    for (auto rows = std::rbegin(kBuckets); rows != std::rend(kBuckets); ++rows) {
      Bucket bucket{.rows = *rows};
      for (Piece& piece : pieces_) {
        std::optional<Primitive> primitive = MakePrimitive(*rows, piece);
        if (!primitive) break;
        bucket.pieces.push_back(*std::move(primitive));
      }
      if (bucket.pieces.size() == pieces_.size()) {
        buckets_.insert(buckets_.begin(), std::move(bucket));
      } else if (buckets_.empty()) {
        return;  // Without the largest there is nothing to compare with.
      }
    }
    size_t offset = 0;
    for (Piece& piece : pieces_) {
      piece.offset = offset;
      offset += RoundUp(piece.packed.get_size());
    }
  }

  void KeepInvariantBuckets() {
    if (buckets_.empty()) return;
    std::minstd_rand random(1);
    // Elements of random bits are not all numbers; small integers and their sums are, but would add
    // up exactly. These have random mantissas.
    const auto element = [&random, this](std::byte* out) {
      const float value = std::normal_distribution<float>()(random);
      if (precision_ == Precision::kF32) std::memcpy(out, &value, sizeof(value));
      const uint16_t half = ToBF16(value);
      if (precision_ == Precision::kBF16) std::memcpy(out, &half, sizeof(half));
      if (precision_ == Precision::kInt8) *out = static_cast<std::byte>(random() >> 8);
    };
    const size_t row_bytes = static_cast<size_t>(k_) * ElementSize(precision_);
    std::vector<std::byte> weights(static_cast<size_t>(cols_) * row_bytes);
    for (size_t i = 0; i < weights.size(); i += ElementSize(precision_)) element(&weights[i]);
    AlignedBuffer<std::byte> packed(packed_bytes());
    Pack(weights.data(), packed.data());

    const int64_t most = buckets_.back().rows;
    AlignedBuffer<std::byte> source(static_cast<size_t>(most) * row_bytes);
    for (size_t i = 0; i < row_bytes; i += ElementSize(precision_)) element(&source[i]);
    for (int64_t r = 1; r < most; ++r) {
      std::memcpy(&source[r * row_bytes], source.data(), row_bytes);
    }
    AlignedBuffer<float> out(static_cast<size_t>(most * cols_));
    std::vector<float> expected;
    const auto agrees = [&](const Bucket& bucket) {
      dnnl::stream stream(engine_);
      Run(stream, bucket, source.data(), packed.data(), reinterpret_cast<std::byte*>(out.data()));
      stream.wait();
      if (expected.empty()) expected.assign(out.data(), out.data() + cols_);
      for (int64_t r = 0; r < bucket.rows; ++r) {
        const float* row = out.data() + r * cols_;
        if (std::memcmp(row, expected.data(), cols_ * sizeof(float)) != 0) return false;
      }
      return true;
    };
    if (!agrees(buckets_.back())) {
      buckets_.clear();
      return;
    }
    std::erase_if(buckets_, [&](const Bucket& bucket) { return !agrees(bucket); });
  }

  /// The largest bucket that `rows` fill, unless the next larger one wastes little.
  const Bucket& ChooseBucket(int64_t rows) const {
    auto next = std::find_if(buckets_.begin(), buckets_.end(),
                             [rows](const Bucket& bucket) { return bucket.rows >= rows; });
    if (next == buckets_.end()) return buckets_.back();
    if (next == buckets_.begin() || next->rows * 3 <= rows * 4) return *next;
    return *std::prev(next);
  }

  void Run(dnnl::stream& stream, const Bucket& bucket, const std::byte* source,
           const std::byte* packed, std::byte* accumulators) const {
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const Piece& piece = pieces_[i];
      const Primitive& primitive = bucket.pieces[i];
      // oneDNN's memory is never const; the source and the weights are only read.
      const memory from(primitive.source, engine_,
                        const_cast<std::byte*>(source + piece.first * Element()));
      const memory weights(piece.packed, engine_, const_cast<std::byte*>(packed + piece.offset));
      const memory to(primitive.destination, engine_, accumulators);
      const memory scratchpad(primitive.scratchpad, engine_,
                              ThreadScratchpad(primitive.scratchpad.get_size()));
      primitive.matmul.execute(stream, {{DNNL_ARG_SRC, from},
                                        {DNNL_ARG_WEIGHTS, weights},
                                        {DNNL_ARG_DST, to},
                                        {DNNL_ARG_SCRATCHPAD, scratchpad}});
    }
  }

  dnnl::engine engine_;
  OneDnn::Accept accept_;
  Precision precision_;
  int64_t k_;
  int64_t cols_;
  std::vector<Piece> pieces_;
  std::vector<Bucket> buckets_;  // Ascending.
  std::string implementation_;
  double probe_seconds_ = 0.0;
};

namespace {

class OneDnnProduct final : public Product {
 public:
  /// `last` is the kernel of the last panel, when it is narrower.
  OneDnnProduct(WeightRows& weight, std::vector<float>& scales, int64_t panel_cols,
                std::shared_ptr<const OneDnnKernel> kernel,
                std::shared_ptr<const OneDnnKernel> last)
      : precision_(weight.precision()),
        k_(weight.cols()),
        cols_(weight.rows()),
        panel_cols_(panel_cols),
        kernel_(std::move(kernel)),
        last_(std::move(last)) {
    const int64_t panels = (cols_ + panel_cols_ - 1) / panel_cols_;
    packed_.Resize(static_cast<size_t>(panels - 1) * kernel_->packed_bytes() +
                   last_->packed_bytes());
    const size_t row_bytes = static_cast<size_t>(k_) * weight.element_size();
    std::vector<std::byte> rows(static_cast<size_t>(panel_cols_) * row_bytes);
    scales.resize(static_cast<size_t>(cols_));
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * panel_cols_;
      for (int64_t n = first; n < std::min(first + panel_cols_, cols_); ++n) {
        scales[n] = weight.Convert(n, &rows[(n - first) * row_bytes]);
      }
      Kernel(panel).Pack(rows.data(), packed_.data() + panel * kernel_->packed_bytes());
    }
  }

  SourceForm source_form() const override {
    switch (precision_) {
      case Precision::kBF16:
        return SourceForm::kBF16;
      case Precision::kInt8:
        return SourceForm::kS8;
      default:
        break;
    }
    return SourceForm::kF32;
  }
  int64_t source_cols() const override { return k_; }
  int64_t panel_cols() const override { return panel_cols_; }
  int64_t row_step() const override { return 16; }
  int64_t accumulator_stride(int64_t panel) const override { return Kernel(panel).cols(); }
  size_t bytes() const override { return packed_.size(); }

  absl::Status Multiply(const void* source, int64_t source_stride, int64_t rows,
                        std::span<const ColumnRange> /*columns*/, int64_t panel,
                        void* accumulators) const override {
    const SingleThreadedOpenMp single;
    try {
      Kernel(panel).Multiply(static_cast<const std::byte*>(source), source_stride, rows,
                             packed_.data() + panel * kernel_->packed_bytes(),
                             static_cast<std::byte*>(accumulators));
    } catch (const std::exception& error) {
      return Internal("oneDNN product of {} rows, panel {}: {}", rows, panel, error.what());
    }
    return absl::OkStatus();
  }

 private:
  const OneDnnKernel& Kernel(int64_t panel) const {
    return (panel + 1) * panel_cols_ < cols_ ? *kernel_ : *last_;
  }

  Precision precision_;
  int64_t k_;
  int64_t cols_;
  int64_t panel_cols_;
  std::shared_ptr<const OneDnnKernel> kernel_;
  std::shared_ptr<const OneDnnKernel> last_;
  AlignedBuffer<std::byte> packed_;
};

}  // namespace

bool OneDnn::AcceptGood(Precision precision, std::string_view implementation) {
  const auto has = [implementation](std::string_view part) {
    return implementation.find(part) != std::string_view::npos;
  };
  // The others copy the weights into their own layout at every call.
  if (!implementation.starts_with("brg")) return false;
  // Without VNNI int8's are wrong: pairs of products are added in 16 bits, and saturate.
  return precision != Precision::kInt8 || has("vnni") || has("amx");
}

OneDnn::OneDnn(Accept accept) : accept_(accept), engine_(dnnl::engine::kind::cpu, 0) {}
OneDnn::~OneDnn() = default;

std::string OneDnn::Version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

std::shared_ptr<const OneDnnKernel> OneDnn::FindKernel(Precision precision, int64_t k,
                                                       int64_t cols) {
  MutexLock lock(&mutex_);
  std::shared_ptr<const OneDnnKernel>& kernel = kernels_[{precision, k, cols}];
  if (kernel == nullptr) {
    kernel = std::make_shared<const OneDnnKernel>(engine_, accept_, precision, k, cols);
  }
  return kernel;
}

absl::StatusOr<OneDnn::Probe> OneDnn::ProbeKernel(Precision precision, int64_t k, int64_t cols) {
  const SingleThreadedOpenMp single;
  try {
    return FindKernel(precision, k, cols)->probe();
  } catch (const std::exception& error) {
    return Internal("oneDNN kernel for [{}, {}] in {}: {}", cols, k, Name(precision), error.what());
  }
}

absl::StatusOr<std::unique_ptr<Product>> OneDnn::Pack(WeightRows& weight,
                                                      std::vector<float>& scales) {
  const int64_t panel_cols = ChoosePanelCols(weight.rows());
  const int64_t last_cols = (weight.rows() - 1) % panel_cols + 1;
  // A sliver is not worth a primitive, and too narrow for the probe to see much.
  if (last_cols < 32) return nullptr;
  const SingleThreadedOpenMp single;
  try {
    const auto last = FindKernel(weight.precision(), weight.cols(), last_cols);
    const auto kernel = weight.rows() > panel_cols
                            ? FindKernel(weight.precision(), weight.cols(), panel_cols)
                            : last;
    if (!kernel->usable() || !last->usable()) return nullptr;
    return std::make_unique<OneDnnProduct>(weight, scales, panel_cols, kernel, last);
  } catch (const std::exception& error) {
    return Internal("packing [{}, {}] in {} with oneDNN: {}", weight.rows(), weight.cols(),
                    Name(weight.precision()), error.what());
  }
}

}  // namespace thresher
