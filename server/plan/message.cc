#include "server/plan/message.h"

#include <algorithm>

namespace zerocast {

void MessagePieces(const Plan& plan, const Schedule& schedule, int64_t round, int32_t reader,
                   int32_t node, std::vector<Piece>* out) {
  const auto& nodes = plan.layout.node_of_rank;
  const int64_t first_rank = std::lower_bound(nodes.begin(), nodes.end(), node) - nodes.begin();
  const ptrdiff_t begin = static_cast<ptrdiff_t>(out->size());
  schedule.Pieces(round, reader, node, out);
  out->erase(std::remove_if(out->begin() + begin, out->end(),
                            [&](const Piece& piece) {
                              return IsReplicated(plan, piece) && piece.rank != first_rank;
                            }),
             out->end());
}

int64_t WireBytes(const Plan& plan, absl::Span<const Piece> pieces) {
  int64_t num_bytes = 0;
  for (const Piece& piece : pieces) num_bytes += WireBytes(plan, piece);
  return num_bytes;
}

}  // namespace zerocast
