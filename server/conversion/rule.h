#ifndef ZEROCAST_SERVER_CONVERSION_RULE_H_
#define ZEROCAST_SERVER_CONVERSION_RULE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace zerocast {

// One operation of a conversion rule.  Names and meaning: server/conversion/README.md.
enum class OpKind {
  kStack,          // list of tensors -> one, along a new axis `dim`
  kUnstack,        // one tensor -> list, along `dim`
  kCat,            // join along `dim`, in the order of the rule's sources
  kChunk,          // cut along `dim` into as many pieces as targets
  kSplitByTarget,  // cut along `dim` by the sizes of the target parameters
  kTranspose,      // swap axes `a` and `b`
  kInterleave,     // out[c*n/2+i] = in[2i+c] along `dim`; inverse: the opposite
  kPermuteRope,    // the rotary permutation of axis 0
  kErnieFuseSplit,
  kErnieSplitDecouple,
  kConv3dToLinear,
  kLinearToConv3d,
  kAlign16,        // no effect on values
  kFp8Dequantize,  // decoders of sources: decoders.h
  kMxfp4Dequantize,
};

struct Op {
  OpKind kind = OpKind::kAlign16;
  int64_t dim = 0;                // also stack_dim of the Ernie operations
  int64_t concat_dim = 0;         // the Ernie operations
  int64_t a = 0, b = 0;           // kTranspose
  bool check_dims = false;        // kTranspose: leave a tensor that already has the target's shape
  bool inverse = false;           // kInterleave, kPermuteRope
  std::string count_attr;         // kCat, kChunk: the config attribute that holds the count
  std::string subconfig;          // kPermuteRope: the sub-config that holds num_attention_heads
  std::vector<std::string> only;  // kPermuteRope: substrings that select which keys are permuted
  int64_t in_channels = 0;        // kLinearToConv3d, and what kConv3dToLinear is reversed to
  std::vector<int64_t> kernel;    // kLinearToConv3d: three sizes
  std::vector<int64_t> block;     // kFp8Dequantize of 5.1.0: rows and columns; empty: all
};

enum class RuleKind {
  kRename,
  kConvert,
  kPrefix,       // add or remove a name part, optionally below `under`
  kRenameGroup,  // renames that become active after the first ("guard") pattern was seen
  kRenameIndex,  // a rename whose \1 is shifted by `offset`
};

// One conversion rule, patterns as written (before compilation).
struct Rule {
  RuleKind kind = RuleKind::kRename;
  std::vector<std::string> from;
  std::vector<std::string> to;
  std::vector<Op> ops;                           // kConvert; never empty there
  std::string prefix_add, prefix_remove, under;  // kPrefix
  int64_t offset = 0;                            // kRenameIndex
  // Where not has_scope the rule applies to whole keys.  Else to what follows "base.scope." or
  // "scope." (semantics of scoped rules of sub-models).
  bool has_scope = false;
  std::string scope_prefix;
  std::string scope_base;
};

// How a Transformers release matches patterns; data of the rule tables.
struct Dialect {
  std::string version = "5.23.0";
  bool replace_all = false;           // every occurrence of the matched text, or the first
  std::string wildcard_from = "*.";   // text replaced in a source pattern ...
  std::string wildcard_to = ".*\\.";  // ... and by what
  bool boundary = true;               // append (?!\w) after a trailing [A-Za-z0-9]
  bool longest_first = true;          // order of branches: longest source first, or as declared
  bool natural_key_v2 = true;
  // What the fields above do not say, by the release they were read from.  1: 5.1.0.  2: 5.23.0: a
  // target keeps its trailing `$` and loses the backslash of `\\.`; a source takes over the `^` of
  // its target; a name that only the model knows is taken without any rule (the rescue); cat leaves
  // absent sources out, unstack drops only its own axis, chunk allows a single target.
  int generation = 2;
};

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_RULE_H_
