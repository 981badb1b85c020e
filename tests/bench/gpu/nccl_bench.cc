// What a load's bytes cost over NCCL: scattered from one GPU to all (each gets its part), exchanged
// among all (each holds a part of what each needs), and broadcast (each gets everything).  One
// process a participant, as many on a GPU as there are too few GPUs.  Prints a table and, where
// asked, JSON; asserts no time, but that the bytes arrived.
//
//   nccl_bench [--participants N,N,...] [--mib N,N,...] [--runs N] [--json FILE]
#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/comm/nccl.h"
#include "kernels/device/buffer.h"
#include "kernels/device/cuda_status.h"
#include "kernels/device/devices.h"
#include "kernels/device/event.h"
#include "tests/bench/gpu/bench_status.h"
#include "tests/bench/print_command.h"
#include "tests/kernels/comm/file_rendezvous.h"

namespace zerocast {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kTimeout = absl::Seconds(120);
constexpr const char* kWays[] = {"scatter", "exchange", "broadcast"};

struct Options {
  std::vector<int64_t> participants = {2, 4};
  std::vector<int64_t> mib = {1, 16, 64, 256};
  int64_t runs = 5;
  std::string json;
  // Of a participant's process.
  std::string folder;
  int64_t rank = -1;
};

std::vector<int64_t> Numbers(const std::string& text) {
  std::vector<int64_t> numbers;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    if (!absl::SimpleAtoi(word, &numbers.emplace_back()) || numbers.back() < 1) {
      Die(absl::StrCat("\"", text, "\" is no list of numbers from 1 on"));
    }
  }
  return numbers;
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const std::string value = argv[i + 1];
    if (flag == "--participants") {
      options.participants = Numbers(value);
    } else if (flag == "--mib") {
      options.mib = Numbers(value);
    } else if (flag == "--runs") {
      options.runs = Numbers(value).front();
    } else if (flag == "--json") {
      options.json = value;
    } else if (flag == "--folder") {
      options.folder = value;
    } else if (flag == "--rank") {
      options.rank = std::atoi(value.c_str());
    } else {
      Die(absl::StrCat("no flag is named ", flag));
    }
  }
  if (argc % 2 == 0) Die(absl::StrCat(argv[argc - 1], " has no value"));
  return options;
}

// One participant, in a process of its own.
class Participant {
 public:
  Participant(NcclCommunicator* communicator, int64_t num_bytes)
      : communicator_(*communicator),
        rank_(communicator->rank()),
        size_(communicator->size()),
        out_(Take(DeviceBuffer::Create(communicator->device(), num_bytes))),
        in_(Take(DeviceBuffer::Create(communicator->device(), num_bytes))),
        host_(Take(PinnedBuffer::Create(communicator->device(), 64))),
        event_(Take(Event::Create(communicator->device()))) {}

  // Seconds of one way of moving num_bytes; `value` is what all bytes of it are.
  double Measure(const std::string& way, int64_t num_bytes, int value) {
    const int64_t part = num_bytes / size_;
    Fill(out_, rank_ == 0 || way == "exchange" ? value : 0);
    Fill(in_, 0);
    Barrier();
    const double begin = Now();
    if (way == "broadcast") {
      Check(communicator_.Broadcast(out_.data(), num_bytes, 0, kTimeout));
    } else {
      Exchange(way == "exchange", part);
    }
    const double seconds = Now() - begin;
    if (way == "broadcast") ExpectEnds(out_.data(), num_bytes, value);
    if (way == "scatter" && rank_ != 0) ExpectEnds(in_.data(), part, value);
    if (way == "exchange") ExpectEnds(in_.data() + ((rank_ + 1) % size_) * part, part, value);
    return seconds;
  }

 private:
  // Scatter: from participant 0. Exchange: all from all, each a part of its own part.
  void Exchange(bool all, int64_t part) {
    std::vector<Message> sends;
    std::vector<Message> receives;
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      if (all || rank_ == 0) sends.push_back({peer, out_.data() + peer * part, part});
      if (all || peer == 0) receives.push_back({peer, in_.data() + (all ? peer * part : 0), part});
    }
    Check(communicator_.Exchange(sends, receives, kTimeout));
  }

  void Barrier() {
    std::vector<Message> sends;
    std::vector<Message> receives;
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      sends.push_back({peer, host_.data(), 1});
      receives.push_back({peer, host_.data() + 1 + peer, 1});
    }
    Check(communicator_.Exchange(sends, receives, kTimeout));
  }

  void Fill(const DeviceBuffer& buffer, int value) {
    Check(ToStatus(cudaMemsetAsync(buffer.data(), value, buffer.num_bytes(), Stream()), "fill"));
  }

  void ExpectEnds(const std::byte* begin, int64_t num_bytes, int value) {
    for (const std::byte* at : {begin, begin + num_bytes - 1}) {
      Check(
          ToStatus(cudaMemcpyAsync(host_.data(), at, 1, cudaMemcpyDeviceToHost, Stream()), "look"));
      Check(event_.Record(Stream()));
      Check(event_.Wait(kTimeout));
      if (host_.data()[0] != static_cast<std::byte>(value))
        Die("other bytes arrived than were sent");
    }
  }

  cudaStream_t Stream() const { return communicator_.stream(); }

  NcclCommunicator& communicator_;
  const int rank_;
  const int size_;
  const DeviceBuffer out_;
  const DeviceBuffer in_;
  const PinnedBuffer host_;
  const Event event_;
};

