// Files that torch.save would not write.
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
using ::testing::HasSubstr;

constexpr absl::StatusCode kLoss = absl::StatusCode::kDataLoss;
constexpr absl::StatusCode kNo = absl::StatusCode::kUnimplemented;

absl::StatusOr<TorchFile> Read(const std::string& bytes) {
  const MemoryFile memory(bytes);
  const auto input = InputFile::Open(memory.path());
  if (!input.ok()) return input.status();
  return TorchFile::Read(*input);
}
absl::StatusOr<TorchTensor> Tensor(const std::string& bytes) {
  const auto file = Read(bytes);
  if (!file.ok()) return file.status();
  return file->Tensor(file->root(), "w");
}

TEST(TorchOddFiles, TheFileOfTheseTestsIsWell) {
  ZC_ASSERT_OK_AND_ASSIGN(const TorchTensor zip, Tensor(ZipOf(TorchParts(PickledTensor().Text()))));
  EXPECT_EQ(zip.extent_bytes, 16);
  EXPECT_TRUE(zip.is_contiguous);
  ZC_ASSERT_OK_AND_ASSIGN(const TorchTensor legacy,
                          Tensor(LegacyStream(PickledTensor().Text(), {"0"})));
  EXPECT_EQ(legacy.extent_bytes, 16);
}

struct BadFile {
  const char* name;
  std::string file;
  absl::StatusCode code;
  const char* message;
};
class TorchHostile : public ::testing::TestWithParam<BadFile> {};

TEST_P(TorchHostile, IsRefusedByName) {
  const auto tensor = Tensor(GetParam().file);
  EXPECT_THAT(tensor, StatusIs(GetParam().code,
                               AllOf(HasSubstr("/proc/self/fd/"), HasSubstr(GetParam().message))));
  EXPECT_EQ(ReasonOf(tensor.status()),
            GetParam().code == kLoss ? "CHECKPOINT_CORRUPT" : "UNSUPPORTED");
}

template <typename Change>
std::string Changed(Change change) {
  PickledTensor tensor;
  change(&tensor);
  return ZipOf(TorchParts(tensor.Text()));
}
template <typename Change>
std::string ChangedParts(Change change) {
  std::vector<ZipPart> parts = TorchParts(PickledTensor().Text());
  change(&parts);
  return ZipOf(parts);
}
std::string Object(const std::string& object) { return ZipOf(TorchParts(object)); }
std::string Legacy(const std::string& object, const std::vector<std::string>& keys,
                   uint64_t count = 4) {
  return LegacyStream(object, keys, count);
}
constexpr int64_t kHuge = int64_t{1} << 62;

