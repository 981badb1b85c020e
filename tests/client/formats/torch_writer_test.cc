#include "client/formats/torch_writer.h"

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/formats/crc32.h"
#include "client/formats/torch_file.h"
#include "client/formats/zip_archive.h"
#include "client/formats/zip_writer.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TorchStorageData Data(const std::string& key, const std::string& bytes) {
  TorchStorageData data;
  data.key = key;
  data.num_bytes = static_cast<int64_t>(bytes.size());
  auto at = std::make_shared<size_t>(0);
  data.next = [bytes, at](int64_t num_bytes, std::string* out) {
    out->append(bytes, *at, static_cast<size_t>(num_bytes));
    *at += static_cast<size_t>(num_bytes);
    return absl::OkStatus();
  };
  return data;
}

// {"w": two by three floats, "h": three bytes of 8-bit floats} in storages "0" and "1".
PickleGraph Graph() {
  PickleGraph graph;
  const PickleId w = AddTorchTensor(&graph, "0", DType::kFloat32, 8, 2, {2, 3});
  const PickleId h = AddTorchTensor(&graph, "1", DType::kFloat8E4M3, 3, 0, {3});
  graph.set_root(graph.AddItems(PickleKind::kDict, {graph.AddText("w"), w, graph.AddText("h"), h}));
  return graph;
}

TEST(TorchWriter, WritesWhatTorchFileReads) {
  for (const int64_t zip64_from : {kZip64From, int64_t{0}, int64_t{20}}) {
    TempDir folder;
    ASSERT_THAT(WriteTorchFile(folder.File("a.pt"), Graph(),
                               {Data("0", std::string(32, 'w')), Data("1", "abc")}, zip64_from),
                IsOk());
    ZC_ASSERT_OK_AND_ASSIGN(const InputFile input, InputFile::Open(folder.File("a.pt")));
    ZC_ASSERT_OK_AND_ASSIGN(const TorchFile file, TorchFile::Read(input));
    ZC_ASSERT_OK_AND_ASSIGN(const TorchTensor w,
                            file.Tensor(file.graph().Find(file.root(), "w"), "w"));
    EXPECT_THAT(w.shape, ElementsAre(2, 3));
    EXPECT_THAT(w.strides, ElementsAre(3, 1));
    EXPECT_EQ(w.extent_bytes, 24);
    EXPECT_EQ((w.file_begin - 8) % 64, 0);
    ZC_ASSERT_OK_AND_ASSIGN(const TorchTensor h,
                            file.Tensor(file.graph().Find(file.root(), "h"), "h"));
    EXPECT_EQ(h.dtype, DType::kFloat8E4M3);
    ZC_ASSERT_OK_AND_ASSIGN(const std::string bytes, input.Read(h.file_begin, h.extent_bytes));
    EXPECT_EQ(bytes, "abc");
    EXPECT_THAT(file.CheckStorage(input, 0), IsOk());
    EXPECT_THAT(file.CheckStorage(input, 1), IsOk());
  }
}

TEST(TorchWriter, LeavesNothingWhereItFails) {
  TempDir folder;
  const std::string path = folder.File("a.pt");
  const auto refused = [](const char* message) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message));
  };
  const TorchStorageData w = Data("0", std::string(32, 'w'));
  EXPECT_THAT(WriteTorchFile(path, Graph(), {w}), refused("names storage 1"));
  EXPECT_THAT(WriteTorchFile(path, Graph(), {w, Data("1", "abc"), Data("2", "")}),
              refused("storage 2 comes twice or is not named"));
  EXPECT_THAT(WriteTorchFile(path, Graph(), {w, w, Data("1", "abc")}),
              refused("storage 0 comes twice"));
  TorchStorageData shorter = Data("1", "abc");
  shorter.num_bytes = 4;
  EXPECT_THAT(WriteTorchFile(path, Graph(), {Data("0", std::string(32, 'w')), shorter}),
              refused("storage 1 gave 3 bytes, asked for 4"));
  TorchStorageData failing = Data("1", "abc");
  failing.next = [](int64_t, std::string*) { return absl::UnavailableError("gone"); };
  EXPECT_THAT(WriteTorchFile(path, Graph(), {Data("0", std::string(32, 'w')), failing}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("gone")));
  EXPECT_THAT(std::vector<std::filesystem::path>(std::filesystem::directory_iterator(folder.path()),
                                                 std::filesystem::directory_iterator()),
              IsEmpty());
}

TEST(ZipWriter, TakesTheDataOfItsEntriesInAnyOrder) {
  TempDir folder;
  ZC_ASSERT_OK_AND_ASSIGN(ZipWriter zip, ZipWriter::Create(folder.File("z"), kZip64From));
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t a, zip.Add("a", 5));
  ASSERT_THAT(zip.Put("b", "whole"), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t c, zip.Add("c", 2));
  ASSERT_THAT(zip.file().WriteAt(c, "cc"), IsOk());
  ASSERT_THAT(zip.file().WriteAt(a + 3, "lo"), IsOk());
  ASSERT_THAT(zip.file().WriteAt(a, "hel"), IsOk());
  zip.SetCrc(0, CombineCrc32(Crc32("hel"), Crc32("lo"), 2));
  zip.SetCrc(2, Crc32("cc"));
  ASSERT_THAT(zip.Commit(), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const InputFile input, InputFile::Open(folder.File("z")));
  ZC_ASSERT_OK_AND_ASSIGN(const ZipArchive archive, ZipArchive::Read(input));
  for (const auto& [name, bytes] :
       std::map<std::string, std::string>{{"a", "hello"}, {"b", "whole"}, {"c", "cc"}}) {
    ASSERT_NE(archive.Find(name), nullptr);
    EXPECT_EQ(archive.Find(name)->data_begin % 64, 0);
    ZC_ASSERT_OK_AND_ASSIGN(const std::string read, ReadZipEntry(input, *archive.Find(name), 100));
    EXPECT_EQ(read, bytes);
  }
}

TEST(Crc32, OfPartsIsThatOfTheWhole) {
  std::string bytes;
  for (int k = 0; k < 5000; ++k) bytes.push_back(static_cast<char>(k * 7919 >> 5));
  const uint32_t whole = Crc32(bytes);
  for (const size_t cut :
       {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{4097}, bytes.size()}) {
    EXPECT_EQ(CombineCrc32(Crc32(bytes.substr(0, cut)), Crc32(bytes.substr(cut)),
                           static_cast<int64_t>(bytes.size() - cut)),
              whole)
        << cut;
  }
}

TEST(ZipWriter, WritesMoreEntriesThan16BitsCount) {
  TempDir folder;
  ZC_ASSERT_OK_AND_ASSIGN(ZipWriter zip, ZipWriter::Create(folder.File("z"), kZip64From));
  for (int k = 0; k < 66'000; ++k) ASSERT_THAT(zip.Put(std::to_string(k), ""), IsOk());
  ASSERT_THAT(zip.Commit(), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const InputFile input, InputFile::Open(folder.File("z")));
  ZC_ASSERT_OK_AND_ASSIGN(const ZipArchive archive, ZipArchive::Read(input));
  EXPECT_EQ(archive.entries().size(), 66'000u);
}

}  // namespace
}  // namespace zerocast
