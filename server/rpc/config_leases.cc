#include "server/rpc/config_leases.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/random_hex.h"
#include "server/rpc/records.h"

namespace zerocast::rpc {
namespace {

constexpr int kFormat = 1;
constexpr char kLeases[] = "configLeases/", kConfigs[] = "keptConfigs/", kJobs[] = "jobs/";
constexpr int64_t kPage = 1000;
// Of one commit: what expires together is swept in pieces.
constexpr size_t kMaxEndings = 1000;

std::string ConfigKey(absl::string_view job) {
  return absl::StrCat(kConfigs, absl::StripPrefix(job, kJobs));
}

absl::Status NoSuchLease(absl::string_view name) {
  return WithReason(
      absl::NotFoundError(absl::StrCat("find lease '", name,
                                       "': no such lease; it was released or has expired, so "
                                       "acquire a new one")),
      "NOT_FOUND");
}

absl::Status CheckTtl(absl::Duration ttl) {
  if (ttl >= ConfigLeases::kMinTtl && ttl <= ConfigLeases::kMaxTtl) return absl::OkStatus();
  return InvalidFields(
      {{"ttl", absl::StrCat("must be ", absl::FormatDuration(ConfigLeases::kMinTtl), " to ",
                            absl::FormatDuration(ConfigLeases::kMaxTtl), ", was ",
                            absl::FormatDuration(ttl))}});
}

// Base64 keeps JSON and UTF-8 out of each other's way.
std::string ToRecord(const KeptConfig& config) {
  return nlohmann::json{{"format", kFormat},
                        {"resolved", absl::Base64Escape(config.resolved_json)},
                        {"dtype", config.dtype},
                        {"zero_stage", config.zero_stage}}
      .dump();
}

std::string ToRecord(const ConfigLease& lease, absl::string_view request_id) {
  return nlohmann::json{{"format", kFormat},
                        {"job", lease.job},
                        {"ttl_ms", absl::ToInt64Milliseconds(lease.ttl)},
                        {"expire_ms", absl::ToUnixMillis(lease.expire_time)},
                        {"request_id", absl::Base64Escape(request_id)}}
      .dump();
}

// Members of a record; `ok` becomes false where one is absent or of another type.
class Record {
 public:
  explicit Record(const std::string& text)
      : json_(nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false)) {
    ok_ = json_.is_object() && Number("format") == kFormat;
  }
  bool ok() const { return ok_; }
  int64_t Number(const char* key) {
    const auto it = json_.is_object() ? json_.find(key) : json_.end();
    const bool found = json_.is_object() && it != json_.end() && it->is_number_integer();
    ok_ &= found;
    return found ? it->get<int64_t>() : 0;
  }
  std::string Text(const char* key) {
    const auto it = json_.is_object() ? json_.find(key) : json_.end();
    const bool found = json_.is_object() && it != json_.end() && it->is_string();
    ok_ &= found;
    return found ? it->get<std::string>() : "";
  }
  std::string Base64(const char* key) {
    std::string out;
    ok_ &= absl::Base64Unescape(Text(key), &out);
    return out;
  }

 private:
  const nlohmann::json json_;
  bool ok_ = true;
};

}  // namespace

ConfigLeases::ConfigLeases(const Options& options, StateStore* store, const Clock* clock)
    : options_(options), store_(store), clock_(clock) {}

absl::StatusOr<std::unique_ptr<ConfigLeases>> ConfigLeases::Create(const Options& options,
                                                                   StateStore* store,
                                                                   const Clock* clock) {
  std::unique_ptr<ConfigLeases> leases(new ConfigLeases(options, store, clock));
  ZC_RETURN_IF_ERROR(leases->Restore());
  if (options.sweep_period > absl::ZeroDuration()) {
    leases->sweeper_ = std::thread([raw = leases.get()] { raw->SweepLoop(); });
  }
  return leases;
}

ConfigLeases::~ConfigLeases() {
  {
    MutexLock lock(&stop_mutex_);
    stopping_ = true;
    stop_.SignalAll();
  }
  if (sweeper_.joinable()) sweeper_.join();
}

absl::Status ConfigLeases::Restore() {
  MutexLock lock(&mutex_);
  ZC_RETURN_IF_ERROR(RestoreConfigs());
  return RestoreLeases();
}

