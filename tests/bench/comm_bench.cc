// Ways to broadcast among 2 to 8 participants, threads that talk TCP over loopback: Gloo's own
// gloo::broadcast, a binomial tree, and a chain of segments; and from which size on a round's
// common bytes deserve a broadcast.  Prints tables; asserts no time.  README.md says how they are
// read.
//
//   comm_bench [--runs N] [--most-mib N] [--participants N,N,...] [--json FILE]
#include <gloo/broadcast.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/hash_store.h>
#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/barrier.h"
#include "kernels/comm/gloo.h"
#include "kernels/comm/map_rendezvous.h"
#include "tests/bench/print_command.h"

namespace zerocast {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(120);
constexpr int64_t kKib = 1024, kMib = 1024 * kKib;
constexpr int64_t kLeastBytes = 64 * kKib;
// What nodes send each other in a round besides what all need.
constexpr int64_t kMessageBytes = kMib;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "comm_bench: %s\n", what.c_str());
  std::exit(1);
}

void Check(const absl::Status& status) {
  if (!status.ok()) Die(status.ToString());
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Options {
  int runs = 7;
  int64_t most_bytes = 64 * kMib;
  std::vector<int> participants = {2, 3, 4, 6, 8};
  std::string json;
};

// One participant's part of a broadcast from participant 0.
using Broadcast = std::function<void(int rank, char* data, int64_t num_bytes)>;

struct Way {
  std::string name;
  Broadcast run;
};

void Transfer(Communicator* links, const std::vector<Message>& sends,
              const std::vector<Message>& receives) {
  Check(links->Exchange(sends, receives, kTimeout));
}

int Depth(int place) {
  int depth = 0;
  for (; place != 0; place &= place - 1) ++depth;
  return depth;
}

// Down a binomial tree: a participant's parent is the place with the lowest set bit cleared, and it
// passes on to all its children at once.  All participants make the same calls: one a level.
void BroadcastTree(Communicator* links, char* data, int64_t num_bytes) {
  const int place = links->rank(), depth = Depth(place);
  std::vector<Message> children;
  for (int bit = 1; place + bit < links->size() && (place & bit) == 0; bit <<= 1) {
    children.push_back({place + bit, data, num_bytes});
  }
  int levels = 0;
  for (int other = 0; other < links->size(); ++other) levels = std::max(levels, Depth(other));
  for (int level = 1; level <= levels; ++level) {
    std::vector<Message> sends, receives;
    if (depth == level - 1) sends = children;
    if (depth == level) receives.push_back({place & (place - 1), data, num_bytes});
    Transfer(links, sends, receives);
  }
}

// From place to place, a segment at a time: in each step a participant receives a segment and
// passes on the one before.
void BroadcastChain(Communicator* links, char* data, int64_t num_bytes, int64_t segment_bytes) {
  const int place = links->rank();
  const int64_t num_segments = (num_bytes + segment_bytes - 1) / segment_bytes;
  const auto add = [&](int peer, int64_t number, std::vector<Message>* messages) {
    if (number < 0 || number >= num_segments) return;
    const int64_t begin = number * segment_bytes;
    messages->push_back({peer, data + begin, std::min(segment_bytes, num_bytes - begin)});
  };
  for (int64_t step = 0; step < num_segments + links->size() - 2; ++step) {
    std::vector<Message> sends, receives;
    if (place > 0) add(place - 1, step - place + 1, &receives);
    if (place + 1 < links->size()) add(place + 1, step - place, &sends);
    Transfer(links, sends, receives);
  }
}

// Runs `body(r)` for all participants, each in a thread of its own.
void RunAll(int size, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back(body, r);
  for (std::thread& thread : threads) thread.join();
}

// The seconds from a common start to the end of the last participant.
double Measure(int size, const std::function<void(int)>& body) {
  std::vector<double> begins(static_cast<size_t>(size)), ends = begins;
  auto* const barrier = new absl::Barrier(size);
  RunAll(size, [&](int r) {
    const bool last = barrier->Block();
    begins[static_cast<size_t>(r)] = Now();
    body(r);
    ends[static_cast<size_t>(r)] = Now();
    if (last) delete barrier;
  });
  return *std::max_element(ends.begin(), ends.end()) -
         *std::min_element(begins.begin(), begins.end());
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// All participants of one size, connected by ours and by Gloo's own means.
class Group {
 public:
  explicit Group(int size) : size_(size), links_(At(size)), contexts_(At(size)) {
    MapRendezvous rendezvous;
    RunAll(size, [&](int r) {
      GlooOptions options;
      options.rank = r;
      options.size = size;
      options.nonce = 1;
      options.rendezvous = &rendezvous;
      auto made = MakeGlooCommunicator(options);
      Check(made.status());
      links_[At(r)] = *std::move(made);
    });
    gloo::rendezvous::HashStore store;
    RunAll(size, [&](int r) {
      auto device = gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr("127.0.0.1"));
      auto context = std::make_shared<gloo::rendezvous::Context>(r, size);
      context->connectFullMesh(store, device);
      contexts_[At(r)] = std::move(context);
    });
    memory_.resize(At(size));
  }

  int size() const { return size_; }
  Communicator* links(int rank) { return links_[At(rank)].get(); }

  void Reserve(int64_t num_bytes) {
    for (std::vector<char>& memory : memory_) memory.assign(At(num_bytes), 0);
  }
  char* memory(int rank) { return memory_[At(rank)].data(); }

  std::vector<Way> Ways() {
    std::vector<Way> ways = {
        {"gloo", [this](int r, char* data, int64_t bytes) { GlooBroadcast(r, data, bytes); }},
        {"tree",
         [this](int r, char* data, int64_t bytes) { BroadcastTree(links(r), data, bytes); }}};
    for (const auto& [name, segment] :
         {std::pair("chain256K", 256 * kKib), std::pair("chain1M", kMib),
          std::pair("chain4M", 4 * kMib)}) {
      ways.push_back({name, [this, segment = segment](int r, char* data, int64_t bytes) {
                        BroadcastChain(links(r), data, bytes, segment);
                      }});
    }
    ways.push_back({"built in", [this](int r, char* data, int64_t bytes) {
                      Check(links(r)->Broadcast(data, bytes, 0, kTimeout));
                    }});
    return ways;
  }

 private:
  static size_t At(int64_t number) { return static_cast<size_t>(number); }

  void GlooBroadcast(int rank, char* data, int64_t num_bytes) {
    gloo::BroadcastOptions options(contexts_[At(rank)]);
    options.setOutput(data, At(num_bytes));
    options.setRoot(0);
    gloo::broadcast(options);
  }

  const int size_;
  std::vector<std::unique_ptr<Communicator>> links_;
  std::vector<std::shared_ptr<gloo::rendezvous::Context>> contexts_;
  std::vector<std::vector<char>> memory_;
};

// One broadcast, whose bytes must arrive: `mark` differs from time to time.
double TimeBroadcast(Group* group, const Way& way, int64_t num_bytes, char mark) {
  std::fill_n(group->memory(0), num_bytes, mark);
  const double seconds =
      Measure(group->size(), [&](int r) { way.run(r, group->memory(r), num_bytes); });
  for (int r = 0; r < group->size(); ++r) {
    const char* const data = group->memory(r);
    if (std::count(data, data + num_bytes, mark) != num_bytes) {
      Die(absl::StrCat(way.name, " brought participant ", r, " other bytes"));
    }
  }
  return seconds;
}

std::string SizeText(int64_t num_bytes) {
  return num_bytes < kMib ? absl::StrCat(num_bytes / kKib, "K")
                          : absl::StrCat(num_bytes / kMib, "M");
}

nlohmann::json MeasureBroadcasts(Group* group, const Options& options) {
  const std::vector<Way> ways = group->Ways();
  std::printf("\n%d participants, broadcast, ms (* the fastest)\n%6s", group->size(), "size");
  for (const Way& way : ways) std::printf(" %10s ", way.name.c_str());
  std::printf("\n");
  nlohmann::json rows = nlohmann::json::array();
  char mark = 0;
  for (int64_t bytes = kLeastBytes; bytes <= options.most_bytes; bytes *= 2) {
    std::vector<std::vector<double>> seconds(ways.size());
    for (int run = -1; run < options.runs; ++run) {  // the first one warms up
      for (size_t w = 0; w < ways.size(); ++w) {
        const double time = TimeBroadcast(group, ways[w], bytes, ++mark);
        if (run >= 0) seconds[w].push_back(time);
      }
    }
    std::vector<double> medians;
    for (const std::vector<double>& times : seconds) medians.push_back(Median(times));
    const double best = *std::min_element(medians.begin(), medians.end());
    std::printf("%6s", SizeText(bytes).c_str());
    nlohmann::json row = {{"participants", group->size()}, {"bytes", bytes}};
    for (size_t w = 0; w < ways.size(); ++w) {
      std::printf(" %10.3f%c", medians[w] * 1e3, medians[w] == best ? '*' : ' ');
      row["seconds"][ways[w].name] = medians[w];
    }
    std::printf("\n");
    std::fflush(stdout);
    rows.push_back(std::move(row));
  }
  return rows;
}

// A round in which every participant has kMessageBytes for each other one and `num_bytes` for all.
double TimeRound(Group* group, int64_t num_bytes, bool broadcast) {
  const int size = group->size();
  const int64_t message = kMessageBytes + (broadcast ? 0 : num_bytes);
  return Measure(size, [&](int r) {
    std::vector<Message> sends, receives;
    char* const in = group->memory(r) + message;
    for (int peer = 0; peer < size; ++peer) {
      if (peer == r) continue;
      sends.push_back({peer, group->memory(r), message});
      receives.push_back({peer, in + peer * message, message});
    }
    Transfer(group->links(r), sends, receives);
    for (int root = 0; broadcast && root < size; ++root) {
      Check(group->links(r)->Broadcast(group->memory(r), num_bytes, root, kTimeout));
    }
  });
}

nlohmann::json MeasureRounds(Group* group, const Options& options) {
  std::printf(
      "\n%d participants, a round of %s for each other one and so much for all, ms\n"
      "%6s %12s %12s\n",
      group->size(), SizeText(kMessageBytes).c_str(), "size", "in messages", "broadcast");
  nlohmann::json rows = nlohmann::json::array();
  for (int64_t bytes = 16 * kKib; bytes <= 4 * kMib; bytes *= 2) {
    std::vector<double> messages, broadcasts;
    for (int run = -1; run < options.runs; ++run) {
      const double in_messages = TimeRound(group, bytes, false);
      const double in_broadcasts = TimeRound(group, bytes, true);
      if (run < 0) continue;
      messages.push_back(in_messages);
      broadcasts.push_back(in_broadcasts);
    }
    std::printf("%6s %12.3f %12.3f\n", SizeText(bytes).c_str(), Median(messages) * 1e3,
                Median(broadcasts) * 1e3);
    std::fflush(stdout);
    rows.push_back({{"participants", group->size()},
                    {"bytes", bytes},
                    {"messages", Median(messages)},
                    {"broadcast", Median(broadcasts)}});
  }
  return rows;
}

Options ReadFlags(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc) Die(flag + " wants a value");
    const char* const value = argv[i + 1];
    if (flag == "--runs") {
      options.runs = std::atoi(value);
    } else if (flag == "--most-mib") {
      options.most_bytes = std::atoll(value) * kMib;
    } else if (flag == "--json") {
      options.json = value;
    } else if (flag == "--participants") {
      options.participants.clear();
      for (const absl::string_view word : absl::StrSplit(value, ',')) {
        int number = 0;
        if (!absl::SimpleAtoi(word, &number) || number < 2) Die("--participants are 2 or more");
        options.participants.push_back(number);
      }
    } else {
      Die("no flag " + flag);
    }
  }
  if (options.runs < 1 || options.most_bytes < kMib) Die("flags must be positive");
  return options;
}

void Run(int argc, char** argv) {
  const Options options = ReadFlags(argc, argv);
  PrintCommand(argc, argv);
  nlohmann::json broadcasts = nlohmann::json::array(), rounds = broadcasts;
  for (const int size : options.participants) {
    Group group(size);
    group.Reserve(std::max(options.most_bytes, (size + 1) * (kMessageBytes + 4 * kMib)));
    for (const auto& row : MeasureBroadcasts(&group, options)) broadcasts.push_back(row);
    for (const auto& row : MeasureRounds(&group, options)) rounds.push_back(row);
  }
  if (!options.json.empty()) {
    std::ofstream(options.json)
        << nlohmann::json({{"broadcasts", broadcasts}, {"rounds", rounds}}).dump(2) << "\n";
  }
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  zerocast::Run(argc, argv);
  return 0;
}
