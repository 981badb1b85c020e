// Submits a job, waits until its shards are ready and cancels it.
//
//   example ADDRESS CHECKPOINT WORLD_SIZE

#include <cstdio>
#include <cstdlib>

#include "absl/time/time.h"
#include "client/cpp/client.h"
#include "server/base/errors.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  zerocast::Client::Options options;
  options.address = argv[1];
  const auto client = zerocast::Client::Create(options);
  if (!client.ok()) return 1;

  zerocast::v1::JobSpec spec;
  spec.set_checkpoint_path(argv[2]);
  spec.mutable_topology()->set_world_size(std::atoi(argv[3]));
  const auto job = (*client)->CreateJob(spec, {});
  if (!job.ok()) {
    std::printf("refused: %s\n", zerocast::ReasonOf(job.status()).c_str());
    for (const auto& violation : zerocast::ViolationsOf(job.status())) {
      std::printf("  %s: %s\n", violation.field.c_str(), violation.description.c_str());
    }
    return 4;
  }
  const auto load = (*client)->CreateLoad(job->job().name(), {});
  if (!load.ok()) return 1;
  const auto ended = (*client)->WatchLoad(load->name(), absl::Minutes(1), nullptr);
  if (!ended.ok()) return 1;
  std::printf("%s with %d shards\n", zerocast::v1::LoadState_Name(ended->state()).c_str(),
              ended->shards_size());
  return (*client)->CancelJob(job->job().name()).ok() ? 0 : 1;
}
