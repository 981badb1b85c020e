// The core with a store that takes its time or fails: who waits, who does not, and what is shown
// when.  Nothing here asks how long something took: the store's gate is closed or open.
#include "server/rpc/core.h"

#include <algorithm>
#include <future>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/rpc/job_spec.h"
#include "tests/server/rpc/fake_agent.h"
#include "tests/server/rpc/gated_store.h"
#include "tests/status_matchers.h"

namespace zerocast::rpc {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;

// Keeps the messages to an agent.
class Inbox final : public SessionSink {
 public:
  void Deliver(v1::SessionResponse message) override {
    MutexLock lock(&mutex_);
    messages_.push_back(std::move(message));
    changed_.SignalAll();
  }
  void End(absl::Status) override {}
  std::vector<v1::SessionResponse> messages() const {
    MutexLock lock(&mutex_);
    return messages_;
  }
  // The message number `index`, once it is there.
  v1::SessionResponse Await(size_t index) {
    MutexLock lock(&mutex_);
    while (messages_.size() <= index) changed_.Wait(&mutex_);
    return messages_[index];
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<v1::SessionResponse> messages_ ABSL_GUARDED_BY(mutex_);
};

// Keeps the states that a watcher of a load is shown.
class States final : public LoadSink {
 public:
  void Update(std::shared_ptr<const v1::Load> latest, bool) override {
    MutexLock lock(&mutex_);
    states_.push_back(latest->state());
    changed_.SignalAll();
  }
  void End(absl::Status) override {}
  bool Has(v1::LoadState state) const {
    MutexLock lock(&mutex_);
    return std::find(states_.begin(), states_.end(), state) != states_.end();
  }
  void Await(v1::LoadState state) {
    MutexLock lock(&mutex_);
    while (std::find(states_.begin(), states_.end(), state) == states_.end()) {
      changed_.Wait(&mutex_);
    }
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<v1::LoadState> states_ ABSL_GUARDED_BY(mutex_);
};

class CoreTest : public ::testing::Test {
 protected:
  void SetUp() override { StartCore({}); }
  void TearDown() override { store_->Open(); }

  void StartCore(const Core::Options& options) {
    auto store = std::make_unique<GatedStore>();
    GatedStore* const raw = store.get();
    auto core = Core::Create(options, std::move(store), Clock::Real());
    ASSERT_THAT(core, IsOk());
    core_ = *std::move(core);
    store_ = raw;
  }

  static jobs::Job NewJob(const std::string& request_id = "", int num_nodes = 1) {
    v1::JobSpec spec;
    spec.set_checkpoint_path("/data/ckpt");
    spec.mutable_topology()->set_world_size(num_nodes);
    for (int i = 0; i < num_nodes; ++i) {
      spec.mutable_topology()->add_nodes(std::string(1, static_cast<char>('a' + i)));
    }
    absl::StatusOr<jobs::Job> job = JobFromSpec(spec);
    EXPECT_THAT(job, IsOk());
    job->request = {request_id, request_id};
    return *std::move(job);
  }
  std::string MakeJob(int num_nodes = 1) {
    const auto created = core_->CreateJob(NewJob("", num_nodes), false);
    EXPECT_THAT(created, IsOk());
    return created.ok() ? created->job.name() : "";
  }
  v1::Load MakeLoad(const std::string& job) {
    const auto created = core_->CreateLoad(job, {}, false);
    EXPECT_THAT(created, IsOk());
    return created.ok() ? *created : v1::Load();
  }
  // Calls in a thread of its own.
  template <typename Function>
  auto Start(Function function) {
    return std::async(std::launch::async, std::move(function));
  }
  auto StartCreate(const std::string& request_id = "") {
    return Start([this, request_id] { return core_->CreateJob(NewJob(request_id), false); });
  }
  // Closes the gate and begins a commit that then stands before it.
  auto StartSlowCreate() {
    const int before = store_->begun();
    store_->Close();
    auto created = StartCreate();
    store_->AwaitBegun(before + 1);
    return created;
  }
  void AwaitWaiting(int64_t count) {
    while (core_->Counts().waiting < count) std::this_thread::yield();
  }

