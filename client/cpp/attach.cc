#include "client/cpp/attach.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

using Json = nlohmann::json;

// An index of 100,000 targets has about 30 MB.
constexpr uint32_t kMaxAnswerBytes = 256u << 20;
constexpr int kConnectPauseMs = 10;
// An agent proposes no more, one after the other.
constexpr int kMostWays = 3;

class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~UniqueFd() { reset(-1); }
  int get() const { return fd_; }
  void reset(int fd) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

// A connection to an agent, all of whose waits end by one deadline.
class Connection {
 public:
  Connection(std::string path, absl::Duration timeout)
      : path_(std::move(path)), deadline_(timeout) {}

  absl::Status Connect() {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path_.size() >= sizeof(address.sun_path)) {
      return InvalidFields({{"socket", absl::StrCat("path ", path_, " is longer than ",
                                                    sizeof(address.sun_path) - 1, " bytes")}});
    }
    std::memcpy(address.sun_path, path_.data(), path_.size());
    socket_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket_.get() < 0) return ErrnoStatus(errno, "create socket");
    int error_number = ConnectOnce(address);
    // EAGAIN: the agent's queue of connections is full, and poll() cannot wait for that.
    while (error_number == EAGAIN || error_number == EINTR) {
      ZC_RETURN_IF_ERROR(CheckTime());
      ::poll(nullptr, 0, kConnectPauseMs);
      error_number = ConnectOnce(address);
    }
    if (error_number == 0) return absl::OkStatus();
    return WithReason(ErrnoStatus(error_number, absl::StrCat("connect to agent at ", path_)),
                      "AGENT_LOST");
  }

  absl::Status Send(const std::string& text) {
    std::string frame;
    for (int k = 0; k < 4; ++k) {
      frame.push_back(static_cast<char>(static_cast<uint32_t>(text.size()) >> (8 * k)));
    }
    frame += text;
    for (size_t done = 0; done < frame.size();) {
      ZC_RETURN_IF_ERROR(WaitFor(POLLOUT));
      const ssize_t put =
          ::send(socket_.get(), frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
      if (put < 0 && errno != EINTR && errno != EAGAIN) return Broken(errno);
      if (put > 0) done += static_cast<size_t>(put);
    }
    return absl::OkStatus();
  }

  // One frame; a file descriptor that came with it goes to `fd`.
  absl::StatusOr<std::string> Receive(UniqueFd* fd) {
    std::string length_bytes(4, '\0');
    ZC_RETURN_IF_ERROR(ReceiveExactly(&length_bytes, fd));
    uint32_t length = 0;
    for (int k = 0; k < 4; ++k) {
      length |= static_cast<uint32_t>(static_cast<uint8_t>(length_bytes[k])) << (8 * k);
    }
    if (length > kMaxAnswerBytes) {
      return absl::DataLossError(
          absl::StrCat("read from agent at ", path_, ": an answer of ", length, " bytes"));
    }
    std::string text(length, '\0');
    ZC_RETURN_IF_ERROR(ReceiveExactly(&text, fd));
    return text;
  }

 private:
  int ConnectOnce(const sockaddr_un& address) const {
    const int rc =
        ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    return rc == 0 ? 0 : errno;
  }

  absl::Status CheckTime() const {
    if (!deadline_.Passed()) return absl::OkStatus();
    return WithReason(absl::DeadlineExceededError(
                          absl::StrCat("wait for agent at ", path_, ": no answer in time")),
                      "DEADLINE_EXCEEDED");
  }

  absl::Status Broken(int error_number) const {
    return WithReason(ErrnoStatus(error_number, absl::StrCat("talk to agent at ", path_)),
                      "AGENT_LOST");
  }

  absl::Status WaitFor(int16_t events) {
    while (true) {
      ZC_RETURN_IF_ERROR(CheckTime());
      pollfd poll_fd = {socket_.get(), events, 0};
      const int ready = ::poll(&poll_fd, 1, static_cast<int>(deadline_.RemainingMillis().count()));
      if (ready > 0) return absl::OkStatus();
      if (ready < 0 && errno != EINTR) return Broken(errno);
    }
  }

  absl::Status ReceiveExactly(std::string* bytes, UniqueFd* fd) {
    for (size_t done = 0; done < bytes->size();) {
      ZC_RETURN_IF_ERROR(WaitFor(POLLIN));
      iovec part = {bytes->data() + done, bytes->size() - done};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
      msghdr message = {};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
      if (got < 0) {
        if (errno == EINTR || errno == EAGAIN) continue;
        return Broken(errno);
      }
      for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
           header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
          int received;
          std::memcpy(&received, CMSG_DATA(header), sizeof(received));
          fd->reset(received);
        }
      }
      if (got == 0) {
        return WithReason(absl::UnavailableError(absl::StrCat("talk to agent at ", path_,
                                                              ": it closed the connection")),
                          "AGENT_LOST");
      }
      done += static_cast<size_t>(got);
    }
    return absl::OkStatus();
  }

  const std::string path_;
  const Deadline deadline_;
  UniqueFd socket_;
};

