#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "server/conversion/reverse.h"

namespace zerocast {
namespace {

Op ReverseOp(Op op) {
  switch (op.kind) {
    case OpKind::kStack:
      op.kind = OpKind::kUnstack;
      break;
    case OpKind::kUnstack:
      op.kind = OpKind::kStack;
      break;
    case OpKind::kCat:
      op.kind = OpKind::kChunk;
      break;
    case OpKind::kChunk:
    case OpKind::kSplitByTarget:
      op.kind = OpKind::kCat;
      break;
    case OpKind::kTranspose:
      std::swap(op.a, op.b);
      break;
    case OpKind::kInterleave:
    case OpKind::kPermuteRope:
      op.inverse = !op.inverse;
      break;
    case OpKind::kErnieFuseSplit:
      op.kind = OpKind::kErnieSplitDecouple;
      break;
    case OpKind::kErnieSplitDecouple:
      op.kind = OpKind::kErnieFuseSplit;
      break;
    case OpKind::kConv3dToLinear:
      op.kind = OpKind::kLinearToConv3d;
      break;
    case OpKind::kLinearToConv3d:
      op.kind = OpKind::kConv3dToLinear;
      break;
    case OpKind::kAlign16:
    case OpKind::kFp8Dequantize:  // no reverse: Decodes() says so
    case OpKind::kMxfp4Dequantize:
      break;
  }
  return op;
}

}  // namespace

Rule ReverseRule(const Rule& rule) {
  Rule reversed = rule;
  std::swap(reversed.from, reversed.to);
  std::swap(reversed.prefix_add, reversed.prefix_remove);
  reversed.offset = -rule.offset;
  if (rule.kind == RuleKind::kRenameGroup && rule.from.size() == rule.to.size()) {
    // The guard is the pattern that sorts first.
    std::vector<std::pair<std::string, std::string>> pairs;
    for (size_t i = 0; i < rule.from.size(); ++i) pairs.emplace_back(rule.to[i], rule.from[i]);
    std::sort(pairs.begin(), pairs.end());
    for (size_t i = 0; i < pairs.size(); ++i) {
      reversed.from[i] = pairs[i].first;
      reversed.to[i] = pairs[i].second;
    }
  }
  reversed.ops.clear();
  for (auto op = rule.ops.rbegin(); op != rule.ops.rend(); ++op) {
    reversed.ops.push_back(ReverseOp(*op));
  }
  return reversed;
}

}  // namespace zerocast
