#ifndef ZEROCAST_TESTS_SERVER_RPC_FOLDER_AGENT_H_
#define ZEROCAST_TESTS_SERVER_RPC_FOLDER_AGENT_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/base/mutex.h"
#include "server/base/errors.h"
#include "server/wire/status.h"
#include "tests/server/rpc/fake_agent.h"

namespace zerocast {

// Folders of DeepSpeed checkpoints as a test wants them to be found.  Thread-safe.
class FakeFolders {
 public:
  // A checkpoint of `step` that is whole; `digit` makes up its digest.
  static v1::FoundCheckpoint Complete(int64_t step, char digit = 'a') {
    v1::FoundCheckpoint found;
    found.set_tag("global_step" + std::to_string(step));
    found.set_step(step);
    found.set_world_size(2);
    found.set_zero_stage(3);
    found.set_num_files(4);
    found.set_num_bytes(1000);
    found.set_digest(std::string(32, digit));
    found.mutable_save_time()->set_seconds(1700000000 + step);
    return found;
  }
  static v1::FoundCheckpoint Torn(int64_t step) {
    v1::FoundCheckpoint found = Complete(step);
    found.clear_digest();
    *found.mutable_problem() = FailureFromStatus(WithReason(
        absl::DataLossError("read optim_states.pt of " + found.tag() + ": it is truncated"),
        "CHECKPOINT_CORRUPT"));
    return found;
  }

  void Put(const std::string& path, const v1::FoundCheckpoint& found) {
    MutexLock lock(&mutex_);
    folders_[path].found[found.tag()] = found;
  }
  void PutLatest(const std::string& path, const std::string& tag) {
    MutexLock lock(&mutex_);
    folders_[path].latest = tag;
  }
  void Remove(const std::string& path, const std::string& tag) {
    MutexLock lock(&mutex_);
    folders_[path].found.erase(tag);
  }
  void RemoveFolder(const std::string& path) {
    MutexLock lock(&mutex_);
    folders_.erase(path);
  }

  v1::FolderReport Look(const v1::LookAtFolder& command) const {
    MutexLock lock(&mutex_);
    v1::FolderReport report;
    report.set_look(command.look());
    const auto folder = folders_.find(command.path());
    if (folder == folders_.end()) {
      *report.mutable_failure() = FailureFromStatus(
          WithReason(absl::NotFoundError("no such folder"), "CHECKPOINT_NOT_FOUND"));
      return report;
    }
    report.set_latest_tag(folder->second.latest);
    std::map<std::string, bool> wanted;
    for (const std::string& tag : command.tags()) wanted[tag] = true;
    if (!report.latest_tag().empty()) wanted[report.latest_tag()] = true;
    if (command.all_tags()) {
      for (const auto& [tag, found] : folder->second.found) wanted[tag] = true;
    }
    for (const auto& [tag, yes] : wanted) {
      v1::FoundCheckpoint* const to = report.add_checkpoints();
      const auto found = folder->second.found.find(tag);
      if (found != folder->second.found.end()) {
        *to = found->second;
        continue;
      }
      to->set_tag(tag);
      to->set_gone(true);
      *to->mutable_problem() = FailureFromStatus(
          WithReason(absl::NotFoundError("there is no folder " + tag), "CHECKPOINT_NOT_FOUND"));
    }
    return report;
  }

 private:
  struct Folder {
    std::string latest;
    std::map<std::string, v1::FoundCheckpoint> found;
  };
  mutable Mutex mutex_;
  std::map<std::string, Folder> folders_ ABSL_GUARDED_BY(mutex_);
};

// An agent on a real stream that answers every look as `folders` are.
class FolderAgent {
 public:
  FolderAgent(const std::shared_ptr<grpc::Channel>& channel, const std::string& node_name,
              const FakeFolders* folders)
      : agent_(channel, node_name), folders_(folders), thread_([this] { Answer(); }) {}
  ~FolderAgent() {
    agent_.Cancel();
    thread_.join();
  }

 private:
  void Answer() {
    while (true) {
      const v1::SessionResponse message = agent_.Read();
      if (message.message_case() == v1::SessionResponse::MESSAGE_NOT_SET) return;
      if (!message.has_look_at_folder()) continue;
      v1::SessionRequest answer;
      *answer.mutable_folder_report() = folders_->Look(message.look_at_folder());
      agent_.Write(answer);
    }
  }

  FakeAgent agent_;
  const FakeFolders* const folders_;
  std::thread thread_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_RPC_FOLDER_AGENT_H_