absl::Status BadAnswer(absl::string_view what) {
  return absl::InternalError(absl::StrCat("read the agent's answer: ", what));
}

// A text of an error; `other` where it has none.
std::string TextOf(const Json& error, const char* key, const char* other) {
  const auto found = error.find(key);
  return found != error.end() && found->is_string() ? found->get<std::string>() : other;
}

// The error of a refused request.
absl::Status Refusal(const Json& answer) {
  const Json error = answer.value("error", Json::object());
  if (!error.is_object()) return BadAnswer("an error without content");
  const std::string code = TextOf(error, "code", "INTERNAL");
  absl::StatusCode status_code = absl::StatusCode::kInternal;
  for (int k = 1; k <= 16; ++k) {
    if (absl::StatusCodeToString(static_cast<absl::StatusCode>(k)) == code) {
      status_code = static_cast<absl::StatusCode>(k);
    }
  }
  return WithReason(absl::Status(status_code, TextOf(error, "message", "refused without a reason")),
                    TextOf(error, "reason", "INTERNAL"));
}

absl::StatusOr<Json> ParseAnswer(const std::string& text) {
  Json answer = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!answer.is_object()) return BadAnswer("not a JSON object");
  if (!answer.contains("ok") || answer["ok"] != true) return Refusal(answer);
  return answer;
}

// True when `elements` may lie at byte `offset` of the arena.
bool Fits(int64_t offset, int64_t elements, DType dtype, int64_t arena_bytes) {
  int64_t num_bytes;
  return offset >= 0 && elements >= 0 && offset % SizeOf(dtype) == 0 &&
         !__builtin_mul_overflow(elements, SizeOf(dtype), &num_bytes) && offset <= arena_bytes &&
         num_bytes <= arena_bytes - offset;
}

// Takes one entry of the index; every field is checked, since the other side is another process.
bool ParseTensor(const Json& entry, int64_t arena_bytes, ShardTensor* tensor) {
  if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string()) return false;
  for (const char* key : {"offset", "elements", "num_elements"}) {
    if (!entry.contains(key) || !entry[key].is_number_integer()) return false;
  }
  if (!entry.contains("filled") || !entry["filled"].is_boolean()) return false;
  if (!entry.contains("shape") || !entry["shape"].is_array()) return false;
  if (!entry.contains("dtype") || !entry["dtype"].is_string()) return false;
  tensor->name = entry["name"].get<std::string>();
  tensor->dtype = DTypeFromName(entry["dtype"].get<std::string>().c_str());
  tensor->offset = entry["offset"].get<int64_t>();
  tensor->elements = entry["elements"].get<int64_t>();
  tensor->num_elements = entry["num_elements"].get<int64_t>();
  tensor->is_filled = entry["filled"].get<bool>();
  tensor->partitioned = entry.contains("partitioned") && entry["partitioned"] == true;
  tensor->is_buffer = entry.contains("buffer") && entry["buffer"] == true;
  tensor->is_state = entry.contains("state") && entry["state"] == true;
  for (const Json& extent : entry["shape"]) {
    if (!extent.is_number_integer() || extent < 0) return false;
    tensor->shape.push_back(extent.get<int64_t>());
  }
  if (entry.contains("aliases") && entry["aliases"].is_array()) {
    for (const Json& alias : entry["aliases"]) {
      if (alias.is_string()) tensor->aliases.push_back(alias.get<std::string>());
    }
  }
  for (const auto& [key, number] : {std::pair("secondary_offset", &tensor->secondary_offset),
                                    std::pair("secondary_elements", &tensor->secondary_elements)}) {
    if (!entry.contains(key)) continue;
    if (!entry[key].is_number_integer()) return false;
    *number = entry[key].get<int64_t>();
  }
  return tensor->dtype != DType::kInvalid && tensor->num_elements >= 0 &&
         Fits(tensor->offset, tensor->elements, tensor->dtype, arena_bytes) &&
         Fits(tensor->secondary_offset, tensor->secondary_elements, tensor->dtype, arena_bytes);
}

}  // namespace

