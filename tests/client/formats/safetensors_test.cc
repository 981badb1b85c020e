#include "client/formats/safetensors.h"

#include <string>

#include "client/formats/safetensors_writer.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string WithLength(const std::string& json, uint64_t length) {
  std::string bytes;
  for (int k = 0; k < 8; ++k) bytes.push_back(static_cast<char>(length >> (8 * k)));
  return bytes + json;
}
std::string FileOf(const std::string& json, size_t data_bytes) {
  return WithLength(json, json.size()) + std::string(data_bytes, 'x');
}

absl::StatusOr<SafetensorsHeader> Parse(const std::string& file) {
  return ParseSafetensorsHeader(file, static_cast<int64_t>(file.size()), "a.safetensors");
}

TEST(Safetensors, ReadsNamesShapesAndAbsoluteRanges) {
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";
  ZC_ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, Parse(FileOf(json, 16)));
  ASSERT_EQ(header.tensors.size(), 2);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[1].dtype, DType::kBFloat16);
  EXPECT_EQ(header.tensors[1].file_begin, static_cast<int64_t>(8 + json.size() + 4));
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST(Safetensors, AcceptsTensorsWithoutElements) {
  ZC_ASSERT_OK_AND_ASSIGN(
      const SafetensorsHeader header,
      Parse(FileOf(R"({"e":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]},)"
                   R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                   1)));
  EXPECT_EQ(header.tensors.size(), 2);
}

struct BadHeader {
  const char* name;
  std::string file;
  const char* message;  // what the error must say besides the file's name
};

class SafetensorsBadInput : public ::testing::TestWithParam<BadHeader> {};

TEST_P(SafetensorsBadInput, IsRefusedByName) {
  const auto header = Parse(GetParam().file);
  EXPECT_THAT(header, StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("a.safetensors"), HasSubstr(GetParam().message))));
  EXPECT_EQ(ReasonOf(header.status()), "CHECKPOINT_CORRUPT");
}

