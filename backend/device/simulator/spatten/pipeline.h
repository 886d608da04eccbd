// SpAtten's attention, as units joined by queues:
//
//   lists of tokens -> fetchers -> K SRAM, queries -> Q.K -> scores -> softmax -> probabilities ->
//   decision -> top-k -> V fetchers -> V SRAM -> P.V -> memory
//
// A unit takes the next row when it is free, what it needs is there, and the queue behind it has
// room; nothing else says when anything happens. A row whose largest probability is too small goes
// back to Q.K once the lower bits of its keys have come, while others pass it. A layer begins when
// the one before has ended, since its queries are made of that one's outputs.
#ifndef THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_PIPELINE_H_
#define THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_PIPELINE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <queue>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/device/layer_record.h"
#include "backend/device/simulator/spatten/layout.h"
#include "backend/device/simulator/spatten/rows.h"
#include "backend/device/simulator/spatten/top_k_engine.h"
#include "backend/device/simulator/timeline.h"
#include "backend/device/simulator/units/fetch_network.h"
#include "backend/device/simulator/units/unit_clock.h"
#include "thresher/v1/simulator_spatten.pb.h"

namespace thresher {

/// What was done for one sequence.
struct SpAttenWork {
  int64_t rows = 0;              // That entered Q.K for the first time: segments of queries.
  int64_t outputs = 0;           // That left P.V.
  int64_t key_products = 0;      // Multiplications of Q.K, those made again included.
  int64_t value_products = 0;    // Of P.V.
  int64_t softmax_elements = 0;  // Scores that became probabilities, likewise.
  int64_t comparisons = 0;       // Of top-k.
  int64_t accumulated = 0;       // Probabilities and outputs that were added to an importance.
  int64_t sram_bits = 0;         // Written and read.
  int64_t plain_bits = 0;        // Asked of the memory, to the bit.
  int64_t kv_bits = 0;           // Those of K and V.
};

class SpAttenPipeline {
 public:
  /// All must outlive the pipeline. The record must be valid; the timeline may be null.
  SpAttenPipeline(const v1::SpAttenSpec& spec, const LayerRecord& record, FetchNetwork* network,
                  TopKEngine* top_k, Timeline* timeline);

  /// Runs the layer's attention from cycle `begin`. Returns the cycle in which the memory has taken
  /// the last output and the last ranking is done. Once only.
  absl::StatusOr<int64_t> Run(int64_t begin);

  /// By sequence.
  const std::vector<SpAttenWork>& work() const { return work_; }
  /// Of each unit, busy cycles and those in which it stood still sum to those of the run.
  const std::vector<UnitClock>& units() const { return units_; }

 private:
  enum Unit { kQk, kSoftmax, kTopK, kPv, kUnits };
  enum What : uint8_t {
    // Of the network.
    kKeysCame,
    kLoadedValuesCame,
    kQueryCame,
    kLowerBitsCame,
    kValuesCame,
    kOutputTaken,
    // Of the units.
    kUnitFree,
    kSummed,
    kDecided,
    kInTopK,
    kSelected,
    kStreamed,
    kPassed,
    kMultiplied,
    kFinished,
  };
  struct Event {
    int64_t cycle = 0;
    uint64_t order = 0;  // Among those of a cycle.
    What what = kUnitFree;
    uint32_t id = 0;  // Of a row or a load.

    bool operator>(const Event& other) const {
      return cycle != other.cycle ? cycle > other.cycle : order > other.order;
    }
  };
  struct Load {
    struct Set {
      bool all_made = false;
      bool released = false;
      int64_t undecided = 0;  // Rows that have been made and may still want K.
    };
    SpAttenLoad plan;
    std::optional<SpAttenRows> rows;
    std::vector<Set> sets;
    int32_t keys = 0;         // The most that a set has.
    int32_t keys_asked = 0;   // Of each set, as far as it has them: K comes as there is room.
    int32_t key_fetches = 0;  // Under way.
    bool values_came = false;
    bool all_made = false;
    int64_t unfinished = 0;   // Rows that have been made and have not left P.V.
    int64_t values_held = 0;  // Room in V SRAM,
    int64_t values_room = 0;  // and what of it no row has taken.
    int64_t begin = 0;
    // Where rows choose their values: those that wait for the other heads of their word, by
    // ordinal, how many there will be, and those whose values can be fetched.
    std::map<int32_t, std::vector<uint32_t>> choosing;
    std::map<int32_t, size_t> choosers;
    std::deque<std::vector<uint32_t>> chosen;