  struct Connected {
    jobs::SessionId session = 0;
    std::shared_ptr<Inbox> inbox;
  };
  Connected Connect(const std::string& node_name) {
    Connected agent;
    agent.session = *core_->ReserveSession();
    agent.inbox = std::make_shared<Inbox>();
    jobs::AgentRegistered event;
    event.session = agent.session;
    event.node_name = node_name;
    EXPECT_THAT(core_->Register(event, agent.inbox), IsOk());
    return agent;
  }
  // A READY load of a job of one node, whose agent is `agent`.
  v1::Load MakeReadyLoad(const Connected& agent) {
    const std::string name = MakeLoad(MakeJob()).name();
    size_t next = agent.inbox->messages().size() - 1;
    const int64_t epoch = agent.inbox->Await(next).inspect_checkpoint().epoch();
    core_->Apply(jobs::ManifestReport{agent.session, name, epoch, absl::OkStatus(),
                                      CompressManifest(FakeAgent::SmallManifest())});
    const std::string digest = agent.inbox->Await(++next).prepare_plan().plan_digest();
    core_->Apply(jobs::PlanReport{agent.session, name, epoch, absl::OkStatus(), digest});
    EXPECT_TRUE(agent.inbox->Await(++next).has_start_load());
    jobs::NodeReport report;
    report.session = agent.session;
    report.load = name;
    report.epoch = epoch;
    report.shards.emplace_back();
    core_->Apply(std::move(report));
    const auto load = core_->GetLoad(name);
    EXPECT_THAT(load, IsOk());
    EXPECT_EQ(load->state(), v1::LOAD_STATE_READY);
    return *load;
  }