// {way: {mib: [seconds of each run]}}
void RunParticipant(const Options& options) {
  NcclOptions nccl;
  nccl.device = static_cast<int>(options.rank % Take(DeviceCount()));
  nccl.rank = static_cast<int>(options.rank);
  nccl.size = static_cast<int>(options.participants.front());
  nccl.rendezvous = std::make_shared<FileRendezvous>(options.folder);
  const auto communicator = Take(NcclCommunicator::Create(nccl));
  const int64_t most = *std::max_element(options.mib.begin(), options.mib.end());
  Participant participant(communicator.get(), most << 20);
  Json seconds;
  for (const int64_t mib : options.mib) {
    for (int64_t run = 0; run <= options.runs; ++run) {
      for (const char* way : kWays) {
        const int value = static_cast<int>(run % 100 + 1);
        const double took = participant.Measure(way, mib << 20, value);
        // The first run connects.
        if (run > 0) seconds[way][std::to_string(mib)].push_back(took);
      }
    }
  }
  std::ofstream(absl::StrCat(options.folder, "/seconds.", options.rank)) << seconds;
}

// Starts the participants and joins what they measured: a run takes as long as its slowest one.
Json Measure(const Options& options, const std::string& program, int64_t size, bool share_gpus) {
  std::string folder = std::filesystem::temp_directory_path() / "nccl_bench_XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) Die("make a folder for the rendezvous");
  std::string sizes;
  for (const int64_t mib : options.mib) absl::StrAppend(&sizes, sizes.empty() ? "" : ",", mib);
  std::vector<pid_t> children;
  for (int64_t rank = 0; rank < size; ++rank) {
    const std::string size_text = std::to_string(size);
    const std::string runs = std::to_string(options.runs);
    const std::string number = std::to_string(rank);
    children.push_back(fork());
    if (children.back() != 0) continue;
    // NCCL refuses two ranks of one host on one GPU.
    if (share_gpus) setenv("NCCL_HOSTID", absl::StrCat("zerocast-", rank).c_str(), 1);
    execl(program.c_str(), program.c_str(), "--folder", folder.c_str(), "--rank", number.c_str(),
          "--participants", size_text.c_str(), "--mib", sizes.c_str(), "--runs", runs.c_str(),
          nullptr);
    _exit(127);
  }
  bool all_well = true;
  for (const pid_t child : children) {
    int status = 0;
    all_well = waitpid(child, &status, 0) == child && status == 0 && all_well;
  }
  Json slowest;
  for (int64_t rank = 0; all_well && rank < size; ++rank) {
    std::ifstream file(absl::StrCat(folder, "/seconds.", rank));
    const Json seconds = Json::parse(file, nullptr, false);
    for (const char* way : kWays) {
      for (const int64_t mib : options.mib) {
        const std::string key = std::to_string(mib);
        for (int64_t run = 0; run < options.runs; ++run) {
          Json& entry = slowest[way][key][run];
          const double took = seconds[way][key][run];
          entry = entry.is_null() ? took : std::max(entry.get<double>(), took);
        }
      }
    }
  }
  std::filesystem::remove_all(folder);
  if (!all_well) Die("a participant failed");
  return slowest;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Run(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  if (options.rank >= 0) {
    RunParticipant(options);
    return 0;
  }
  PrintCommand(argc, argv);
  const absl::StatusOr<std::vector<DeviceInfo>> devices = ListDevices();
  const absl::Status found = devices.ok() ? FindNccl() : devices.status();
  if (!found.ok()) {
    std::printf("skipped: %s\n", found.ToString().c_str());
    return kSkipped;
  }
  std::printf("%zu x %s\n", devices->size(), devices->front().name.c_str());
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  Json report = {{"device", devices->front().name}, {"devices", devices->size()}};
  std::printf("%12s %6s %10s %10s %9s %8s\n", "participants", "MiB", "way", "seconds", "GB/s",
              "ratio");
  for (const int64_t size : options.participants) {
    const bool share_gpus = size > static_cast<int64_t>(devices->size());
    if (share_gpus) {
      std::printf("%12s participants share GPUs: sockets over loopback, not NVLink\n", "");
    }
    const Json seconds = Measure(options, program, size, share_gpus);
    for (const int64_t mib : options.mib) {
      const std::string key = std::to_string(mib);
      const double scatter = Median(seconds["scatter"][key]);
      for (const char* way : kWays) {
        const double took = Median(seconds[way][key]);
        const double rate = static_cast<double>(mib << 20) / took / 1e9;
        std::printf("%12ld %6ld %10s %10.6f %9.3f %8.2f\n", static_cast<long>(size),
                    static_cast<long>(mib), way, took, rate, took / scatter);
        report["rows"].push_back({{"participants", size},
                                  {"bytes", mib << 20},
                                  {"way", way},
                                  {"seconds", took},
                                  {"gb_per_second", rate},
                                  {"share_gpus", share_gpus}});
      }
    }
  }
  if (!options.json.empty()) std::ofstream(options.json) << report.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) { return zerocast::Run(argc, argv); }
