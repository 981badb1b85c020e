#ifndef ZEROCAST_TESTS_CLIENT_AGENT_HANDOVER_FIXTURE_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_HANDOVER_FIXTURE_H_

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "client/agent/handover.h"
#include "kernels/base/mutex.h"
#include "tests/client/agent/attach_client.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {

inline constexpr int64_t kBytes = 8192;
inline constexpr char kLoad[] = "loads/abc";
inline constexpr char kToken[] = "secret";

// The code of a refusal; the whole answer where it is none.
inline std::string CodeOf(const nlohmann::json& answer) {
  return answer.is_object() && answer.value("ok", true) == false
             ? answer["error"]["code"].get<std::string>()
             : answer.dump();
}

// The hand-over socket with two shards of "loads/abc": rank r holds kBytes of 'a' + r.
class HandOverTest : public ::testing::Test {
 protected:
  HandOverTest() {
    // Made before the server's threads log: the packaged library is not built for ThreadSanitizer,
    // which does not see the guard of its static registry.
    EXPECT_NE(spdlog::default_logger_raw(), nullptr);
    ShardIndex index;
    index.load = kLoad;
    index.world_size = 2;
    index.plan_digest = "d1";
    ShardIndex::Entry entry;
    entry.name = "model.norm.weight";
    entry.shape = {3, 5};
    entry.dtype = DType::kBFloat16;
    entry.offset = 64;
    entry.elements = 8;
    entry.num_elements = 15;
    entry.partitioned = true;
    entry.is_filled = true;
    entry.aliases = {"other.name"};
    ShardIndex::Entry unfilled = entry;
    unfilled.name = "lm_head.weight";
    unfilled.offset = 128;
    unfilled.is_filled = false;
    index.secondary_group_size = 2;
    index.targets = {entry, unfilled};
    index.targets[0].secondary_offset = 192;
    index.targets[0].secondary_elements = 16;
    std::vector<Arena> arenas;
    for (int rank = 0; rank < 2; ++rank) {
      arenas.push_back(*Arena::Create("test", kBytes));
      std::memset(arenas.back().data(), 'a' + rank, kBytes);
      EXPECT_THAT(arenas.back().Seal(), IsOk());
      data_.push_back(arenas.back().data());
    }
    book_ =
        std::make_unique<ShardBook>(index, kToken, 0, ShardCache().Add({}, 0, std::move(arenas)));
  }

  HandOverOptions Options() {
    HandOverOptions options;
    options.socket_path = dir_.File("agent.sock");
    options.frame_timeout = absl::Seconds(5);
    options.offer = [this](const std::string& load, int32_t rank, const std::string& token,
                           AttachMode mode,
                           const std::function<bool()>& stopped) -> absl::StatusOr<ShardOffer> {
      if (load != kLoad) return absl::NotFoundError("no such load");
      return book_->Offer(rank, token, mode, stopped);
    };
    options.settle = [this](const ShardOffer& offer, bool acknowledged) {
      const absl::Status settled = book_->Settle(offer.rank, offer.mode, acknowledged);
      MutexLock lock(&mutex_);
      ++num_settled_;
      changed_.SignalAll();
      return settled;
    };
    return options;
  }
  void Start(HandOverOptions options) {
    path_ = options.socket_path;
    ZC_ASSERT_OK_AND_ASSIGN(server_, HandOverServer::Start(std::move(options)));
  }
  void WaitForSettled(int count) {
    MutexLock lock(&mutex_);
    while (num_settled_ < count) {
      ASSERT_FALSE(changed_.WaitWithTimeout(&mutex_, absl::Seconds(10)));
    }
  }

  const TempDir dir_;
  std::vector<char*> data_;
  std::unique_ptr<ShardBook> book_;
  std::string path_;
  Mutex mutex_;
  CondVar changed_;
  int num_settled_ = 0;
  std::unique_ptr<HandOverServer> server_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_HANDOVER_FIXTURE_H_