AttachedShard::AttachedShard(AttachedShard&& other) noexcept
    : tensors_(std::move(other.tensors_)),
      plan_digest_(std::move(other.plan_digest_)),
      world_size_(other.world_size_),
      secondary_group_size_(other.secondary_group_size_),
      way_(std::move(other.way_)),
      because_(std::move(other.because_)),
      device_uuid_(std::move(other.device_uuid_)),
      made_for_uuid_(std::move(other.made_for_uuid_)),
      trial_handle_(std::move(other.trial_handle_)),
      trial_bytes_(std::move(other.trial_bytes_)),
      shared_(other.shared_),
      device_(std::move(other.device_)),
      data_(std::exchange(other.data_, nullptr)),
      num_bytes_(std::exchange(other.num_bytes_, 0)) {}

AttachedShard::~AttachedShard() {
  if (data_ != nullptr && device_ == nullptr) ::munmap(data_, static_cast<size_t>(num_bytes_));
}

absl::Status AttachedShard::CopyToHost(int64_t offset, absl::Span<char> to) const {
  if (device_ != nullptr) return device_->CopyToHost(offset, to);
  if (!to.empty()) std::memcpy(to.data(), data_ + offset, to.size());
  return absl::OkStatus();
}

absl::Status AttachedShard::MoveToHost() {
  if (device_ == nullptr) return absl::OkStatus();
  const auto size = static_cast<size_t>(num_bytes_);
  void* const place =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("allocate ", size, " bytes"));
  absl::Status moved = device_->CopyToHost(0, absl::MakeSpan(static_cast<char*>(place), size));
  if (moved.ok()) moved = device_->Close();
  if (!moved.ok()) {
    ::munmap(place, size);
    return moved;
  }
  device_.reset();
  device_uuid_.clear();
  data_ = static_cast<char*>(place);
  return absl::OkStatus();
}

absl::Status AttachedShard::MoveToDevice(const std::string& device_uuid) {
  if (device_ != nullptr || data_ == nullptr) return absl::OkStatus();
  const auto size = static_cast<size_t>(num_bytes_);
  absl::Status locked;
  // Of a private mapping that would duplicate the pages.
  ZC_ASSIGN_OR_RETURN(device_,
                      CopyShardToDevice(device_uuid.empty() ? made_for_uuid_ : device_uuid,
                                        absl::MakeSpan(data_, size), shared_ ? &locked : nullptr));
  if (!locked.ok()) {
    absl::StrAppend(&because_, "; copied from pages that are not locked: ", locked.message());
  }
  ::munmap(data_, size);
  device_uuid_ = device_->device_uuid();
  data_ = device_->data();
  return absl::OkStatus();
}

absl::Status AttachedShard::ReadIndex(const std::string& text) {
  ZC_ASSIGN_OR_RETURN(const Json answer, ParseAnswer(text));
  if (!answer.contains("arena_bytes") || !answer["arena_bytes"].is_number_integer() ||
      !answer.contains("targets") || !answer["targets"].is_array()) {
    return BadAnswer("arena_bytes or targets is missing");
  }
  num_bytes_ = answer["arena_bytes"].get<int64_t>();
  if (num_bytes_ < 0) return BadAnswer("arena_bytes is out of range");
  way_ = TextOf(answer, "way", "memfd");
  because_ = TextOf(answer, "because", "");
  device_uuid_ = TextOf(answer, "device", "");
  const Json trial = answer.value("trial", Json::object());
  if (!trial.is_object()) return BadAnswer("the memory for trial is not described");
  trial_handle_ = absl::HexStringToBytes(TextOf(trial, "handle", ""));
  trial_bytes_ = absl::HexStringToBytes(TextOf(trial, "bytes", ""));
  ZC_RETURN_IF_ERROR(CheckWay());
  if (answer.contains("plan_digest") && answer["plan_digest"].is_string()) {
    plan_digest_ = answer["plan_digest"].get<std::string>();
  }
  for (const auto& [key, number] : {std::pair("world_size", &world_size_),
                                    std::pair("secondary_group_size", &secondary_group_size_)}) {
    if (!answer.contains(key) || !answer[key].is_number_integer()) continue;
    if (answer[key] < 0 || answer[key] > std::numeric_limits<int32_t>::max()) {
      return BadAnswer(absl::StrCat(key, " is out of range"));
    }
    *number = answer[key].get<int32_t>();
  }
  for (const Json& entry : answer["targets"]) {
    ShardTensor tensor;
    if (!ParseTensor(entry, num_bytes_, &tensor)) return BadAnswer("a target does not fit");
    tensors_.push_back(std::move(tensor));
  }
  return absl::OkStatus();
}

absl::Status AttachedShard::CheckWay() {
  if (way_ == "host_copy") {
    made_for_uuid_ = std::exchange(device_uuid_, "");
    return absl::OkStatus();
  }
  if ((way_ == "memfd") != device_uuid_.empty()) {
    return BadAnswer("its way of handing over is not that of its device");
  }
  if (way_ == "memfd") return absl::OkStatus();
  // Before the acknowledgement: after it nobody else can take the shard.
  return CanImport(way_, device_uuid_);
}

