// One participant in a process of its own, for nccl_processes_test: on a machine with one GPU NCCL
// takes several ranks for one only when each has a host id (NCCL_HOSTID), and so a process, of its
// own.
//
//   nccl_rank FOLDER RANK SIZE SCENARIO TIMEOUT_SECONDS
//
// Prints the status in which it ended; exits 0 unless it could not even begin.

#include <cuda_runtime_api.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/nccl.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/event.h"
#include "kernels/device/stream.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/kernels/comm/file_rendezvous.h"

namespace zerocast {
namespace {

// Rounds from here on have no empty message: everybody waits for everybody.
constexpr int kNoneEmpty = 1000;

// Of sizes that are aligned to nothing, too.
std::vector<unsigned char> Pattern(int from, int to, int round) {
  std::mt19937_64 random(from * 1000003 + to * 10007 + round);
  const int sizes[] = {0, 1, 7, 64, 4097, 70001, (1 << 20) + 3};
  std::vector<unsigned char> bytes(sizes[random() % 7] + (round >= kNoneEmpty ? 1 : 0));
  for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random());
  return bytes;
}

// Moves patterns between device memory of the participants.
class Rank {
 public:
  static absl::StatusOr<std::unique_ptr<Rank>> Create(NcclCommunicator* communicator) {
    const int device = communicator->device();
    const int64_t num_bytes = communicator->size() * kSlot;
    ZC_ASSIGN_OR_RETURN(Stream stream, Stream::Create(device));
    ZC_ASSIGN_OR_RETURN(Event event, Event::Create(device));
    ZC_ASSIGN_OR_RETURN(DeviceBuffer out, DeviceBuffer::Create(device, num_bytes));
    ZC_ASSIGN_OR_RETURN(DeviceBuffer in, DeviceBuffer::Create(device, num_bytes));
    ZC_ASSIGN_OR_RETURN(PinnedBuffer host, PinnedBuffer::Create(device, num_bytes));
    return std::unique_ptr<Rank>(new Rank(communicator, std::move(stream), std::move(event),
                                          std::move(out), std::move(in), std::move(host)));
  }

  absl::Status AllToAll(int round, absl::Duration timeout) {
    std::vector<Message> sends;
    std::vector<Message> receives;
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      const std::vector<unsigned char> bytes = Pattern(rank_, peer, round);
      std::copy(bytes.begin(), bytes.end(), Host(peer));
      sends.push_back({peer, out_.data() + peer * kSlot, static_cast<int64_t>(bytes.size())});
      receives.push_back({peer, in_.data() + peer * kSlot,
                          static_cast<int64_t>(Pattern(peer, rank_, round).size())});
    }
    ZC_RETURN_IF_ERROR(Upload());
    ZC_RETURN_IF_ERROR(communicator_->Exchange(sends, receives, timeout));
    ZC_RETURN_IF_ERROR(Download(in_));
    for (int peer = 0; peer < size_; ++peer) {
      if (peer != rank_) ZC_RETURN_IF_ERROR(Check(Pattern(peer, rank_, round), Host(peer)));
    }
    return absl::OkStatus();
  }

  absl::Status Broadcast(int root, int round, absl::Duration timeout) {
    const std::vector<unsigned char> bytes = Pattern(root, size_, round);
    if (rank_ == root) std::copy(bytes.begin(), bytes.end(), Host(0));
    ZC_RETURN_IF_ERROR(Upload());
    ZC_RETURN_IF_ERROR(
        communicator_->Broadcast(out_.data(), static_cast<int64_t>(bytes.size()), root, timeout));
    ZC_RETURN_IF_ERROR(Download(out_));
    return Check(bytes, Host(0));
  }

 private:
  static constexpr int64_t kSlot = 2 << 20;

  Rank(NcclCommunicator* communicator, Stream stream, Event event, DeviceBuffer out,
       DeviceBuffer in, PinnedBuffer host)
      : communicator_(communicator),
        rank_(communicator->rank()),
        size_(communicator->size()),
        stream_(std::move(stream)),
        event_(std::move(event)),
        out_(std::move(out)),
        in_(std::move(in)),
        host_(std::move(host)) {}

  unsigned char* Host(int peer) {
    return reinterpret_cast<unsigned char*>(host_.data()) + peer * kSlot;
  }