INSTANTIATE_TEST_SUITE_P(
    Calls, TorchHostile,
    ::testing::Values(
        BadFile{"OsSystem", Object("cos\nsystem\n" + PickledText("touch /x") + "\x85R"), kNo,
                "made by the name os.system"},
        BadFile{"PosixSystem", Object("cposix\nsystem\n" + PickledText("touch /x") + "\x85R"), kNo,
                "made by the name posix.system"},
        BadFile{"Eval", Object("cbuiltins\neval\n" + PickledText("1") + "\x85R"), kNo,
                "made by the name builtins.eval"},
        BadFile{"EvalInsideOfASubclass",
                Object("ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\neval\nctorch\nTensor\n" +
                       PickledText("1") + "\x85NtR"),
                kNo, "made by the name builtins.eval"},
        BadFile{"Quantised",
                Changed([](PickledTensor* t) { t->function = "torch._utils\n_rebuild_qtensor"; }),
                kNo, "_rebuild_qtensor"},
        BadFile{"New", Object("ctorch._utils\n_rebuild_tensor_v2\n)\x81"), kNo, "not known"},
        BadFile{"NoTensor", Object("]"), kLoss, "found a list of 0"},
        BadFile{"NoArguments", Object("ctorch._utils\n_rebuild_tensor_v2\n)R"), kLoss,
                "0 arguments"},
        BadFile{"StorageIsANumber", Object("ctorch._utils\n_rebuild_tensor_v2\n(K\1K\0))\x89NtR"s),
                kLoss, "its storage is the number 1"},
        BadFile{"ParameterOfNumber", Object("ctorch._utils\n_rebuild_parameter\n(K\1\x89NtR"),
                kLoss, "found the number 1"},
        BadFile{"ParameterOfItself",
                Object("ctorch._utils\n_rebuild_parameter\n(" +
                       [] {
                         std::string in = PickledTensor().Text();
                         for (int k = 0; k < 20; ++k) {
                           in = "ctorch._utils\n_rebuild_parameter\n(" + in + "\x89NtR";
                         }
                         return in;
                       }() +
                       "\x89NtR"),
                kLoss, "calls wrap it"},
        BadFile{"Conjugated",
                Changed([](PickledTensor* t) { t->flags += "}" + PickledText("conj") + "\x88s"; }),
                kNo, "resolve_conj"},
        BadFile{"GradIsANumber", Changed([](PickledTensor* t) { t->flags = "K\1N"; }), kLoss,
                "requires_grad is the number 1"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Extents, TorchHostile,
    ::testing::Values(BadFile{"TooLong", Changed([](PickledTensor* t) { t->shape = {5}; }), kLoss,
                              "not all in storage 0 of 4"},
                      BadFile{"OffsetBeyond", Changed([](PickledTensor* t) { t->offset = 1; }),
                              kLoss, "from element 1 on"},
                      BadFile{"OffsetHuge",
                              Changed([](PickledTensor* t) { t->offset = INT64_MAX; }), kLoss,
                              "from element 9223372036854775807"},
                      BadFile{"OffsetOfNothing", Changed([](PickledTensor* t) {
                                t->shape = {0};
                                t->offset = 5;
                              }),
                              kLoss, "from element 5"},
                      BadFile{"NegativeOffset", Changed([](PickledTensor* t) { t->offset = -1; }),
                              kLoss, "its offset holds the number -1"},
                      BadFile{"NegativeShape", Changed([](PickledTensor* t) { t->shape = {-4}; }),
                              kLoss, "its shape holds the number -4"},
                      BadFile{"NegativeStride",
                              Changed([](PickledTensor* t) { t->strides = {-1}; }), kLoss,
                              "its strides holds the number -1"},
                      BadFile{"StrideBeyond", Changed([](PickledTensor* t) { t->strides = {2}; }),
                              kLoss, "elements, 7 from"},
                      BadFile{"ProductOverflows", Changed([](PickledTensor* t) {
                                t->shape = {kHuge, kHuge};
                                t->strides = {0, 0};
                              }),
                              kLoss, "more than 2^63"},
                      BadFile{"ReachOverflows", Changed([](PickledTensor* t) {
                                t->shape = {3, 3};
                                t->strides = {kHuge, kHuge};
                              }),
                              kLoss, "more than 2^63"},
                      BadFile{"RanksDiffer", Changed([](PickledTensor* t) {
                                t->strides = {1, 1};
                              }),
                              kLoss, "has 1 numbers, its strides 2"},
                      BadFile{"RankHuge", Changed([](PickledTensor* t) {
                                t->shape = t->strides = std::vector<int64_t>(65, 1);
                              }),
                              kLoss, "a tuple of 65"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Storages, TorchHostile,
    ::testing::Values(
        BadFile{"NotInTheFile", Changed([](PickledTensor* t) { t->key = PickledText("7"); }), kLoss,
                "there is no entry a/data/7"},
        BadFile{"ShorterThanSaid",
                Changed([](PickledTensor* t) { t->storage_elements = PickledNumber(5); }), kLoss,
                "entry a/data/0 has 16 bytes, a/data.pkl says 20"},
        BadFile{"Overflows",
                Changed([](PickledTensor* t) { t->storage_elements = PickledNumber(kHuge); }),
                kLoss, "more than 2^63 bytes"},
        BadFile{"Negative",
                Changed([](PickledTensor* t) { t->storage_elements = PickledNumber(-1); }), kLoss,
                "the number -1"},
        BadFile{"KeyIsANumber", Changed([](PickledTensor* t) { t->key = "K\1"; }), kLoss,
                "the number 1"},
        BadFile{"UnknownClass",
                Changed([](PickledTensor* t) { t->storage_class = "os\nFloatStorage"; }), kNo,
                "os.FloatStorage, no known storage class"},
        BadFile{"Complex", Changed([](PickledTensor* t) {
                  t->storage_class = "torch\nComplexFloatStorage";
                  t->storage_elements = PickledNumber(2);
                }),
                kNo, "elements of a ComplexFloatStorage"},
        BadFile{"View", Changed([](PickledTensor* t) { t->view = ")"; }), kNo,
                "a view of another storage"},
        BadFile{"NoTuple", Object("K\1Q"), kLoss, "a persistent id must be a tuple"},
        BadFile{"OtherKind", Object(PickledText("file") + "\x85Q"), kLoss, "expected \"storage\""}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Files, TorchHostile,
    ::testing::Values(
        BadFile{"Empty", "", kLoss, "truncated?"},
        BadFile{"BigEndian", ChangedParts([](auto* p) { (*p)[1].data = "big"; }), kNo, "\"big\""},
        BadFile{"OtherEndian", ChangedParts([](auto* p) { (*p)[1].data = "middle"; }), kLoss,
                "middle"},
        BadFile{"Version11", ChangedParts([](auto* p) { (*p)[3].data = "11\n"; }), kNo,
                "version 11"},
        BadFile{"VersionIsText", ChangedParts([](auto* p) { (*p)[3].data = "new"; }), kLoss,
                "a number"},
        BadFile{"WrongCrc", ChangedParts([](auto* p) { (*p)[0].crc_error = 1; }), kLoss, "CRC-32"},
        BadFile{"Script", ChangedParts([](auto* p) { p->push_back(Entry("a/constants.pkl", "")); }),
                kNo, "TorchScript"},
        BadFile{"TwoPickles", ChangedParts([](auto* p) { p->push_back(Entry("b/data.pkl", "")); }),
                kLoss, "two entries are a data.pkl"},
        BadFile{"NoPickle", ChangedParts([](auto* p) { (*p)[0].name = "a/other"; }), kLoss,
                "none of torch.save"},
        BadFile{"BytesBehindThePickle", Object("N.N"), kLoss, "its pickle ends at byte 4 of 6"},
        BadFile{"Safetensors", std::string("\x08\0\0\0\0\0\0\0{}      ", 16), kLoss,
                "neither a zip file nor a stream of torch.save: it starts with \"\\x08"},
        BadFile{"AnyPickle", "\x80\x02N.", kLoss, "it starts with a pickle of None"},
        BadFile{"LegacyKeyMissing", Legacy(PickledTensor().Text(), {}), kLoss,
                "the list of keys 0"},
        BadFile{"LegacyKeyUnknown", Legacy(PickledTensor().Text(), {"1"}), kLoss, "the text \"1\""},
        BadFile{"LegacyCountHuge", Legacy(PickledTensor().Text(), {"0"}, uint64_t{1} << 62), kLoss,
                "4611686018427387904 elements"},
        BadFile{"LegacyCountSmall", Legacy(PickledTensor().Text(), {"0"}, 3), kLoss,
                "has 12 bytes"},
        BadFile{"LegacyMore", Legacy(PickledTensor().Text(), {"0"}) + "x", kLoss,
                "ends at offset"}),
    [](const auto& info) { return info.param.name; });

TEST(TorchOddFiles, IsRefusedWhereverItIsCut) {
  for (const std::string& whole :
       {ZipOf(TorchParts(PickledTensor().Text())), LegacyStream(PickledTensor().Text(), {"0"})}) {
    ASSERT_THAT(Tensor(whole), IsOk());
    for (size_t cut = 0; cut < whole.size(); ++cut) {
      EXPECT_THAT(Tensor(whole.substr(0, cut)), StatusIs(kLoss, HasSubstr("/proc/self/fd/")))
          << cut;
    }
  }
}

// Nothing runs and nothing is refused while nobody asks for the value.
TEST(TorchOddFiles, IsInspectedWithoutBeingRun) {
  ZC_ASSERT_OK_AND_ASSIGN(const TorchFile file,
                          Read(Object("(cos\nsystem\n" + PickledText("touch /x") + "\x85R" +
                                      PickledTensor().Text() + "t")));
  const std::vector<PickleId>& items = file.graph().node(file.root()).items;
  EXPECT_EQ(file.graph().Describe(items[0]), "a call of os.system");
  EXPECT_FALSE(file.IsTensor(items[0]));
  EXPECT_THAT(file.Tensor(items[1], "w"), IsOk());
}

TEST(TorchOddFiles, AnExpandedTensorHasMoreElementsThanBytes) {
  ZC_ASSERT_OK_AND_ASSIGN(const TorchTensor tensor, Tensor(Changed([](PickledTensor* t) {
                            t->shape = {int64_t{1} << 40};
                            t->strides = {0};
                          })));
  EXPECT_EQ(tensor.num_elements, int64_t{1} << 40);
  EXPECT_EQ(tensor.extent_bytes, 4);
  EXPECT_FALSE(tensor.is_contiguous);
}

}  // namespace
}  // namespace zerocast