  std::unique_ptr<Core> core_;
  GatedStore* store_ = nullptr;  // the core's
};

TEST_F(CoreTest, ASlowCommitHoldsUpNobodyElse) {
  const std::string job = MakeJob();
  const Connected a = Connect("a");
  const v1::Load load = MakeLoad(job);
  auto slow = StartSlowCreate();
  const int groups = store_->groups();

  EXPECT_THAT(core_->GetJob(job), IsOk());
  EXPECT_THAT(core_->GetLoad(load.name()), IsOk());
  bool more = false;
  const auto jobs = core_->ListJobs("", 10, &more);
  ASSERT_THAT(jobs, IsOk());
  EXPECT_THAT(*jobs, SizeIs(1)) << "what is not written yet is not shown";
  EXPECT_THAT(core_->ListLoads("", "", 10, &more), IsOk());
  EXPECT_THAT(core_->ListAgents(), SizeIs(1));
  const Connected b = Connect("b");
  core_->Apply(jobs::Heartbeat{b.session});
  const auto states = std::make_shared<States>();
  EXPECT_THAT(core_->WatchLoad(load.name(), states), IsOk());
  EXPECT_TRUE(states->Has(v1::LOAD_STATE_INSPECTING));
  EXPECT_TRUE(core_->Healthy());
  EXPECT_EQ(store_->groups(), groups) << "all of this came while the store was at one commit";

  store_->Open();
  const auto created = slow.get();
  ASSERT_THAT(created, IsOk());
  EXPECT_THAT(core_->GetJob(created->job.name()), IsOk());
}

TEST_F(CoreTest, WhatPilesUpIsOneCommit) {
  auto slow = StartSlowCreate();
  const int before = store_->groups();
  std::vector<std::future<absl::StatusOr<Core::CreatedJob>>> creations;
  for (int i = 0; i < 20; ++i) creations.push_back(StartCreate());
  AwaitWaiting(21);
  store_->Open();
  std::set<std::string> names;
  for (auto& creation : creations) {
    const auto created = creation.get();
    ASSERT_THAT(created, IsOk());
    names.insert(created->job.name());
  }
  ASSERT_THAT(slow.get(), IsOk());
  EXPECT_THAT(names, SizeIs(20));
  EXPECT_EQ(store_->groups(), before + 2) << "the slow one and one for all others";
  bool more = false;
  ZC_ASSERT_OK_AND_ASSIGN(const auto listed, core_->ListJobs("", 100, &more));
  EXPECT_THAT(listed, SizeIs(21));
  // Names of one group are told apart by their number, not by chance.
  std::set<std::string> numbers;
  for (const std::string& name : names) numbers.insert(name.substr(0, name.find('-')));
  EXPECT_THAT(numbers, SizeIs(20));
}

TEST_F(CoreTest, LoadsOfOneCommitHaveEpochsOfTheirOwn) {
  std::vector<std::string> jobs;
  for (int i = 0; i < 5; ++i) jobs.push_back(MakeJob());
  auto slow = StartSlowCreate();
  std::vector<std::future<v1::Load>> creations;
  for (const std::string& job : jobs) {
    creations.push_back(Start([this, job] { return MakeLoad(job); }));
  }
  AwaitWaiting(6);
  store_->Open();
  std::set<int64_t> epochs;
  for (auto& creation : creations) {
    const v1::Load load = creation.get();
    const auto entry = store_->Get(load.name());
    ASSERT_THAT(entry, IsOk());
    EXPECT_EQ(entry->create_revision, load.epoch());
    epochs.insert(load.epoch());
  }
  EXPECT_THAT(epochs, SizeIs(5));
}

TEST_F(CoreTest, NothingIsToldBeforeItIsDurableAndOtherLoadsGoOn) {
  const Connected a = Connect("a"), b = Connect("b");
  const v1::Load lost = MakeLoad(MakeJob(2));
  const auto states = std::make_shared<States>();
  ASSERT_THAT(core_->WatchLoad(lost.name(), states), IsOk());
  const std::string other_job = MakeJob();
  const v1::Load other = MakeLoad(other_job);
  const size_t heard = a.inbox->messages().size();

  const int begun = store_->begun();
  store_->Close();
  core_->CloseSession(b.session, "its stream closed");
  store_->AwaitBegun(begun + 1);
  // The machine has failed the load.  Neither its agent, nor a watcher, nor a new one is told.
  EXPECT_THAT(a.inbox->messages(), SizeIs(heard));
  EXPECT_FALSE(states->Has(v1::LOAD_STATE_FAILED));
  const auto late = std::make_shared<States>();
  ASSERT_THAT(core_->WatchLoad(lost.name(), late), IsOk());
  EXPECT_FALSE(late->Has(v1::LOAD_STATE_FAILED));
  auto read = Start([this, &lost] { return core_->GetLoad(lost.name()); });
  // Another load's agent hears of the other load.
  core_->Apply(jobs::ManifestReport{a.session, other.name(), other.epoch(), absl::OkStatus(),
                                    CompressManifest(FakeAgent::SmallManifest())});
  EXPECT_THAT(core_->GetLoad(other.name(), absl::ZeroDuration()), IsOk());

  store_->Open();
  states->Await(v1::LOAD_STATE_FAILED);
  late->Await(v1::LOAD_STATE_FAILED);
  const auto shown = read.get();
  ASSERT_THAT(shown, IsOk());
  EXPECT_EQ(shown->state(), v1::LOAD_STATE_FAILED);
  EXPECT_EQ(a.inbox->Await(heard).cancel_load().load(), lost.name());
}

TEST_F(CoreTest, AReaderWaitsForWhatItSawNotForWhatComesLater) {
  const Connected a = Connect("a");
  const v1::Load ready = MakeReadyLoad(a);
  const auto hand_over = [&](const char* mode) {
    core_->Apply(jobs::HandOverReport{a.session, ready.name(), ready.epoch(), 0, mode});
  };
  const int begun = store_->begun();
  store_->Close();
  hand_over("private");
  store_->AwaitBegun(begun + 1);
  auto read = Start([&] { return core_->GetLoad(ready.name()); });
  AwaitWaiting(1);
  hand_over("shared");
  store_->Open();
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Load shown, read.get());
  // Whichever of the two it saw, it was durable; a later call sees the last.
  EXPECT_NE(shown.shards(0).handed_over(), "");
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Load last, core_->GetLoad(ready.name()));
  EXPECT_EQ(last.shards(0).handed_over(), "shared");
}

TEST_F(CoreTest, OneRequestIdIsOneJobWhileTheFirstIsBeingWritten) {
  store_->Close();
  std::vector<std::future<absl::StatusOr<Core::CreatedJob>>> creations;
  for (int i = 0; i < 4; ++i) creations.push_back(StartCreate("once"));
  AwaitWaiting(4);
  store_->Open();
  std::set<std::string> names;
  for (auto& creation : creations) {
    const auto created = creation.get();
    ASSERT_THAT(created, IsOk());
    names.insert(created->job.name());
  }
  EXPECT_THAT(names, SizeIs(1));
}

TEST_F(CoreTest, ACallThatRanOutOfTimeIsDoneAndFoundAgain) {
  store_->Close();
  const auto late = core_->CreateJob(NewJob("once"), false, absl::Milliseconds(1));
  EXPECT_THAT(late, StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("same request_id")));
  EXPECT_EQ(ReasonOf(late.status()), "DEADLINE_EXCEEDED");
  store_->Open();
  const auto again = core_->CreateJob(NewJob("once"), false);
  ASSERT_THAT(again, IsOk());
  bool more = false;
  ZC_ASSERT_OK_AND_ASSIGN(const auto listed, core_->ListJobs("", 10, &more));
  ASSERT_THAT(listed, SizeIs(1));
  EXPECT_EQ(listed[0].name(), again->job.name());
}

