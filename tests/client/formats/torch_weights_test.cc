#include "client/formats/torch_weights.h"

#include <string>
#include <vector>

#include "client/formats/torch_file.h"
#include "server/base/errors.h"
#include "tests/client/formats/memory_file.h"
#include "tests/client/formats/torch_bytes.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<TorchWeights> Read(const std::string& bytes) {
  const MemoryFile memory(bytes);
  const auto input = InputFile::Open(memory.path());
  if (!input.ok()) return input.status();
  return ReadTorchWeights(*input);
}

// A view of the four floats of storage "0".
std::string View(int64_t offset, std::vector<int64_t> shape, std::vector<int64_t> strides) {
  PickledTensor tensor;
  tensor.offset = offset;
  tensor.shape = std::move(shape);
  tensor.strides = std::move(strides);
  return tensor.Text();
}
std::string Item(const std::string& name, const std::string& value) {
  return PickledText(name) + value;
}
std::string DictOf(const std::string& items) { return "}(" + items + "u"; }
std::string FileOf(const std::string& items) { return ZipOf(TorchParts(DictOf(items))); }
const char kOrderedDict[] = "ccollections\nOrderedDict\n)R";

TEST(ReadTorchWeights, FindsTheTensorsOfADict) {
  const std::string items = Item("b", View(2, {2}, {1})) +
                            Item("a", "ctorch._utils\n_rebuild_parameter\n(" +
                                          View(0, {2, 1}, {1, 7}) + "\x88" + kOrderedDict + "tR");
  for (const std::string& object : {DictOf(items), kOrderedDict + ("(" + items + "u}") +
                                                       Item("_metadata", kOrderedDict) + "sb"}) {
    ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights zip, Read(ZipOf(TorchParts(object))));
    ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights legacy, Read(LegacyStream(object, {"0"})));
    for (const TorchWeights& weights : {zip, legacy}) {
      EXPECT_EQ(weights.num_layers, 1);
      ASSERT_EQ(weights.tensors.size(), 2u);
      const TorchWeight &a = weights.tensors[0], &b = weights.tensors[1];
      EXPECT_EQ(a.tensor.name, "a");
      EXPECT_EQ(a.tensor.dtype, DType::kFloat32);
      EXPECT_THAT(a.tensor.shape, ElementsAre(2, 1));
      EXPECT_THAT(a.tensor.strides, IsEmpty());
      EXPECT_EQ(a.file_end - a.file_begin, 8);
      EXPECT_EQ(b.tensor.name, "b");
      EXPECT_EQ(b.file_begin, a.file_end);
    }
  }
}

TEST(ReadTorchWeights, TakesTheLastValueOfAName) {
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights weights, Read(FileOf(Item("a", View(0, {4}, {1})) +
                                                                  Item("a", View(1, {2}, {1})))));
  ASSERT_EQ(weights.tensors.size(), 1u);
  EXPECT_THAT(weights.tensors[0].tensor.shape, ElementsAre(2));
}

TEST(ReadTorchWeights, KeepsTheStridesOfWhatIsNotContiguous) {
  ZC_ASSERT_OK_AND_ASSIGN(
      const TorchWeights weights,
      Read(FileOf(Item("columns", View(0, {2, 2}, {1, 2})) + Item("gaps", View(1, {2, 1}, {2, 1})) +
                  Item("none", View(4, {2, 0}, {3, 9})))));
  ASSERT_EQ(weights.tensors.size(), 3u);
  const TorchWeight &columns = weights.tensors[0], &none = weights.tensors[1],
                    &gaps = weights.tensors[2];
  EXPECT_THAT(columns.tensor.strides, ElementsAre(1, 2));
  EXPECT_EQ(columns.file_end - columns.file_begin, 16);
  EXPECT_EQ(gaps.tensor.name, "gaps");
  EXPECT_THAT(gaps.tensor.strides, ElementsAre(2, 1));
  EXPECT_EQ(gaps.file_end - gaps.file_begin, 12);
  EXPECT_THAT(none.tensor.strides, IsEmpty());
  EXPECT_EQ(none.file_end, none.file_begin);
}

TEST(ReadTorchWeights, PutsTensorsOverTheSameBytesIntoLayers) {
  ZC_ASSERT_OK_AND_ASSIGN(
      const TorchWeights weights,
      Read(FileOf(Item("whole", View(0, {4}, {1})) + Item("tied", View(0, {4}, {1})) +
                  Item("head", View(0, {2}, {1})) + Item("tail", View(2, {2}, {1})))));
  std::vector<std::pair<std::string, int32_t>> layers;
  for (const TorchWeight& weight : weights.tensors) {
    layers.emplace_back(weight.tensor.name, weight.layer);
  }
  EXPECT_EQ(weights.num_layers, 3);
  EXPECT_THAT(layers, ElementsAre(std::pair("head", 0), std::pair("tail", 0), std::pair("tied", 1),
                                  std::pair("whole", 2)));
}

