#include "client/formats/deepspeed/piece_copier.h"

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "client/formats/crc32.h"
#include "server/base/errors.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// All states of all trained parameters, one behind the other, 3 bytes off any alignment; each
// state is a CRC of its own.
struct AllStates {
  std::vector<CopyRun> runs;
  std::string bytes;
  size_t num_crcs = 0;
};

AllStates Everything(const ZeroCheckpoint& checkpoint, DType dtype) {
  AllStates all;
  all.bytes = "abc";
  for (const ZeroParameter& parameter : checkpoint.parameters) {
    for (size_t state = 0; parameter.is_trained && state < checkpoint.state_names.size(); ++state) {
      for (const ZeroPiece& piece : StatePieces(checkpoint, parameter, state)) {
        CopyRun run;
        run.from = piece.from;
        run.position = static_cast<int64_t>(all.bytes.size()) + piece.offset * SizeOf(dtype);
        run.dtype = dtype;
        run.crc = static_cast<int32_t>(all.num_crcs);
        all.runs.push_back(run);
      }
      const std::string bytes = StateBytes(checkpoint, parameter, state);
      std::string cast(bytes.size() / 4 * static_cast<size_t>(SizeOf(dtype)), '\0');
      for (size_t k = 0; k < bytes.size() / 4; ++k) {
        uint32_t bits;
        std::memcpy(&bits, bytes.data() + 4 * k, 4);
        if (dtype == DType::kFloat32) {
          std::memcpy(cast.data() + 4 * k, &bits, 4);
        } else {
          const uint16_t narrow = CastElement<DType::kFloat32, DType::kBFloat16>(bits);
          std::memcpy(cast.data() + 2 * k, &narrow, 2);
        }
      }
      all.bytes += cast;
      ++all.num_crcs;
    }
  }
  return all;
}

class PieceCopierTest : public ::testing::Test {
 protected:
  // Copies `all` with `options`, and commits.
  absl::StatusOr<std::vector<uint32_t>> CopyAll(const ZeroCheckpoint& checkpoint,
                                                const AllStates& all,
                                                PieceCopier::Options options) {
    auto file = OutputFile::Create(temp_.File("out"));
    if (!file.ok()) return file.status();
    if (auto head = file->WriteAt(0, "abc"); !head.ok()) return head;
    PieceCopier copier(checkpoint, std::move(options));
    auto crcs = copier.Copy(all.runs, {&*file}, all.num_crcs);
    if (!crcs.ok()) return crcs.status();
    if (auto checked = copier.CheckStorages(); !checked.ok()) return checked;
    if (auto done = file->Commit(); !done.ok()) return done;
    return crcs;
  }

  TempDir temp_;
};

TEST_F(PieceCopierTest, CopiesAndCastsEveryStateWithItsCrc) {
  for (const auto& [name, others] : RecordedFolders()) {
    SCOPED_TRACE(name);
    ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                            ReadZeroCheckpoint(DeepSpeedFolder(name), ""));
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const AllStates all = Everything(checkpoint, dtype);
      std::atomic<int64_t> told{0};
      PieceCopier::Options options;
      options.num_threads = 3;
      options.progress = [&](int64_t bytes) { told += bytes; };
      ZC_ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> crcs, CopyAll(checkpoint, all, options));
      const std::string written = ReadWholeFile(temp_.File("out"));
      EXPECT_EQ(Sha256Hex(written), Sha256Hex(all.bytes));
      EXPECT_EQ(told.load() + 3, static_cast<int64_t>(written.size()));
      // The CRCs, one behind the other, are that of the file.
      uint32_t crc = Crc32("abc");
      std::vector<int64_t> sizes(all.num_crcs, 0);
      for (const CopyRun& run : all.runs) {
        sizes[static_cast<size_t>(run.crc)] += run.from.num_elements * SizeOf(dtype);
      }
      for (size_t k = 0; k < crcs.size(); ++k) crc = CombineCrc32(crc, crcs[k], sizes[k]);
      EXPECT_EQ(crc, Crc32(written));
    }
  }
}

