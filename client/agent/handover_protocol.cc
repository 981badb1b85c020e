#include "client/agent/handover_protocol.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxWhyBytes = 1000;

// Objects of a request hold no others: deeper ones are refused as they are parsed.
Json ParseFlat(absl::string_view text) {
  bool too_deep = false;
  const Json::parser_callback_t callback = [&too_deep](int depth, Json::parse_event_t event,
                                                       Json&) {
    if (depth > 1 &&
        (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start)) {
      too_deep = true;
    }
    return !too_deep;
  };
  Json json = Json::parse(text.begin(), text.end(), callback, /*allow_exceptions=*/false);
  if (too_deep || !json.is_object()) return Json();
  return json;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Waits until `socket` can be read or written.
absl::Status WaitFor(int socket, int wake_fd, int16_t events, const Deadline& deadline) {
  while (true) {
    if (deadline.Passed()) {
      return WithReason(absl::DeadlineExceededError("talk to a training process: it was silent"),
                        "DEADLINE_EXCEEDED");
    }
    pollfd fds[2] = {{socket, events, 0}, {wake_fd, POLLIN, 0}};
    const int ready = ::poll(fds, 2, static_cast<int>(deadline.RemainingMillis().count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (ready > 0 && fds[1].revents != 0) return absl::CancelledError("the agent stops");
    if (ready > 0 && fds[0].revents != 0) return absl::OkStatus();
  }
}

absl::Status Gone(absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("talk to a training process: ", why));
}

absl::Status ReadExactly(int socket, int wake_fd, char* data, size_t num_bytes,
                         const Deadline& deadline) {
  while (num_bytes > 0) {
    ZC_RETURN_IF_ERROR(WaitFor(socket, wake_fd, POLLIN, deadline));
    const ssize_t got = ::recv(socket, data, num_bytes, MSG_DONTWAIT);
    if (got == 0) return Gone("it closed the connection");
    if (got < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return Gone(std::strerror(errno));
    }
    data += got;
    num_bytes -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

// One sendmsg; the number of bytes sent, 0 when it must be tried again.
absl::StatusOr<size_t> SendSome(int socket, absl::string_view bytes, int fd_to_pass) {
  iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd_to_pass >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd_to_pass, sizeof(int));
  }
  const ssize_t put = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (put >= 0) return static_cast<size_t>(put);
  if (errno == EINTR || errno == EAGAIN) return size_t{0};
  return Gone(std::strerror(errno));
}

}  // namespace

absl::StatusOr<AttachRequest> ParseAttachRequest(absl::string_view text) {
  const Json json = ParseFlat(text);
  if (json.is_null()) return InvalidFields({{"request", "must be a flat JSON object"}});
  std::vector<FieldViolation> violations;
  const auto text_of = [&](const char* key) -> std::string {
    const auto found = json.find(key);
    if (found != json.end() && found->is_string()) return found->get<std::string>();
    violations.push_back({key, "must be a string"});
    return "";
  };
  AttachRequest request;
  const std::string op = text_of("op");
  if (!op.empty() && op != "attach") violations.push_back({"op", "must be \"attach\""});
  request.load = text_of("load");
  request.token = text_of("token");
  const std::string mode = text_of("mode");
  if (mode == "shared") {
    request.mode = AttachMode::kShared;
  } else if (mode == "auto") {
    request.mode = AttachMode::kAuto;
  } else if (mode != "private" && !mode.empty()) {
    violations.push_back({"mode", "must be \"shared\", \"private\" or \"auto\""});
  }
  const auto rank = json.find("rank");
  if (rank == json.end() || !rank->is_number_integer() || *rank < 0 ||
      *rank > std::numeric_limits<int32_t>::max()) {
    violations.push_back({"rank", "must be a number from 0 on"});
  } else {
    request.rank = rank->get<int32_t>();
  }
  ZC_RETURN_IF_ERROR(InvalidFields(violations));
  return request;
}

bool IsAck(absl::string_view text) {
  const Json json = ParseFlat(text);
  return json.is_object() && json.contains("op") && json["op"] == "ack";
}

std::optional<std::string> WhyItCannot(absl::string_view text) {
  const Json json = ParseFlat(text);
  if (!json.is_object() || !json.contains("op") || json["op"] != "cannot") return std::nullopt;
  const auto why = json.find("why");
  if (why == json.end() || !why->is_string()) return std::nullopt;
  return why->get<std::string>().substr(0, kMaxWhyBytes);
}

std::string AttachAnswer(const ShardOffer& offer) {
  Json targets = Json::array();
  for (const ShardIndex::Entry& entry : offer.index->targets) {
    targets.push_back({{"name", entry.name},
                       {"shape", entry.shape},
                       {"dtype", DTypeName(entry.dtype)},
                       {"offset", entry.offset},
                       {"elements", entry.elements},
                       {"num_elements", entry.num_elements},
                       {"partitioned", entry.partitioned},
                       {"buffer", entry.is_buffer},
                       {"state", entry.is_state},
                       {"filled", entry.is_filled},
                       {"aliases", entry.aliases}});
    if (entry.secondary_elements == 0) continue;
    targets.back()["secondary_offset"] = entry.secondary_offset;
    targets.back()["secondary_elements"] = entry.secondary_elements;
  }
  Json answer = {{"ok", true},
                 {"load", offer.index->load},
                 {"rank", offer.rank},
                 {"world_size", offer.index->world_size},
                 {"plan_digest", offer.index->plan_digest},
                 {"mode", std::string(AttachModeName(offer.mode))},
                 {"way", offer.way},
                 {"arena_bytes", offer.arena_bytes},
                 {"targets", std::move(targets)}};
  if (!offer.because.empty()) answer["because"] = offer.because;
  if (!offer.device_uuid.empty()) answer["device"] = offer.device_uuid;
  if (offer.allocation_bytes > 0) {
    answer["allocation_bytes"] = offer.allocation_bytes;
    answer["trial"] = {{"allocation_bytes", offer.trial.ticket.allocation_bytes},
                       {"bytes", absl::BytesToHexString(offer.trial.bytes)}};
    if (!offer.trial.ticket.handle.empty()) {
      answer["trial"]["handle"] = absl::BytesToHexString(offer.trial.ticket.handle);
    }
  }
  if (offer.index->secondary_group_size > 0) {
    answer["secondary_group_size"] = offer.index->secondary_group_size;
  }
  return Dump(answer);
}

std::string OkAnswer(absl::string_view handle) {
  if (handle.empty()) return R"({"ok":true})";
  return Dump({{"ok", true}, {"handle", absl::BytesToHexString(handle)}});
}

std::string ErrorAnswer(const absl::Status& status) {
  return Dump({{"ok", false},
               {"error",
                {{"code", absl::StatusCodeToString(status.code())},
                 {"message", std::string(status.message())},
                 {"reason", ReasonOf(status)}}}});
}

absl::StatusOr<std::string> ReadFrame(int socket, int wake_fd, uint32_t max_bytes,
                                      absl::Duration timeout) {
  const Deadline deadline(timeout);
  unsigned char prefix[4];
  ZC_RETURN_IF_ERROR(
      ReadExactly(socket, wake_fd, reinterpret_cast<char*>(prefix), sizeof(prefix), deadline));
  uint32_t length = 0;
  for (int k = 0; k < 4; ++k) length |= uint32_t{prefix[k]} << (8 * k);
  if (length > max_bytes) {
    return InvalidFields({{"request", absl::StrCat("a frame of ", length, " bytes; at most ",
                                                   max_bytes, " are allowed")}});
  }
  std::string text(length, '\0');
  ZC_RETURN_IF_ERROR(ReadExactly(socket, wake_fd, text.data(), text.size(), deadline));
  return text;
}

absl::Status WriteFrame(int socket, int wake_fd, absl::string_view text, int fd_to_pass,
                        absl::Duration timeout) {
  const Deadline deadline(timeout);
  std::string frame;
  for (int k = 0; k < 4; ++k) {
    frame.push_back(static_cast<char>(static_cast<uint32_t>(text.size()) >> (8 * k)));
  }
  absl::StrAppend(&frame, text);
  absl::string_view rest = frame;
  while (!rest.empty()) {
    ZC_RETURN_IF_ERROR(WaitFor(socket, wake_fd, POLLOUT, deadline));
    ZC_ASSIGN_OR_RETURN(const size_t put, SendSome(socket, rest, fd_to_pass));
    if (put > 0) fd_to_pass = -1;
    rest.remove_prefix(put);
  }
  return absl::OkStatus();
}

}  // namespace zerocast
