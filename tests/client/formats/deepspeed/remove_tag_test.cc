// The folder of a tag goes only where nobody can miss anything in it, and comes back until then.
#include "client/formats/deepspeed/remove_tag.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "client/formats/deepspeed/find_checkpoints.h"
#include "client/formats/deepspeed/zero_files.h"
#include "server/base/errors.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

constexpr char kTag[] = "global_step3", kAside[] = ".zerocast_removed_global_step3";

class RemoveTag : public ::testing::Test {
 protected:
  void SetUp() override {
    Add("olmoe-z3-w2", kTag);
    folder_.Write("latest", "global_step9");
  }
  void Add(const std::string& name, const std::string& tag) {
    fs::copy(DeepSpeedFolder(name) + "/" +
                 (name == "mixtral-z3-w2-uni" ? "global_step3_universal" : "global_step3"),
             Path(tag), fs::copy_options::recursive);
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  ExpectedTag Seen(const std::string& tag = kTag) const {
    FindZeroOptions options;
    options.tags = {tag};
    const auto found = FindZeroCheckpoints(folder_.path(), options);
    EXPECT_THAT(found, IsOk());
    for (const FoundZeroCheckpoint& each : found->checkpoints) {
      if (each.tag != tag) continue;
      return {tag, each.digest, each.num_files, each.num_bytes, each.mtime_ns};
    }
    ADD_FAILURE() << "no " << tag;
    return {};
  }
  absl::StatusOr<TagRemoval> Check(const ExpectedTag& seen) const {
    return TagRemoval::Check(folder_.path(), seen);
  }
  // Refused with this reason and words, and everything is as it was.
  void ExpectStays(const ExpectedTag& seen, const std::string& reason, const std::string& words) {
    const auto removal = Check(seen);
    EXPECT_EQ(ReasonOf(removal.status()), reason) << removal.status();
    EXPECT_THAT(removal.status().message(), HasSubstr(words));
    EXPECT_FALSE(fs::exists(Path(kAside)));
  }
  std::vector<std::string> Tags() const {
    const auto listed = ListZeroFolder(folder_.path());
    EXPECT_THAT(listed, IsOk());
    return listed->tags;
  }

  const TempDir folder_;
};

TEST_F(RemoveTag, IsSetAsidePutBackAndRemoved) {
  const ExpectedTag seen = Seen();
  ZC_ASSERT_OK_AND_ASSIGN(TagRemoval removal, Check(seen));
  EXPECT_EQ(removal.num_bytes(), seen.num_bytes);
  EXPECT_EQ(removal.aside(), Path(kAside));
  ASSERT_THAT(removal.SetAside(), IsOk());
  EXPECT_THAT(Tags(), IsEmpty()) << "it is no tag any more";
  EXPECT_TRUE(fs::exists(Path(kAside)));
  ASSERT_THAT(removal.PutBack(), IsOk());
  EXPECT_THAT(Tags(), ElementsAre(kTag));
  EXPECT_EQ(Seen().digest, seen.digest);
  ASSERT_THAT(removal.SetAside(), IsOk());
  ASSERT_THAT(removal.Remove(), IsOk());
  EXPECT_FALSE(fs::exists(Path(kTag)));
  EXPECT_FALSE(fs::exists(Path(kAside)));
  EXPECT_TRUE(fs::exists(Path("latest")));
}

TEST_F(RemoveTag, UniversalFoldersGoToo) {
  Add("mixtral-z3-w2-uni", "uni");
  ZC_ASSERT_OK_AND_ASSIGN(TagRemoval removal, Check(Seen("uni")));
  EXPECT_GT(removal.num_bytes(), 1000);
  ASSERT_THAT(removal.SetAside(), IsOk());
  ASSERT_THAT(removal.Remove(), IsOk());
  EXPECT_THAT(Tags(), ElementsAre(kTag));
}

TEST_F(RemoveTag, ATornOneGoesAsItWasSeen) {
  fs::remove(Path(kTag) + "/zero_pp_rank_1_mp_rank_00_model_states.pt");
  const ExpectedTag seen = Seen();
  EXPECT_EQ(seen.digest, "");
  EXPECT_THAT(Check(seen), IsOk());
}

TEST_F(RemoveTag, WhatIsNotThereOrNotAFolderStays) {
  ExpectedTag seen = Seen();
  seen.tag = "other";
  ExpectStays(seen, "CHECKPOINT_NOT_FOUND", "find " + Path("other"));
  fs::rename(Path(kTag), Path("elsewhere"));
  fs::create_directory_symlink(Path("elsewhere"), Path(kTag));
  seen.tag = kTag;
  ExpectStays(seen, "WRONG_STATE", "it is a link");
  fs::remove(Path(kTag));
  folder_.Write(kTag, "text");
  ExpectStays(seen, "WRONG_STATE", "it is no folder");
}

TEST_F(RemoveTag, WhatLatestNamesStays) {
  const ExpectedTag seen = Seen();
  for (const char* const name : {"latest", "latest_universal"}) {
    folder_.Write(name, "global_step3\n");
    ExpectStays(seen, "WRONG_STATE", std::string("the file ") + name + " names it");
    folder_.Write(name, "global_step9\n");
    EXPECT_THAT(Check(seen), IsOk());
  }
}

TEST_F(RemoveTag, WhatHoldsAnythingElseStays) {
  const ExpectedTag seen = Seen();
  const std::string notes = Path(kTag) + "/notes.txt";
  std::ofstream(notes) << "mine";
  ExpectStays(seen, "WRONG_STATE", "it holds notes.txt, which DeepSpeed does not write there");
  fs::remove(notes);
  for (const char* const name : {"data", "zero"}) {
    fs::create_directories(Path(kTag) + "/" + name + "/of/others/deep");
    ExpectStays(seen, "WRONG_STATE", "which DeepSpeed does not write there");
    fs::remove_all(Path(kTag) + "/" + name);
  }
  const std::string link = Path(kTag) + "/zero_pp_rank_2_mp_rank_00_optim_states.pt";
  fs::create_symlink("/etc/hostname", link);
  ExpectStays(seen, "WRONG_STATE", "it holds zero_pp_rank_2");
  fs::remove(link);
  EXPECT_THAT(Check(seen), IsOk());
}

TEST_F(RemoveTag, WhatIsNotWhatWasSeenStays) {
  const std::string words = "its files here are not those that an agent has looked at";
  const ExpectedTag seen = Seen();
  ExpectedTag other = seen;
  other.digest.back() ^= 1;
  ExpectStays(other, "CHECKPOINT_CHANGED", words);
  other = seen;
  ++other.mtime_ns;
  ExpectStays(other, "CHECKPOINT_CHANGED", words);
  fs::remove_all(Path(kTag));
  Add("qwen3moe-z2-w2", kTag);
  ExpectStays(seen, "CHECKPOINT_CHANGED", words);
}

TEST_F(RemoveTag, WhatAnEarlierRemovalLeftIsFoundAndNeverOverwritten) {
  EXPECT_EQ(TagRemoval::FindLeft(folder_.path(), kTag).status().code(),
            absl::StatusCode::kNotFound);
  ZC_ASSERT_OK_AND_ASSIGN(TagRemoval killed, Check(Seen()));
  ASSERT_THAT(killed.SetAside(), IsOk());
  Add("olmoe-z3-w2", kTag);
  ZC_ASSERT_OK_AND_ASSIGN(TagRemoval next, Check(Seen()));
  EXPECT_EQ(ReasonOf(next.SetAside()), "ALREADY_EXISTS");
  EXPECT_EQ(ReasonOf(killed.PutBack()), "ALREADY_EXISTS");
  ZC_ASSERT_OK_AND_ASSIGN(TagRemoval left, TagRemoval::FindLeft(folder_.path(), kTag));
  ASSERT_THAT(left.SetAside(), IsOk());
  ASSERT_THAT(left.PutBack(), IsOk());
  EXPECT_TRUE(fs::exists(Path(kAside))) << "it is where it was found";
  ASSERT_THAT(left.Remove(), IsOk());
  EXPECT_FALSE(fs::exists(Path(kAside)));
  EXPECT_THAT(Tags(), ElementsAre(kTag));
}

}  // namespace
}  // namespace zerocast
