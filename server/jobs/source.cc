#include "server/jobs/source.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

namespace zerocast::jobs {
namespace {

// The ranks of this plan and content in `held`.
std::set<int32_t> RanksOf(const std::vector<HeldShards>& held, const std::string& plan_digest,
                          const std::string& content_key) {
  std::set<int32_t> ranks;
  if (content_key.empty()) return ranks;
  for (const HeldShards& shards : held) {
    if (shards.plan_digest != plan_digest || shards.content_key != content_key) continue;
    ranks.insert(shards.ranks.begin(), shards.ranks.end());
  }
  return ranks;
}

bool HoldsOwn(const Layout& layout, int32_t node, const std::set<int32_t>& held) {
  for (size_t rank = 0; rank < layout.node_of_rank.size(); ++rank) {
    if (layout.node_of_rank[rank] == node && held.count(static_cast<int32_t>(rank)) == 0) {
      return false;
    }
  }
  return true;
}

SourceChoice ChooseLocal(const SourceRequest& request) {
  SourceChoice choice = ChooseFiles(request);
  for (size_t node = 0; node < request.nodes.size(); ++node) {
    const NodeShards& shards = request.nodes[node];
    const std::set<int32_t> held = RanksOf(shards.held, request.plan_digest, shards.content_key);
    if (!held.empty() && HoldsOwn(*request.layout, static_cast<int32_t>(node), held)) {
      choice.nodes[node].source = LoadSource::kCache;
    }
  }
  return choice;
}

// An agent that has something of this content.
struct Holder {
  int32_t node = -1;  // of the load; -1: none of its nodes
  std::string name;
  std::set<int32_t> ranks;
  int64_t num_given = 0;
};

std::vector<Holder> FindHolders(const SourceRequest& request, const std::string& content_key) {
  std::vector<Holder> holders;
  for (size_t node = 0; node < request.nodes.size(); ++node) {
    holders.push_back({static_cast<int32_t>(node), request.node_names[node],
                       RanksOf(request.nodes[node].held, request.plan_digest, content_key)});
  }
  for (const auto& [name, held] : request.others) {
    if (held == nullptr) continue;
    holders.push_back({-1, name, RanksOf(*held, request.plan_digest, content_key)});
  }
  return holders;
}

// A shard, its holder and the node that wants it.
struct Gift {
  int32_t rank = 0;
  Holder* from = nullptr;
  int32_t to = 0;
};

// False when nobody has a shard that its node has not.  The first holders are the nodes, by number.
bool FindGifts(const Layout& layout, std::vector<Holder>* holders, std::vector<Gift>* gifts) {
  for (size_t k = 0; k < layout.node_of_rank.size(); ++k) {
    const int32_t rank = static_cast<int32_t>(k), node = layout.node_of_rank[k];
    if ((*holders)[static_cast<size_t>(node)].ranks.count(rank) > 0) continue;
    Holder* best = nullptr;
    for (Holder& holder : *holders) {
      if (holder.ranks.count(rank) == 0) continue;
      // In their order: the load's own nodes come first.
      if (best == nullptr || holder.num_given < best->num_given) best = &holder;
    }
    if (best == nullptr) return false;
    ++best->num_given;
    gifts->push_back({rank, best, node});
  }
  return true;
}

// Numbers those that give or take, and writes the transfers.
void Connect(const std::vector<Holder>& holders, const std::vector<Gift>& gifts,
             SourceChoice* choice) {
  std::set<int32_t> takers;
  for (const Gift& gift : gifts) takers.insert(gift.to);
  std::map<const Holder*, int32_t> number;
  for (const Holder& holder : holders) {
    const bool takes = holder.node >= 0 && takers.count(holder.node) > 0;
    if (!takes && holder.num_given == 0) continue;
    number[&holder] = static_cast<int32_t>(choice->participants.size());
    choice->participants.push_back(holder.name);
    if (holder.node < 0) {
      choice->donors.push_back(holder.name);
      continue;
    }
    NodeSource& node = choice->nodes[static_cast<size_t>(holder.node)];
    node.source = LoadSource::kPeers;
    node.participant = number[&holder];
  }
  for (const Gift& gift : gifts) {
    choice->transfers.push_back(
        {gift.rank, number.at(gift.from), number.at(&holders[static_cast<size_t>(gift.to)])});
  }
}

}  // namespace

SourceChoice ChooseFiles(const SourceRequest& request) {
  const bool local = request.layout->read_mode == ReadMode::kLocal;
  SourceChoice choice;
  for (const NodeShards& node : request.nodes) {
    choice.nodes.push_back(
        {LoadSource::kFiles, local ? node.content_key : request.nodes[0].content_key, -1});
  }
  return choice;
}

SourceChoice ChooseSource(const SourceRequest& request) {
  if (request.layout->read_mode == ReadMode::kLocal) return ChooseLocal(request);
  SourceChoice choice = ChooseFiles(request);
  std::vector<Holder> holders = FindHolders(request, request.nodes[0].content_key);
  std::vector<Gift> gifts;
  if (!FindGifts(*request.layout, &holders, &gifts)) return choice;
  for (NodeSource& node : choice.nodes) node.source = LoadSource::kCache;
  Connect(holders, gifts, &choice);
  return choice;
}

}  // namespace zerocast::jobs
