#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/deepspeed/box_blocks.h"
#include "client/formats/deepspeed/piece_copier.h"
#include "kernels/base/status_macros.h"
#include "kernels/copy/copy.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Stretches from which on each is a run of its own: reading them needs no gathering.
constexpr int64_t kLeastRunBytes = 64 << 10;
// Runs, and blocks, that are made before they are carried out.
constexpr size_t kMostAtOnce = size_t{1} << 16;

// Elements of the contiguous stretches that both sides of a canonical box have.
int64_t StretchElements(const Box& box) {
  if (box.num_dims == 0) return 1;
  const BoxDim& last = box.dims[box.num_dims - 1];
  return last.source_stride == 1 && last.target_stride == 1 ? last.extent : 1;
}

absl::Status NotCovered(int64_t element) {
  return WithReason(absl::InternalError(absl::StrCat(
                        "copy a box: no piece of the checkpoint holds element ", element)),
                    "INTERNAL");
}

// The piece that holds element `offset`, or the end.
std::vector<ZeroPiece>::const_iterator PieceOf(const std::vector<ZeroPiece>& pieces,
                                               int64_t offset) {
  auto after =
      std::upper_bound(pieces.begin(), pieces.end(), offset,
                       [](int64_t at, const ZeroPiece& piece) { return at < piece.offset; });
  if (after == pieces.begin()) return pieces.end();
  --after;
  return offset < after->offset + after->from.num_elements ? after : pieces.end();
}

// Calls `body` for the parts of pieces that [offset, offset + num_elements) lies in, in order.
absl::Status ForEachPart(
    const std::vector<ZeroPiece>& pieces, int64_t offset, int64_t num_elements,
    const std::function<absl::Status(const ZeroExtent& part, int64_t offset)>& body) {
  const int64_t end = offset + num_elements;
  while (offset < end) {
    const auto piece = PieceOf(pieces, offset);
    if (piece == pieces.end()) return NotCovered(offset);
    ZeroExtent part = piece->from;
    const int64_t skipped = offset - piece->offset;
    part.file_begin += skipped * SizeOf(part.dtype);
    part.num_elements = std::min(part.num_elements - skipped, end - offset);
    ZC_RETURN_IF_ERROR(body(part, offset));
    offset += part.num_elements;
  }
  return absl::OkStatus();
}

// The runs of a box whose stretches are long.
absl::Status AddRuns(const BoxRun& run, std::vector<CopyRun>* runs) {
  const Box& box = run.box;
  // Its outer loops, each step of which is one stretch.
  Box steps = box;
  int64_t length = 1;
  if (StretchElements(box) > 1) {
    length = StretchElements(box);
    --steps.num_dims;
  }
  int64_t at[kMaxBoxDims] = {};
  int64_t source = box.source_offset, target = box.target_offset;
  while (true) {
    ZC_RETURN_IF_ERROR(ForEachPart(
        *run.pieces, source, length, [&](const ZeroExtent& part, int64_t offset) -> absl::Status {
          CopyRun one;
          one.from = part;
          one.output = run.output;
          one.position = run.position + (target + offset - source) * SizeOf(run.dtype);
          one.dtype = run.dtype;
          runs->push_back(one);
          return absl::OkStatus();
        }));
    int k = steps.num_dims - 1;
    for (; k >= 0; --k) {
      const BoxDim& dim = steps.dims[k];
      source += dim.source_stride;
      target += dim.target_stride;
      if (++at[k] < dim.extent) break;
      source -= dim.extent * dim.source_stride;
      target -= dim.extent * dim.target_stride;
      at[k] = 0;
    }
    if (k < 0) return absl::OkStatus();
  }
}

}  // namespace

absl::Status PieceCopier::Gather(const std::vector<ZeroPiece>& pieces, int64_t offset,
                                 int64_t num_elements, char* to) {
  return ForEachPart(
      pieces, offset, num_elements, [&](const ZeroExtent& part, int64_t) -> absl::Status {
        const int64_t num_bytes = part.num_elements * SizeOf(part.dtype);
        if (part.storage < 0) {
          std::memset(to, 0, static_cast<size_t>(num_bytes));
        } else {
          const ZeroStorage& storage = checkpoint_.storages[static_cast<size_t>(part.storage)];
          ZC_ASSIGN_OR_RETURN(const auto file, Open(storage.file));
          ZC_RETURN_IF_ERROR(file->ReadInto(part.file_begin, num_bytes, to));
          if (storage.has_crc) {
            const MutexLock lock(&mutex_);
            read_[part.storage];
          }
        }
        to += num_bytes;
        return absl::OkStatus();
      });
}

