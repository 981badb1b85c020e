#include "server/store/state_store.h"

#include <sqlite3.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "server/base/errors.h"
#include "server/store/sqlite_store.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One conformance suite for every store.
class StoreConformance : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string spec =
        GetParam() == "memory" ? "memory" : "sqlite:" + temp_dir_.path() + "/state.db";
    auto store = OpenStore(spec);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }

  std::vector<std::string> Keys(absl::string_view prefix, absl::string_view after, int limit) {
    std::vector<std::string> keys;
    const auto entries = store_->List(prefix, after, limit);
    EXPECT_THAT(entries, IsOk());
    if (entries.ok()) {
      for (const StoreEntry& entry : *entries) keys.push_back(entry.key);
    }
    return keys;
  }

  TempDir temp_dir_;
  std::unique_ptr<StateStore> store_;
};

TEST_P(StoreConformance, ReturnsWhatWasPut) {
  const std::string value("a\0b\xff", 4);
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t revision, store_->Put("k", value));
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("k"));
  EXPECT_EQ(entry.value, value);
  EXPECT_EQ(entry.create_revision, revision);
  EXPECT_EQ(entry.mod_revision, revision);
  EXPECT_EQ(store_->kind(), GetParam());
}

TEST_P(StoreConformance, KeepsAnEmptyValue) {
  ASSERT_THAT(store_->Put("k", ""), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("k"));
  EXPECT_EQ(entry.value, "");
}

TEST_P(StoreConformance, AbsentKeyIsNotFound) {
  const auto entry = store_->Get("nothing");
  EXPECT_THAT(entry, StatusIs(absl::StatusCode::kNotFound, HasSubstr("nothing")));
  EXPECT_EQ(ReasonOf(entry.status()), "NOT_FOUND");
}

TEST_P(StoreConformance, RevisionsGrowAndTheCreatingOneStays) {
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t first, store_->Put("a", "1"));
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t second, store_->Put("a", "2"));
  EXPECT_GT(second, first);
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("a"));
  EXPECT_EQ(entry.create_revision, first);
  EXPECT_EQ(entry.mod_revision, second);
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t now, store_->Revision());
  EXPECT_EQ(now, second);
}

TEST_P(StoreConformance, ADeletedKeyComesBackWithANewRevision) {
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t first, store_->Put("a", "1"));
  ASSERT_THAT(store_->Delete("a"), IsOk());
  EXPECT_EQ(store_->Get("a").status().code(), absl::StatusCode::kNotFound);
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t again, store_->Put("a", "1"));
  EXPECT_GT(again, first + 1);
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("a"));
  EXPECT_EQ(entry.create_revision, again);
}

TEST_P(StoreConformance, OneOfTwoWritersOfTheSameRevisionWins) {
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t revision, store_->Put("a", "1", 0));
  EXPECT_THAT(store_->Put("a", "2", 0),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("'a' is at revision")));
  ASSERT_THAT(store_->Put("a", "3", revision), IsOk());
  EXPECT_EQ(store_->Put("a", "4", revision).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(store_->Delete("a", revision).status().code(), absl::StatusCode::kAborted);
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("a"));
  EXPECT_EQ(entry.value, "3");
}

TEST_P(StoreConformance, ACommitIsAllOrNothing) {
  ASSERT_THAT(store_->Put("a", "1"), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t before, store_->Revision());
  EXPECT_EQ(store_->Commit({{"b", "2", std::nullopt}, {"a", "2", 0}}).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(store_->Get("b").status().code(), absl::StatusCode::kNotFound);
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t after, store_->Revision());
  EXPECT_EQ(after, before);
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t revision,
                          store_->Commit({{"b", "2", 0}, {"a", std::nullopt, std::nullopt}}));
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("b"));
  EXPECT_EQ(entry.mod_revision, revision);
  EXPECT_EQ(store_->Get("a").status().code(), absl::StatusCode::kNotFound);
}

TEST_P(StoreConformance, CommitsOfOneGroupHaveRevisionsOfTheirOwn) {
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t before, store_->Put("a", "1"));
  // The second expects what the first has just written.
  ZC_ASSERT_OK_AND_ASSIGN(const auto revisions, store_->CommitAll({{{"b", "1", 0}},
                                                                   {{"b", "2", before + 1}},
                                                                   {{"a", std::nullopt, before}}}));
  EXPECT_THAT(revisions, ElementsAre(before + 1, before + 2, before + 3));
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("b"));
  EXPECT_EQ(entry.value, "2");
  EXPECT_EQ(entry.create_revision, before + 1);
  EXPECT_EQ(entry.mod_revision, before + 2);
  EXPECT_EQ(store_->Get("a").status().code(), absl::StatusCode::kNotFound);
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t after, store_->Put("c", "1"));
  EXPECT_EQ(after, before + 4);
}

