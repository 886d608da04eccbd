// Attention over KV caches: each device against the reference, for random caches of all formats and
// rules; a prompt's bits however it is cut; invariance under batching and threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backend/device/device.h"
#include "backend/device/kv_cache.h"
#include "backend/tensor/status.h"
#include "tests/device/random_data.h"

namespace thresher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RandomData;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::unique_ptr<Device> MakeDevice(const std::string& name, int threads = 2) {
  auto device = CreateDevice(name, {.threads = threads});
  EXPECT_TRUE(device.ok()) << Message(device.status());
  return *std::move(device);
}

RotaryTable MakeRotary(int32_t half, int32_t positions) {
  RotaryTable table{.half = half};
  for (int32_t p = 0; p < positions; ++p) {
    for (int32_t i = 0; i < half; ++i) {
      const double angle = p * std::pow(100.0, -static_cast<double>(i) / half);
      table.cos.push_back(static_cast<float>(std::cos(angle)));
      table.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

/// The pages of one sequence, and what CachedSequence refers to.
struct Text {
  Text(const KvLayout& layout, int32_t slots, int32_t rows, bool decode) : rows(rows) {
    for (int32_t p = 0; p * kKvPageTokens < slots; ++p) {
      buffers.emplace_back(layout.page_bytes());
      // What lies in slots that are not held must not matter: NaN in every format.
      std::memset(buffers.back().data(), 0xff, layout.page_bytes());
      pages.push_back(buffers.back().data());
    }
    rules.rows = rows;
    rules.decode = decode;
    rules.slots = slots;
  }
  Text(Text&&) = default;

  CachedSequence sequence(int32_t first_row) const {
    CachedSequence result = rules;
    result.first_row = first_row;
    result.pages = pages;
    result.new_slots = new_slots;
    result.reads = reads;
    result.positions = positions;
    return result;
  }
  std::byte* page(int32_t slot) const { return pages[static_cast<size_t>(slot / kKvPageTokens)]; }

  int32_t rows;
  std::vector<AlignedBuffer<std::byte>> buffers;
  std::vector<std::byte*> pages;
  std::vector<int32_t> new_slots, reads, positions;
  CachedSequence rules;  // But for the above.
};

/// Texts and the queries of their rows, one text's after the other's.
struct Batch {
  Batch(AttentionShape shape, const KvFormat& format, int32_t layers = 1)
      : shape(shape), layout(format, layers, shape.kv_heads, shape.head_dim) {
    if (format.rotate_on_read) rotary = MakeRotary(shape.head_dim / 2, 1024);
  }

  /// Another text, its caches full of random rows.
  Text& Add(RandomData& random, int32_t slots, int32_t rows, bool decode) {
    Text text(layout, slots, rows, decode);
    const int32_t dim = shape.head_dim;
    for (int32_t l = 0; l < layout.layers(); ++l) {
      for (int32_t h = 0; h < shape.kv_heads; ++h) {
        const MatrixBuffer keys = random.Normal(slots, dim, 1.5f);
        const MatrixBuffer values = random.Normal(slots, dim);
        for (int32_t s = 0; s < slots; ++s) {
          const int32_t at = s % kKvPageTokens;
          StoreKeyRow(layout, keys.view().row(s), at, layout.keys(text.page(s), l, h));
          StoreValueRow(layout, values.view().row(s), at, layout.values(text.page(s), l, h));
          if (layout.format().stretch == 0) continue;
          BoundKeys(layout, layout.keys(text.page(s), l, h), at, at + 1,
                    layout.bounds(text.page(s), l, h));
        }
      }
    }
    if (layout.format().rotate_on_read) {
      for (int32_t s = 0; s < slots; ++s) text.positions.push_back(s + slots % 7);
      if (decode) std::ranges::reverse(text.positions);
    }
    queries.push_back(random.Normal(rows, int64_t{shape.heads} * dim));
    texts.push_back(std::move(text));
    return texts.back();
  }

  AttentionShape shape;
  KvLayout layout;
  int32_t layer = 0;
  Precision precision = Precision::kF32;
  RotaryTable rotary;
  std::vector<Text> texts;
  std::vector<MatrixBuffer> queries;
};

struct Result {
  MatrixBuffer out;
  std::vector<CachedRecord> records;

  std::vector<float> Rows(int64_t begin, int64_t count) const {
    const ConstMatrix m = out.view();
    return {m.row(begin), m.row(begin + count)};
  }
};

/// The attention of some of a batch's texts.
Result Attend(Device& device, const Batch& batch, const std::vector<size_t>& chosen) {
  int32_t rows = 0;
  std::vector<CachedSequence> sequences;
  for (const size_t t : chosen) {
    sequences.push_back(batch.texts[t].sequence(rows));
    rows += batch.texts[t].rows;
  }
  const int64_t width = int64_t{batch.shape.heads} * batch.shape.head_dim;
  MatrixBuffer query(rows, width);
  float* to = query.view().data;
  for (const size_t t : chosen) {
    const ConstMatrix from = batch.queries[t].view();
    to = std::copy_n(from.data, from.rows * width, to);
  }
  Result result;
  result.out.Resize(rows, width);
  result.records.resize(chosen.size());
  const absl::Status status =
      device.CachedAttention({.shape = batch.shape,
                              .query = query.view(),
                              .layout = &batch.layout,
                              .layer = batch.layer,
                              .sequences = sequences,
                              .rotary = &batch.rotary,
                              .scale = 1.0f / std::sqrt(static_cast<float>(batch.shape.head_dim)),
                              .precision = batch.precision},
                             result.out.view(), result.records);
  EXPECT_TRUE(status.ok()) << Message(status);
  return result;
}

Result Attend(Device& device, const Batch& batch) {
  std::vector<size_t> all;
  for (size_t t = 0; t < batch.texts.size(); ++t) all.push_back(t);
  return Attend(device, batch, all);
}

KvFormat RandomFormat(RandomData& random) {
  KvFormat format{.element = random.Integer(0, 1) == 0 ? DType::kF32 : DType::kBF16};
  if (random.Integer(0, 3) == 0) {
    format.stretch = 1 << random.Integer(0, 5);
    return format;
  }
  if (random.Integer(0, 1) == 0) {
    format.planes = {.msb_bits = random.Integer(4, 8), .lsb_bits = random.Integer(1, 8)};
  }
  format.rotate_on_read = random.Integer(0, 2) == 0;
  return format;
}

/// Prompts and generated tokens under random rules, in a cache of some format.
Batch RandomBatch(uint32_t seed) {
  RandomData random(seed);
  const AttentionShape shapes[] = {{2, 2, 8}, {4, 1, 20}, {6, 2, 64}, {5, 1, 34}, {1, 1, 128}};
  Batch batch(shapes[random.Integer(0, 4)], RandomFormat(random), 2);
  batch.layer = 1;
  const int32_t texts = random.Integer(1, 5);
  for (int32_t t = 0; t < texts; ++t) {
    const int32_t slots = random.Integer(1, random.Integer(0, 1) == 0 ? 40 : 400);
    const bool decode = random.Integer(0, 1) == 0;
    Text& text = batch.Add(random, slots, decode ? 1 : random.Integer(0, slots), decode);
    text.rules.want_sums = random.Integer(0, 1) == 0;
    // A prompt is not concerned by what follows.
    const double keeps[] = {0.0, 0.1, 0.3, 0.75, 1.0};
    text.rules.value_keep = keeps[random.Integer(0, 4)];
    const double thresholds[] = {0.0, 0.05, 0.3, 1.0};
    text.rules.refetch_threshold = thresholds[random.Integer(0, 3)];
    if (!decode && random.Integer(0, 1) == 0) {
      text.rules.sums_from = random.Integer(0, text.rows);
    }
    if (decode && batch.layout.format().stretch > 0 && random.Integer(0, 2) > 0) {
      text.rules.want_sums = false;
      text.rules.read_stretches = random.Integer(1, batch.layout.Stretches(slots) + 1);
    } else if (decode && random.Integer(0, 1) == 0) {
      for (int32_t s = 0; s < slots; ++s) {
        if (s == slots - 1 || random.Integer(0, 3) == 0) text.reads.push_back(s);
      }
    }
  }
  return batch;
}

void ExpectSameCounts(const CachedRecord& actual, const CachedRecord& expected) {
  EXPECT_EQ(actual.rows, expected.rows);
  EXPECT_EQ(actual.refetched_rows, expected.refetched_rows);
  EXPECT_EQ(actual.scores, expected.scores);
  EXPECT_EQ(actual.refetched_scores, expected.refetched_scores);
  EXPECT_EQ(actual.bounds, expected.bounds);
  EXPECT_EQ(actual.stretches, expected.stretches);
  EXPECT_EQ(actual.values, expected.values);
  EXPECT_EQ(actual.bytes, expected.bytes);
}

// ---- Each device alone ----

class EachDevice : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Device> device_ = MakeDevice(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Devices, EachDevice, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

/// One head of two dimensions over two slots: the second dimension of q chooses nothing, and the
/// weights of the slots are e^(log 3) : e^0.
Batch TinyBatch(const KvFormat& format = {}) {
  Batch batch({1, 1, 2}, format);
  batch.texts.emplace_back(batch.layout, 2, 1, true);
  Text& text = batch.texts.back();
  // Attend() divides scores by the root of 2.
  const float keys[2][2] = {{std::log(3.0f) * std::sqrt(2.0f), 0}, {0, 5}};
  const float values[2][2] = {{4, 0}, {0, 8}};
  for (int32_t s = 0; s < 2; ++s) {
    StoreKeyRow(batch.layout, keys[s], s, batch.layout.keys(text.pages[0], 0, 0));
    StoreValueRow(batch.layout, values[s], s, batch.layout.values(text.pages[0], 0, 0));
  }
  text.rules.want_sums = true;
  batch.queries.emplace_back(1, 2);
  batch.queries[0].view().row(0)[0] = 1;
  batch.queries[0].view().row(0)[1] = 0;
  return batch;
}

TEST_P(EachDevice, DecodeWeighsTheValuesOfAllSlots) {
  const Result result = Attend(*device_, TinyBatch());
  EXPECT_NEAR(result.out.view().data[0], 3.0f, 1e-5f);
  EXPECT_NEAR(result.out.view().data[1], 2.0f, 1e-5f);
  const CachedRecord& record = result.records[0];
  ASSERT_EQ(record.sums.size(), 2);
  EXPECT_NEAR(static_cast<double>(record.sums[0]) * kProbabilityUnit, 0.75, 1e-6);
  EXPECT_NEAR(static_cast<double>(record.sums[1]) * kProbabilityUnit, 0.25, 1e-6);
  EXPECT_EQ(record.rows, 1);
  EXPECT_EQ(record.scores, 2);
  EXPECT_EQ(record.values, 2);
  EXPECT_EQ(record.bytes, 4 * 2 * 4);
}

TEST_P(EachDevice, LocalValuePruningReadsTheLargestAndRenormalisesNothing) {
  Batch batch = TinyBatch();
  batch.texts[0].rules.value_keep = 0.5;
  const Result result = Attend(*device_, batch);
  EXPECT_NEAR(result.out.view().data[0], 3.0f, 1e-5f);
  EXPECT_EQ(result.out.view().data[1], 0.0f);
  EXPECT_EQ(result.records[0].values, 1);
  EXPECT_EQ(result.records[0].bytes, 3 * 2 * 4);
}

TEST_P(EachDevice, AListLeavesTheOtherSlotsOut) {
  Batch batch = TinyBatch();
  batch.texts[0].reads = {1};
  const Result result = Attend(*device_, batch);
  EXPECT_THAT(result.Rows(0, 1), ElementsAre(0.0f, 8.0f));
  EXPECT_THAT(result.records[0].sums, ElementsAre(1 << 24));
  EXPECT_EQ(result.records[0].bytes, 2 * 2 * 4);
}

/// One head of two dimensions over six slots in stretches of two, all values their slot's number.
/// The query is (1, -1): bounds are 5 - (-4) = 9, 3 - 1 = 2 and, of the newest stretch, anything.
Batch StretchedBatch(const std::vector<std::vector<float>>& keys) {
  Batch batch({1, 1, 2}, {.stretch = 2});
  const auto slots = static_cast<int32_t>(keys.size());
  batch.texts.emplace_back(batch.layout, slots, 1, true);
  Text& text = batch.texts.back();
  for (int32_t s = 0; s < slots; ++s) {
    std::byte* const page = text.pages[0];
    const std::vector<float> value(2, static_cast<float>(s));
    StoreKeyRow(batch.layout, keys[static_cast<size_t>(s)].data(), s,
                batch.layout.keys(page, 0, 0));
    StoreValueRow(batch.layout, value.data(), s, batch.layout.values(page, 0, 0));
    BoundKeys(batch.layout, batch.layout.keys(page, 0, 0), s, s + 1,
              batch.layout.bounds(page, 0, 0));
  }
  batch.queries.emplace_back(1, 2);
  batch.queries[0].view().row(0)[0] = 1;
  batch.queries[0].view().row(0)[1] = -1;
  return batch;
}

TEST_P(EachDevice, StretchesOfTheLargestBoundsAndTheNewestAreRead) {
  // Nothing has a score of 9: the bound is of no single key.
  Batch batch = StretchedBatch({{5, 5}, {-4, -4}, {3, 1}, {2, 2}, {0, 0}});
  Text& text = batch.texts[0];
  text.rules.read_stretches = 2;
  const Result result = Attend(*device_, batch);
  const CachedRecord& record = result.records[0];
  EXPECT_THAT(record.stretches, ElementsAre(0, 2));
  EXPECT_EQ(record.scores, 3);  // Slots 0, 1 and 4, which have the same scores.
  EXPECT_EQ(record.bounds, 2);
  EXPECT_NEAR(result.out.view().data[0], 5.0f / 3, 1e-6f);
  EXPECT_EQ(record.bytes, 3 * (2 + 2) * 4 + 2 * (2 + 2) * 4);
  text.rules.read_stretches = 1;
  EXPECT_THAT(Attend(*device_, batch).Rows(0, 1), ElementsAre(4.0f, 4.0f));
  // All there are: nothing is chosen, and no bound is read.
  text.rules.read_stretches = 3;
  const CachedRecord all = Attend(*device_, batch).records[0];
  EXPECT_TRUE(all.stretches.empty());
  EXPECT_EQ(all.scores, 5);
  EXPECT_EQ(all.bounds, 0);
  EXPECT_EQ(all.bytes, 5 * (2 + 2) * 4);
}

TEST_P(EachDevice, EqualBoundsGoToTheFirstAndNanIsSeen) {
  Batch batch = StretchedBatch({{1, 0}, {0, 0}, {0, -1}, {0, 0}, {1, 0}, {0, 0}, {9, 9}});
  batch.texts[0].rules.read_stretches = 3;
  EXPECT_THAT(Attend(*device_, batch).records[0].stretches, ElementsAre(0, 1, 3));
  batch = StretchedBatch({{7, 0}, {0, 0}, {0, 0}, {kNan, 0}, {1, 0}, {0, 0}, {9, 9}});
  batch.texts[0].rules.read_stretches = 2;
  const Result result = Attend(*device_, batch);
  EXPECT_THAT(result.records[0].stretches, ElementsAre(1, 3));
  EXPECT_TRUE(std::isnan(result.out.view().data[0]));
}

TEST_P(EachDevice, BoundsAreOfAllKeysOfAStretchAndHoldEveryScore) {
  for (const DType element : {DType::kF32, DType::kBF16}) {
    for (const int32_t stretch : {1, 4, 16, 32}) {
      RandomData random(11);
      Batch batch({4, 2, 20}, {.element = element, .stretch = stretch}, 2);
      // As a prompt in two chunks, and then token by token.
      Text& text = batch.Add(random, 90, 0, false);
      const MatrixBuffer key = random.Normal(90, 40), value = random.Normal(90, 40);
      const auto store = [&](int32_t from, int32_t to, bool decode) {
        CachedSequence sequence = text.sequence(from);
        sequence.rows = to - from;
        sequence.slots = to;
        sequence.decode = decode;
        const absl::Status status = device_->StoreKeysValues(batch.layout, 1, key.view(),
                                                             value.view(), std::span(&sequence, 1));
        ASSERT_TRUE(status.ok()) << Message(status);
      };
      store(0, 7, false);
      store(7, 70, false);
      for (int32_t slot = 70; slot < 90; ++slot) store(slot, slot + 1, true);
      std::vector<float> least(20), greatest(20), row(20);
      for (int32_t h = 0; h < 2; ++h) {
        for (int32_t first = 0; first < 90; first += stretch) {
          std::byte* const page = text.page(first);
          LoadBounds(batch.layout, batch.layout.bounds(page, 1, h), first % kKvPageTokens / stretch,
                     least.data(), greatest.data());
          for (size_t d = 0; d < 20; ++d) {
            float lowest = std::numeric_limits<float>::infinity(), highest = -lowest;
            for (int32_t slot = first; slot < std::min(90, first + stretch); ++slot) {
              LoadKeyRow(batch.layout, batch.layout.keys(page, 1, h), slot % kKvPageTokens, false,
                         row.data());
              lowest = std::min(lowest, row[d]);
              highest = std::max(highest, row[d]);
            }
            EXPECT_EQ(least[d], lowest);
            EXPECT_EQ(greatest[d], highest);
          }
        }
      }
    }
  }
}

TEST_P(EachDevice, SumsBeginWithTheRowThatIsAsked) {
  RandomData random(12);
  Batch batch({4, 2, 8}, {});
  Text& text = batch.Add(random, 150, 140, false);
  text.rules.want_sums = true;
  const Result whole = Attend(*device_, batch);
  for (const int32_t from : {0, 1, 30, 139, 140}) {
    text.rules.sums_from = from;
    const Result late = Attend(*device_, batch);
    EXPECT_EQ(late.Rows(0, 140), whole.Rows(0, 140));
    // A head's rows sum to one each.
    for (int32_t h = 0; h < 2; ++h) {
      const auto begin = late.records[0].sums.begin() + 150 * h;
      EXPECT_NEAR(
          static_cast<double>(std::accumulate(begin, begin + 150, int64_t{0})) * kProbabilityUnit,
          2.0 * (140 - from), 1e-3);
    }
  }
  text.rules.sums_from = 0;
  EXPECT_EQ(Attend(*device_, batch).records[0].sums, whole.records[0].sums);
}

TEST_P(EachDevice, PromptRowsSeeTheSlotsUpToTheirOwn) {
  Batch batch = TinyBatch();
  Text& text = batch.texts[0];
  text.rules.decode = false;
  text.rules.rows = text.rows = 2;
  batch.queries[0].Resize(2, 2);
  std::ranges::copy(std::vector<float>{1, 0, 1, 0}, batch.queries[0].view().data);
  const Result result = Attend(*device_, batch);
  EXPECT_THAT(result.Rows(0, 1), ElementsAre(4.0f, 0.0f));
  EXPECT_NEAR(result.out.view().row(1)[0], 3.0f, 1e-5f);
  EXPECT_NEAR(result.out.view().row(1)[1], 2.0f, 1e-5f);
  EXPECT_EQ(result.records[0].scores, 3);
  EXPECT_EQ(result.records[0].bytes, 3 * 2 * 2 * 4);
}

TEST_P(EachDevice, BelowTheThresholdKeysAreReadInFull) {
  // Of 2 + 4 bits the first key's 31 steps are 1 upper step of 16 with 15 to spare: read without
  // them it is about half as long.
  Batch batch = TinyBatch({.planes = KeyPlanes{.msb_bits = 2, .lsb_bits = 4}});
  const double half = std::exp(std::log(3.0) * 16 / 31);
  const double upper = half / (half + 1);
  for (const auto& [threshold, refetches] : {std::pair(0.0, false), std::pair(upper - 0.01, false),
                                             std::pair(upper + 0.01, true), std::pair(1.0, true)}) {
    SCOPED_TRACE(threshold);
    batch.texts[0].rules.refetch_threshold = threshold;
    const Result result = Attend(*device_, batch);
    EXPECT_NEAR(result.out.view().data[0], 4 * (refetches ? 0.75 : upper), 1e-4);
    EXPECT_EQ(result.records[0].refetched_rows, refetches ? 1 : 0);
    EXPECT_EQ(result.records[0].refetched_scores, refetches ? 2 : 0);
    EXPECT_EQ(result.records[0].bytes, 2 * (2 + 4 + (refetches ? 2 : 0)) + 2 * 2 * 4);
  }
}

TEST_P(EachDevice, AllEqualScoresReadTheFirstValues) {
  RandomData random(1);
  Batch batch({2, 1, 8}, {});
  Text& text = batch.Add(random, 100, 1, true);
  for (int32_t s = 0; s < 100; ++s) {
    const std::vector<float> row(8, static_cast<float>(s < 30));
    StoreValueRow(batch.layout, row.data(), s % kKvPageTokens,
                  batch.layout.values(text.page(s), 0, 0));
  }
  std::fill_n(batch.queries[0].view().data, 16, 0.0f);
  text.rules.value_keep = 0.3;
  const Result result = Attend(*device_, batch);
  for (const float x : result.Rows(0, 1)) EXPECT_NEAR(x, 0.3f, 1e-6f);
  EXPECT_EQ(result.records[0].values, 60);
  EXPECT_EQ(result.records[0].bytes, (100 + 30) * 8 * 4);
}

TEST_P(EachDevice, AKeyOfNanMakesThoseWhoSeeItNan) {
  RandomData random(3);
  Batch batch({1, 1, 8}, {});
  Text& prompt = batch.Add(random, 40, 40, false);
  Text& token = batch.Add(random, 40, 1, true);
  const std::vector<float> row(8, kNan);
  for (const Text* text : {&batch.texts[0], &batch.texts[1]}) {
    StoreKeyRow(batch.layout, row.data(), 1, batch.layout.keys(text->page(33), 0, 0));
  }
  static_cast<void>(prompt);
  static_cast<void>(token);
  const Result result = Attend(*device_, batch);
  for (int64_t r = 0; r < 40; ++r) {
    EXPECT_EQ(std::isnan(result.out.view().row(r)[0]), r >= 33) << r;
  }
  EXPECT_TRUE(std::isnan(result.out.view().row(40)[0]));
}

TEST_P(EachDevice, NoSequencesAndNoRowsAreNothing) {
  RandomData random(4);
  Batch batch({2, 1, 8}, {});
  EXPECT_TRUE(Attend(*device_, batch).records.empty());
  batch.Add(random, 5, 0, false).rules.want_sums = true;
  const Result result = Attend(*device_, batch);
  EXPECT_EQ(result.records[0].rows, 0);
  EXPECT_EQ(result.records[0].sums, std::vector<int64_t>(5, 0));
}

// ---- Storing ----

TEST_P(EachDevice, NewRowsGoToTheLastSlotsOrWhereTheyAreSent) {
  for (const DType element : {DType::kF32, DType::kBF16}) {
    RandomData random(5);
    Batch batch({4, 2, 8}, {.element = element}, 2);
    batch.Add(random, 70, 40, false);
    Text& evicting = batch.Add(random, 64, 1, true);
    evicting.new_slots = {1, 2, 3, 40};  // [layers][kv_heads]
    const auto bytes = [&](size_t t) {
      std::vector<std::vector<std::byte>> pages;
      for (const std::byte* page : batch.texts[t].pages) {
        pages.emplace_back(page, page + batch.layout.page_bytes());
      }
      return pages;
    };
    auto expected0 = bytes(0), expected1 = bytes(1);
    const MatrixBuffer key = random.Normal(41, 16), value = random.Normal(41, 16);
    const auto store = [&](auto& pages, int32_t row, int32_t slot, int32_t head) {
      std::byte* const page = pages[static_cast<size_t>(slot / kKvPageTokens)].data();
      StoreKeyRow(batch.layout, key.view().row(row) + head * 8, slot % kKvPageTokens,
                  batch.layout.keys(page, 1, head));
      StoreValueRow(batch.layout, value.view().row(row) + head * 8, slot % kKvPageTokens,
                    batch.layout.values(page, 1, head));
    };
    for (int32_t h = 0; h < 2; ++h) {
      for (int32_t r = 0; r < 40; ++r) store(expected0, r, 30 + r, h);
    }
    store(expected1, 40, 3, 0);
    store(expected1, 40, 40, 1);
    const CachedSequence sequences[] = {batch.texts[0].sequence(0), evicting.sequence(40)};
    ASSERT_TRUE(
        device_->StoreKeysValues(batch.layout, 1, key.view(), value.view(), sequences).ok());
    EXPECT_EQ(bytes(0), expected0);
    EXPECT_EQ(bytes(1), expected1);
  }
}

TEST(KvRows, ElementsComeBack) {
  const std::vector<float> row = {1.5f, -2.0f, 0.0f, 1e-3f, 3.14159f};
  for (const DType element : {DType::kF32, DType::kBF16}) {
    const KvLayout layout({.element = element}, 1, 1, 5);
    AlignedBuffer<std::byte> page(layout.page_bytes());
    std::vector<float> key(5), value(5);
    StoreKeyRow(layout, row.data(), 31, layout.keys(page.data(), 0, 0));
    StoreValueRow(layout, row.data(), 31, layout.values(page.data(), 0, 0));
    LoadKeyRow(layout, layout.keys(page.data(), 0, 0), 31, false, key.data());
    LoadValueRow(layout, layout.values(page.data(), 0, 0), 31, value.data());
    for (size_t d = 0; d < row.size(); ++d) {
      EXPECT_EQ(key[d], element == DType::kF32 ? row[d] : FromBF16(ToBF16(row[d])));
      EXPECT_EQ(value[d], key[d]);
    }
  }
}

TEST(KvRows, PlanesComeBackWithinHalfAStepAndTheUpperOneRoundsDown) {
  RandomData random(6);
  for (int32_t msb = 2; msb <= 8; ++msb) {
    for (int32_t lsb = 1; lsb <= 8; ++lsb) {
      const KvLayout layout({.planes = KeyPlanes{msb, lsb}}, 1, 1, 33);
      AlignedBuffer<std::byte> page(layout.page_bytes());
      const MatrixBuffer row = random.Normal(1, 33);
      float largest = 0;
      for (const float x : row.view().row_span(0)) largest = std::max(largest, std::abs(x));
      const float step = largest / static_cast<float>((1 << (msb + lsb - 1)) - 1);
      std::vector<float> whole(33), upper(33);
      std::byte* const block = layout.keys(page.data(), 0, 0);
      StoreKeyRow(layout, row.view().row(0), 7, block);
      LoadKeyRow(layout, block, 7, false, whole.data());
      LoadKeyRow(layout, block, 7, true, upper.data());
      for (size_t d = 0; d < 33; ++d) {
        const float x = row.view().row(0)[d];
        EXPECT_NEAR(whole[d], x, 0.5001f * step + 1e-6f * largest);
        EXPECT_LE(upper[d], whole[d]);
        EXPECT_LT(whole[d] - upper[d], step * static_cast<float>(1 << lsb) * 1.0001f);
      }
    }
  }
}

TEST(KvRows, PlanesByHand) {
  // Two and two bits: seven steps of 1; 7 = 1 * 4 + 3, -7 = -2 * 4 + 1, -1 = -1 * 4 + 3; ties to
  // even.
  const KvLayout layout({.planes = KeyPlanes{2, 2}}, 1, 1, 4);
  AlignedBuffer<std::byte> page(layout.page_bytes());
  std::byte* const block = layout.keys(page.data(), 0, 0);
  const float row[] = {7.0f, -7.0f, -1.0f, 2.5f};
  std::vector<float> whole(4), upper(4);
  StoreKeyRow(layout, row, 0, block);
  LoadKeyRow(layout, block, 0, false, whole.data());
  LoadKeyRow(layout, block, 0, true, upper.data());
  EXPECT_THAT(whole, ElementsAre(7.0f, -7.0f, -1.0f, 2.0f));
  EXPECT_THAT(upper, ElementsAre(4.0f, -8.0f, -4.0f, 0.0f));
  const float zeros[] = {0, 0, 0, 0};
  StoreKeyRow(layout, zeros, 0, block);
  LoadKeyRow(layout, block, 0, false, whole.data());
  EXPECT_THAT(whole, ElementsAre(0.0f, 0.0f, 0.0f, 0.0f));
}

TEST(KvRows, ACopiedSlotIsTheSame) {
  for (const bool planes : {false, true}) {
    KvFormat format{.element = DType::kBF16};
    if (planes) format.planes.emplace();
    RandomData random(7);
    Batch batch({2, 2, 12}, format, 2);
    const Text& text = batch.Add(random, 40, 1, true);
    CopySlot(batch.layout, 1, 1, text.pages[0], 3, text.pages[1], 5);
    std::vector<float> from(12), to(12);
    for (const bool upper : {false, true}) {
      LoadKeyRow(batch.layout, batch.layout.keys(text.pages[0], 1, 1), 3, upper, from.data());
      LoadKeyRow(batch.layout, batch.layout.keys(text.pages[1], 1, 1), 5, upper, to.data());
      EXPECT_EQ(from, to);
    }
    LoadValueRow(batch.layout, batch.layout.values(text.pages[0], 1, 1), 3, from.data());
    LoadValueRow(batch.layout, batch.layout.values(text.pages[1], 1, 1), 5, to.data());
    EXPECT_EQ(from, to);
  }
}

// ---- Devices against the reference ----

TEST(CachedAttentionOnCpu, MatchesTheReferenceForRandomCachesAndRules) {
  const auto cpu = MakeDevice("cpu");
  const auto reference = MakeDevice("reference");
  for (uint32_t seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE(seed);
    const Batch batch = RandomBatch(seed);
    const Result actual = Attend(*cpu, batch);
    const Result expected = Attend(*reference, batch);
    for (int64_t r = 0; r < expected.out.view().rows; ++r) {
      for (int64_t c = 0; c < expected.out.view().cols; ++c) {
        ASSERT_NEAR(actual.out.view().row(r)[c], expected.out.view().row(r)[c], 2e-5)
            << r << ", " << c;
      }
    }
    for (size_t t = 0; t < batch.texts.size(); ++t) {
      SCOPED_TRACE(t);
      ExpectSameCounts(actual.records[t], expected.records[t]);
      const auto& sums = actual.records[t].sums;
      ASSERT_EQ(sums.size(), expected.records[t].sums.size());
      // Each probability may be off by its own rounding, and by a millionth.
      const double tolerance = batch.texts[t].rows * batch.shape.heads + 1;
      for (size_t i = 0; i < sums.size(); ++i) {
        const auto sum = static_cast<double>(expected.records[t].sums[i]);
        ASSERT_NEAR(static_cast<double>(sums[i]), sum, tolerance + 4e-6 * sum) << i;
      }
    }
  }
}

TEST(CachedAttentionOnCpu, APromptHasTheSameBitsHoweverItIsCut) {
  const auto cpu = MakeDevice("cpu");
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    RandomData random(seed);
    const AttentionShape shapes[] = {{2, 2, 24}, {4, 1, 64}, {6, 2, 20}};
    Batch batch(shapes[seed % 3], RandomFormat(random));
    batch.precision = seed % 2 == 0 ? Precision::kF32 : Precision::kBF16;
    const int32_t length = random.Integer(2, 500);
    batch.Add(random, length, length, false).rules.want_sums = true;
    const Result whole = Attend(*cpu, batch);

    std::vector<int64_t> sums(whole.records[0].sums.size());
    CachedRecord counts;
    const MatrixBuffer queries = std::exchange(batch.queries[0], MatrixBuffer());
    const int64_t width = queries.view().cols;
    for (int32_t begin = 0; begin < length;) {
      const int32_t rows = std::min(length - begin, random.Integer(1, 200));
      Text& text = batch.texts[0];
      text.rows = text.rules.rows = rows;
      text.rules.slots = begin + rows;
      if (!text.positions.empty()) text.positions.resize(static_cast<size_t>(begin + rows));
      batch.queries[0].Resize(rows, width);
      std::copy_n(queries.view().row(begin), rows * width, batch.queries[0].view().data);
      const Result part = Attend(*cpu, batch);
      ASSERT_EQ(part.Rows(0, rows), whole.Rows(begin, rows)) << "rows from " << begin;
      const CachedRecord& record = part.records[0];
      for (int32_t h = 0; h < batch.shape.kv_heads; ++h) {
        for (int32_t s = 0; s < begin + rows; ++s) {
          sums[h * length + s] += record.sums[h * (begin + rows) + s];
        }
      }
      counts.rows += record.rows;
      counts.scores += record.scores;
      counts.values += record.values;
      counts.bytes += record.bytes;
      begin += rows;
      if (begin < length && !text.positions.empty()) {
        for (int32_t s = begin; s < length; ++s) text.positions.push_back(s + length % 7);
      }
    }
    EXPECT_EQ(sums, whole.records[0].sums);
    ExpectSameCounts(counts, whole.records[0]);
  }
}

TEST(CachedAttentionOnCpu, SameBitsAloneAndTogetherOnAnyNumberOfThreads) {
  const auto one = MakeDevice("cpu", 1);
  const auto three = MakeDevice("cpu", 3);
  for (uint32_t seed = 200; seed < 260; ++seed) {
    SCOPED_TRACE(seed);
    Batch batch = RandomBatch(seed);
    batch.precision = seed % 2 == 0 ? Precision::kF32 : Precision::kBF16;
    const Result together = Attend(*three, batch);
    int32_t row = 0;
    for (size_t t = 0; t < batch.texts.size(); ++t) {
      const Result alone = Attend(*one, batch, {t});
      const int32_t rows = batch.texts[t].rows;
      EXPECT_EQ(alone.Rows(0, rows), together.Rows(row, rows));
      EXPECT_EQ(alone.records[0].sums, together.records[t].sums);
      ExpectSameCounts(alone.records[0], together.records[t]);
      row += rows;
    }
  }
}

TEST(CachedAttentionOnCpu, AListHasTheBitsOfACacheOfItsSlotsAlone) {
  const auto cpu = MakeDevice("cpu");
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    RandomData random(seed);
    Batch batch({4, 2, 40}, RandomFormat(random));
    const int32_t slots = random.Integer(1, 300);
    batch.Add(random, slots, 1, true);
    for (int32_t s = 0; s < slots; ++s) {
      if (s == slots - 1 || random.Integer(0, 2) == 0) batch.texts[0].reads.push_back(s);
    }
    const std::vector<int32_t> reads = batch.texts[0].reads;
    const auto kept = static_cast<int32_t>(reads.size());
    Text& compact = batch.Add(random, kept, 1, true);
    const Text& text = batch.texts[0];
    for (int32_t h = 0; h < 2; ++h) {
      for (int32_t n = 0; n < kept; ++n) {
        const int32_t s = reads[static_cast<size_t>(n)];
        CopySlot(batch.layout, 0, h, text.page(s), s % kKvPageTokens, compact.page(n),
                 n % kKvPageTokens);
        if (!text.positions.empty()) compact.positions[n] = text.positions[s];
      }
    }
    std::copy_n(batch.queries[0].view().data, 160, batch.queries[1].view().data);
    for (Text& each : batch.texts) {
      each.rules.value_keep = 0.4;
      each.rules.refetch_threshold = 0.2;
    }
    const Result result = Attend(*cpu, batch);
    EXPECT_EQ(result.Rows(0, 1), result.Rows(1, 1));
    ExpectSameCounts(result.records[0], result.records[1]);
  }
}

// ---- The operations beside attention ----

TEST_P(EachDevice, RmsNormByHand) {
  const float x[] = {3, 4, 0, 0};  // The mean of squares is 25 / 4.
  const float gamma[] = {1, 2, 3, 4};
  MatrixBuffer y(1, 4);
  ASSERT_TRUE(device_->RmsNorm({x, 1, 4}, gamma, 0.0f, y.view()).ok());
  const float expected[] = {1.2f, 3.2f, 0.0f, 0.0f};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(y.view().data[i], expected[i], 1e-6f);
}

TEST_P(EachDevice, AddAndMultiplyByHand) {
  const float x[] = {1, 2, 3, 4, 5, 6};
  MatrixBuffer y(2, 3);
  std::fill_n(y.view().data, 6, 10.0f);
  ASSERT_TRUE(device_->Add({x, 2, 3}, y.view()).ok());
  EXPECT_THAT(std::vector<float>(y.view().data, y.view().data + 6),
              ElementsAre(11, 12, 13, 14, 15, 16));
  ASSERT_TRUE(device_->Multiply({x, 2, 3}, y.view()).ok());
  EXPECT_THAT(std::vector<float>(y.view().data, y.view().data + 6),
              ElementsAre(11, 24, 39, 56, 75, 96));
}

TEST_P(EachDevice, RotateTurnsEachHeadAndLeavesTheRest) {
  RotaryTable table{.half = 1, .cos = {1, 0}, .sin = {0, 1}};  // By nothing, by a right angle.
  MatrixBuffer x(2, 6);
  for (int r = 0; r < 2; ++r) {
    for (int c = 0; c < 6; ++c) x.view().row(r)[c] = static_cast<float>(c + 1);
  }
  const int32_t positions[] = {0, 1};
  ASSERT_TRUE(device_->Rotate(table, positions, 2, x.view()).ok());
  EXPECT_THAT(std::vector<float>(x.view().row(0), x.view().row(1)), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(std::vector<float>(x.view().row(1), x.view().row(1) + 6),
              ElementsAre(-2, 1, 3, -5, 4, 6));
}

TEST(RowOperationsOnCpu, MatchTheReferenceOnAnyNumberOfThreads) {
  const auto reference = MakeDevice("reference");
  const std::unique_ptr<Device> devices[] = {MakeDevice("cpu", 1), MakeDevice("cpu", 3)};
  RandomData random(8);
  const RotaryTable table = MakeRotary(12, 64);
  for (const auto& shape : {std::pair(1, 1), std::pair(3, 5), std::pair(200, 31)}) {
    const int32_t rows = shape.first, heads = shape.second;
    const int64_t cols = int64_t{heads} * 29;
    const MatrixBuffer x = random.Normal(rows, cols), gamma = random.Normal(1, cols);
    const MatrixBuffer before = random.Normal(rows, cols);
    const std::vector<int32_t> positions = random.Integers(rows, 0, 63);
    const auto run = [&](Device& device, int operation) {
      MatrixBuffer y(rows, cols);
      std::copy_n(before.view().data, rows * cols, y.view().data);
      const absl::Status status =
          operation == 0   ? device.RmsNorm(x.view(), gamma.view().row_span(0), 1e-5f, y.view())
          : operation == 1 ? device.Add(x.view(), y.view())
          : operation == 2 ? device.Multiply(x.view(), y.view())
                           : device.Rotate(table, positions, heads, y.view());
      EXPECT_TRUE(status.ok()) << Message(status);
      return std::vector<float>(y.view().data, y.view().data + rows * cols);
    };
    for (int operation = 0; operation < 4; ++operation) {
      SCOPED_TRACE(operation);
      const std::vector<float> expected = run(*reference, operation);
      const std::vector<float> actual = run(*devices[0], operation);
      EXPECT_EQ(run(*devices[1], operation), actual);
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(actual[i], expected[i], operation == 0 ? 1e-5f : 0.0f);
      }
    }
    // In place.
    MatrixBuffer y(rows, cols);
    std::copy_n(x.view().data, rows * cols, y.view().data);
    ASSERT_TRUE(devices[0]->RmsNorm(y.view(), gamma.view().row_span(0), 1e-5f, y.view()).ok());
    EXPECT_EQ(std::vector<float>(y.view().data, y.view().data + rows * cols), run(*devices[0], 0));
  }
}

// ---- What does not fit ----

class Refusals : public EachDevice {
 protected:
  Refusals() {
    RandomData random(9);
    batch_.Add(random, 40, 4, false);
    batch_.Add(random, 40, 1, true);
    sequences_ = {batch_.texts[0].sequence(0), batch_.texts[1].sequence(4)};
    query_ = random.Normal(5, 32);
    input_ = {.shape = batch_.shape,
              .query = query_.view(),
              .layout = &batch_.layout,
              .sequences = sequences_,
              .rotary = &batch_.rotary};
  }

  void ExpectRefused(const char* what) {
    const absl::Status status = device_->CachedAttention(input_, out_.view(), records_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(Message(status), HasSubstr(what));
  }

  Batch batch_{{4, 2, 8}, {.rotate_on_read = true}, 2};
  std::vector<CachedSequence> sequences_;
  MatrixBuffer query_;
  CachedAttentionInput input_;
  MatrixBuffer out_{5, 32};
  std::vector<CachedRecord> records_{2};
};

INSTANTIATE_TEST_SUITE_P(Devices, Refusals, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

TEST_P(Refusals, WhatFitsIsTaken) {
  EXPECT_TRUE(device_->CachedAttention(input_, out_.view(), records_).ok());
}

TEST_P(Refusals, Shapes) {
  for (const AttentionShape shape : {AttentionShape{3, 2, 8}, AttentionShape{4, 4, 8},
                                     AttentionShape{4, 2, 16}, AttentionShape{0, 2, 8}}) {
    input_.shape = shape;
    ExpectRefused("heads");
  }
  input_.shape = batch_.shape;
  input_.layer = 2;
  ExpectRefused("layer 2 of 2");
  input_.layer = -1;
  ExpectRefused("layer -1");
  input_.layer = 0;
  out_.Resize(5, 33);
  ExpectRefused("output");
  out_.Resize(5, 32);
  records_.resize(1);
  ExpectRefused("1 records for 2 sequences");
}

TEST_P(Refusals, RowsAndSlots) {
  const std::vector<CachedSequence> good = sequences_;
  const auto refused = [&](size_t s, const char* what, auto change) {
    std::ranges::copy(good, sequences_.begin());
    change(sequences_[s]);
    ExpectRefused(what);
  };
  refused(0, "cache 0", [](CachedSequence& s) { s.first_row = 2; });
  refused(0, "cache 0", [](CachedSequence& s) { s.first_row = -1; });
  refused(0, "cache 0", [](CachedSequence& s) { s.rows = -1; });
  refused(0, "cache 0", [](CachedSequence& s) { s.slots = 3; });
  refused(1, "cache 1", [](CachedSequence& s) { s.slots = 65; });
  refused(1, "cache 1", [](CachedSequence& s) { s.rows = 0; });
  refused(1, "positions", [](CachedSequence& s) { s.positions = s.positions.first(39); });
  for (const std::vector<int32_t>& reads : {std::vector<int32_t>{3, 3}, std::vector<int32_t>{5, 4},
                                            std::vector<int32_t>{-1}, std::vector<int32_t>{40}}) {
    refused(1, "cache 1", [&](CachedSequence& s) { s.reads = reads; });
  }
  const std::vector<int32_t> far(40, 2000);
  refused(1, "position 2000", [&](CachedSequence& s) { s.positions = far; });
  refused(0, "sums from row", [](CachedSequence& s) { s.sums_from = s.rows + 1; });
  refused(0, "sums from row", [](CachedSequence& s) { s.sums_from = -1; });
  refused(1, "stretches to read", [](CachedSequence& s) { s.read_stretches = 1; });
  refused(1, "stretches to read", [](CachedSequence& s) { s.read_stretches = -1; });
  std::ranges::copy(good, sequences_.begin());
  input_.rotary = nullptr;
  ExpectRefused("table");
}

TEST_P(Refusals, OfTheOtherOperations) {
  const auto refused = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  };
  const MatrixBuffer key(5, 16), narrow(5, 8);
  const auto store = [&](int32_t layer, const MatrixBuffer& k, const MatrixBuffer& v) {
    return device_->StoreKeysValues(batch_.layout, layer, k.view(), v.view(), sequences_);
  };
  refused(store(2, key, key));
  refused(store(0, narrow, key));
  refused(store(0, key, narrow));
  const std::vector<int32_t> places = {0, 0, 40, 0};
  sequences_[1].new_slots = places;
  refused(store(0, key, key));
  const std::vector<float> gamma(7);
  refused(device_->RmsNorm(narrow.view(), gamma, 1e-5f, MatrixBuffer(5, 8).view()));
  refused(device_->Add(narrow.view(), MatrixBuffer(5, 16).view()));
  refused(device_->Multiply(narrow.view(), MatrixBuffer(4, 8).view()));
  const RotaryTable table = MakeRotary(4, 10);
  MatrixBuffer x(2, 8);
  const std::vector<int32_t> few = {0}, far = {0, 10}, negative = {0, -1}, good = {0, 9};
  refused(device_->Rotate(table, few, 1, x.view()));
  refused(device_->Rotate(table, far, 1, x.view()));
  refused(device_->Rotate(table, negative, 1, x.view()));
  refused(device_->Rotate(table, good, 2, x.view()));
  refused(device_->Rotate(table, good, 0, x.view()));
}

}  // namespace
}  // namespace thresher
