#include "client/agent/chunks.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/decode_box.h"

namespace zerocast {
namespace {

PlacedMove Place(const Plan& plan, const Move& move) {
  const ManifestTensor& tensor = plan.manifest->tensors[static_cast<size_t>(move.source)];
  PlacedMove placed;
  placed.file = tensor.file;
  placed.tensor_begin = tensor.file_begin;
  placed.tensor_end = tensor.file_end;
  placed.stored = tensor.tensor.dtype;
  placed.element_bytes = SizeOf(tensor.tensor.dtype);
  if (move.decoder != nullptr) placed.packed = PackedElements(move.decoder->decoder.kind);
  placed.begin = tensor.file_begin + move.box.source_offset / placed.packed * placed.element_bytes;
  placed.end = tensor.file_begin +
               (SourceEnd(move.box) + placed.packed - 1) / placed.packed * placed.element_bytes;
  placed.move = move;
  return placed;
}

// True when the bytes of the file are the bytes of the memory, in their order.
bool KeepsBytes(const PlacedMove& placed, const Box& box) {
  return placed.move.decoder == nullptr && placed.move.dtype == placed.stored && IsContiguous(box);
}

// The bytes of the scales that `box` needs.
struct ScalePlace {
  int32_t scale = 0;  // index in Manifest::tensors
  int64_t begin = 0, end = 0;
};
ScalePlace ScaleBytes(const Plan& plan, const SourceDecoder& decoder, const Box& box) {
  const ManifestTensor& tensor = plan.manifest->tensors[static_cast<size_t>(decoder.scale)];
  const ScaleRange range = ScalesOf(decoder.decoder, box.source_offset, SourceEnd(box));
  const int64_t size = SizeOf(tensor.tensor.dtype);
  return {decoder.scale, tensor.file_begin + range.begin * size,
          tensor.file_begin + range.end * size};
}

// True where one of `extents`, which are sorted, holds all of [begin, end).
bool Holds(absl::Span<const Extent> extents, int32_t file, int64_t begin, int64_t end) {
  const auto after =
      std::partition_point(extents.begin(), extents.end(), [=](const Extent& extent) {
        return extent.file != file ? extent.file < file : extent.begin <= begin;
      });
  return after != extents.begin() && after[-1].file == file && end <= after[-1].end;
}

absl::Status NotRead(const Plan& plan, int32_t source, int64_t begin, int64_t end) {
  const ManifestTensor& tensor = plan.manifest->tensors[static_cast<size_t>(source)];
  return absl::InternalError(absl::StrCat("place a piece of ", tensor.tensor.name, " (bytes [",
                                          begin, ", ", end, ") of file ", tensor.file,
                                          "): no extent of this round holds it"));
}

// Where byte `at` of `file` is among the bytes of `extents`, which are one behind the other from
// `data` on; an extent holds it.
const char* FindBytes(const std::vector<Extent>& extents, const char* data, int32_t file,
                      int64_t at) {
  for (const Extent& extent : extents) {
    if (extent.file == file && extent.begin <= at && at < extent.end) {
      return data + (at - extent.begin);
    }
    data += extent.end - extent.begin;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<RoundMoves> RoundMoves::Create(const Plan& plan, absl::Span<const Extent> extents,
                                              absl::Span<const Move> moves, int64_t chunk_bytes,
                                              int64_t min_direct_bytes) {
  RoundMoves round;
  round.plan_ = &plan;
  round.min_direct_bytes_ = min_direct_bytes;
  round.moves_.reserve(moves.size());
  bool transposes = false;
  for (const Move& move : moves) {
    transposes |= IsTransposed(move.box);
    round.moves_.push_back(Place(plan, move));
  }
  std::stable_sort(round.moves_.begin(), round.moves_.end(),
                   [](const PlacedMove& a, const PlacedMove& b) {
                     return a.file != b.file ? a.file < b.file : a.tensor_begin < b.tensor_begin;
                   });
  for (const Extent& extent : extents) {
    const Iterator first = round.FirstBehind(extent.file, extent.begin);
    if (first == round.moves_.end() || first->file != extent.file ||
        first->tensor_begin >= extent.end) {
      round.scales_.push_back(extent);
    } else {
      round.CutExtent(extent, transposes ? kTransposedChunks * chunk_bytes : chunk_bytes);
    }
  }
  ZC_RETURN_IF_ERROR(round.CheckRead(extents));
  round.GroupChunks();
  return round;
}

RoundMoves::Iterator RoundMoves::FirstBehind(int32_t file, int64_t at) const {
  return std::partition_point(moves_.begin(), moves_.end(), [=](const PlacedMove& placed) {
    return placed.file != file ? placed.file < file : placed.tensor_end <= at;
  });
}

void RoundMoves::CutExtent(const Extent& extent, int64_t chunk_bytes) {
  for (int64_t begin = extent.begin; begin < extent.end;) {
    int64_t end = std::min(extent.end, begin + chunk_bytes);
    const Iterator cut = FirstBehind(extent.file, end);
    if (end < extent.end && cut != moves_.end() && cut->file == extent.file &&
        cut->tensor_begin < end) {
      const int64_t size = cut->element_bytes;
      end = cut->tensor_begin + (end - cut->tensor_begin) / size * size;
      if (end <= begin) end = std::min(extent.end, end + size);
    }
    chunks_.push_back({extent.file, begin, end});
    buffer_bytes_ = std::max(buffer_bytes_, end - begin);
    begin = end;
  }
}

int32_t RoundMoves::MainRank(const Extent& chunk) const {
  int32_t rank = -1;
  int64_t most = 0;  // bytes of the chunk
  for (Iterator placed = FirstBehind(chunk.file, chunk.begin);
       placed != moves_.end() && placed->file == chunk.file && placed->tensor_begin < chunk.end;
       ++placed) {
    const int64_t bytes = std::min(placed->end, chunk.end) - std::max(placed->begin, chunk.begin);
    if (bytes <= most) continue;
    most = bytes;
    rank = placed->move.rank;
  }
  return rank;
}

void RoundMoves::GroupChunks() {
  std::map<int32_t, std::vector<Extent>> by_rank;
  for (const Extent& chunk : chunks_) by_rank[MainRank(chunk)].push_back(chunk);
  chunks_.clear();
  for (const auto& [rank, chunks] : by_rank) {
    groups_.emplace_back(chunks_.size(), chunks_.size() + chunks.size());
    chunks_.insert(chunks_.end(), chunks.begin(), chunks.end());
  }
}

absl::Status RoundMoves::CheckRead(absl::Span<const Extent> extents) const {
  for (const PlacedMove& placed : moves_) {
    if (!Holds(extents, placed.file, placed.begin, placed.end)) {
      return NotRead(*plan_, placed.move.source, placed.begin, placed.end);
    }
    if (placed.move.decoder == nullptr) continue;
    const auto [scale, begin, end] = ScaleBytes(*plan_, *placed.move.decoder, placed.move.box);
    const int32_t file = plan_->manifest->tensors[static_cast<size_t>(scale)].file;
    if (!Holds(scales_, file, begin, end)) return NotRead(*plan_, scale, begin, end);
  }
  return absl::OkStatus();
}

void ChunkWork::Plan(const RoundMoves& moves, const Extent& chunk, char* buffer,
                     absl::FunctionRef<bool(const char*, int64_t)> into_place) {
  moves_ = &moves;
  chunk_ = chunk;
  buffer_ = buffer;
  CutMoves();
  AddPieces(into_place);
}

void ChunkWork::CutMoves() {
  cuts_.clear();
  const std::vector<PlacedMove>& moves = moves_->moves();
  auto placed = std::partition_point(moves.begin(), moves.end(), [this](const PlacedMove& move) {
    return move.file != chunk_.file ? move.file < chunk_.file : move.tensor_end <= chunk_.begin;
  });
  for (; placed != moves.end() && placed->file == chunk_.file && placed->tensor_begin < chunk_.end;
       ++placed) {
    if (placed->begin >= chunk_.end || placed->end <= chunk_.begin) continue;
    if (chunk_.begin <= placed->begin && placed->end <= chunk_.end) {
      cuts_.push_back({&*placed, placed->move.box, placed->begin, placed->end});
      continue;
    }
    const auto element = [&](int64_t at) {
      return (at - placed->tensor_begin) / placed->element_bytes * placed->packed;
    };
    boxes_.clear();
    SliceSource(placed->move.box, element(std::max(chunk_.begin, placed->tensor_begin)),
                element(std::min(chunk_.end, placed->tensor_end)), &boxes_);
    for (const Box& box : boxes_) {
      const int64_t first = box.source_offset / placed->packed;
      const int64_t last = (SourceEnd(box) + placed->packed - 1) / placed->packed;
      cuts_.push_back({&*placed, box, placed->tensor_begin + first * placed->element_bytes,
                       placed->tensor_begin + last * placed->element_bytes});
    }
  }
  std::sort(cuts_.begin(), cuts_.end(),
            [](const Cut& a, const Cut& b) { return a.begin < b.begin; });
}

void ChunkWork::AddPieces(absl::FunctionRef<bool(const char*, int64_t)> into_place) {
  copied_.clear();
  pieces_.clear();
  int64_t at = chunk_.begin;         // up to here the pieces have places
  int64_t needed_to = chunk_.begin;  // up to here some cut so far reads
  const auto add = [this](void* memory, int64_t num_bytes) {
    if (num_bytes > 0) pieces_.push_back({memory, static_cast<size_t>(num_bytes)});
  };
  for (size_t k = 0; k < cuts_.size(); ++k) {
    const Cut& cut = cuts_[k];
    const bool alone =
        needed_to <= cut.begin && (k + 1 == cuts_.size() || cut.end <= cuts_[k + 1].begin);
    needed_to = std::max(needed_to, cut.end);
    char* const place = cut.move->move.memory + cut.box.target_offset * cut.move->element_bytes;
    if (!alone || cut.end - cut.begin < moves_->min_direct_bytes() ||
        !KeepsBytes(*cut.move, cut.box) || !into_place(place, cut.end - cut.begin)) {
      copied_.push_back(&cut);
      continue;
    }
    add(buffer_ + (at - chunk_.begin), cut.begin - at);
    add(place, cut.end - cut.begin);
    at = cut.end;
  }
  add(buffer_ + (at - chunk_.begin), chunk_.end - at);
}

BoxCopy ChunkWork::CopyOf(const Cut& cut, const char* scales) const {
  const PlacedMove& placed = *cut.move;
  BoxCopy copy;
  copy.box = cut.box;
  copy.source = buffer_ + (cut.begin - chunk_.begin);
  copy.source_dtype = placed.stored;
  copy.target = placed.move.memory;
  copy.target_dtype = placed.move.dtype;
  if (placed.move.decoder == nullptr) {
    copy.box.source_offset = 0;
    return copy;
  }
  const SourceDecoder& decoder = *placed.move.decoder;
  const ScalePlace place = ScaleBytes(moves_->plan(), decoder, cut.box);
  const ScaleRange range = ScalesOf(decoder.decoder, cut.box.source_offset, SourceEnd(cut.box));
  copy.decoder = &decoder.decoder;
  copy.encoded.stored = copy.source;
  copy.encoded.stored_first = cut.box.source_offset / placed.packed * placed.packed;
  copy.encoded.scales_first = range.begin;
  copy.encoded.scales = FindBytes(
      moves_->scales(), scales,
      moves_->plan().manifest->tensors[static_cast<size_t>(place.scale)].file, place.begin);
  return copy;
}

absl::Span<const BoxCopy> ChunkWork::Copies(const char* scales) {
  copies_.clear();
  for (const Cut* cut : copied_) copies_.push_back(CopyOf(*cut, scales));
  return copies_;
}

}  // namespace zerocast