absl::Status AttachedShard::Try(int fd) const {
  if (device_uuid_.empty() || trial_bytes_.empty()) return absl::OkStatus();
  DeviceOffer offer;
  offer.way = way_;
  offer.device_uuid = device_uuid_;
  offer.descriptor = fd;
  offer.handle = trial_handle_;
  offer.num_bytes = static_cast<int64_t>(trial_bytes_.size());
  ZC_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceShard> trial, ImportDeviceShard(offer));
  std::string bytes(trial_bytes_.size(), '\0');
  ZC_RETURN_IF_ERROR(trial->CopyToHost(0, absl::MakeSpan(bytes.data(), bytes.size())));
  if (bytes == trial_bytes_) return trial->Close();
  return absl::DataLossError(absl::StrCat("try a way of handing over: memory that came by ", way_,
                                          " on device ", device_uuid_,
                                          " does not hold the agent's bytes"));
}

absl::Status AttachedShard::Map(int fd, bool shared, const std::string& handle,
                                std::shared_ptr<const void> connection) {
  shared_ = shared;
  if (num_bytes_ <= 0) return absl::OkStatus();
  if (way_ == "cuda_ipc" && handle.empty()) return BadAnswer("no handle came with it");
  if (way_ != "cuda_ipc" && fd < 0) return BadAnswer("no file descriptor came with it");
  if (!device_uuid_.empty()) {
    DeviceOffer offer;
    offer.way = way_;
    offer.device_uuid = device_uuid_;
    offer.descriptor = fd;
    offer.handle = handle;
    offer.num_bytes = num_bytes_;
    offer.connection = std::move(connection);
    ZC_ASSIGN_OR_RETURN(device_, ImportDeviceShard(offer));
    data_ = device_->data();
    return absl::OkStatus();
  }
  struct stat info;
  if (::fstat(fd, &info) != 0 || info.st_size < num_bytes_) {
    return BadAnswer("the arena is smaller than it says");
  }
  void* const place = ::mmap(nullptr, static_cast<size_t>(num_bytes_), PROT_READ | PROT_WRITE,
                             shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
  if (place == MAP_FAILED) return ErrnoStatus(errno, "map the arena");
  data_ = static_cast<char*>(place);
  return absl::OkStatus();
}

namespace {

// Says that this process cannot take the shard by the way that the agent proposes.
absl::Status Decline(const absl::Status& why, Connection* connection) {
  const Json decline = {{"op", "cannot"}, {"why", std::string(why.message())}};
  return connection->Send(decline.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

absl::StatusOr<AttachedShard> Attach(const AttachOptions& options) {
  const auto connection = std::make_shared<Connection>(options.socket_path, options.timeout);
  ZC_RETURN_IF_ERROR(connection->Connect());
  const Json request = {{"op", "attach"},
                        {"load", options.load},
                        {"rank", options.rank},
                        {"token", options.token},
                        {"mode", options.shared ? "shared" : "private"}};
  ZC_RETURN_IF_ERROR(
      connection->Send(request.dump(-1, ' ', false, Json::error_handler_t::replace)));
  UniqueFd fd;
  std::optional<AttachedShard> shard;
  absl::Status tried;
  for (int k = 0; k < kMostWays; ++k) {
    absl::StatusOr<std::string> index = connection->Receive(&fd);
    AttachedShard proposed;
    absl::Status read = index.ok() ? proposed.ReadIndex(*index) : index.status();
    // Where an answer to a "cannot" is a refusal, what could not be explains it.
    if (!read.ok()) return tried.ok() ? read : Annotate(read, tried.message());
    tried = proposed.Try(fd.get());
    fd.reset(-1);  // of the memory for trial
    if (tried.ok()) {
      shard.emplace(std::move(proposed));
      break;
    }
    ZC_RETURN_IF_ERROR(Decline(tried, connection.get()));
  }
  ZC_RETURN_IF_ERROR(tried);
  ZC_RETURN_IF_ERROR(connection->Send(R"({"op":"ack"})"));
  const auto take = [&]() -> absl::Status {
    ZC_ASSIGN_OR_RETURN(const std::string text, connection->Receive(&fd));
    ZC_ASSIGN_OR_RETURN(const Json answer, ParseAnswer(text));
    return shard->Map(fd.get(), options.shared,
                      absl::HexStringToBytes(TextOf(answer, "handle", "")), connection);
  };
  const absl::Status taken = take();
  if (taken.ok()) return *std::move(shard);
  return Annotate(
      taken,
      absl::StrCat("take rank ", options.rank, " of ", options.load,
                   options.shared ? ", acknowledged already (if it is lost, load it again)" : ""));
}

}  // namespace zerocast