TEST(ReadTorchWeights, HasADigestOfTheDirectoryAndThePickle) {
  const std::string object = DictOf(Item("a", View(0, {4}, {1})));
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights one, Read(ZipOf(TorchParts(object))));
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights same, Read(ZipOf(TorchParts(object))));
  EXPECT_EQ(one.digest, same.digest);
  std::vector<ZipPart> parts = TorchParts(object);
  parts[2].data.back() = 'y';  // of the storage: only its CRC in the directory tells
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights data, Read(ZipOf(parts)));
  EXPECT_NE(one.digest, data.digest);
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights name,
                          Read(ZipOf(TorchParts(DictOf(Item("b", View(0, {4}, {1})))))));
  EXPECT_NE(one.digest, name.digest);
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights legacy, Read(LegacyStream(object, {"0"})));
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights other,
                          Read(LegacyStream(DictOf(Item("b", View(0, {4}, {1}))), {"0"})));
  EXPECT_NE(legacy.digest, other.digest);
}

struct BadWeights {
  const char* name;
  std::string object;
  std::string message;
  absl::StatusCode code = absl::StatusCode::kUnimplemented;
};
class BadTorchWeights : public ::testing::TestWithParam<BadWeights> {};

TEST_P(BadTorchWeights, AreRefusedByName) {
  for (const std::string& file :
       {ZipOf(TorchParts(GetParam().object)), LegacyStream(GetParam().object, {"0"})}) {
    const auto weights = Read(file);
    EXPECT_THAT(weights, StatusIs(GetParam().code, AllOf(HasSubstr("/proc/self/fd/"),
                                                         HasSubstr(GetParam().message))));
    EXPECT_EQ(ReasonOf(weights.status()), GetParam().code == absl::StatusCode::kDataLoss
                                              ? "CHECKPOINT_CORRUPT"
                                              : "UNSUPPORTED");
  }
}

std::string Shared(int number) {
  std::string items;
  for (int k = 0; k < number; ++k) items += Item("w" + std::to_string(k), View(0, {4}, {1}));
  return items;
}

const std::string kGood = Item("a", View(0, {4}, {1}));
const std::string kSystem = "cos\nsystem\n" + PickledText("true") + "\x85R";

INSTANTIATE_TEST_SUITE_P(
    Weights, BadTorchWeights,
    ::testing::Values(
        BadWeights{"Call", DictOf(kGood + Item("b", kSystem)), "it would import os.system, which"},
        BadWeights{"CallThatIsForgotten", kSystem + "0" + DictOf(kGood),
                   "it would import os.system, which"},
        BadWeights{"CallInTheState", kOrderedDict + ("(" + kGood + "u") + kSystem + "b",
                   "it would import os.system, which"},
        BadWeights{"Eval", DictOf(kGood) + "0" + DictOf(kGood + Item("b", "cbuiltins\neval\n")),
                   "it would import builtins.eval, which"},
        BadWeights{"SeveralImports",
                   DictOf(kGood + Item("b", "cos\nsystem\n") + Item("c", "cm\nC\n")),
                   "it would import m.C (and 1 more), which"},
        BadWeights{"AnObject", "cm\nModel\n)R}" + kGood + "sb", "it would import m.Model"},
        BadWeights{"List", "](" + View(0, {4}, {1}) + "e",
                   "it holds a list of 1, expected a dict of tensors"},
        BadWeights{"Counter", "ccollections\nCounter\n" + DictOf(kGood) + "\x85R",
                   "it holds a call of collections.Counter, expected a dict"},
        BadWeights{
            "Nested", DictOf(kGood + Item("state_dict", DictOf(kGood)) + Item("n", "N")),
            "no plain tensors: n is None, state_dict is a dict of 1; save a dict of the tensors"},
        BadWeights{
            "ManyOthers",
            DictOf(kGood + Item("e", "N") + Item("d", "N") + Item("c", "N") + Item("b", "N")),
            "b is None, c is None, d is None (and 1 more); save"},
        BadWeights{"NumberForAName", DictOf(kGood + "K\1" + View(0, {4}, {1})),
                   "a key of its dict is the number 1, expected the name of a tensor"},
        BadWeights{"EmptyName", DictOf(Item("", View(0, {4}, {1}))), "is empty",
                   absl::StatusCode::kDataLoss},
        BadWeights{"NameThatIsNoUtf8", DictOf(Item("\xed\xa0\x80", View(0, {4}, {1}))),
                   "\\xed\\xa0\\x80\", is not valid UTF-8", absl::StatusCode::kDataLoss},
        BadWeights{"Expanded", DictOf(Item("wide", View(0, {3, 4}, {0, 1}))),
                   "tensor wide: its elements are not in the file once each (shape (3, 4), strides "
                   "(0, 1): expanded?); save it again after .contiguous()"},
        BadWeights{"Windows", DictOf(Item("w", View(0, {2, 2}, {1, 1}))), "strides (1, 1)"},
        BadWeights{"Complex",
                   DictOf(Item("c",
                               [] {
                                 PickledTensor tensor;
                                 tensor.function = "torch._utils\n_rebuild_tensor_v3";
                                 tensor.flags += "ctorch\ncomplex64\n";
                                 return tensor.Text();
                               }())),
                   "tensor c: its element type is the name torch.complex64"},
        BadWeights{"TooManyNames", DictOf(Shared(kMaxTorchLayers + 1)),
                   "shares bytes with 64 others, more than are read"}),
    [](const auto& info) { return info.param.name; });

TEST(ReadTorchWeights, ReadsAsManyNamesOfOneWeightAsThereAreLayers) {
  ZC_ASSERT_OK_AND_ASSIGN(const TorchWeights weights, Read(FileOf(Shared(kMaxTorchLayers))));
  EXPECT_EQ(weights.num_layers, kMaxTorchLayers);
}

}  // namespace
}  // namespace zerocast
