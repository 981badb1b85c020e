#include "client/cli/embedded.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/agent/agent.h"
#include "client/cli/command.h"
#include "client/cli/interruption.h"
#include "client/cli/socket_folder.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/server.h"

namespace zerocast {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(30);

// What server and agents log of their end is no news then.
OnInterrupt::Actions QuietWhenInterrupted() {
  OnInterrupt::Actions actions;
  actions.now = [] { spdlog::set_level(spdlog::level::off); };
  return actions;
}

}  // namespace

struct EmbeddedCluster::Rep {
  // In this order: agents end before the server, the folder goes last.
  std::optional<OnInterrupt> remains;
  SocketFolder folder;
  std::unique_ptr<Server> server;
  std::vector<std::unique_ptr<Agent>> agents;
  std::shared_ptr<Client> client;
  std::optional<OnInterrupt> quiet;
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
  // With none a signal would end the process between the folder and what removes it.
  const OnInterrupt in_order({});
  auto rep = std::make_unique<Rep>();
  ZC_ASSIGN_OR_RETURN(rep->folder, SocketFolder::Create(SocketFolder::DefaultParent()));
  OnInterrupt::Actions remains = QuietWhenInterrupted();
  remains.at_end = [folder = rep->folder.path()] { RemoveForGood(folder); };
  rep->remains.emplace(std::move(remains));
  Server::Options server_options;
  // A socket in a folder of our own: no port that another process could reach.
  server_options.listen = absl::StrCat("unix:", rep->folder.path(), "/server.sock");
  server_options.store = "memory";
  server_options.drain_timeout = absl::Seconds(1);
  ZC_ASSIGN_OR_RETURN(rep->server, Server::Start(std::move(server_options)));
  const std::string address = absl::StrCat("unix:", rep->folder.path(), "/server.sock");
  std::unique_ptr<EmbeddedCluster> cluster(new EmbeddedCluster(std::move(rep)));
  for (int node = 0; node < options.num_agents; ++node) {
    ZC_RETURN_IF_ERROR(CheckInterrupted());
    AgentOptions agent_options = options.agent;
    agent_options.server_address = address;
    agent_options.node_name = absl::StrCat("node", node);
    // The command is the only one that takes them, and its end frees them.
    agent_options.unclaimed_ttl = absl::InfiniteDuration();
    agent_options.socket_path = absl::StrCat(cluster->rep_->folder.path(), "/node", node, ".sock");
    agent_options.find_devices = [node, num_agents = options.num_agents] {
      return FindCudaDevices(node, num_agents);
    };
    ZC_ASSIGN_OR_RETURN(auto agent, Agent::Start(std::move(agent_options)));
    cluster->rep_->agents.push_back(std::move(agent));
  }
  for (const auto& agent : cluster->rep_->agents) {
    const absl::Duration left = options.deadline - absl::Now();
    ZC_RETURN_IF_ERROR(agent->WaitUntilRegistered(std::min(kStartTimeout, left)));
  }
  Client::Options client_options;
  client_options.address = address;
  client_options.timeout = options.timeout;
  client_options.deadline = options.deadline;
  ZC_ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Create(std::move(client_options)));
  cluster->rep_->client = EndWhenInterrupted(std::move(client));
  cluster->rep_->quiet.emplace(QuietWhenInterrupted());  // called before those above it
  return cluster;
}

}  // namespace zerocast
