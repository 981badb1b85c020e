#ifndef ZEROCAST_CLIENT_AGENT_SESSION_WIRE_H_
#define ZEROCAST_CLIENT_AGENT_SESSION_WIRE_H_

// messages.h <-> the session's protobuf messages: functions without I/O.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/agent/messages.h"
#include "zerocast/v1/agent.pb.h"

namespace zerocast {

v1::SessionRequest ManifestMessage(const LoadKey& key,
                                   const absl::StatusOr<InspectedCheckpoint>& checkpoint);
v1::SessionRequest PlanMessage(const LoadKey& key, const absl::StatusOr<PreparedPlan>& plan);
v1::SessionRequest RendezvousMessage(const LoadKey& key, const std::string& name,
                                     const std::string& value);
v1::SessionRequest ProgressMessage(const LoadKey& key, const NodeProgress& progress);
v1::SessionRequest NodeMessage(const LoadKey& key, const NodeResult& result,
                               const std::string& socket_path);
v1::SessionRequest HandOverMessage(const LoadKey& key, const HandOver& hand_over);
v1::SessionRequest ShardsFreedMessage(const LoadKey& key, const std::vector<int32_t>& ranks,
                                      const absl::Status& why);
v1::SessionRequest DonationMessage(const LoadKey& key, const absl::StatusOr<DonationStep>& step);
v1::SessionRequest FolderMessage(const std::string& look,
                                 const absl::StatusOr<FoundZeroFolder>& folder);
v1::HeldShardsReport InventoryToProto(const std::vector<HeldShards>& inventory,
                                      int64_t cache_bytes);

// The timeout is infinite where the server does not say.
InspectCommand InspectFromProto(const v1::InspectCheckpoint& message);
LookCommand LookFromProto(const v1::LookAtFolder& message);
PrepareCommand PrepareFromProto(const v1::PreparePlan& message);
StartCommand StartFromProto(const v1::StartLoad& message);
DonateCommand DonateFromProto(const v1::DonateShards& message);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_SESSION_WIRE_H_
