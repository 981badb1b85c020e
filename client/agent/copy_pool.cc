#include "client/agent/copy_pool.h"

#include <utility>

#include "client/agent/numa.h"
#include "client/agent/threads.h"
#include "kernels/base/status_macros.h"
#include "server/base/clock.h"

namespace zerocast {

absl::StatusOr<std::unique_ptr<CopyPool>> CopyPool::Create(int num_threads) {
  std::unique_ptr<CopyPool> pool(new CopyPool());
  for (int i = 0; i < num_threads; ++i) {
    ZC_ASSIGN_OR_RETURN(std::thread thread, StartThread([self = pool.get(), i] {
                          StayOnNumaNode(static_cast<size_t>(i));
                          self->Run();
                        }));
    pool->threads_.push_back(std::move(thread));
  }
  return pool;
}

CopyPool::~CopyPool() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void CopyPool::Start(Batch* batch, size_t count, std::function<absl::Status(size_t)> body) {
  MutexLock lock(&mutex_);
  batch->status = absl::OkStatus();
  if (count == 0) return;
  batch->body = std::move(body);
  batch->count = batch->left = count;
  batch->next = 0;
  batches_.push_back(batch);
  changed_.SignalAll();
}

absl::Status CopyPool::Wait(Batch* batch) {
  MutexLock lock(&mutex_);
  while (batch->left > 0) changed_.Wait(&mutex_);
  return batch->status;
}

absl::Duration CopyPool::busy() const {
  MutexLock lock(&mutex_);
  return busy_;
}

void CopyPool::Run() {
  MutexLock lock(&mutex_);
  while (true) {
    if (batches_.empty()) {
      if (stop_) return;
      changed_.Wait(&mutex_);
      continue;
    }
    Batch* const batch = batches_.front();
    const size_t number = batch->next++;
    if (batch->next == batch->count) batches_.pop_front();
    mutex_.Unlock();
    const absl::Duration start = Clock::Real()->Steady();
    absl::Status status = batch->body(number);
    const absl::Duration end = Clock::Real()->Steady();
    mutex_.Lock();
    busy_ += end - start;
    if (batch->status.ok()) batch->status = std::move(status);
    if (--batch->left == 0) changed_.SignalAll();
  }
}

}  // namespace zerocast
