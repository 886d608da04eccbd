#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "backend/device/simulator/spatial/head_mapper.h"
#include "backend/tensor/status.h"

namespace thresher {
namespace {

using Loop = TilePipeline::Loop;

// One chunk of keys for as many queries as there is room for, then the next chunk for the same.
class ChunkedMapper : public HeadMapper {
 public:
  ChunkedMapper(const SpatialMachine& machine, const AttentionSize& size)
      : HeadMapper(machine, size), of_chunks_(einsums_.size()) {
    for (size_t i = 0; i < einsums_.size(); ++i) {
      of_chunks_[i] = einsums_[i].Iterates("m1");
      for (const TensorUse& use : einsums_[i].inputs) {
        const int maker = machine.cascade.MakerOf(use.tensor);
        if (maker >= 0 && of_chunks_[maker]) of_chunks_[i] = true;
      }
    }
  }

  absl::StatusOr<HeadWork> Map() {
    THRESHER_RETURN_IF_ERROR(ChooseBlock());
    blocks_ = CeilDiv(query_tiles(), tiles_per_block_);
    const int64_t last = query_tiles() - (blocks_ - 1) * tiles_per_block_;
    const int64_t last_rows = size_.queries - (query_tiles() - 1) * machine_.rows;
    Loop head;
    const int64_t whole = blocks_ - 1;
    if (whole > 0) {
      head.body.push_back(Block(tiles_per_block_, machine_.rows, whole));
      head.body.back().count = whole;
    }
    head.body.push_back(Block(last, last_rows, 1));
    work_.tiles.push_back(std::move(head));
    CountMovement();
    return std::move(work_);
  }

 private:
  // How many tiles of queries are held at once: as the study has it, a factor of their number;
  // where that has no large one, a power of two, and the last block is smaller.
  absl::Status ChooseBlock() {
    double per_chunk = 0;  // Words.
    double per_query = 0;
    double inputs_per_query = 0;
    for (const auto& [tensor, words] : machine_.cascade.LiveWords(
             "m", {{"m0", machine_.columns}, {"e", size_.head_dim}, {"f", size_.head_dim}})) {
      if (!machine_.InBuffer(tensor)) continue;
      const auto input = inputs_.find(tensor);
      if (input != inputs_.end() && HasKeys(input->second)) {
        per_chunk += static_cast<double>(words);
      } else {
        per_query += static_cast<double>(words);
        if (input != inputs_.end()) inputs_per_query += static_cast<double>(words);
      }
    }
    const double rows = static_cast<double>(machine_.rows);
    const double room = machine_.buffer_bytes / machine_.word_bytes - per_chunk;
    const double most_tiles = std::floor(room / std::max(1.0, per_query * rows));
    const auto most =
        static_cast<int64_t>(std::clamp(most_tiles, 0.0, static_cast<double>(query_tiles())));
    if (most < 1) return DoesNotFit((per_chunk + per_query * rows) * machine_.word_bytes);
    int64_t factor = most;
    while (query_tiles() % factor != 0) --factor;
    int64_t power = 1;
    while (power * 2 <= most) power *= 2;
    tiles_per_block_ = std::max(factor, power);
    // What is left takes in what comes next while this is worked on.
    const double left = room - per_query * rows * static_cast<double>(tiles_per_block_);
    const double tile = per_chunk + inputs_per_query * rows;
    work_.window = static_cast<int>(
        1 + std::min(static_cast<double>(kMostAhead - 1), tile > 0 ? left / tile : 0.0));
    return absl::OkStatus();
  }

  // All chunks, for `tiles` tiles of queries, the last of them with `last_rows`.
  Loop Block(int64_t tiles, int64_t last_rows, int64_t times) {
    Loop block;
    const int64_t last_keys = size_.keys - (key_tiles() - 1) * machine_.columns;
    const auto add = [&](bool first, bool last, int64_t keys, int64_t count) {
      if (count == 0) return;
      Loop chunk{.count = count};
      const auto add_tiles = [&](bool load, int64_t rows, int64_t n) {
        if (n == 0) return;
        chunk.body.push_back(Tile(rows, keys, load, first, last));
        chunk.body.back().count = n;
        AddTime(machine_.program.steps, chunk.body.back().ticks,
                static_cast<double>(n) * static_cast<double>(count * times));
      };
      if (tiles == 1) {
        add_tiles(true, last_rows, 1);
      } else {
        add_tiles(true, machine_.rows, 1);
        add_tiles(false, machine_.rows, tiles - 2);
        add_tiles(false, last_rows, 1);
      }
      block.body.push_back(std::move(chunk));
    };
    if (key_tiles() == 1) {
      add(true, true, last_keys, 1);
    } else {
      add(true, false, machine_.columns, 1);
      add(false, false, machine_.columns, key_tiles() - 2);
      add(false, true, last_keys, 1);
    }
    return block;
  }

