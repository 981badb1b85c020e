#include "client/cli/embedded.h"

#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/agent/agent.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/server.h"

namespace zerocast {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(30);

// A folder only this user can enter, for the agents' sockets; removed with its content.
class SocketFolder {
 public:
  absl::Status Create() {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    std::string pattern =
        absl::StrCat(runtime != nullptr && *runtime != '\0' ? runtime : "/tmp", "/zerocast.XXXXXX");
    if (::mkdtemp(pattern.data()) == nullptr) {
      return WithReason(ErrnoStatus(errno, absl::StrCat("create folder ", pattern)), "IO_ERROR");
    }
    path_ = pattern;
    return absl::OkStatus();
  }
  ~SocketFolder() {
    std::error_code ignored;  // a destructor has nobody to tell
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

struct EmbeddedCluster::Rep {
  // In this order: agents end before the server, the folder goes last.
  SocketFolder folder;
  std::unique_ptr<Server> server;
  std::vector<std::unique_ptr<Agent>> agents;
  std::unique_ptr<Client> client;
};

EmbeddedCluster::EmbeddedCluster(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

EmbeddedCluster::~EmbeddedCluster() {
  rep_->client.reset();
  for (const auto& agent : rep_->agents) agent->Stop();
  rep_->agents.clear();
  rep_->server->Shutdown();
}

Client* EmbeddedCluster::client() const { return rep_->client.get(); }

absl::StatusOr<std::unique_ptr<EmbeddedCluster>> EmbeddedCluster::Start(const Options& options) {
  auto rep = std::make_unique<Rep>();
  ZC_RETURN_IF_ERROR(rep->folder.Create());
  Server::Options server_options;
  // A socket in a folder of our own: no port that another process could reach.
  server_options.listen = absl::StrCat("unix:", rep->folder.path(), "/server.sock");
  server_options.store = "memory";
  server_options.drain_timeout = absl::Seconds(1);
  ZC_ASSIGN_OR_RETURN(rep->server, Server::Start(std::move(server_options)));
  const std::string address = absl::StrCat("unix:", rep->folder.path(), "/server.sock");
  std::unique_ptr<EmbeddedCluster> cluster(new EmbeddedCluster(std::move(rep)));
  for (int node = 0; node < options.num_agents; ++node) {
    AgentOptions agent_options;
    agent_options.server_address = address;
    agent_options.node_name = absl::StrCat("node", node);
    agent_options.socket_path = absl::StrCat(cluster->rep_->folder.path(), "/node", node, ".sock");
    ZC_ASSIGN_OR_RETURN(auto agent, Agent::Start(std::move(agent_options)));
    cluster->rep_->agents.push_back(std::move(agent));
  }
  for (const auto& agent : cluster->rep_->agents) {
    ZC_RETURN_IF_ERROR(agent->WaitUntilRegistered(kStartTimeout));
  }
  Client::Options client_options;
  client_options.address = address;
  client_options.timeout = options.timeout;
  ZC_ASSIGN_OR_RETURN(cluster->rep_->client, Client::Create(std::move(client_options)));
  return cluster;
}

}  // namespace zerocast
