#include "tests/client/agent/attach_client.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cstring>

namespace zerocast {

AttachClient::AttachClient(const std::string& socket_path) {
  socket_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path.c_str(), sizeof(address.sun_path) - 1);
  EXPECT_EQ(::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0)
      << std::strerror(errno);
  const timeval patience = {10, 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

bool AttachClient::SendRaw(const std::string& bytes) {
  return ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

bool AttachClient::Send(const nlohmann::json& request) {
  const std::string text = request.dump();
  std::string frame;
  for (int k = 0; k < 4; ++k) frame.push_back(static_cast<char>(text.size() >> (8 * k)));
  return SendRaw(frame + text);
}

bool AttachClient::ReceiveExactly(char* data, size_t num_bytes) {
  while (num_bytes > 0) {
    iovec part = {data, num_bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) return false;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
      fd_ = UniqueFd(fd);
    }
    data += got;
    num_bytes -= static_cast<size_t>(got);
  }
  return true;
}

nlohmann::json AttachClient::Receive() {
  unsigned char prefix[4];
  if (!ReceiveExactly(reinterpret_cast<char*>(prefix), 4)) {
    return nlohmann::json(nlohmann::json::value_t::discarded);
  }
  std::string text(prefix[0] | prefix[1] << 8 | prefix[2] << 16 | size_t{prefix[3]} << 24, '\0');
  if (!ReceiveExactly(text.data(), text.size())) {
    return nlohmann::json(nlohmann::json::value_t::discarded);
  }
  return nlohmann::json::parse(text, nullptr, false);
}

nlohmann::json AttachClient::Attach(const std::string& load, int rank, const std::string& token,
                                    const std::string& mode) {
  Send({{"op", "attach"}, {"load", load}, {"rank", rank}, {"token", token}, {"mode", mode}});
  return Receive();
}

}  // namespace zerocast