TEST_F(PieceCopierTest, WritesZerosWhereThereIsNoSource) {
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                          ReadZeroCheckpoint(DeepSpeedFolder("c2"), ""));
  CopyRun zeros;
  zeros.from.num_elements = 3 * PieceCopier::kPartBytes / 4;
  zeros.dtype = DType::kFloat32;
  zeros.crc = 0;
  ZC_ASSERT_OK_AND_ASSIGN(OutputFile file, OutputFile::Create(temp_.File("out")));
  PieceCopier copier(checkpoint, {});
  ZC_ASSERT_OK_AND_ASSIGN(const std::vector<uint32_t> crcs, copier.Copy({zeros}, {&file}, 1));
  ASSERT_THAT(file.Commit(), IsOk());
  const std::string written = ReadWholeFile(temp_.File("out"));
  EXPECT_EQ(written, std::string(3 * PieceCopier::kPartBytes, '\0'));
  EXPECT_EQ(crcs[0], Crc32(written));
}

TEST_F(PieceCopierTest, NamesDamagedBytesWhereverTheyAre) {
  std::filesystem::copy(DeepSpeedFolder("keep_c1"), temp_.File("copy"),
                        std::filesystem::copy_options::recursive);
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint before, ReadZeroCheckpoint(temp_.File("copy"), ""));
  // The last byte of each storage in turn: of masters, moments, padding.
  int num_named = 0;
  for (const ZeroStorage& storage : before.storages) {
    if (storage.num_bytes == 0) continue;
    const std::string& name = before.files[static_cast<size_t>(storage.file)].path;
    if (name.find("optim_states") == std::string::npos) continue;
    const std::string path = temp_.File("copy/" + name);
    const std::string bytes = ReadWholeFile(path);
    std::string damaged = bytes;
    damaged[static_cast<size_t>(storage.file_begin + storage.num_bytes - 1)] ^= 4;
    std::ofstream(path, std::ios::binary) << damaged;
    ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                            ReadZeroCheckpoint(temp_.File("copy"), ""));
    const auto copied = CopyAll(checkpoint, Everything(checkpoint, DType::kFloat32), {});
    EXPECT_THAT(copied, StatusIs(absl::StatusCode::kDataLoss,
                                 AllOf(HasSubstr(name), HasSubstr("have the CRC"))));
    EXPECT_EQ(ReasonOf(copied.status()), "CHECKPOINT_CORRUPT");
    EXPECT_FALSE(std::filesystem::exists(temp_.File("out")));
    std::ofstream(path, std::ios::binary) << bytes;
    ++num_named;
  }
  EXPECT_EQ(num_named, 2 * 3 * 3);
}

TEST_F(PieceCopierTest, NamesAFileThatWasWrittenAgain) {
  std::filesystem::copy(DeepSpeedFolder("keep_c1"), temp_.File("copy"),
                        std::filesystem::copy_options::recursive);
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                          ReadZeroCheckpoint(temp_.File("copy"), ""));
  const AllStates all = Everything(checkpoint, DType::kFloat32);
  const ZeroStorage& storage =
      checkpoint.storages[static_cast<size_t>(all.runs.back().from.storage)];
  const std::string& name = checkpoint.files[static_cast<size_t>(storage.file)].path;
  std::ofstream(temp_.File("copy/" + name), std::ios::app) << "x";
  const auto copied = CopyAll(checkpoint, all, {});
  EXPECT_THAT(copied, StatusIs(absl::StatusCode::kAborted,
                               AllOf(HasSubstr(name), HasSubstr("written again"))));
  EXPECT_EQ(ReasonOf(copied.status()), "CHECKPOINT_CHANGED");
}

TEST_F(PieceCopierTest, EndsWhenItIsTold) {
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                          ReadZeroCheckpoint(DeepSpeedFolder("mixtral-z3-w2"), ""));
  std::atomic<int> left{20};
  PieceCopier::Options options;
  options.num_threads = 4;
  options.keep_going = [&] {
    return left-- > 0 ? absl::OkStatus() : absl::CancelledError("Ctrl-C");
  };
  EXPECT_THAT(CopyAll(checkpoint, Everything(checkpoint, DType::kFloat32), options),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("Ctrl-C")));
  EXPECT_FALSE(std::filesystem::exists(temp_.File("out")));
}

}  // namespace
}  // namespace zerocast
