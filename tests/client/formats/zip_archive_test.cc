#include "client/formats/zip_archive.h"

#include <string>

#include "server/base/errors.h"
#include "tests/client/formats/memory_file.h"
#include "tests/client/formats/zip_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ZipPart Part(const std::string& name, const std::string& data) {
  ZipPart part;
  part.name = name;
  part.data = data;
  return part;
}

absl::StatusOr<ZipArchive> Read(const std::string& bytes) {
  const MemoryFile memory(bytes);
  const auto file = InputFile::Open(memory.path());
  if (!file.ok()) return file.status();
  return ZipArchive::Read(*file);
}

TEST(Crc32, IsThatOfZipFiles) {
  EXPECT_EQ(Crc32(""), 0u);
  EXPECT_EQ(Crc32("123456789"), 0xCBF43926u);  // the check value of the CRC catalogue
  const std::string text(1000, 'x');
  for (size_t cut = 0; cut < 20; ++cut) {
    EXPECT_EQ(Crc32(text.substr(cut), Crc32(text.substr(0, cut))), Crc32(text));
  }
}

TEST(Crc32, IsTheSameByAnyPath) {
  std::string bytes;
  uint32_t state = 1;
  for (size_t length = 0; length < 600; ++length) {
    uint32_t wanted = ~static_cast<uint32_t>(length * 7);
    for (const char c : bytes) {
      wanted ^= static_cast<uint8_t>(c);
      for (int bit = 0; bit < 8; ++bit) {
        wanted = (wanted >> 1) ^ ((wanted & 1) != 0 ? 0xEDB88320u : 0);
      }
    }
    ASSERT_EQ(Crc32(bytes, static_cast<uint32_t>(length * 7)), ~wanted) << length;
    state = state * 1664525 + 1013904223;
    bytes.push_back(static_cast<char>(state >> 24));
  }
}

TEST(ZipArchive, ReadsEveryWayToSayASize) {
  TempDir folder;
  for (const bool end64 : {false, true}) {
    for (const std::string comment : {"", "PK\5\6 not the end record, only a comment"}) {
      std::vector<ZipPart> parts;
      for (int k = 0; k < 4; ++k) {
        parts.push_back(Part(std::string("top/") + char('a' + k), std::string(k * 7, 'x')));
        parts.back().descriptor = (k & 1) != 0;
        parts.back().zip64 = (k & 2) != 0;
      }
      ZC_ASSERT_OK_AND_ASSIGN(const InputFile file,
                              InputFile::Open(folder.Write("z", ZipOf(parts, end64, comment))));
      ZC_ASSERT_OK_AND_ASSIGN(const ZipArchive archive, ZipArchive::Read(file));
      ASSERT_EQ(archive.entries().size(), 4u);
      for (const ZipPart& part : parts) {
        const ZipEntry* entry = archive.Find(part.name);
        ASSERT_NE(entry, nullptr);
        ZC_ASSERT_OK_AND_ASSIGN(const std::string data, ReadZipEntry(file, *entry, 100));
        EXPECT_EQ(data, part.data);
        EXPECT_EQ(CheckZipEntry(file, *entry), absl::OkStatus());
      }
      EXPECT_EQ(archive.Find("top/e"), nullptr);
    }
  }
}

TEST(ZipArchive, RefusesOtherBytesThanThoseOfTheCrc) {
  TempDir folder;
  ZipPart part = Part("top/data.pkl", std::string(3'000'000, 'y'));
  part.crc_error = 1;
  ZC_ASSERT_OK_AND_ASSIGN(const InputFile file, InputFile::Open(folder.Write("z", ZipOf({part}))));
  ZC_ASSERT_OK_AND_ASSIGN(const ZipArchive archive, ZipArchive::Read(file));
  const auto wrong = StatusIs(absl::StatusCode::kDataLoss,
                              AllOf(HasSubstr("entry top/data.pkl"), HasSubstr("CRC-32")));
  EXPECT_THAT(ReadZipEntry(file, archive.entries()[0], 1 << 30), wrong);
  EXPECT_THAT(CheckZipEntry(file, archive.entries()[0]), wrong);
  EXPECT_THAT(ReadZipEntry(file, archive.entries()[0], 10),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("at most 10")));
}

TEST(ZipArchive, ReadsFilesWithoutAnyCrc) {
  std::vector<ZipPart> parts = {Part("t/a", "first"), Part("t/b", "second")};
  for (ZipPart& part : parts) part.crc_error = Crc32(part.data);
  const MemoryFile memory(ZipOf(parts));
  ZC_ASSERT_OK_AND_ASSIGN(const InputFile file, InputFile::Open(memory.path()));
  ZC_ASSERT_OK_AND_ASSIGN(const ZipArchive archive, ZipArchive::Read(file));
  EXPECT_FALSE(archive.has_crcs());
  EXPECT_THAT(ReadZipEntry(file, archive.entries()[0], 100), IsOk());
  EXPECT_THAT(CheckZipEntry(file, archive.entries()[1]), IsOk());
}

struct BadZip {
  const char* name;
  std::string file;
  absl::StatusCode code;
  const char* message;
};

