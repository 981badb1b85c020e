#include "client/verify/torch_reader.h"

#include <string>
#include <vector>

#include "tests/client/formats/torch_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast::verify {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<std::vector<StoredTensor>> Read(const TempDir& folder, const std::string& bytes) {
  std::vector<StoredTensor> tensors;
  const absl::Status read = AppendTorchFile(folder.Write("w.bin", bytes), &tensors);
  if (!read.ok()) return read;
  return tensors;
}

// A dict of one view of the 16 bytes of storage "0".
std::string ObjectOf(int64_t offset, std::vector<int64_t> shape, std::vector<int64_t> strides) {
  PickledTensor tensor;
  tensor.offset = offset;
  tensor.shape = std::move(shape);
  tensor.strides = std::move(strides);
  return "}(" + PickledText("w") + tensor.Text() + "u";
}

std::vector<ZipPart> PartsOf(const std::string& object) {
  std::vector<ZipPart> parts = TorchParts(object);
  parts[2].data = "aaaabbbbccccdddd";
  return parts;
}

TEST(AppendTorchFile, FindsATensorsElements) {
  const TempDir folder;
  ZC_ASSERT_OK_AND_ASSIGN(const auto zip, Read(folder, ZipOf(PartsOf(ObjectOf(1, {3}, {1})))));
  ASSERT_EQ(zip.size(), 1u);
  EXPECT_EQ(zip[0].name, "w");
  EXPECT_EQ(zip[0].dtype, DType::kFloat32);
  EXPECT_THAT(zip[0].strides, IsEmpty());
  ZC_ASSERT_OK_AND_ASSIGN(const Tensor tensor, ReadTensor(zip[0]));
  EXPECT_EQ(tensor.bytes, "bbbbccccdddd");
  ZC_ASSERT_OK_AND_ASSIGN(const auto legacy,
                          Read(folder, LegacyStream(ObjectOf(1, {3}, {1}), {"0"})));
  ASSERT_EQ(legacy.size(), 1u);
  EXPECT_THAT(legacy[0].shape, ElementsAre(3));
  EXPECT_EQ(legacy[0].num_bytes, 12);
}

TEST(AppendTorchFile, KeepsStridesAndReadTensorFollowsThem) {
  const TempDir folder;
  ZC_ASSERT_OK_AND_ASSIGN(const auto columns,
                          Read(folder, ZipOf(PartsOf(ObjectOf(0, {2, 2}, {1, 2})))));
  EXPECT_THAT(columns[0].strides, ElementsAre(1, 2));
  ZC_ASSERT_OK_AND_ASSIGN(const Tensor turned, ReadTensor(columns[0]));
  EXPECT_EQ(turned.bytes, "aaaaccccbbbbdddd");
  ZC_ASSERT_OK_AND_ASSIGN(const auto gaps, Read(folder, ZipOf(PartsOf(ObjectOf(1, {2}, {2})))));
  ZC_ASSERT_OK_AND_ASSIGN(const Tensor spread, ReadTensor(gaps[0]));
  EXPECT_EQ(spread.bytes, "bbbbdddd");
}

TEST(AppendTorchFile, ComparesTheCrcOfEveryStorage) {
  const TempDir folder;
  std::string bytes = ZipOf(PartsOf(ObjectOf(0, {4}, {1})));
  bytes[bytes.find("cccc")] = 'x';
  EXPECT_THAT(Read(folder, bytes),
              StatusIs(absl::StatusCode::kDataLoss,
                       ::testing::AllOf(HasSubstr("w.bin: entry a/data/0 at byte "),
                                        HasSubstr("the file's directory says"))));
}

TEST(AppendTorchFile, RefusesWhatItDoesNotKnow) {
  const TempDir folder;
  const auto refused = [&folder](const std::string& object, const char* says) {
    for (const std::string& file : {ZipOf(PartsOf(object)), LegacyStream(object, {"0"})}) {
      EXPECT_THAT(Read(folder, file), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(says)));
    }
  };
  const std::string tensor = PickledTensor().Text();
  refused("}(" + PickledText("w") + tensor + PickledText("x") + "Nu", "tensor x: it is not made");
  refused(ObjectOf(1, {4}, {1}), "its elements are not all in its storage");
  refused(ObjectOf(0, {4}, {1, 1}), "shape and strides do not match");
  refused("]" + tensor + "a", "it is no dict");
  refused(tensor + "I1\n", "pickle opcode 73 at byte");
  refused("h\7", "nothing was put there");
  refused("u" + tensor, "no mark is on the stack");
  const std::string whole = ZipOf(PartsOf(ObjectOf(0, {4}, {1})));
  EXPECT_THAT(Read(folder, whole.substr(0, whole.size() / 2)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("without an end record")));
  const std::string stream = LegacyStream(ObjectOf(0, {4}, {1}), {"0"});
  EXPECT_THAT(Read(folder, stream.substr(0, stream.size() - 1)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("storage 0 is not in it")));
}

}  // namespace
}  // namespace zerocast::verify
