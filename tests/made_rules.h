#ifndef ZEROCAST_TESTS_MADE_RULES_H_
#define ZEROCAST_TESTS_MADE_RULES_H_

// Rules of conversion for checkpoints that tests and benchmarks write themselves.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/conversion/rule.h"

namespace zerocast {

inline Rule MakeConvert(std::vector<std::string> from, std::string to, std::vector<Op> ops) {
  Rule rule;
  rule.kind = RuleKind::kConvert;
  rule.from = std::move(from);
  rule.to = {std::move(to)};
  rule.ops = std::move(ops);
  return rule;
}

inline Op MakeOp(OpKind kind, int64_t dim) {
  Op op;
  op.kind = kind;
  op.dim = dim;
  return op;
}

// Experts stacked, w1 and w3 joined, as mixtral's rules in hf-rules-5.23.0.json.
inline std::vector<Rule> MixtralRules() {
  Rule rename;
  rename.from = {".block_sparse_moe."};
  rename.to = {".mlp."};
  return {rename,
          MakeConvert({".experts.*.w1.weight", ".experts.*.w3.weight"}, ".experts.gate_up_proj",
                      {MakeOp(OpKind::kStack, 0), MakeOp(OpKind::kCat, 1)}),
          MakeConvert({".experts.*.w2.weight"}, ".experts.down_proj", {MakeOp(OpKind::kStack, 0)})};
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_MADE_RULES_H_
