#include "client/agent/agent.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/agent/arena.h"
#include "client/agent/file_work.h"
#include "client/agent/folder_looks.h"
#include "client/agent/handover.h"
#include "client/agent/load_table.h"
#include "client/agent/log.h"
#include "client/agent/path_policy.h"
#include "client/agent/session.h"
#include "client/agent/threads.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kernels/comm/deadline.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Long enough for a worker to see the cancellation, short enough for a service manager's patience.
constexpr absl::Duration kShutdownTimeout = absl::Seconds(10);
constexpr absl::Duration kMaxJanitorInterval = absl::Seconds(15);
constexpr absl::Duration kGiveUpPoll = absl::Milliseconds(200);

absl::Status CheckOptions(const AgentOptions& options) {
  std::vector<FieldViolation> violations;
  if (options.node_name.empty()) violations.push_back({"node", "must not be empty"});
  if (options.channel == nullptr && options.server_address.empty()) {
    violations.push_back({"server", "must not be empty"});
  }
  if (options.unclaimed_ttl <= absl::ZeroDuration()) {
    violations.push_back({"unclaimed_ttl", "must be more than nothing"});
  }
  if (options.cache_bytes < 0) violations.push_back({"cache_bytes", "must not be negative"});
  if (options.num_threads < 0 || options.num_threads > kMostAgentThreads) {
    violations.push_back({"threads", absl::StrCat("must be 0 to ", kMostAgentThreads, ", was ",
                                                  options.num_threads)});
  }
  if (options.max_buffer_bytes < kLeastBufferBytes) {
    violations.push_back({"max_buffer_memory", absl::StrCat("must be at least ", kLeastBufferBytes,
                                                            ", was ", options.max_buffer_bytes)});
  }
  for (const auto& [field, rate] : {std::pair<const char*, int64_t>{"read_rate", options.read_rate},
                                    {"send_rate", options.send_rate}}) {
    if (rate == 0 || rate >= kLeastRate) continue;
    violations.push_back(
        {field, absl::StrCat("must be 0 or at least ", kLeastRate, " bytes a second, was ", rate)});
  }
  if (options.file_timeout <= absl::ZeroDuration()) {
    violations.push_back({"file_timeout", "must be more than nothing"});
  }
  if (options.max_loads < 1) violations.push_back({"max_loads", "must be at least 1"});
  if (options.communicators == nullptr && options.bulk_host.empty()) {
    violations.push_back({"bulk_host", "must not be empty"});
  }
  return InvalidFields(violations);
}

uint64_t RandomIncarnation() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

// A driver that hangs must not keep the agent from its other loads: it is asked on a thread that is
// left behind then.
void TellDevices(const LoadEnvironment& environment, absl::Duration timeout,
                 SessionOptions* session) {
  const absl::StatusOr<std::vector<DeviceSummary>> devices =
      environment.file_work->Call<std::vector<DeviceSummary>>(
          "CUDA's driver", timeout, nullptr,
          [finder = environment.devices](
              const FileObserver& about_to) -> absl::StatusOr<std::vector<DeviceSummary>> {
            ZC_RETURN_IF_ERROR(about_to("look for GPUs"));
            ZC_ASSIGN_OR_RETURN(const std::shared_ptr<Devices> found, finder->Get());
            return found->List();
          });
  if (devices.ok()) {
    session->devices = *devices;
    for (const DeviceSummary& device : *devices) {
      spdlog::info("GPU {}: {}, {} bytes", device.uuid, device.name, device.memory_bytes);
    }
    return;
  }
  session->no_devices_because = std::string(devices.status().message());
  spdlog::info("no GPUs: {}", ForLog(devices.status()));
}

// Frees, again and again, the shards that nobody takes.
class Janitor {
 public:
  ~Janitor() { Stop(); }

