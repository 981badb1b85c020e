#include "kernels/comm/socket_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

SocketAddress FromSockaddr(const sockaddr* address) {
  SocketAddress result;
  result.length = address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  std::memcpy(&result.storage, address, result.length);
  return result;
}

bool IsWildcard(const SocketAddress& address) {
  if (address.storage.ss_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr.s_addr == INADDR_ANY;
  }
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  return IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
}

bool IsLinkLocal(const sockaddr* address) {
  if (address->sa_family != AF_INET6) return false;
  return IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

// The first IPv4 address of the interface, else its first IPv6 one.  Link-local ones are left out:
// they mean nothing on another machine.  length is 0 when there is none.
SocketAddress InterfaceAddress(const std::string& name) {
  SocketAddress result;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return result;
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, &::freeifaddrs);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family) continue;
      if (name != entry->ifa_name || IsLinkLocal(entry->ifa_addr)) continue;
      return FromSockaddr(entry->ifa_addr);
    }
  }
  return result;
}

absl::StatusOr<SocketAddress> LookUp(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("look up bind_host \"", host, "\": ", ::gai_strerror(error),
                     "; give an address, an interface or a host name of this machine"));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family == AF_INET || entry->ai_family == AF_INET6) {
      return FromSockaddr(entry->ai_addr);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("look up bind_host \"", host, "\": no IP address"));
}

// Tries to bind, as Gloo will.
absl::Status CheckBinds(const SocketAddress& address, const std::string& host) {
  const int fd = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool bound = fd >= 0 && ::bind(fd, reinterpret_cast<const sockaddr*>(&address.storage),
                                       address.length) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (bound) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("bind to bind_host \"", host, "\" (",
                                                 FormatAddress(address.storage),
                                                 "): ", std::strerror(error)));
}

}  // namespace

std::string FormatAddress(const sockaddr_storage& storage) {
  char text[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&storage);
    ::inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(in->sin_port));
  }
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&storage);
  ::inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", ntohs(in6->sin6_port));
}

absl::StatusOr<SocketAddress> ParseAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon != absl::string_view::npos && absl::SimpleAtoi(text.substr(colon + 1), &port) &&
      port > 0 && port <= 65535) {
    const std::string host(text.substr(0, colon));
    SocketAddress result;
    auto* in = reinterpret_cast<sockaddr_in*>(&result.storage);
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&result.storage);
    if (::inet_pton(AF_INET, host.c_str(), &in->sin_addr) == 1) {
      in->sin_family = AF_INET;
      in->sin_port = htons(static_cast<uint16_t>(port));
      result.length = sizeof(sockaddr_in);
      return result;
    }
    if (host.size() > 2 && host.front() == '[' && host.back() == ']' &&
        ::inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &in6->sin6_addr) == 1) {
      in6->sin6_family = AF_INET6;
      in6->sin6_port = htons(static_cast<uint16_t>(port));
      result.length = sizeof(sockaddr_in6);
      return result;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("parse address \"", text, "\": not ADDRESS:PORT or [ADDRESS]:PORT"));
}

absl::StatusOr<SocketAddress> ResolveBindAddress(const std::string& host) {
  SocketAddress address = InterfaceAddress(host);
  if (address.length == 0) {
    ZC_ASSIGN_OR_RETURN(address, LookUp(host));
  }
  if (IsWildcard(address)) {
    return absl::InvalidArgumentError(absl::StrCat("use bind_host \"", host,
                                                   "\": peers cannot connect to the wildcard "
                                                   "address; give an address or an interface"));
  }
  ZC_RETURN_IF_ERROR(CheckBinds(address, host));
  return address;
}

}  // namespace zerocast
