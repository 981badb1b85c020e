#ifndef ZEROCAST_CLIENT_FORMATS_PICKLE_WRITER_H_
#define ZEROCAST_CLIENT_FORMATS_PICKLE_WRITER_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/formats/pickle.h"

namespace zerocast {

// A pickle of what `root` holds: protocol 2, as torch.save writes; 4 where a name needs it (a class
// inside of a class).  Unknown calls, names and persistent ids come out as they went in; shared
// nodes stay shared, cycles stay cycles.  No recursion.  Errors:
//   INVALID_ARGUMENT   a node that names no other node where it must, a text of more than 2^32
//   bytes RESOURCE_EXHAUSTED more than `max_bytes`; reason RESOURCE_EXHAUSTED
absl::StatusOr<std::string> WritePickle(const PickleGraph& graph, PickleId root,
                                        int64_t max_bytes = int64_t{1} << 30);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_PICKLE_WRITER_H_