  // Only ordered before the exchange: by an event, without a wait of the host.
  absl::Status Upload() {
    ZC_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(out_.data(), host_.data(), host_.num_bytes(),
                                                cudaMemcpyHostToDevice, stream_.get()),
                                "upload"));
    ZC_RETURN_IF_ERROR(event_.Record(stream_.get()));
    return ToStatus(cudaStreamWaitEvent(communicator_->stream(), event_.get(), 0), "order");
  }

  absl::Status Download(const DeviceBuffer& from) {
    ZC_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(host_.data(), from.data(), host_.num_bytes(),
                                                cudaMemcpyDeviceToHost, stream_.get()),
                                "download"));
    ZC_RETURN_IF_ERROR(event_.Record(stream_.get()));
    return event_.Wait(absl::Seconds(30));
  }

  static absl::Status Check(const std::vector<unsigned char>& want, const unsigned char* got) {
    return std::equal(want.begin(), want.end(), got) ? absl::OkStatus()
                                                     : absl::InternalError("wrong bytes");
  }

  NcclCommunicator* const communicator_;
  const int rank_;
  const int size_;
  const Stream stream_;
  const Event event_;
  const DeviceBuffer out_;
  const DeviceBuffer in_;
  const PinnedBuffer host_;
};

struct Arguments {
  std::string folder;
  int rank;
  int size;
  std::string scenario;
  absl::Duration timeout;
};

absl::Status Scenario(const Arguments& arguments) {
  const auto rendezvous = std::make_shared<FileRendezvous>(arguments.folder);
  const bool is_last = arguments.rank == arguments.size - 1;
  if (arguments.scenario == "stuck" && is_last) {
    // Seems to be there, but never calls NCCL.
    ZC_ASSIGN_OR_RETURN(const std::string release,
                        rendezvous->Get("nccl/here/0", absl::Seconds(60)));
    ZC_RETURN_IF_ERROR(rendezvous->Put(absl::StrCat("nccl/here/", arguments.rank), release));
    return rendezvous->Get("end", absl::Seconds(60)).status();
  }
  ZC_ASSIGN_OR_RETURN(const int num_devices, DeviceCount());
  NcclOptions options;
  options.device = arguments.rank % num_devices;
  options.rank = arguments.rank;
  options.size = arguments.size;
  options.rendezvous = rendezvous;
  // Where the time-out is about calls, a slow start of CUDA and NCCL is none.
  const bool is_about_connecting =
      arguments.scenario == "patterns" || arguments.scenario == "stuck";
  options.connect_timeout = is_about_connecting ? arguments.timeout : absl::Seconds(60);
  ZC_ASSIGN_OR_RETURN(const auto communicator, NcclCommunicator::Create(options));
  ZC_ASSIGN_OR_RETURN(const auto rank, Rank::Create(communicator.get()));
  if (arguments.scenario == "patterns") {
    for (int round = 0; round < 20; ++round) {
      ZC_RETURN_IF_ERROR(rank->AllToAll(round, arguments.timeout));
      ZC_RETURN_IF_ERROR(rank->Broadcast(round % arguments.size, round, arguments.timeout));
    }
    return absl::OkStatus();
  }
  // "loop": until something ends it. "idle": the last one stays away after two rounds; "abort": it
  // aborts then; "leave": it ends its communicator.
  for (int round = 0;; ++round) {
    if (round == 2) {
      ZC_RETURN_IF_ERROR(rendezvous->Put(absl::StrCat("running/", arguments.rank), ""));
      if (is_last && arguments.scenario == "idle") {
        return rendezvous->Get("end", absl::Seconds(60)).status();
      }
      if (is_last && arguments.scenario == "leave") return absl::OkStatus();
      if (is_last && arguments.scenario == "abort") communicator->Abort("enough");
    }
    ZC_RETURN_IF_ERROR(rank->AllToAll(kNoneEmpty + round, arguments.timeout));
  }
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "nccl_rank FOLDER RANK SIZE SCENARIO TIMEOUT_SECONDS\n";
    return 2;
  }
  const absl::Status status = zerocast::Scenario({argv[1], std::atoi(argv[2]), std::atoi(argv[3]),
                                                  argv[4], absl::Seconds(std::atof(argv[5]))});
  std::cout << status.ToString() << std::endl;
  // NCCL tears communicators down in threads of its own, which an ordinary exit would pull the
  // runtime away from.  The stand-ins have none, and report leaks at an ordinary exit.
  if (cudaEmu() == nullptr) _exit(0);
  return 0;
}
