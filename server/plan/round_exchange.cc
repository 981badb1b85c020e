#include "server/plan/round_exchange.h"

#include <algorithm>

namespace zerocast {

bool NeedsExchange(const Layout& layout) {
  return layout.num_nodes > 1 && layout.read_mode != ReadMode::kLocal;
}

RoundExchange::RoundExchange(const Plan& plan, const Schedule& schedule, int64_t round,
                             int32_t reader, int64_t least_broadcast_bytes)
    : plan_(plan), schedule_(schedule), round_(round), reader_(reader) {
  if (!NeedsExchange(plan.layout)) return;
  schedule.WholePieces(round, reader, &broadcast_);
  if (plan.layout.move_mode == MoveMode::kBroadcast) return;
  int64_t num_bytes = 0;
  const auto end = std::remove_if(broadcast_.begin(), broadcast_.end(), [&](const Piece& piece) {
    if (!IsReplicated(plan, piece)) return true;
    num_bytes += WireBytes(plan, piece);
    return false;
  });
  broadcast_.erase(num_bytes < least_broadcast_bytes ? broadcast_.begin() : end, broadcast_.end());
}

void RoundExchange::AppendMessagePieces(int32_t to, std::vector<Piece>* out) const {
  if (!NeedsExchange(plan_.layout) || plan_.layout.move_mode == MoveMode::kBroadcast) return;
  const auto first = static_cast<std::ptrdiff_t>(out->size());
  schedule_.Pieces(round_, reader_, to, out);
  if (broadcast_.empty()) return;
  out->erase(std::remove_if(out->begin() + first, out->end(),
                            [this](const Piece& piece) { return IsReplicated(plan_, piece); }),
             out->end());
}

}  // namespace zerocast