absl::Status PieceCopier::CopyBlock(const BoxRun& run, const Box& block, const OutputFile& output,
                                    Buffers* buffers) {
  const DType from = run.pieces->front().from.dtype;
  const int64_t elements = NumElements(block);
  buffers->in.resize(static_cast<size_t>(elements * SizeOf(from)));
  ZC_RETURN_IF_ERROR(ForEachStretch(block, BoxSide::kSource, [&](const BoxStretch& stretch) {
    return Gather(*run.pieces, stretch.offset, stretch.num_elements,
                  buffers->in.data() + stretch.packed_offset * SizeOf(from));
  }));
  ZC_ASSIGN_OR_RETURN(const Box packed, PackBothSides(block));
  const int64_t size = SizeOf(run.dtype);
  buffers->out.resize(static_cast<size_t>(elements * size));
  CopyBox(packed, buffers->in.data(), from, buffers->out.data(), run.dtype);
  ZC_RETURN_IF_ERROR(ForEachStretch(block, BoxSide::kTarget, [&](const BoxStretch& stretch) {
    return output.WriteAt(run.position + stretch.offset * size,
                          absl::string_view(buffers->out)
                              .substr(static_cast<size_t>(stretch.packed_offset * size),
                                      static_cast<size_t>(stretch.num_elements * size)));
  }));
  if (options_.progress != nullptr) options_.progress(elements * size);
  return absl::OkStatus();
}

absl::Status PieceCopier::CopyBoxes(absl::Span<const BoxRun> boxes,
                                    absl::Span<const OutputFile* const> outputs) {
  struct Block {
    const BoxRun* run = nullptr;
    Box box;
  };
  std::vector<CopyRun> runs;
  std::vector<Block> blocks;
  const auto flush = [&]() -> absl::Status {
    ZC_RETURN_IF_ERROR(Copy(runs, outputs, 0).status());
    runs.clear();
    ZC_RETURN_IF_ERROR(OnThreads(blocks.size(), [&](size_t k, Buffers* buffers) {
      const BoxRun& run = *blocks[k].run;
      return CopyBlock(run, blocks[k].box, *outputs[static_cast<size_t>(run.output)], buffers);
    }));
    blocks.clear();
    return absl::OkStatus();
  };
  for (const BoxRun& run : boxes) {
    if (run.pieces->empty()) return NotCovered(0);
    const DType from = run.pieces->front().from.dtype;
    for (const ZeroPiece& piece : *run.pieces) {
      if (piece.from.dtype == from) continue;
      return WithReason(absl::InternalError(absl::StrCat("copy a box: its tensor has elements of ",
                                                         DTypeName(from), " and of ",
                                                         DTypeName(piece.from.dtype))),
                        "INTERNAL");
    }
    if (!CanCast(from, run.dtype)) {
      return absl::InvalidArgumentError(absl::StrCat("copy elements of ", DTypeName(from), " as ",
                                                     DTypeName(run.dtype), ": there is no cast"));
    }
    const int64_t size = std::max(SizeOf(from), SizeOf(run.dtype));
    const int64_t stretch = StretchElements(run.box);
    if (stretch == NumElements(run.box) || stretch * size >= kLeastRunBytes) {
      ZC_RETURN_IF_ERROR(AddRuns(run, &runs));
    } else {
      const BoxBlocks of(run.box, kPartBytes / size);
      for (int64_t k = 0; k < of.count(); ++k) {
        blocks.push_back({&run, of.Get(k)});
        if (blocks.size() >= kMostAtOnce) ZC_RETURN_IF_ERROR(flush());
      }
    }
    if (runs.size() >= kMostAtOnce) ZC_RETURN_IF_ERROR(flush());
  }
  return flush();
}

}  // namespace zerocast
