#include "client/formats/output_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "server/base/errors.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> Names(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

TEST(OutputFolder, AppearsWhole) {
  TempDir temp;
  {
    ZC_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(temp.File("out/")));
    ASSERT_THAT(folder.MakeFolder("a/b"), IsOk());
    std::ofstream(folder.File("a/b/c")) << "x";
    EXPECT_FALSE(std::filesystem::exists(temp.File("out")));
    ASSERT_THAT(folder.Commit(), IsOk());
  }
  EXPECT_THAT(Names(temp.path()), ::testing::ElementsAre("out"));
  EXPECT_TRUE(std::filesystem::exists(temp.File("out/a/b/c")));
}

TEST(OutputFolder, LeavesNothingWithoutCommit) {
  TempDir temp;
  {
    ZC_ASSERT_OK_AND_ASSIGN(const OutputFolder folder, OutputFolder::Create(temp.File("out")));
    std::ofstream(folder.File("c")) << "x";
  }
  EXPECT_THAT(Names(temp.path()), ::testing::IsEmpty());
}

TEST(OutputFolder, GoesAroundWhatAKilledProcessOfThisNumberLeft) {
  TempDir temp;
  const std::string left = temp.File("out.tmp." + std::to_string(::getpid()));
  std::filesystem::create_directory(left);
  std::ofstream(left + "/half") << "x";
  {
    ZC_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(temp.File("out")));
    std::ofstream(folder.File("c")) << "x";
    ASSERT_THAT(folder.Commit(), IsOk());
  }
  EXPECT_THAT(Names(temp.File("out")), ::testing::ElementsAre("c"));
  EXPECT_THAT(Names(left), ::testing::ElementsAre("half"));
}

TEST(OutputFolder, TakesAnEmptyFolderAndNoOther) {
  TempDir temp;
  std::filesystem::create_directory(temp.File("empty"));
  {
    ZC_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(temp.File("empty")));
    std::ofstream(folder.File("c")) << "x";
    ASSERT_THAT(folder.Commit(), IsOk());
  }
  EXPECT_THAT(Names(temp.File("empty")), ::testing::ElementsAre("c"));
  const auto again = OutputFolder::Create(temp.File("empty"));
  EXPECT_THAT(again, StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("not an empty folder")));
  EXPECT_EQ(ReasonOf(again.status()), "ALREADY_EXISTS");
  EXPECT_THAT(OutputFolder::Create(temp.Write("file", "x")),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("file")));
  EXPECT_THAT(OutputFolder::Create(temp.File("none/out")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none/out")));
  EXPECT_THAT(OutputFolder::Create("/"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("does not exist yet")));
}

}  // namespace
}  // namespace zerocast
