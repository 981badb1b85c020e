#ifndef ZEROCAST_SERVER_PLAN_SOURCE_INDEX_H_
#define ZEROCAST_SERVER_PLAN_SOURCE_INDEX_H_

// The sources that a plan needs, in file order, and the boxes that read them.  Internal to
// server/plan.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/plan/plan.h"

namespace zerocast {

// A range of bytes of one file.
struct FileRange {
  int32_t file = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

inline bool operator<(const FileRange& a, const FileRange& b) {
  return a.file != b.file ? a.file < b.file : a.begin < b.begin;
}

// Sorts, and joins what touches or overlaps.
void JoinRanges(std::vector<FileRange>* ranges);

// A tensor of the manifest that some box reads; never empty.
struct NeededSource {
  FileRange range;
  int64_t element_bytes = 0;  // of a stored element
  int32_t source = 0;         // index in Manifest::tensors
  // Of a source that is decoded; else null.  Of the plan.
  const SourceDecoder* decoder = nullptr;

  // Logical elements in a stored one.
  int64_t packed() const { return decoder == nullptr ? 1 : PackedElements(decoder->decoder.kind); }
  // The bytes that hold logical elements [begin, end).
  FileRange BytesOf(int64_t begin, int64_t end) const {
    const int64_t n = packed();
    return {range.file, range.begin + begin / n * element_bytes,
            range.begin + (end + n - 1) / n * element_bytes};
  }
};

// A box of the plan by number.
struct BoxRef {
  int32_t target = 0;
  int32_t box = 0;
};

// Immutable; keeps a reference to the plan.
class SourceIndex {
 public:
  explicit SourceIndex(const Plan& plan);

  // Sorted by range; no two share bytes.
  const std::vector<NeededSource>& needed() const { return needed_; }

  // The boxes that read needed()[slot], in the order of targets.
  absl::Span<const BoxRef> Boxes(size_t slot) const {
    return absl::MakeConstSpan(boxes_).subspan(first_box_[slot],
                                               first_box_[slot + 1] - first_box_[slot]);
  }

  // The first slot whose range ends behind byte `at` of `file`.
  size_t FirstSlotBehind(int32_t file, int64_t at) const;

  // True when some needed source is decoded.
  bool has_decoders() const { return !plan_.decoders.empty(); }

  // Appends the bytes of the scales that the elements in bytes [begin, end) of `file` need, those
  // of one source after the other.
  void AppendScales(int32_t file, int64_t begin, int64_t end, std::vector<FileRange>* out) const;

  // The last place in [.., at] of `file` that does not cut a stored element of a needed source.
  int64_t ElementBoundary(int32_t file, int64_t at) const;

 private:
  const Plan& plan_;
  std::vector<NeededSource> needed_;
  std::vector<BoxRef> boxes_;
  std::vector<size_t> first_box_;  // one more than needed_
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_SOURCE_INDEX_H_