TEST_P(StoreConformance, AGroupIsAllOrNothing) {
  ASSERT_THAT(store_->Put("a", "1"), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t before, store_->Put("d", "1"));
  const auto refused = store_->CommitAll({{{"a", "2", std::nullopt}, {"b", "2", 0}},
                                          {{"a", "3", std::nullopt}, {"d", std::nullopt, {}}},
                                          {{"c", "3", std::nullopt}, {"a", "4", before}}});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kAborted, HasSubstr("'a' is at revision")));
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("a"));
  EXPECT_EQ(entry.value, "1");
  EXPECT_THAT(Keys("", "", 10), ElementsAre("a", "d"));
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t after, store_->Revision());
  EXPECT_EQ(after, before);
}

TEST_P(StoreConformance, RefusesWritesThatContradictThemselves) {
  EXPECT_EQ(store_->Commit({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->CommitAll({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->Put("", "x").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(store_->Commit({{"a", "1", std::nullopt}, {"a", "2", std::nullopt}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
}

TEST_P(StoreConformance, ListsByPrefixInPages) {
  for (const char* key : {"jobs/2", "jobs/1", "jobs/3", "job", "loads/1", "jobs0"}) {
    ASSERT_THAT(store_->Put(key, key), IsOk());
  }
  EXPECT_THAT(Keys("jobs/", "", 10), ElementsAre("jobs/1", "jobs/2", "jobs/3"));
  EXPECT_THAT(Keys("jobs/", "", 2), ElementsAre("jobs/1", "jobs/2"));
  EXPECT_THAT(Keys("jobs/", "jobs/2", 2), ElementsAre("jobs/3"));
  EXPECT_THAT(Keys("jobs/", "jobs/3", 2), ElementsAre());
  EXPECT_THAT(Keys("", "", 100).size(), 6);
}

TEST_P(StoreConformance, ConcurrentWritersLoseNoIncrement) {
  ASSERT_THAT(store_->Put("n", "0"), IsOk());
  const auto increment = [this] {
    for (int done = 0; done < 20;) {
      const auto entry = store_->Get("n");
      if (!entry.ok()) continue;
      const std::string next = std::to_string(std::stoi(entry->value) + 1);
      if (store_->Put("n", next, entry->mod_revision).ok()) ++done;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(increment);
  for (std::thread& thread : threads) thread.join();
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store_->Get("n"));
  EXPECT_EQ(entry.value, "80");
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreConformance, ::testing::Values("memory", "sqlite"),
                         [](const auto& info) { return info.param; });

TEST(SqliteStore, SurvivesAReopenWithItsRevisions) {
  TempDir dir;
  const std::string path = dir.path() + "/state.db";
  {
    ZC_ASSERT_OK_AND_ASSIGN(auto store, SqliteStore::Open(path));
    ASSERT_THAT(store->Put("a", "1"), IsOk());
    ASSERT_THAT(store->Put("b", "1"), IsOk());
    ASSERT_THAT(store->Delete("b"), IsOk());
  }
  ZC_ASSERT_OK_AND_ASSIGN(auto store, SqliteStore::Open(path));
  ZC_ASSERT_OK_AND_ASSIGN(const StoreEntry entry, store->Get("a"));
  EXPECT_EQ(entry.value, "1");
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t revision, store->Put("b", "2"));
  EXPECT_EQ(revision, 4);
}

TEST(SqliteStore, ASecondOpenerIsRefusedByName) {
  TempDir dir;
  const std::string path = dir.path() + "/state.db";
  ZC_ASSERT_OK_AND_ASSIGN(auto store, SqliteStore::Open(path));
  EXPECT_THAT(SqliteStore::Open(path), StatusIs(absl::StatusCode::kUnavailable,
                                                HasSubstr("another server has this file open")));
}

TEST(SqliteStore, RefusesANewerSchema) {
  TempDir dir;
  const std::string path = dir.path() + "/state.db";
  ASSERT_THAT(SqliteStore::Open(path), IsOk());
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "UPDATE meta SET value = 2", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  EXPECT_THAT(SqliteStore::Open(path), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                HasSubstr("its schema is version 2")));
}

TEST(SqliteStore, NamesAPathThatCannotBeOpened) {
  EXPECT_THAT(SqliteStore::Open("/nonexistent/state.db"),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("open store '/nonexistent/state.db': its folder /nonexistent does "
                                 "not exist; make it (install -d /nonexistent)")));
  EXPECT_THAT(SqliteStore::Open("/proc"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("open store '/proc'")));
}

TEST(OpenStore, RefusesOtherForms) {
  EXPECT_THAT(OpenStore("etcd:x"), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("sqlite:PATH', was 'etcd:x'")));
  EXPECT_EQ(OpenStore("sqlite:").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace zerocast
