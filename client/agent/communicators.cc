#include "client/agent/communicators.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/mutex.h"
#include "kernels/comm/gloo.h"
#include "kernels/comm/loopback.h"

namespace zerocast {
namespace {

// The groups that some of their participants have not fetched yet.
class LoopbackGroups {
 public:
  absl::StatusOr<std::unique_ptr<Communicator>> Take(const CommunicatorRequest& request) {
    MutexLock lock(&mutex_);
    const auto key = std::make_pair(request.load, request.epoch);
    auto found = groups_.find(key);
    if (found == groups_.end()) {
      // An older attempt that not all nodes came to: whoever came gets UNAVAILABLE.
      groups_.erase(groups_.lower_bound({request.load, 0}), groups_.lower_bound(key));
      found = groups_.emplace(key, Group{MakeLoopbackGroup(request.num_nodes), 0}).first;
    }
    Group& group = found->second;
    if (request.node < 0 || request.node >= static_cast<int>(group.members.size()) ||
        group.members[request.node] == nullptr) {
      return absl::InternalError(absl::StrCat("connect node ", request.node, " of ", request.load,
                                              ": there is no such place, or it is taken"));
    }
    std::unique_ptr<Communicator> member = std::move(group.members[request.node]);
    if (++group.num_taken == group.members.size()) groups_.erase(found);
    return member;
  }

 private:
  struct Group {
    std::vector<std::unique_ptr<Communicator>> members;
    size_t num_taken = 0;
  };
  Mutex mutex_;
  std::map<std::pair<std::string, int64_t>, Group> groups_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

CommunicatorFactory GlooCommunicators() {
  return [](const CommunicatorRequest& request) -> absl::StatusOr<std::unique_ptr<Communicator>> {
    if (request.num_nodes == 1) return std::move(MakeLoopbackGroup(1).front());
    GlooOptions options;
    options.rank = request.node;
    options.size = request.num_nodes;
    options.bind_host = request.bulk_host;
    options.nonce = request.nonce;
    options.rendezvous = request.rendezvous.get();
    options.connect_timeout = request.timeout;
    options.cancelled = request.cancelled;
    return MakeGlooCommunicator(options);
  };
}

CommunicatorFactory LoopbackCommunicators() {
  auto groups = std::make_shared<LoopbackGroups>();
  return [groups](const CommunicatorRequest& request) { return groups->Take(request); };
}

}  // namespace zerocast