class ZipArchiveBadInput : public ::testing::TestWithParam<BadZip> {};

TEST_P(ZipArchiveBadInput, IsRefusedByName) {
  const auto archive = Read(GetParam().file);
  EXPECT_THAT(archive, StatusIs(GetParam().code,
                                AllOf(HasSubstr("/proc/self/fd/"), HasSubstr(GetParam().message))));
  EXPECT_EQ(ReasonOf(archive.status()),
            GetParam().code == absl::StatusCode::kDataLoss ? "CHECKPOINT_CORRUPT" : "UNSUPPORTED");
}

template <typename Change>
std::string Changed(Change change) {
  std::vector<ZipPart> parts = {Part("t/a", "first"), Part("t/b", "second")};
  change(&parts[1]);
  return ZipOf(parts);
}

std::string With(std::string bytes, size_t from_end, char value) {
  bytes[bytes.size() - from_end] = value;
  return bytes;
}

constexpr absl::StatusCode kLoss = absl::StatusCode::kDataLoss;
constexpr absl::StatusCode kNo = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    Cases, ZipArchiveBadInput,
    ::testing::Values(
        BadZip{"Empty", "", kLoss, "0 bytes"}, BadZip{"Text", "no zip at all", kLoss, "truncated?"},
        BadZip{"Compressed", Changed([](ZipPart* p) { p->method = 8; }), kNo,
               "entry t/b is compressed (method 8)"},
        BadZip{"Encrypted", Changed([](ZipPart* p) { p->flags = 1; }), kNo, "t/b is encrypted"},
        BadZip{"Twice", Changed([](ZipPart* p) { p->name = "t/a"; }), kLoss, "t/a comes twice"},
        BadZip{"OtherName", Changed([](ZipPart* p) { p->local_name = "t/c"; }), kLoss,
               "entry t/b: the name in its header"},
        BadZip{"Overlap", Changed([](ZipPart* p) {
                 p->name = p->local_name = "t/a";
                 p->header_offset = 0;
                 p->data = "first";
               }),
               kLoss, "overlap at offset 0"},
        BadZip{"OtherSize", Changed([](ZipPart* p) { p->directory_size = 5; }), kLoss,
               "entry t/b: its header at offset"},
        BadZip{"SizeBeyond", Changed([](ZipPart* p) { p->directory_size = 500; }), kLoss,
               "do not end before the directory"},
        BadZip{"SizeHuge", Changed([](ZipPart* p) {
                 p->zip64 = true;
                 p->directory_size = INT64_MAX;
               }),
               kLoss, "do not end before the directory"},
        BadZip{"SizeInNoZip64Field", Changed([](ZipPart* p) { p->directory_size = 0xFFFFFFFF; }),
               kLoss, "lacks the zip64 field"},
        BadZip{"HeaderBeyond", Changed([](ZipPart* p) { p->header_offset = 1 << 30; }), kLoss,
               "is not before the directory"},
        BadZip{"HeaderElsewhere", Changed([](ZipPart* p) { p->header_offset = 3; }), kLoss,
               "no entry header at offset 3"},
        BadZip{"DescriptorOfAnotherSize", Changed([](ZipPart* p) {
                 p->descriptor = true;
                 p->descriptor_size = 7;
               }),
               kLoss, "entry t/b: the data descriptor"},
        BadZip{"DirectoryElsewhere", With(Changed([](ZipPart*) {}), 6, 1), kLoss,
               "does not end at the end record"},
        BadZip{"Disks", With(Changed([](ZipPart*) {}), 18, 1), kNo, "several disks"},
        BadZip{"Count64", With(ZipOf({Part("t/a", "x")}, true), 22 + 20 + 56 - 32, 2), kLoss,
               "says 2 entries"},
        BadZip{"Locator", With(ZipOf({Part("t/a", "x")}, true), 22 + 20 - 15, 1), kLoss,
               "which is not before it"}),
    [](const auto& info) { return info.param.name; });

TEST(ZipArchive, RefusesAFileCutAtAnyByte) {
  ZipPart second = Part("t/b", "second");
  second.descriptor = second.zip64 = true;
  const std::string whole = ZipOf({Part("t/a", "first"), second}, true);
  ASSERT_TRUE(Read(whole).ok());
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    EXPECT_THAT(Read(whole.substr(0, cut)), StatusIs(kLoss, HasSubstr("/proc/self/fd/"))) << cut;
  }
}

// What a changed byte may do: nothing, or an error; never another length or place beyond the file.
TEST(ZipArchive, HoldsItsPromisesWhateverAByteSays) {
  ZipPart second = Part("t/b", "second");
  second.descriptor = second.zip64 = true;
  const std::string whole = ZipOf({Part("t/a", "first"), second}, true);
  int refused = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7F, 0x80, 0xFF}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(value);
      const auto archive = Read(bytes);
      refused += archive.ok() ? 0 : 1;
      if (!archive.ok()) continue;
      for (const ZipEntry& entry : archive->entries()) {
        EXPECT_GE(entry.data_begin, 0);
        EXPECT_LE(entry.data_begin + entry.num_bytes, static_cast<int64_t>(bytes.size()));
      }
    }
  }
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace zerocast