absl::Status ConfigLeases::RestoreConfigs() {
  std::string after;
  for (bool more = true; more;) {
    ZC_ASSIGN_OR_RETURN(const auto entries, store_->List(kConfigs, after, kPage));
    for (const StoreEntry& entry : entries) {
      Record record(entry.value);
      auto config = std::make_shared<KeptConfig>();
      config->resolved_json = record.Base64("resolved");
      config->dtype = record.Text("dtype");
      config->zero_stage = static_cast<int>(record.Number("zero_stage"));
      if (!record.ok()) return DamagedRecord(entry.key, "it is damaged or of a newer format");
      configs_[absl::StrCat(kJobs, absl::StripPrefix(entry.key, kConfigs))].config =
          std::move(config);
      after = entry.key;
    }
    more = !entries.empty();
  }
  return absl::OkStatus();
}

absl::Status ConfigLeases::RestoreLeases() {
  std::string after;
  for (bool more = true; more;) {
    ZC_ASSIGN_OR_RETURN(const auto entries, store_->List(kLeases, after, kPage));
    for (const StoreEntry& entry : entries) {
      Record record(entry.value);
      Held held;
      held.lease.name = entry.key;
      held.lease.job = record.Text("job");
      held.lease.ttl = absl::Milliseconds(record.Number("ttl_ms"));
      held.lease.expire_time = absl::FromUnixMillis(record.Number("expire_ms"));
      held.request_id = record.Base64("request_id");
      const auto kept = configs_.find(held.lease.job);
      // Lease and config are written in one commit.
      if (!record.ok() || kept == configs_.end())
        return DamagedRecord(entry.key, "it is damaged or of a newer format");
      // The wall clock may have been set meanwhile: no lease grows by that.
      held.until =
          clock_->Steady() + std::min(held.lease.expire_time - clock_->Now(), held.lease.ttl);
      kept->second.leases.insert(entry.key);
      if (!held.request_id.empty()) by_request_[held.request_id] = entry.key;
      leases_[entry.key] = std::move(held);
      after = entry.key;
    }
    more = !entries.empty();
  }
  return absl::OkStatus();
}

const ConfigLeases::Held* ConfigLeases::LivingLocked(absl::string_view name) const {
  const auto it = leases_.find(name);
  if (it == leases_.end() || it->second.until <= clock_->Steady()) return nullptr;
  return &it->second;
}

const ConfigLeases::Held* ConfigLeases::OfRequestLocked(absl::string_view request_id) const {
  if (request_id.empty()) return nullptr;
  const auto it = by_request_.find(request_id);
  return it == by_request_.end() ? nullptr : LivingLocked(it->second);
}

absl::Status ConfigLeases::WriteHeld(const Held& held, const KeptConfig* new_config) {
  std::vector<StoreWrite> writes = {
      {held.lease.name, ToRecord(held.lease, held.request_id), std::nullopt}};
  if (new_config != nullptr) {
    writes.push_back({ConfigKey(held.lease.job), ToRecord(*new_config), std::nullopt});
  }
  return store_->Commit(writes).status();
}

absl::StatusOr<ConfigLease> ConfigLeases::Acquire(absl::string_view job, const KeptConfig& config,
                                                  absl::Duration ttl,
                                                  absl::string_view request_id) {
  ZC_RETURN_IF_ERROR(CheckTtl(ttl));
  // What has expired makes room, and gives its request_id free.
  ZC_RETURN_IF_ERROR(Sweep());
  MutexLock write_lock(&write_mutex_);
  Held held;
  bool is_first = false;
  {
    MutexLock lock(&mutex_);
    if (const Held* made = OfRequestLocked(request_id)) {
      if (made->lease.job == job) return made->lease;
      return InvalidFields({{"request_id", absl::StrCat("was given for ", made->lease.job)}});
    }
    if (static_cast<int64_t>(leases_.size()) >= options_.max_leases) {
      return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                            "lease the config of ", job, ": this server keeps at most ",
                            options_.max_leases, " leases; release some")),
                        "RESOURCE_EXHAUSTED");
    }
    is_first = configs_.find(job) == configs_.end();
  }
  held.lease = {absl::StrCat(kLeases, RandomHex(16)), std::string(job), ttl, clock_->Now() + ttl};
  held.request_id = std::string(request_id);
  held.until = clock_->Steady() + ttl;
  ZC_RETURN_IF_ERROR(WriteHeld(held, is_first ? &config : nullptr));
  MutexLock lock(&mutex_);
  Kept& kept = configs_[held.lease.job];
  if (is_first) kept.config = std::make_shared<const KeptConfig>(config);
  kept.leases.insert(held.lease.name);
  if (!held.request_id.empty()) by_request_[held.request_id] = held.lease.name;
  const ConfigLease lease = held.lease;
  leases_[lease.name] = std::move(held);
  return lease;
}

