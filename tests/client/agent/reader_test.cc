#include "client/agent/reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "client/agent/path_policy.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

// The memory of `bytes` in pieces of different sizes, some of them empty.
std::vector<struct iovec> Pieces(std::string* bytes) {
  std::vector<struct iovec> pieces;
  size_t at = 0;
  for (size_t size = 0; at < bytes->size(); size = (size + 1) % 4) {
    size = std::min(size, bytes->size() - at);
    pieces.push_back({bytes->data() + at, size});
    at += size;
  }
  return pieces;
}

absl::StatusOr<std::string> Read(FileReader* reader, const std::string& path, int64_t offset,
                                 size_t num_bytes) {
  auto file = reader->Open(path);
  if (!file.ok()) return file.status();
  std::string bytes(num_bytes, '\0');
  const absl::Status status = (*file)->ReadAt(offset, Pieces(&bytes));
  if (!status.ok()) return status;
  return bytes;
}

TEST(PosixReader, ContinuesShortReadsAndInterruptedOnes) {
  const TempDir dir;
  const std::string path = dir.Write("file", "0123456789");
  int calls = 0;
  PosixReaderOptions options;
  options.result_of_read = [&calls](const ReadCall&, int64_t result) {
    return ++calls % 2 == 0 ? -EINTR : std::min<int64_t>(result, 3);
  };
  const auto reader = MakePosixReader(options);
  ZC_ASSERT_OK_AND_ASSIGN(const std::string bytes, Read(reader.get(), path, 1, 8));
  EXPECT_EQ(bytes, "12345678");
  EXPECT_EQ(calls, 5);  // 3, 3 and 2 bytes, each other call interrupted
  EXPECT_EQ(reader->bytes_read(), 8);
}

TEST(PosixReader, NamesFileAndOffsetWhereAFileEndsTooEarly) {
  const TempDir dir;
  const std::string path = dir.Write("file", "0123456789");
  const auto read = Read(MakePosixReader({}).get(), path, 4, 10);
  EXPECT_THAT(
      read, StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr(path), HasSubstr("offset 10"))));
  EXPECT_EQ(ReasonOf(read.status()), "CHECKPOINT_CORRUPT");
}

TEST(PosixReader, NamesFileAndOffsetOfAnIoError) {
  const TempDir dir;
  const std::string path = dir.Write("file", "0123456789");
  PosixReaderOptions options;
  options.result_of_read = [](const ReadCall&, int64_t) -> int64_t { return -EIO; };
  const auto read = Read(MakePosixReader(options).get(), path, 4, 2);
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kUnavailable,
                             AllOf(HasSubstr(path), HasSubstr("offset 4"))));
  EXPECT_EQ(ReasonOf(read.status()), "IO_ERROR");
}

TEST(PosixReader, OpensNoFolderAndNothingThatIsMissing) {
  const TempDir dir;
  const auto reader = MakePosixReader({});
  EXPECT_THAT(reader->Open(dir.path()), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(reader->Open(dir.File("none")), StatusIs(absl::StatusCode::kNotFound, _));
}

TEST(PosixReader, StaysBelowItsRootsWhateverLinksSay) {
  const TempDir inside, outside;
  const std::string secret = outside.Write("secret", "0123456789");
  std::filesystem::create_symlink(secret, inside.File("link"));
  std::filesystem::create_symlink(inside.Write("real", "abc"), inside.File("good"));
  PosixReaderOptions options;
  ZC_ASSERT_OK_AND_ASSIGN(options.roots, ResolveRoots({inside.path()}));
  const auto reader = MakePosixReader(options);
  EXPECT_THAT(reader->Open(inside.File("link")),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(secret)));
  EXPECT_THAT(reader->Open(inside.File("good")), IsOk());
}

TEST(CheckSameFile, SaysWhatChanged) {
  const FileIdentity before{10, 1, 2, 3};
  EXPECT_THAT(CheckSameFile("f", before, before), IsOk());
  for (const FileIdentity& now : {FileIdentity{11, 1, 2, 3}, FileIdentity{10, 2, 2, 3},
                                  FileIdentity{10, 1, 3, 3}, FileIdentity{10, 1, 2, 4}}) {
    const absl::Status status = CheckSameFile("f", before, now);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted, HasSubstr("f")));
    EXPECT_EQ(ReasonOf(status), "CHECKPOINT_CHANGED");
  }
}

class ResolveCheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(inside_.File("model"));
    ZC_ASSERT_OK_AND_ASSIGN(roots_, ResolveRoots({inside_.path()}));
  }
  const TempDir inside_, outside_;
  std::vector<std::string> roots_;
};

TEST_F(ResolveCheckpointTest, TakesAFolderBelowARoot) {
  EXPECT_THAT(ResolveCheckpoint(roots_, inside_.File("model")), IsOk());
  EXPECT_THAT(ResolveCheckpoint({}, outside_.path()), IsOk());
}

TEST_F(ResolveCheckpointTest, RefusesWhatLiesOutside) {
  EXPECT_THAT(ResolveCheckpoint(roots_, outside_.path()),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(outside_.path())));
  EXPECT_THAT(ResolveCheckpoint(roots_, inside_.path() + "-other"),
              StatusIs(absl::StatusCode::kNotFound, _));
}

TEST_F(ResolveCheckpointTest, RefusesDotDotEvenWhenItLeadsInside) {
  EXPECT_THAT(ResolveCheckpoint(roots_, inside_.path() + "/model/../model"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("..")));
}

TEST_F(ResolveCheckpointTest, RefusesALinkThatLeadsOutside) {
  std::filesystem::create_symlink(outside_.path(), inside_.File("link"));
  EXPECT_THAT(ResolveCheckpoint(roots_, inside_.File("link")),
              StatusIs(absl::StatusCode::kPermissionDenied, _));
}

TEST_F(ResolveCheckpointTest, RefusesAFileThatIsALinkToTheOutside) {
  const std::string secret = outside_.Write("shadow", "x");
  std::filesystem::create_symlink(secret, inside_.File("model/config.json"));
  EXPECT_THAT(ResolveCheckpoint(roots_, inside_.File("model")),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("config.json")));
}

TEST_F(ResolveCheckpointTest, RefusesALinkToTheOutsideWhateverTheIndexCallsIt) {
  const std::string secret = outside_.Write("shadow", "x");
  inside_.Write("model/model.safetensors.index.json", R"({"weight_map": {"w": "x.bin"}})");
  std::filesystem::create_symlink(secret, inside_.File("model/x.bin"));
  EXPECT_THAT(ResolveCheckpoint(roots_, inside_.File("model")),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("x.bin")));
}

TEST_F(ResolveCheckpointTest, TakesLinksThatStayInside) {
  const std::string blob = inside_.Write("blob", "x");
  std::filesystem::create_symlink(blob, inside_.File("model/x.bin"));
  std::filesystem::create_symlink(inside_.File("nowhere"), inside_.File("model/dangling"));
  EXPECT_THAT(ResolveCheckpoint(roots_, inside_.File("model")), IsOk());
}

}  // namespace
}  // namespace zerocast
