#ifndef ZEROCAST_TESTS_MADE_RULES_H_
#define ZEROCAST_TESTS_MADE_RULES_H_

// Rules of conversion that tests and benchmarks write themselves, and the dialects they hold in.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/conversion/convert.h"
#include "server/conversion/rule.h"

namespace zerocast {

inline Dialect Newest() { return CatalogueDialect("5.23.0").value(); }
inline Dialect Oldest() { return CatalogueDialect("5.1.0").value(); }

inline Rule MakeRename(std::vector<std::string> from, std::vector<std::string> to) {
  Rule rule;
  rule.from = std::move(from);
  rule.to = std::move(to);
  return rule;
}

inline Op MakeOp(OpKind kind, int64_t dim = 0) {
  Op op;
  op.kind = kind;
  op.dim = dim;
  return op;
}

inline Rule MakeConvert(std::vector<std::string> from, std::vector<std::string> to,
                        std::vector<Op> ops = {MakeOp(OpKind::kCat)}) {
  Rule rule = MakeRename(std::move(from), std::move(to));
  rule.kind = RuleKind::kConvert;
  rule.ops = std::move(ops);
  return rule;
}

// Experts stacked, w1 and w3 joined, as mixtral's rules in hf-rules-5.23.0.json.
inline std::vector<Rule> MixtralRules() {
  return {MakeRename({".block_sparse_moe."}, {".mlp."}),
          MakeConvert({".experts.*.w1.weight", ".experts.*.w3.weight"}, {".experts.gate_up_proj"},
                      {MakeOp(OpKind::kStack), MakeOp(OpKind::kCat, 1)}),
          MakeConvert({".experts.*.w2.weight"}, {".experts.down_proj"}, {MakeOp(OpKind::kStack)})};
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_MADE_RULES_H_
