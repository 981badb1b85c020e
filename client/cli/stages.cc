#include "client/cli/stages.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/output.h"

namespace zerocast {

std::vector<StageSpeed> StageSpeeds(const v1::Load& load) {
  StageSpeed read = {"read"}, copy = {"copy"}, exchange = {"exchange"};
  for (const v1::NodeProgress& node : load.nodes()) {
    read.bytes += node.bytes_read();
    read.seconds = std::max(read.seconds, node.seconds().read());
    copy.bytes += node.bytes_copied();
    copy.seconds = std::max(copy.seconds, node.seconds().copy());
    exchange.bytes += node.bytes_received();
    exchange.seconds = std::max(exchange.seconds, node.seconds().exchange());
  }
  return {read, copy, exchange};
}

std::string Bottleneck(const std::vector<StageSpeed>& stages) {
  const double read = stages[0].seconds, copy = stages[1].seconds, exchange = stages[2].seconds;
  if (read + copy + exchange <= 0) return "";
  if (exchange > read + copy) return "exchange";
  return copy > read ? "copy" : "read";
}

std::string StagesText(const v1::Load& load) {
  const std::vector<StageSpeed> stages = StageSpeeds(load);
  std::vector<std::string> speeds;
  for (const StageSpeed& stage : stages) {
    if (stage.BytesPerSecond() == 0) continue;
    speeds.push_back(absl::StrCat(stage.name, " ", FormatRate(stage.BytesPerSecond())));
  }
  const std::string bottleneck = Bottleneck(stages);
  if (speeds.empty() || bottleneck.empty()) return "";
  return absl::StrCat(absl::StrJoin(speeds, ", "), "; most of the time: ", bottleneck);
}

}  // namespace zerocast
