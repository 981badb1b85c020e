#ifndef ZEROCAST_CLIENT_CLI_STAGES_H_
#define ZEROCAST_CLIENT_CLI_STAGES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "zerocast/v1/load.pb.h"

namespace zerocast {

// A stage of the data path, over all nodes of a load.
struct StageSpeed {
  std::string name;    // "read", "copy", "exchange"
  int64_t bytes = 0;   // that went through it so far
  double seconds = 0;  // of the node that spent most
  double BytesPerSecond() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
};

// Read, copy and exchange, in that order.
std::vector<StageSpeed> StageSpeeds(const v1::Load& load);

// The stage that the others wait for; empty before anything is measured.  Reading and copying take
// turns on the same threads, the exchange runs beside them: it is the bottleneck where it takes
// longer than those two together, else the longer one of the two.
std::string Bottleneck(const std::vector<StageSpeed>& stages);

// "read 1.30 GB/s, copy 3.40 GB/s, exchange 1.21 GB/s; most of the time: read"; "" before anything
// is measured.
std::string StagesText(const v1::Load& load);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_STAGES_H_
