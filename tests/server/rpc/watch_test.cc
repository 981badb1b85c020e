// What a watcher is shown that reads slower than the resource changes.  The stream is played by the
// test: a write is over when the test says so.
#include "server/rpc/watch.h"

#include <memory>
#include <utility>
#include <vector>

#include "server/store/memory_store.h"
#include "tests/status_matchers.h"

namespace zerocast::rpc {
namespace {

using ::testing::ElementsAre;
using Watch = WatchReactor<v1::Load, v1::WatchLoadResponse>;

class PlayedStream final : public grpc::ServerCallbackWriter<v1::WatchLoadResponse> {
 public:
  void Bind(Watch* watch) { BindReactor(watch); }
  void Write(const v1::WatchLoadResponse* message, grpc::WriteOptions) override {
    written.push_back(message->load().state());
  }
  void WriteAndFinish(const v1::WatchLoadResponse*, grpc::WriteOptions, grpc::Status) override {
    ADD_FAILURE() << "not used";
  }
  void Finish(grpc::Status status) override { finished.push_back(FromGrpc(status)); }
  void SendInitialMetadata() override {}

  std::vector<v1::LoadState> written;  // begun
  std::vector<absl::Status> finished;

 private:
  grpc::internal::ServerReactor* reactor() override { return nullptr; }
  void CallOnDone() override {}
};

class WatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto core = Core::Create({}, std::make_unique<MemoryStore>(), Clock::Real());
    ASSERT_THAT(core, IsOk());
    core_ = *std::move(core);
    watch_ = Watch::Start(
        core_.get(),
        [](const v1::Load& load, v1::WatchLoadResponse* response) {
          *response->mutable_load() = load;
        },
        [this](std::shared_ptr<LoadSink> sink) {
          sink_ = std::move(sink);
          Update(v1::LOAD_STATE_PENDING);
          return absl::OkStatus();
        });
    stream_.Bind(watch_);
  }
  void TearDown() override {
    watch_->OnDone();  // it deletes itself with the last reference
  }

  void Update(v1::LoadState state, bool final = false) {
    auto load = std::make_shared<v1::Load>();
    load->set_state(state);
    sink_->Update(std::move(load), final);
  }

  std::unique_ptr<Core> core_;
  PlayedStream stream_;
  Watch* watch_ = nullptr;
  std::shared_ptr<LoadSink> sink_;
};

TEST_F(WatchTest, ASlowReaderMissesStepsButNeverTheLastState) {
  for (const v1::LoadState state :
       {v1::LOAD_STATE_INSPECTING, v1::LOAD_STATE_PREPARING, v1::LOAD_STATE_LOADING}) {
    Update(state);
  }
  Update(v1::LOAD_STATE_READY, true);
  EXPECT_THAT(stream_.written, ElementsAre(v1::LOAD_STATE_PENDING)) << "one write at a time";
  watch_->OnWriteDone(true);
  EXPECT_THAT(stream_.written, ElementsAre(v1::LOAD_STATE_PENDING, v1::LOAD_STATE_READY));
  EXPECT_TRUE(stream_.finished.empty());
  watch_->OnWriteDone(true);
  EXPECT_THAT(stream_.finished, ElementsAre(absl::OkStatus()));
}

TEST_F(WatchTest, AFastReaderSeesEveryStep) {
  watch_->OnWriteDone(true);
  Update(v1::LOAD_STATE_INSPECTING);
  watch_->OnWriteDone(true);
  Update(v1::LOAD_STATE_CANCELLED, true);
  watch_->OnWriteDone(true);
  EXPECT_THAT(stream_.written, ElementsAre(v1::LOAD_STATE_PENDING, v1::LOAD_STATE_INSPECTING,
                                           v1::LOAD_STATE_CANCELLED));
  EXPECT_THAT(stream_.finished, ElementsAre(absl::OkStatus()));
}

TEST_F(WatchTest, ABrokenConnectionEndsItOnce) {
  Update(v1::LOAD_STATE_READY, true);
  watch_->OnWriteDone(false);
  watch_->OnCancel();
  EXPECT_THAT(stream_.written, ElementsAre(v1::LOAD_STATE_PENDING));
  ASSERT_EQ(stream_.finished.size(), 1);
  EXPECT_EQ(stream_.finished[0].code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace zerocast::rpc
