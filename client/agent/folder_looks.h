#ifndef ZEROCAST_CLIENT_AGENT_FOLDER_LOOKS_H_
#define ZEROCAST_CLIENT_AGENT_FOLDER_LOOKS_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "client/agent/load_environment.h"
#include "client/agent/messages.h"

namespace zerocast {

// Looks at folders of DeepSpeed checkpoints when the server asks for it.  Reads headers, writes
// nothing.  No call blocks: each look has a thread of its own, beside that of FileWork, whose calls
// are bounded by LoadEnvironment::file_timeout.  Thread-safe.
class FolderLooks {
 public:
  static constexpr int kMaxLooks = 16;  // at once

  explicit FolderLooks(std::shared_ptr<LoadEnvironment> environment);
  // Shutdown().
  ~FolderLooks();
  FolderLooks(const FolderLooks&) = delete;
  FolderLooks& operator=(const FolderLooks&) = delete;

  // Answered by FolderLooked, within the command's timeout.  Errors there: those of
  // FindZeroCheckpoints, ResolveCheckpoint and FileWork::Call; RESOURCE_EXHAUSTED beyond kMaxLooks.
  void Look(const std::string& look, const LookCommand& command);

  // Ends all looks, with CANCELLED, and waits for their threads, at most `timeout`.  Later ones are
  // dropped.
  void Shutdown(absl::Duration timeout);

 private:
  struct State;
  // Shared with the threads.
  const std::shared_ptr<State> state_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_FOLDER_LOOKS_H_