std::string OneTensor(const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
  return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SafetensorsBadInput,
    ::testing::Values(
        BadHeader{"Empty", "", "0 bytes"}, BadHeader{"Short", "1234567", "7 bytes"},
        BadHeader{"LengthBeyondFile", WithLength("{}", 3), "header length 3 at offset 0"},
        BadHeader{"LengthBeyondLimit", WithLength("{}", 100'000'001), "100000001"},
        BadHeader{"LengthHuge", WithLength("{}", ~uint64_t{0}), "18446744073709551615"},
        BadHeader{"NotJson", FileOf("{\"w\":", 0), "not valid JSON at byte"},
        BadHeader{"NotUtf8", FileOf("{\"\xff\xfe\":{}}", 0), "not valid UTF-8"},
        BadHeader{"TopLevelList", FileOf("[]", 0),
                  "the header must be one JSON object, found an array"},
        BadHeader{"Deep", FileOf("{\"w\":" + std::string(200000, '['), 0),
                  "tensor w must be an object of dtype, shape, data_offsets, found an array"},
        BadHeader{"DeepObjects", FileOf("{\"w\":{\"dtype\":{", 0),
                  "tensor w: dtype must be a string, found an object"},
        BadHeader{"ShapeOfObjects", FileOf(OneTensor("U8", "[{}]", "[0,1]"), 1),
                  "tensor w: shape must be a list of whole numbers, found an object"},
        BadHeader{"OffsetsNull", FileOf(OneTensor("U8", "[1]", "null"), 1),
                  "tensor w: data_offsets must be a list of two numbers, found null"},
        BadHeader{"EmptyName", FileOf(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
                  "a tensor has an empty name"},
        BadHeader{"ControlCharacters", FileOf(R"({"a\u001b[2J\nb":{"dtype":"F\u001b6"}})", 1),
                  R"(tensor a\x1b[2J\nb: unknown dtype "F\x1b6")"},
        BadHeader{"DuplicateTensor",
                  FileOf(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                         2),
                  "key \"w\" appears twice"},
        BadHeader{
            "DuplicateField",
            FileOf(R"({"w":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
            "\"dtype\" is unknown or appears twice"},
        BadHeader{"UnknownField", FileOf(R"({"w":{"dtype":"U8","shape":[1],"stride":[1]}})", 1),
                  "\"stride\""},
        BadHeader{"MissingField", FileOf(R"({"w":{"dtype":"U8","shape":[1]}})", 1), "is missing"},
        BadHeader{"UnknownDtype", FileOf(OneTensor("F6", "[1]", "[0,1]"), 1),
                  "tensor w: unknown dtype \"F6\""},
        BadHeader{"NegativeShape", FileOf(OneTensor("U8", "[-1]", "[0,1]"), 1),
                  "negative number -1"},
        BadHeader{"FloatShape", FileOf(OneTensor("U8", "[1.0]", "[0,1]"), 1), "not a whole number"},
        BadHeader{"HugeNumber", FileOf(OneTensor("U8", "[18446744073709551615]", "[0,1]"), 1),
                  "too large"},
        BadHeader{"ShapeOverflow", FileOf(OneTensor("F32", "[4294967296,4294967296]", "[0,1]"), 1),
                  "needs more than 2^63"},
        BadHeader{"ThreeOffsets", FileOf(OneTensor("U8", "[1]", "[0,1,2]"), 1),
                  "needs two numbers"},
        BadHeader{"OneOffset", FileOf(OneTensor("U8", "[1]", "[0]"), 1), "needs two numbers"},
        BadHeader{"Backwards", FileOf(OneTensor("U8", "[1]", "[1,0]"), 1), "end before they begin"},
        BadHeader{"WrongSize", FileOf(OneTensor("F32", "[2]", "[0,4]"), 4),
                  "data_offsets hold 4 bytes, shape times dtype needs 8"},
        BadHeader{"Truncated", FileOf(OneTensor("U8", "[8]", "[0,8]"), 7), "truncated"},
        // Counted in int64 the end of the data would be negative.
        BadHeader{"LargestOffset",
                  FileOf(OneTensor("U8", "[9223372036854775807]", "[0,9223372036854775807]"), 0),
                  "tensor w: its data ends at byte 9223372036854775904 but the file has 97 bytes"},
        BadHeader{"Trailing", FileOf(OneTensor("U8", "[8]", "[0,8]"), 9),
                  "at the end belong to no"},
        BadHeader{"Gap",
                  FileOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                         3),
                  "before tensor b belong to no tensor"},
        BadHeader{"Overlap",
                  FileOf(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                         R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                         3),
                  "tensors a and b overlap"},
        BadHeader{"MetadataNotText", FileOf(R"({"__metadata__":{"a":-1}})", 0),
                  "__metadata__ key \"a\" must be a string, found a number"},
        BadHeader{"MetadataNull", FileOf(R"({"__metadata__":{"a":null}})", 0),
                  "__metadata__ key \"a\" must be a string, found null"},
        BadHeader{"MetadataObject", FileOf(R"({"__metadata__":{"b":{}}})", 0),
                  "__metadata__ key \"b\" must be a string, found an object"},
        BadHeader{"MetadataList", FileOf(R"({"__metadata__":[]})", 0),
                  "__metadata__ must be an object of strings, found an array"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Safetensors, WriterAndReaderAgree) {
  const TempDir dir;
  ASSERT_THAT(
      WriteSafetensors(dir.File("m.safetensors"),
                       {{"x", DType::kInt16, {3}, "abcdef"}, {"e", DType::kFloat32, {0}, ""}},
                       {{"rank", "0"}}),
      IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header,
                          ReadSafetensorsHeader(dir.File("m.safetensors")));
  ASSERT_EQ(header.tensors.size(), 2);
  EXPECT_EQ(header.data_begin % 8, 0);
  EXPECT_EQ(header.metadata.at("rank"), "0");
}

TEST(Safetensors, WriterLeavesNothingBehindWhenItFails) {
  const TempDir dir;
  EXPECT_THAT(WriteSafetensors(dir.File("none/m.safetensors"), {}, {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none/m.safetensors")));
  EXPECT_THAT(WriteSafetensors(dir.File("m.safetensors"), {{"x", DType::kInt16, {3}, "abc"}}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor x has 3 bytes")));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace zerocast
