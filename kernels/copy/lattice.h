#ifndef ZEROCAST_KERNELS_COPY_LATTICE_H_
#define ZEROCAST_KERNELS_COPY_LATTICE_H_

// Where two nests of loops meet.  Internal to kernels/copy.

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "kernels/copy/box.h"

namespace zerocast {

inline int64_t FloorDiv(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
inline int64_t CeilDiv(int64_t a, int64_t b) { return -FloorDiv(-a, b); }

// One loop of a lattice: a step moves `stride` places in the space that is intersected, and `mate`
// places on the other side of the box that the lattice is a side of.
struct LatticeLoop {
  int64_t extent = 1;
  int64_t stride = 0;
  int64_t mate = 0;
};

// One side of a box.  Loops lie innermost first, so that the outermost is the cheap one to take
// off; they are nested.
struct Lattice {
  int64_t place = 0;
  int64_t mate = 0;
  int num = 0;
  LatticeLoop loops[kMaxBoxDims];

  const LatticeLoop& outer() const { return loops[num - 1]; }
  // Places from the first to the last one, inclusive.
  int64_t Span() const {
    int64_t span = 1;
    for (int k = 0; k < num; ++k) span += (loops[k].extent - 1) * loops[k].stride;
    return span;
  }
  // Keeps step `index` of the outermost loop only.
  void Fix(int64_t index) {
    place += index * outer().stride;
    mate += index * outer().mate;
    --num;
  }
};

// The places that `box` writes, with its source as the other side; and the places it reads, with
// its target as the other side.
Lattice TargetLattice(const Box& box);
Lattice SourceLattice(const Box& box);

// Enumerates the common places of two lattices as pieces, each a nest of loops.
//
// Each step takes one loop off the lattice whose outermost stride is the larger, the coarse one,
// and looks at the other, fine one, through the window that one coarse step covers.  Where the
// coarse stride is a multiple of the fine one every window looks the same, so that all windows
// are one piece with one more loop.  Otherwise windows repeat after lcm(coarse, fine) / coarse
// steps, and each of those is followed by itself.  Windows that the ends of the fine lattice cut
// are followed by themselves, too.  The pieces are disjoint and together exact.
//
// Emit: bool operator()(const LatticePiece&); false ends the search.
struct LatticePiece {
  int64_t place = 0;  // the smallest common place of the piece
  int64_t mate_a = 0;
  int64_t mate_b = 0;
  int num = 0;
  // extent; stride in the common space; strides on the other sides of a and b.
  struct Loop {
    int64_t extent, stride, mate_a, mate_b;
  } loops[2 * kMaxBoxDims];
};

template <typename Emit>
class Intersection {
 public:
  // At most `max_steps` steps are taken.
  Intersection(int64_t max_steps, Emit emit) : steps_left_(max_steps), emit_(emit) {}

  // False when `emit` ended the search or the steps ran out.
  bool Run(const Lattice& a, const Lattice& b) {
    Lattice sides[2] = {a, b};
    return Step(sides);
  }
  bool out_of_steps() const { return steps_left_ < 0; }

 private:
  struct Range {
    int64_t first, last;
  };

  // Steps of the outermost loop of `lattice`, which spans `span`, that reach into [begin, end).
  static Range Touched(const Lattice& lattice, int64_t span, int64_t begin, int64_t end) {
    const LatticeLoop& loop = lattice.outer();
    const int64_t inner_span = span - (loop.extent - 1) * loop.stride;
    return {std::max<int64_t>(0, FloorDiv(begin - lattice.place - inner_span, loop.stride) + 1),
            std::min(loop.extent - 1, FloorDiv(end - 1 - lattice.place, loop.stride))};
  }

  // `sides` is scratch afterwards.
  bool Step(Lattice* sides) {
    if (--steps_left_ < 0) return false;
    Range touched[2] = {};
    // Take off the loops of which one step only can meet the other side.
    for (bool fixed = true; fixed;) {
      const int64_t span[2] = {sides[0].Span(), sides[1].Span()};
      if (sides[0].place + span[0] <= sides[1].place ||
          sides[1].place + span[1] <= sides[0].place) {
        return true;
      }
      fixed = false;
      for (int s = 0; s < 2 && !fixed; ++s) {
        if (sides[s].num == 0) continue;
        const Lattice& other = sides[1 - s];
        touched[s] = Touched(sides[s], span[s], other.place, other.place + span[1 - s]);
        if (touched[s].first > touched[s].last) return true;
        if (touched[s].first == touched[s].last) {
          sides[s].Fix(touched[s].first);
          fixed = true;
        }
      }
    }
    // A lattice without loops is one place, which at most one step of a nested loop reaches: both
    // have loops left, or neither has.
    if (sides[0].num == 0) return EmitPiece(sides[0], sides[1]);
    const int coarse = sides[0].outer().stride >= sides[1].outer().stride ? 0 : 1;
    return StepCoarse(sides, coarse, touched[coarse]);
  }

  bool StepCoarse(const Lattice* sides, int coarse, Range touched) {
    const LatticeLoop outer = sides[coarse].outer();
    const LatticeLoop fine = sides[1 - coarse].outer();
    // Windows repeat every `period` coarse steps, which are `ratio` fine ones.
    const int64_t divisor = std::gcd(outer.stride, fine.stride);
    const int64_t period = fine.stride / divisor;
    const int64_t ratio = outer.stride / divisor;
    const int64_t count = touched.last - touched.first + 1;
    for (int64_t residue = 0; residue < std::min(period, count); ++residue) {
      const Range windows = {touched.first + residue,
                             touched.first + residue + (count - 1 - residue) / period * period};
      if (!StepWindows(sides, coarse, windows, period, ratio)) return false;
    }
    return true;
  }

  // Follows coarse steps windows.first, windows.first + period ... windows.last.
  bool StepWindows(const Lattice* sides, int coarse, Range windows, int64_t period, int64_t ratio) {
    const LatticeLoop outer = sides[coarse].outer();
    const Lattice& fine_side = sides[1 - coarse];
    const LatticeLoop fine = fine_side.outer();
    Lattice inner = sides[coarse];
    inner.Fix(windows.first);
    // Fine steps low .. high reach into the first window; they may lie outside the fine loop.
    int64_t fine_inner_span = 1;
    for (int k = 0; k + 1 < fine_side.num; ++k) {
      fine_inner_span += (fine_side.loops[k].extent - 1) * fine_side.loops[k].stride;
    }
    const int64_t low = FloorDiv(inner.place - fine_side.place - fine_inner_span, fine.stride) + 1;
    const int64_t high = FloorDiv(inner.place + inner.Span() - 1 - fine_side.place, fine.stride);
    if (low > high) return true;
    // Windows number first_whole .. last_whole, counted in periods, see whole fine loops.
    const int64_t num_windows = (windows.last - windows.first) / period + 1;
    const int64_t first_whole = low >= 0 ? 0 : CeilDiv(-low, ratio);
    const int64_t last_whole = std::min(num_windows - 1, FloorDiv(fine.extent - 1 - high, ratio));
    const bool any_whole = first_whole <= last_whole;
    for (int64_t window = 0; window < num_windows; ++window) {
      Lattice next[2] = {sides[0], sides[1]};
      next[coarse].Fix(windows.first + window * period);
      if (any_whole && window == first_whole) {
        const int64_t num_whole = last_whole - first_whole + 1;
        Lattice& seen = next[1 - coarse];
        const int64_t first_seen = low + window * ratio;
        seen.place += first_seen * fine.stride;
        seen.mate += first_seen * fine.mate;
        seen.loops[seen.num - 1].extent = high - low + 1;
        if (high == low) --seen.num;
        Push(coarse, num_whole, period * outer.stride, period * outer.mate, ratio * fine.mate);
        const bool go_on = Step(next);
        Pop(num_whole);
        if (!go_on) return false;
        window = last_whole;
      } else if (!Step(next)) {
        return false;
      }
    }
    return true;
  }

  void Push(int coarse, int64_t extent, int64_t stride, int64_t coarse_mate, int64_t fine_mate) {
    if (extent == 1) return;
    piece_.loops[piece_.num++] = {extent, stride, coarse == 0 ? coarse_mate : fine_mate,
                                  coarse == 0 ? fine_mate : coarse_mate};
  }
  void Pop(int64_t extent) {
    if (extent > 1) --piece_.num;
  }

  bool EmitPiece(const Lattice& a, const Lattice& b) {
    if (a.place != b.place) return true;
    piece_.place = a.place;
    piece_.mate_a = a.mate;
    piece_.mate_b = b.mate;
    return emit_(static_cast<const LatticePiece&>(piece_));
  }

  int64_t steps_left_;
  Emit emit_;
  LatticePiece piece_;
};

template <typename Emit>
Intersection(int64_t, Emit) -> Intersection<Emit>;

}  // namespace zerocast

#endif  // ZEROCAST_KERNELS_COPY_LATTICE_H_
