#include "server/plan/source_index.h"

#include <algorithm>

namespace zerocast {

void JoinRanges(std::vector<FileRange>* ranges) {
  std::sort(ranges->begin(), ranges->end());
  size_t kept = 0;
  for (const FileRange& range : *ranges) {
    if (kept > 0) {
      FileRange& last = (*ranges)[kept - 1];
      if (last.file == range.file && range.begin <= last.end) {
        last.end = std::max(last.end, range.end);
        continue;
      }
    }
    (*ranges)[kept++] = range;
  }
  ranges->resize(kept);
}

SourceIndex::SourceIndex(const Plan& plan) : plan_(plan) {
  const std::vector<ManifestTensor>& tensors = plan.manifest->tensors;
  // Counted, then placed: no list for each source.
  std::vector<size_t> count(tensors.size(), 0);
  for (const Target& target : plan.targets) {
    for (const Box& box : target.boxes) ++count[box.source];
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (count[i] == 0) continue;
    const ManifestTensor& tensor = tensors[i];
    needed_.push_back({{tensor.file, tensor.file_begin, tensor.file_end},
                       SizeOf(tensor.tensor.dtype),
                       static_cast<int32_t>(i),
                       FindDecoder(plan.decoders, static_cast<int32_t>(i))});
  }
  std::sort(needed_.begin(), needed_.end(),
            [](const NeededSource& a, const NeededSource& b) { return a.range < b.range; });
  std::vector<size_t> next(tensors.size(), 0);
  first_box_.reserve(needed_.size() + 1);
  first_box_.push_back(0);
  for (const NeededSource& source : needed_) {
    next[source.source] = first_box_.back();
    first_box_.push_back(first_box_.back() + count[source.source]);
  }
  boxes_.resize(first_box_.back());
  for (size_t t = 0; t < plan.targets.size(); ++t) {
    const std::vector<Box>& boxes = plan.targets[t].boxes;
    for (size_t b = 0; b < boxes.size(); ++b) {
      boxes_[next[boxes[b].source]++] = {static_cast<int32_t>(t), static_cast<int32_t>(b)};
    }
  }
}

size_t SourceIndex::FirstSlotBehind(int32_t file, int64_t at) const {
  return static_cast<size_t>(std::partition_point(needed_.begin(), needed_.end(),
                                                  [file, at](const NeededSource& source) {
                                                    return source.range.file < file ||
                                                           (source.range.file == file &&
                                                            source.range.end <= at);
                                                  }) -
                             needed_.begin());
}

void SourceIndex::AppendScales(int32_t file, int64_t begin, int64_t end,
                               std::vector<FileRange>* out) const {
  for (size_t slot = FirstSlotBehind(file, begin); slot < needed_.size(); ++slot) {
    const NeededSource& source = needed_[slot];
    if (source.range.file != file || source.range.begin >= end) return;
    if (source.decoder == nullptr) continue;
    const int64_t from = std::max(begin, source.range.begin) - source.range.begin;
    const int64_t to = std::min(end, source.range.end) - source.range.begin;
    const int64_t size = source.element_bytes;
    const ScaleRange scales = ScalesOf(source.decoder->decoder, from / size * source.packed(),
                                       (to + size - 1) / size * source.packed());
    const ManifestTensor& tensor = plan_.manifest->tensors[source.decoder->scale];
    const int64_t scale_bytes = SizeOf(tensor.tensor.dtype);
    out->push_back({tensor.file, tensor.file_begin + scales.begin * scale_bytes,
                    tensor.file_begin + scales.end * scale_bytes});
  }
}

int64_t SourceIndex::ElementBoundary(int32_t file, int64_t at) const {
  const size_t slot = FirstSlotBehind(file, at);
  if (slot == needed_.size()) return at;
  const NeededSource& source = needed_[slot];
  if (source.range.file != file || source.range.begin >= at) return at;
  return at - (at - source.range.begin) % source.element_bytes;
}

}  // namespace zerocast
