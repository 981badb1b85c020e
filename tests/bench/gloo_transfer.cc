// The floor of an exchange between nodes: every participant, a process, sends each other one its
// part of so many bytes, in rounds of one message a peer, as a load does, and nothing else.  Prints
// the seconds from the first byte to the last one.
//
//   gloo_transfer --rank R --size N --rendezvous DIR --bytes TOTAL [--host ADDRESS]
//                 [--message BYTES]
//
// TOTAL is what is read by all together: a participant reads TOTAL / N and keeps 1 / N of it.  DIR
// is an empty folder that all see; a run leaves files there.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/comm/gloo.h"

namespace zerocast {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(300);

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "gloo_transfer: %s\n", what.c_str());
  std::exit(1);
}

// A file a key; a file has its name once it is whole.
class FileRendezvous final : public Rendezvous {
 public:
  explicit FileRendezvous(std::string folder) : folder_(std::move(folder)) {}

  absl::Status Put(absl::string_view key, absl::string_view value) override {
    const std::string path = Path(key), unfinished = path + ".new";
    std::ofstream(unfinished) << value;
    if (std::rename(unfinished.c_str(), path.c_str()) == 0) return absl::OkStatus();
    return absl::UnavailableError("write " + path);
  }

  absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) override {
    const absl::Time deadline = absl::Now() + timeout;
    for (;;) {
      std::ifstream file(Path(key));
      if (file) return std::string(std::istreambuf_iterator<char>(file), {});
      if (absl::Now() > deadline) {
        return absl::DeadlineExceededError(absl::StrCat("wait for ", Path(key)));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

 private:
  std::string Path(absl::string_view key) const {
    return absl::StrCat(folder_, "/", absl::StrReplaceAll(key, {{"/", "_"}}));
  }

  const std::string folder_;
};

struct Flags {
  int rank = 0, size = 0;
  std::string rendezvous, host = "127.0.0.1";
  int64_t bytes = 0, message = int64_t{8} << 20;
};

Flags ReadFlags(int argc, char** argv) {
  std::map<std::string, std::string> values;
  for (int i = 1; i + 1 < argc; i += 2) values[argv[i]] = argv[i + 1];
  Flags flags;
  flags.rank = std::atoi(values["--rank"].c_str());
  flags.size = std::atoi(values["--size"].c_str());
  flags.rendezvous = values["--rendezvous"];
  flags.bytes = std::atoll(values["--bytes"].c_str());
  if (values.count("--host") != 0) flags.host = values["--host"];
  if (values.count("--message") != 0) flags.message = std::atoll(values["--message"].c_str());
  if (flags.size < 2 || flags.bytes < 1 || flags.message < 1 || flags.rendezvous.empty()) {
    Die("--rank R --size N --rendezvous DIR --bytes TOTAL [--host ADDRESS] [--message BYTES]");
  }
  return flags;
}

void Exchange(Communicator* communicator, std::vector<std::vector<char>>* out,
              std::vector<std::vector<char>>* in, int64_t num_bytes) {
  std::vector<Message> sends, receives;
  for (int peer = 0; peer < communicator->size(); ++peer) {
    if (peer == communicator->rank()) continue;
    sends.push_back({peer, (*out)[static_cast<size_t>(peer)].data(), num_bytes});
    receives.push_back({peer, (*in)[static_cast<size_t>(peer)].data(), num_bytes});
  }
  const absl::Status status = communicator->Exchange(sends, receives, kTimeout);
  if (!status.ok()) Die(status.ToString());
}

void Run(const Flags& flags) {
  FileRendezvous rendezvous(flags.rendezvous);
  GlooOptions options;
  options.rank = flags.rank;
  options.size = flags.size;
  options.bind_host = flags.host;
  options.nonce = 1;
  options.rendezvous = &rendezvous;
  absl::StatusOr<std::unique_ptr<Communicator>> made = MakeGlooCommunicator(options);
  if (!made.ok()) Die(made.status().ToString());
  // Filled, so that no page is made while the clock runs.
  const std::vector<char> message(static_cast<size_t>(flags.message), 'z');
  std::vector<std::vector<char>> out(static_cast<size_t>(flags.size), message), in = out;
  Exchange(made->get(), &out, &in, 1);  // all are ready
  const auto start = std::chrono::steady_clock::now();
  int64_t left = flags.bytes / flags.size / flags.size;
  for (; left > 0; left -= flags.message) {
    Exchange(made->get(), &out, &in, std::min(left, flags.message));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  Exchange(made->get(), &out, &in, 1);  // nobody leaves while a peer still waits for its bytes
  std::printf("%.6f\n", seconds.count());
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  zerocast::Run(zerocast::ReadFlags(argc, argv));
  return 0;
}