absl::StatusOr<ConfigLease> ConfigLeases::Renew(absl::string_view name,
                                                std::optional<absl::Duration> ttl) {
  if (ttl.has_value()) ZC_RETURN_IF_ERROR(CheckTtl(*ttl));
  MutexLock write_lock(&write_mutex_);
  Held held;
  {
    MutexLock lock(&mutex_);
    const Held* living = LivingLocked(name);
    if (living == nullptr) return NoSuchLease(name);
    held = *living;
  }
  if (ttl.has_value()) held.lease.ttl = *ttl;
  held.lease.expire_time = clock_->Now() + held.lease.ttl;
  held.until = clock_->Steady() + held.lease.ttl;
  ZC_RETURN_IF_ERROR(WriteHeld(held, nullptr));
  MutexLock lock(&mutex_);
  const ConfigLease lease = held.lease;
  leases_[lease.name] = std::move(held);
  return lease;
}

absl::Status ConfigLeases::Release(absl::string_view name) {
  MutexLock write_lock(&write_mutex_);
  {
    MutexLock lock(&mutex_);
    if (leases_.find(name) == leases_.end()) return absl::OkStatus();
  }
  return End({std::string(name)});
}

absl::Status ConfigLeases::End(const std::vector<std::string>& names) {
  std::vector<StoreWrite> writes;
  {
    MutexLock lock(&mutex_);
    std::map<std::string, size_t> left;  // leases of a job
    for (const std::string& name : names) {
      const std::string& job = leases_.find(name)->second.lease.job;
      writes.push_back({name, std::nullopt, std::nullopt});
      const auto it = left.emplace(job, configs_.find(job)->second.leases.size()).first;
      if (--it->second == 0) writes.push_back({ConfigKey(job), std::nullopt, std::nullopt});
    }
  }
  ZC_RETURN_IF_ERROR(store_->Commit(writes).status());
  MutexLock lock(&mutex_);
  for (const std::string& name : names) ForgetLocked(name);
  return absl::OkStatus();
}

void ConfigLeases::ForgetLocked(absl::string_view name) {
  const auto it = leases_.find(name);
  const auto kept = configs_.find(it->second.lease.job);
  kept->second.leases.erase(it->first);
  if (kept->second.leases.empty()) configs_.erase(kept);
  const auto request = by_request_.find(it->second.request_id);
  if (request != by_request_.end() && request->second == name) by_request_.erase(request);
  leases_.erase(it);
}

absl::Status ConfigLeases::Sweep() {
  MutexLock write_lock(&write_mutex_);
  while (true) {
    std::vector<std::string> expired;
    {
      MutexLock lock(&mutex_);
      const absl::Duration now = clock_->Steady();
      for (const auto& [name, held] : leases_) {
        if (held.until <= now) expired.push_back(name);
        if (expired.size() == kMaxEndings) break;
      }
    }
    if (expired.empty()) return absl::OkStatus();
    ZC_RETURN_IF_ERROR(End(expired));
  }
}

std::shared_ptr<const KeptConfig> ConfigLeases::Find(absl::string_view job) const {
  MutexLock lock(&mutex_);
  const auto kept = configs_.find(job);
  if (kept == configs_.end()) return nullptr;
  // Leases that have expired do not count, although nobody has swept them yet.
  for (const std::string& name : kept->second.leases) {
    if (LivingLocked(name) != nullptr) return kept->second.config;
  }
  return nullptr;
}

int64_t ConfigLeases::num_leases() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(leases_.size());
}

int64_t ConfigLeases::num_configs() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(configs_.size());
}

void ConfigLeases::SweepLoop() {
  bool failing = false;
  while (true) {
    {
      MutexLock lock(&stop_mutex_);
      if (!stopping_) stop_.WaitWithTimeout(&stop_mutex_, options_.sweep_period);
      if (stopping_) return;
    }
    const absl::Status swept = Sweep();
    if (!swept.ok() && !failing) {
      spdlog::warn("expired config leases stay in the store until it takes writes: {}",
                   std::string(swept.message()));
    }
    failing = !swept.ok();
  }
}

}  // namespace zerocast::rpc