  Extents TileExtents(int64_t rows, int64_t keys) const {
    return {.p = rows, .m0 = keys, .e = size_.head_dim, .f = size_.head_dim};
  }

  Loop Tile(int64_t rows, int64_t keys, bool load_keys, bool first, bool last) const {
    const Extents extents = TileExtents(rows, keys);
    Loop tile;
    tile.ticks.assign(machine_.program.steps.size(), 0);
    double words = 0;
    for (const auto& [name, use] : inputs_) {
      if (HasKeys(use) ? load_keys : first) words += extents.Points(use.ranks);
    }
    if (last) words += extents.Points(einsums_.back().output.ranks);
    tile.ticks[0] = machine_.MemoryTicks(words * machine_.word_bytes);
    for (size_t i = 0; i < einsums_.size(); ++i) {
      // What has no chunks is made once: before the first, or after the last of what it is made of.
      if (!einsums_[i].Iterates("m1") && !(of_chunks_[i] ? last : first)) continue;
      tile.ticks[machine_.steps[i]] =
          CyclesOf(machine_, i, extents, Stationary::kOutput) * SpatialMachine::kTicksPerCycle;
    }
    return tile;
  }

  void CountMovement() {
    const Extents head = TileExtents(size_.queries, size_.keys);
    for (const auto& [name, use] : inputs_) {
      const bool keys = HasKeys(use);
      const double words = head.Points(use.ranks) * static_cast<double>(keys ? blocks_ : 1);
      Memory(words, keys);
      if (machine_.InBuffer(name)) Write(words);
    }
    Memory(head.Points(einsums_.back().output.ranks), false);
    // Of each kind of tile, whole or cut off at the end.
    const int64_t cut_rows = size_.queries % machine_.rows;
    const int64_t cut_keys = size_.keys % machine_.columns;
    const std::pair<int64_t, int64_t> rows[] = {{machine_.rows, size_.queries / machine_.rows},
                                                {cut_rows, cut_rows > 0 ? 1 : 0}};
    const std::pair<int64_t, int64_t> keys[] = {{machine_.columns, size_.keys / machine_.columns},
                                                {cut_keys, cut_keys > 0 ? 1 : 0}};
    for (const auto& [tile_rows, row_tiles] : rows) {
      for (const auto& [tile_keys, key_tiles] : keys) {
        const double tiles = static_cast<double>(row_tiles) * static_cast<double>(key_tiles);
        if (tiles > 0) CountTiles(TileExtents(tile_rows, tile_keys), tiles, true);
      }
      if (row_tiles > 0) {
        CountTiles(TileExtents(tile_rows, 1), static_cast<double>(row_tiles), false);
      }
    }
  }

  void Memory(double words, bool keys) {
    work_.memory_bytes += words * machine_.word_bytes;
    if (keys) work_.kv_bytes += words * machine_.word_bytes;
  }

  // Words to and from the buffer, of the Einsums of each tile or of those after the last chunk.
  void CountTiles(const Extents& extents, double tiles, bool chunked) {
    for (size_t i = 0; i < einsums_.size(); ++i) {
      if (einsums_[i].Iterates("m1") != chunked) continue;
      for (const std::string& tensor : machine_.einsums[i].from_buffer) {
        for (const TensorUse& use : einsums_[i].inputs) {
          if (use.tensor != tensor) continue;
          Read(tiles * MovedWords(machine_, i, use, extents, Stationary::kOutput));
          break;
        }
      }
      if (machine_.einsums[i].to_buffer) {
        Write(tiles * MovedWords(machine_, i, einsums_[i].output, extents, Stationary::kOutput));
      }
    }
  }

  std::vector<bool> of_chunks_;  // Whether an Einsum needs what is made of chunks.
  int64_t tiles_per_block_ = 1;
  int64_t blocks_ = 1;
};

}  // namespace

absl::StatusOr<HeadWork> MapChunked(const SpatialMachine& machine, const AttentionSize& size) {
  return ChunkedMapper(machine, size).Map();
}

}  // namespace thresher
