#ifndef ZEROCAST_TESTS_CLIENT_AGENT_ATTACH_CLIENT_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_ATTACH_CLIENT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "client/agent/unique_fd.h"

namespace zerocast {

// A training process as the hand-over socket sees it: says what a test wants, well-formed or not.
class AttachClient {
 public:
  // Fails the test when nobody listens.
  explicit AttachClient(const std::string& socket_path);

  // Raw bytes; false when the other side is gone.
  bool SendRaw(const std::string& bytes);
  bool Send(const nlohmann::json& request);
  // One answer; a descriptor that came along is in fd().  Discarded when the connection ended.
  nlohmann::json Receive();
  // Both, for an attach request.
  nlohmann::json Attach(const std::string& load, int rank, const std::string& token,
                        const std::string& mode);
  bool Acknowledge() { return Send({{"op", "ack"}}); }

  int fd() const { return fd_.get(); }

 private:
  bool ReceiveExactly(char* data, size_t num_bytes);

  UniqueFd socket_;
  UniqueFd fd_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_ATTACH_CLIENT_H_
