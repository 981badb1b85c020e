#ifndef ZEROCAST_SERVER_PLAN_LOOPS_H_
#define ZEROCAST_SERVER_PLAN_LOOPS_H_

#include <array>
#include <cstdint>

#include "kernels/copy/box.h"

namespace zerocast {

// The loops of `box`, from the smallest to the largest `stride` of one side.
inline std::array<BoxDim, kMaxBoxDims> LoopsFromInside(const Box& box, int64_t BoxDim::*stride) {
  // Insertion sort: a handful of loops, mostly sorted from outside.
  std::array<BoxDim, kMaxBoxDims> loops;
  for (int num = 0; num < box.num_dims; ++num) {
    const BoxDim& loop = box.dims[box.num_dims - 1 - num];
    int place = num;
    for (; place > 0 && loops[place - 1].*stride > loop.*stride; --place) {
      loops[place] = loops[place - 1];
    }
    loops[place] = loop;
  }
  return loops;
}

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_PLAN_LOOPS_H_