TEST_F(CoreTest, ACancelledJobLeavesNoLoadThatWasBeingMade) {
  const std::string job = MakeJob();
  const int begun = store_->begun();
  store_->Close();
  auto load = Start([this, &job] { return core_->CreateLoad(job, {}, false); });
  store_->AwaitBegun(begun + 1);
  auto cancel = Start([this, &job] { return core_->CancelJob(job); });
  AwaitWaiting(2);
  store_->Open();
  ASSERT_THAT(load.get(), IsOk());
  ASSERT_THAT(cancel.get(), IsOk());
  bool more = false;
  ZC_ASSERT_OK_AND_ASSIGN(const auto loads, core_->ListLoads(job, "", 10, &more));
  ASSERT_THAT(loads, SizeIs(1));
  EXPECT_EQ(loads[0].state(), v1::LOAD_STATE_CANCELLED);
}

TEST_F(CoreTest, TwoLoadsOfAJobAreRefusedAlsoWhileTheFirstIsBeingWritten) {
  const std::string job = MakeJob();
  const int begun = store_->begun();
  store_->Close();
  auto first = Start([this, &job] { return core_->CreateLoad(job, {}, false); });
  store_->AwaitBegun(begun + 1);
  auto second = Start([this, &job] { return core_->CreateLoad(job, {}, false); });
  AwaitWaiting(2);
  store_->Open();
  EXPECT_THAT(first.get(), IsOk());
  EXPECT_EQ(second.get().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CoreTest, AReportDuringADeletionBringsNoRecordBack) {
  const Connected a = Connect("a");
  const v1::Load ready = MakeReadyLoad(a);
  ASSERT_THAT(core_->CancelJob(ready.job()), IsOk());
  const int begun = store_->begun();
  store_->Close();
  auto deletion = Start([&] { return core_->DeleteJob(ready.job(), ""); });
  store_->AwaitBegun(begun + 1);
  core_->Apply(jobs::HandOverReport{a.session, ready.name(), ready.epoch(), 0, "shared"});
  store_->Open();
  EXPECT_THAT(deletion.get(), IsOk());
  MakeJob();  // whatever was to be written is written with this
  EXPECT_EQ(store_->Get(ready.name()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(core_->GetLoad(ready.name()).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CoreTest, AReportDuringADeletionThatFailsIsWrittenAfterwards) {
  const Connected a = Connect("a");
  const v1::Load ready = MakeReadyLoad(a);
  ASSERT_THAT(core_->CancelJob(ready.job()), IsOk());
  const int begun = store_->begun();
  store_->Fail(true);
  store_->Close();
  auto deletion = Start([&] { return core_->DeleteJob(ready.job(), ""); });
  store_->AwaitBegun(begun + 1);
  core_->Apply(jobs::HandOverReport{a.session, ready.name(), ready.epoch(), 0, "shared"});
  store_->Open();
  EXPECT_EQ(deletion.get().code(), kUnavailable);
  store_->Fail(false);
  EXPECT_TRUE(core_->WaitIdle(absl::Seconds(20)));
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Load load, core_->GetLoad(ready.name()));
  EXPECT_EQ(load.shards(0).handed_over(), "shared");
  EXPECT_THAT(core_->DeleteJob(ready.job(), ""), IsOk());
}

TEST_F(CoreTest, WhatTheStoreRefusesDoesNotExistAndCanBeAskedForAgain) {
  store_->Fail(true);
  const auto refused = core_->CreateJob(NewJob("once"), false);
  EXPECT_THAT(refused, StatusIs(kUnavailable, HasSubstr("disk full")));
  EXPECT_EQ(ReasonOf(refused.status()), "STORE_UNAVAILABLE");
  bool more = false;
  ZC_ASSERT_OK_AND_ASSIGN(const auto listed, core_->ListJobs("", 10, &more));
  EXPECT_THAT(listed, IsEmpty());
  store_->Fail(false);
  EXPECT_THAT(core_->CreateJob(NewJob("once"), false), IsOk());
}

TEST_F(CoreTest, ARecordThatIsRefusedIsWrittenLaterAndNobodyIsToldBefore) {
  const Connected a = Connect("a"), b = Connect("b");
  const v1::Load load = MakeLoad(MakeJob(2));
  const auto states = std::make_shared<States>();
  ASSERT_THAT(core_->WatchLoad(load.name(), states), IsOk());
  const int groups = store_->groups();
  store_->Fail(true);
  core_->CloseSession(b.session, "its stream closed");
  while (store_->groups() < groups + 2) std::this_thread::yield();  // it is tried again
  EXPECT_FALSE(core_->Healthy());
  const auto read = core_->GetLoad(load.name());
  EXPECT_EQ(read.status().code(), kUnavailable);
  EXPECT_EQ(ReasonOf(read.status()), "STORE_UNAVAILABLE");
  EXPECT_FALSE(states->Has(v1::LOAD_STATE_FAILED));
  store_->Fail(false);
  states->Await(v1::LOAD_STATE_FAILED);
  EXPECT_TRUE(core_->Healthy());
  ZC_ASSERT_OK_AND_ASSIGN(const v1::Load failed, core_->GetLoad(load.name()));
  EXPECT_EQ(failed.state(), v1::LOAD_STATE_FAILED);
}

TEST_F(CoreTest, OneTooManyIsToldToComeAgain) {
  Core::Options options;
  options.max_waiting = 1;
  StartCore(options);
  const std::string job = MakeJob();
  auto slow = StartSlowCreate();
  AwaitWaiting(1);
  const auto refused = core_->CreateJob(NewJob(), false);
  EXPECT_THAT(refused, StatusIs(kUnavailable, HasSubstr("already wait")));
  EXPECT_THAT(core_->GetJob(job), IsOk());
  store_->Open();
  EXPECT_THAT(slow.get(), IsOk());
}

TEST_F(CoreTest, AStopEndsTheWaits) {
  auto slow = StartSlowCreate();
  AwaitWaiting(1);
  EXPECT_FALSE(core_->WaitIdle(absl::ZeroDuration()));
  core_->EndStreams();
  const auto ended = slow.get();
  EXPECT_EQ(ReasonOf(ended.status()), "SHUTTING_DOWN") << ended.status();
}

}  // namespace
}  // namespace zerocast::rpc
