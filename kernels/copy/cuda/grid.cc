#include "kernels/copy/cuda/grid.h"

#include <algorithm>

namespace zerocast {
namespace {

// Below it the search for a segment's first piece and the descriptor of that weigh too much, ...
constexpr int64_t kLeastSegmentBytes = 16 << 10;
// ... and above it nothing is gained, but the end of a launch becomes uneven.
constexpr int64_t kMostSegmentBytes = 32 << 10;
// Small boxes take a warp's time one after the other: it gets no more of them than that, until
// segments are too small to be worth a warp.
constexpr int64_t kMostSmallPieces = 4;
constexpr int64_t kLeastSmallBytes = 512;

int64_t DividedUp(int64_t number, int64_t by) { return (number - 1) / by + 1; }

}  // namespace

Grid DivideBatch(int64_t num_elements, int64_t num_pieces, int64_t element_bytes,
                 int64_t num_warps) {
  const int64_t most = kMostSegmentBytes / element_bytes;
  const int64_t of_pieces = DividedUp(num_elements, num_pieces);
  const int64_t of_small =
      of_pieces < most / kMostSmallPieces ? of_pieces * kMostSmallPieces : most;
  const int64_t least = std::max(kLeastSmallBytes / element_bytes,
                                 std::min(kLeastSegmentBytes / element_bytes, of_small));
  // As many rounds as it takes, all of them full.
  const int64_t rounds = DividedUp(DividedUp(num_elements, num_warps), most);
  Grid grid;
  grid.segment_elements = std::max(least, DividedUp(DividedUp(num_elements, rounds), num_warps));
  const int64_t num_segments = DividedUp(num_elements, grid.segment_elements);
  grid.num_blocks = static_cast<unsigned>(
      DividedUp(std::min(num_segments, std::max<int64_t>(num_warps, 1)), kBlockWarps));
  return grid;
}

}  // namespace zerocast
