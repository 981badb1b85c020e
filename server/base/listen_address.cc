#include "server/base/listen_address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/base/errors.h"
#include "server/base/missing_folder.h"

namespace zerocast {
namespace {

constexpr absl::string_view kUnix = "unix:";
constexpr absl::string_view kOtherForms[] = {"unix-abstract:", "ipv4:", "ipv6:", "dns:", "vsock:"};
constexpr absl::string_view kTaken =
    "another process listens there; stop it, or choose another address";

// Whether a process listens on the unix socket `path`, which fits an address.
bool SomebodyListens(const std::string& path) {
  // Not blocking: where the listener's queue is full, the answer is EAGAIN at once.
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const bool listens =
      ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 || errno == EAGAIN;
  ::close(fd);
  return listens;
}

// gRPC would unlink the socket of a running server and take its place.
absl::Status CheckUnix(absl::string_view option, const std::string& address) {
  const std::string path(absl::StripPrefix(absl::StripPrefix(address, kUnix), "//"));
  if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path)) {
    return InvalidFields({{std::string(option), absl::StrCat("the path of a unix socket has 1 to ",
                                                             sizeof(sockaddr_un::sun_path) - 1,
                                                             " bytes, was '", path, "'")}});
  }
  const std::string what = absl::StrCat("listen on ", address);
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return WithReason(ErrnoStatus(errno, what), "IO_ERROR");
    // Where there is no file nobody listens, and there is nothing to wait for.
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos || ::stat(path.substr(0, slash + 1).c_str(), &info) == 0) {
      return absl::OkStatus();
    }
    return WithReason(MissingFolder(what, path, "path"), "IO_ERROR");
  }
  return SomebodyListens(path) ? CannotListen(address, kTaken) : absl::OkStatus();
}

// "host:port" or "[host]:port"; false for anything else.
bool SplitAddress(absl::string_view address, std::string* host, std::string* port) {
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return false;
  *port = std::string(address.substr(colon + 1));
  absl::string_view name = address.substr(0, colon);
  if (absl::ConsumePrefix(&name, "[")) {
    if (!absl::ConsumeSuffix(&name, "]")) return false;
  } else if (absl::StrContains(name, ':')) {
    return false;
  }
  *host = std::string(name);
  int number = 0;
  const bool digits = port->find_first_not_of("0123456789") == std::string::npos;
  return !host->empty() && digits && absl::SimpleAtoi(*port, &number) && number <= 65535;
}

// Binds to one address as gRPC will, and lets it go.  Returns errno, or 0.
int TryToBind(const addrinfo& info) {
  const int fd = ::socket(info.ai_family, info.ai_socktype | SOCK_CLOEXEC, info.ai_protocol);
  if (fd < 0) return errno;
  // With it the connections of an earlier server do not count, but one that listens does.
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const int error = ::bind(fd, info.ai_addr, info.ai_addrlen) == 0 ? 0 : errno;
  ::close(fd);
  return error;
}

}  // namespace

absl::Status CannotListen(absl::string_view address, absl::string_view why) {
  return WithReason(absl::UnavailableError(absl::StrCat("listen on ", address, ": ", why)),
                    "IO_ERROR");
}

absl::Status CheckListenAddress(absl::string_view option, const std::string& address) {
  if (absl::StartsWith(address, kUnix)) return CheckUnix(option, address);
  for (const absl::string_view form : kOtherForms) {
    if (absl::StartsWith(address, form)) return absl::OkStatus();
  }
  const auto invalid = [option](absl::string_view what) {
    return InvalidFields({{std::string(option), std::string(what)}});
  };
  std::string host, port;
  if (!SplitAddress(address, &host, &port)) {
    return invalid(absl::StrCat("must be host:port or unix:/path, was '", address, "'"));
  }
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int looked_up = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (looked_up != 0) {
    const std::string why =
        absl::StrCat("host '", host, "' cannot be looked up: ", ::gai_strerror(looked_up));
    return looked_up == EAI_AGAIN ? CannotListen(address, why) : invalid(why);
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  // A name may have several addresses, of which a machine has some: one is enough, but none of them
  // may be another process's.
  bool one = false;
  int first_error = 0;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    const int error = TryToBind(*info);
    if (error == EADDRINUSE) return CannotListen(address, kTaken);
    one |= error == 0;
    if (error != 0 && first_error == 0) first_error = error;
  }
  if (one || first_error == 0) return absl::OkStatus();
  if (first_error == EADDRNOTAVAIL) {
    return invalid(absl::StrCat("'", host, "' is not an address of this machine"));
  }
  return WithReason(ErrnoStatus(first_error, absl::StrCat("listen on ", address)), "IO_ERROR");
}

}  // namespace zerocast