    bool keys_came() const { return keys_asked == keys && key_fetches == 0; }
  };
  struct Row {
    SpAttenRow plan;
    uint32_t load = 0;
    int32_t sequence = 0;
    int64_t number = 0;              // In the layer.
    const char* ranking = nullptr;   // Not a row but a ranking of these: of plan.keys plan.values.
    std::vector<uint32_t> together;  // Rows that its values come to as well.
    bool query_came = false;
    bool again = false;  // In full width.
    bool values_came = false;
    bool probabilities_came = false;
  };

  // Each does what it can now; true if it did anything.
  bool BeginLoad();
  bool FillKeys();
  bool MakeRows();
  bool StartQk();
  bool StartDivision();
  bool EnterTopK();
  bool StartSelection();
  bool StartStream();
  bool FetchChosen();
  bool StartPv();
  void Pump();

  void Handle(const Event& event);
  void Decide(uint32_t id);
  void Choose(uint32_t id);
  void Finish(uint32_t id);
  void ReleaseKeys(Load* load);
  void ReleaseLoad(uint32_t id);
  void RankTokens();
  void RankHeads();
  void Rank(int32_t sequence, const char* what, int32_t from, int32_t kept);

  void At(int64_t cycle, What what, uint32_t id = 0);
  void Fetch(FetchClass fetch_class, What what, uint32_t id, std::vector<FetchPart> parts);
  void CountFetch(int32_t sequence, int64_t rows, int64_t row_bits);  // Of K or V.
  uint32_t NewRow(Row row);
  int64_t StreamCycles(int64_t elements) const;
  bool Chooses(const Row& row) const;
  bool Done() const;
  void SetStates();
  std::string_view QkCause() const;
  std::string_view PvCause() const;
  void Show(Unit unit, const Row& row, int64_t begin, int64_t end);

  const v1::SpAttenSpec& spec_;
  const LayerRecord& record_;
  const int32_t head_dim_;
  FetchNetwork* network_;
  TopKEngine* top_k_;
  Timeline* timeline_;
  double cycle_ps_;
  std::vector<SpAttenLayout> layouts_;  // By sequence.
  std::vector<SpAttenWork> work_;       // By sequence.
  std::vector<UnitClock> units_;

  int64_t now_ = 0;
  uint64_t order_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;

  SpAttenLoads source_;
  std::optional<SpAttenLoad> next_load_;
  std::optional<uint32_t> filling_;  // The load whose K has not all been asked for.
  std::map<uint32_t, Load> loads_;
  uint32_t load_number_ = 0;
  std::deque<uint32_t> making_;  // Loads whose rows have not all been made.
  std::vector<Row> rows_;
  std::vector<uint32_t> free_rows_;
  int64_t row_number_ = 0;
  // Sequences before these have had their tokens and their heads ranked.
  int32_t next_ranking_ = 0;
  int32_t next_head_ranking_ = 0;
  std::vector<int64_t> undecided_;  // Rows that have been made, by sequence.
  int64_t all_undecided_ = 0;
  int64_t rankings_ = 0;            // Not done.
  int64_t lower_bits_awaited_ = 0;  // Rows.
  int64_t outputs_ = 0;             // That the memory has not taken, from P.V's start on.

  // Room, in elements.
  int64_t key_room_ = 0;
  int64_t value_room_ = 0;
  int64_t score_room_ = 0;
  int64_t probability_room_ = 0;
  int64_t chosen_room_ = 0;  // Probabilities between top-k and P.V, of rows whose V is there.

  // Queues and units.
  std::deque<uint32_t> waiting_;  // For Q.K.
  std::deque<uint32_t> again_;    // For Q.K in full width; they go first.
  int64_t qk_free_ = 0;
  int64_t exponent_free_ = 0;
  std::deque<uint32_t> summed_;
  int64_t division_free_ = 0;
  std::deque<uint32_t> decided_;
  std::optional<uint32_t> entering_, in_top_k_, selecting_, selected_, streaming_;
  int64_t selection_begin_ = 0;
  std::deque<uint32_t> with_choice_;  // Loads, once for each entry of their `chosen`.
  std::deque<uint32_t> multiplying_;  // Rows for P.V, in order.
  int64_t pv_free_ = 0;
};

}  // namespace thresher

#endif  // THRESHER_BACKEND_DEVICE_SIMULATOR_SPATTEN_PIPELINE_H_