  absl::Status Start(LoadTable* table, absl::Duration ttl) {
    if (ttl == absl::InfiniteDuration()) return absl::OkStatus();
    ZC_ASSIGN_OR_RETURN(thread_, StartThread([this, table, ttl] { Run(table, ttl); }));
    return absl::OkStatus();
  }
  void Stop() {
    {
      MutexLock lock(&mutex_);
      stopped_ = true;
      changed_.SignalAll();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Run(LoadTable* table, absl::Duration ttl) {
    const absl::Duration interval = std::min(ttl / 4, kMaxJanitorInterval);
    while (true) {
      const Deadline next(interval);
      {
        MutexLock lock(&mutex_);
        while (!stopped_ && !next.Passed()) changed_.WaitWithTimeout(&mutex_, next.Remaining());
        if (stopped_) return;
      }
      table->ExpireUnclaimed(ttl);
    }
  }

  std::thread thread_;
  Mutex mutex_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

struct Agent::Rep {
  std::shared_ptr<LoadEnvironment> environment;
  mutable Mutex hand_over_mutex;
  std::map<std::pair<std::string, std::string>, int64_t> handed_over
      ABSL_GUARDED_BY(hand_over_mutex);
  // In this order: the others use the table.
  std::unique_ptr<LoadTable> table;
  std::unique_ptr<FolderLooks> looks;
  Janitor janitor;
  std::unique_ptr<Session> session;
  std::unique_ptr<HandOverServer> hand_over;

  Mutex stop_mutex;
  bool stopped ABSL_GUARDED_BY(stop_mutex) = false;
};

Agent::Agent(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

Agent::~Agent() { Stop(); }

absl::StatusOr<std::unique_ptr<Agent>> Agent::Start(AgentOptions options) {
  ZC_RETURN_IF_ERROR(CheckOptions(options));
  auto rep = std::make_unique<Rep>();
  rep->environment = std::make_shared<LoadEnvironment>();
  LoadEnvironment& environment = *rep->environment;
  environment.node_name = options.node_name;
  environment.bulk_host = options.bulk_host;
  environment.file_timeout = options.file_timeout;
  environment.num_threads = options.num_threads;
  environment.io = options.io;
  environment.max_buffer_bytes = options.max_buffer_bytes;
  environment.read_limit = std::make_shared<RateLimit>(options.read_rate);
  environment.send_limit = std::make_shared<RateLimit>(options.send_rate);
  ZC_ASSIGN_OR_RETURN(environment.roots,
                      environment.file_work->Call<std::vector<std::string>>(
                          absl::StrJoin(options.roots, ", "), options.file_timeout, nullptr,
                          [roots = options.roots](const FileObserver& about_to) {
                            return ResolveRoots(roots, about_to);
                          }));
  environment.communicators =
      options.communicators != nullptr ? options.communicators : GlooCommunicators();
  if (options.find_devices != nullptr) {
    environment.devices = std::make_shared<DeviceFinder>(options.find_devices);
  }
  environment.opens_gpus = !options.no_gpu;
  environment.reader = options.reader;
  if (environment.reader == nullptr) {
    PosixReaderOptions reader_options;
    reader_options.roots = environment.roots;
    environment.reader = MakePosixReader(std::move(reader_options));
  }
  environment.clock = options.clock;
  environment.cache = std::make_shared<ShardCache>(options.cache_bytes);
  environment.events = MakeSessionEvents(options.socket_path);
  rep->table = std::make_unique<LoadTable>(rep->environment, options.max_loads);
  rep->looks = std::make_unique<FolderLooks>(rep->environment);

  if (!options.socket_path.empty()) {
    Rep* const self = rep.get();
    HandOverOptions hand_over;
    hand_over.socket_path = options.socket_path;
    hand_over.mode = options.socket_mode;
    hand_over.allowed_uids = options.allowed_uids;
    hand_over.offer = [self](const std::string& load, int32_t rank, const std::string& token,
                             AttachMode mode, const std::function<bool()>& stopped) {
      return self->table->Offer(load, rank, token, mode, stopped);
    };
    hand_over.offer_copy = [self](const ShardOffer& offer, const std::string& why,
                                  const std::function<bool()>& stopped) {
      return self->table->OfferCopy(offer, why, stopped);
    };
    hand_over.settle = [self](const ShardOffer& offer, bool acknowledged) {
      absl::Status settled = self->table->Settle(offer, acknowledged);
      if (acknowledged && settled.ok()) {
        MutexLock lock(&self->hand_over_mutex);
        ++self->handed_over[{std::string(AttachModeName(offer.mode)), offer.way}];
      }
      return settled;
    };
    ZC_ASSIGN_OR_RETURN(rep->hand_over, HandOverServer::Start(std::move(hand_over)));
  }

  ZC_RETURN_IF_ERROR(rep->janitor.Start(rep->table.get(), options.unclaimed_ttl));

  SessionOptions session;
  session.server_address = std::move(options.server_address);
  session.channel = std::move(options.channel);
  session.node_name = std::move(options.node_name);
  session.socket_path = std::move(options.socket_path);
  session.bulk_host = std::move(options.bulk_host);
  session.max_buffer_bytes = options.max_buffer_bytes;
  session.num_threads = ReadingThreads(options.num_threads);
  session.version = ZEROCAST_VERSION;
  session.incarnation = RandomIncarnation();
  if (options.no_gpu) {
    session.no_devices_because = "it opens none (--no-gpu)";
  } else if (options.tell_devices) {
    TellDevices(environment, options.file_timeout, &session);
  }
  rep->session = std::make_unique<Session>(std::move(session), environment.events, rep->table.get(),
                                           rep->looks.get());
  ZC_RETURN_IF_ERROR(rep->session->Start());
  return std::unique_ptr<Agent>(new Agent(std::move(rep)));
}

bool Agent::registered() const { return rep_->session->registered(); }

absl::Status Agent::WaitUntilRegistered(absl::Duration timeout) {
  return rep_->session->WaitUntilRegistered(timeout);
}

void Agent::Stop() {
  StopWhenReturned([] { return true; });
}

void Agent::StopWhenReturned(const std::function<bool()>& give_up) {
  MutexLock lock(&rep_->stop_mutex);
  if (std::exchange(rep_->stopped, true)) return;
  if (rep_->hand_over != nullptr) rep_->hand_over->StopServing();
  rep_->session->Stop();
  rep_->janitor.Stop();
  rep_->looks->Shutdown(kShutdownTimeout);
  rep_->table->Shutdown(kShutdownTimeout);
  if (rep_->hand_over == nullptr) return;
  while (!give_up() && !rep_->hand_over->WaitUntilReturned(kGiveUpPoll)) {
  }
  rep_->hand_over.reset();
}

AgentStats Agent::stats() const {
  AgentStats stats;
  stats.registered = registered();
  stats.bytes_read = rep_->environment->reader->bytes_read();
  stats.bytes_sent = rep_->environment->bytes_sent;
  stats.bytes_received = rep_->environment->bytes_received;
  const LoadCounts counts = rep_->table->counts();
  stats.loads_ready = counts.ready;
  stats.loads_failed = counts.failed;
  stats.loads_cancelled = counts.cancelled;
  stats.loads_expired = counts.expired;
  stats.loads_held = counts.held;
  stats.arena_bytes = Arena::TotalBytes();
  const ShardCacheStats cache = rep_->table->cache_stats();
  stats.cache_bytes = cache.bytes;
  stats.cache_hits = cache.hits;
  stats.cache_misses = cache.misses;
  stats.cache_evictions = cache.evictions;
  stats.stuck_file_calls = rep_->environment->file_work->num_stuck();
  MutexLock lock(&rep_->hand_over_mutex);
  stats.handed_over = rep_->handed_over;
  return stats;
}

}  // namespace zerocast
