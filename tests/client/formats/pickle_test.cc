#include "client/formats/pickle.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A graph and the root of the pickle read into it.
struct Read {
  explicit Read(std::string stream)
      : root(ReadPickle(graph.Own(std::move(stream)), "a.pkl", 0, &graph)) {}
  PickleGraph graph;
  absl::StatusOr<PickleId> root;
  const PickleNode& top() const { return graph.node(*root); }
  const PickleNode& item(size_t k) const { return graph.node(top().items[k]); }
};

TEST(Pickle, ReadsNumbersOfEveryForm) {
  const Read read(
      "\x80\x02("
      "K\xFFM\xFF\xFFJ\xFE\xFF\xFF\xFF\x8a\x00\x8a\x01\x80\x8a\x08\x01\x00\x00\x00\x00\x00\x00\x80"
      "\x8b\x02\x00\x00\x00\x00\x01"
      "G\x3f\xf8\x00\x00\x00\x00\x00\x00"
      "N\x88\x89t."s);
  ASSERT_THAT(read.root, IsOk());
  std::vector<int64_t> integers;
  for (size_t k = 0; k < 7; ++k) integers.push_back(read.item(k).integer);
  EXPECT_THAT(integers, ElementsAre(255, 65535, -2, 0, -128, INT64_MIN + 1, 256));
  EXPECT_EQ(read.item(7).real, 1.5);
  EXPECT_EQ(read.item(8).kind, PickleKind::kNone);
  EXPECT_EQ(read.item(9).integer, 1);
  EXPECT_EQ(read.item(10).integer, 0);
}

TEST(Pickle, KeepsALongNumberAsItsBytes) {
  const Read read("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."s);
  ASSERT_THAT(read.root, IsOk());
  EXPECT_EQ(read.top().kind, PickleKind::kBigInteger);
  EXPECT_EQ(read.top().text, "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
}

TEST(Pickle, ReadsContainersOfProtocols2To5) {
  const Read read(
      "\x80\x05\x95\x02\x00\x00\x00\x00\x00\x00\x00("
      "]\x94(K\x01K\x02"
      "e"
      "]K\x03"
      "a"
      "}(\x8c\x01kK\x01u"
      "}K\x01K\x02s"
      "\x8f(K\x04\x90"
      "(K\x05\x91"
      "C\x02zz"
      "\x96\x01\x00\x00\x00\x00\x00\x00\x00y"
      ")K\x01\x85K\x01K\x02\x86K\x01K\x02K\x03\x87"
      "h\x00t."s);
  ASSERT_THAT(read.root, IsOk());
  std::vector<PickleKind> kinds;
  for (const PickleId id : read.top().items) kinds.push_back(read.graph.node(id).kind);
  EXPECT_THAT(
      kinds, ElementsAre(PickleKind::kList, PickleKind::kList, PickleKind::kDict, PickleKind::kDict,
                         PickleKind::kSet, PickleKind::kFrozenSet, PickleKind::kBytes,
                         PickleKind::kByteArray, PickleKind::kTuple, PickleKind::kTuple,
                         PickleKind::kTuple, PickleKind::kTuple, PickleKind::kList));
  EXPECT_EQ(read.top().items[0], read.top().items[12]);
  EXPECT_EQ(read.item(0).items.size(), 2u);
  EXPECT_EQ(read.item(11).items.size(), 3u);
  EXPECT_NE(read.graph.Find(read.top().items[2], "k"), kNoValue);
  EXPECT_EQ(read.graph.Find(read.top().items[2], "l"), kNoValue);
}

TEST(Pickle, KeepsCallsWithoutMakingThem) {
  // OrderedDict() with an item and a state; Enum(3); Class.__new__(Class, 1, **{}).
  const Read read(
      "\x80\x02(ccollections\nOrderedDict\n)RX\x01\x00\x00\x00kK\x01s}X\x01\x00\x00\x00mNsb"
      "cm\nEnum\nK\x03\x85R"
      "\x8c\x01m\x8c\x01"
      "C\x93K\x01\x85}\x92t."s);
  ASSERT_THAT(read.root, IsOk());
  EXPECT_TRUE(read.graph.IsCallOf(read.top().items[0], "collections", "OrderedDict"));
  EXPECT_EQ(read.item(0).call->states.size(), 1u);
  EXPECT_EQ(read.graph.Describe(read.graph.Find(read.top().items[0], "k")), "the number 1");
  EXPECT_EQ(read.graph.Describe(read.top().items[1]), "a call of m.Enum");
  EXPECT_TRUE(read.item(2).call->is_new);
  EXPECT_NE(read.item(2).call->keywords, kNoValue);
}

// Nothing runs: the names are data, wherever they stand.
TEST(Pickle, KeepsHostileNamesAsNames) {
  for (const std::string name :
       {"os\nsystem", "posix\nsystem", "builtins\neval", "builtins\nexec"}) {
    const Read read(absl::StrCat("\x80\x02", "c", name, "\nX\x0A", "\0\0\0"s, "touch /x; \x85R."));
    ASSERT_THAT(read.root, IsOk());
    EXPECT_EQ(read.top().kind, PickleKind::kCall);
    EXPECT_THAT(read.graph.Describe(*read.root), HasSubstr("a call of "));
  }
}

TEST(Pickle, HoldsAMillionNestedValuesWithoutRecursion) {
  const Read lists("\x80\x02" + std::string(1'000'000, ']') + std::string(999'999, 'a') + ".");
  ASSERT_THAT(lists.root, IsOk());
  EXPECT_EQ(lists.graph.num_nodes(), 1'000'000);
  const Read tuples("\x80\x02)" + std::string(1'000'000, '\x85') + ".");
  ASSERT_THAT(tuples.root, IsOk());
  EXPECT_EQ(tuples.graph.num_nodes(), 1'000'001);
}

TEST(Pickle, SharesTheNodesOfABillionLaughs) {
  std::string stream = "\x80\x02]q"s + '\0';
  for (int k = 1; k < 100; ++k) {  // a list of ten times the list before
    absl::StrAppend(&stream, "](");
    for (int i = 0; i < 10; ++i) stream += {'h', static_cast<char>(k - 1)};
    stream += {'e', 'q', static_cast<char>(k)};
  }
  stream += "\x86";  // the last two, over and over
  const std::string tail(98, '\x86');
  const Read read(stream + tail + ".");
  ASSERT_THAT(read.root, IsOk());
  EXPECT_LT(read.graph.num_nodes(), 300);
}

TEST(Pickle, HoldsListsThatHoldThemselves) {
  const Read read(
      "\x80\x02]q\x00h\x00"
      "a."s);
  ASSERT_THAT(read.root, IsOk());
  EXPECT_THAT(read.top().items, ElementsAre(*read.root));
  const Read dict("\x80\x02}q\x00K\x01h\x00s."s);
  ASSERT_THAT(dict.root, IsOk());
  EXPECT_EQ(dict.top().items[1], *dict.root);
}

TEST(Pickle, MakesOneNodeOfEqualSmallValues) {
  const Read read("\x80\x02(" + std::string(100'000, 'N') + std::string(100'000, ')') + "t.");
  ASSERT_THAT(read.root, IsOk());
  EXPECT_EQ(read.graph.num_nodes(), 3);
}

TEST(Pickle, SaysWhereAPickleEnds) {
  PickleGraph graph;
  int64_t num_bytes = 0;
  bool early = true;
  const auto root = ReadPickle("\x80\x02K\x01.more", "a", 0, &graph, &num_bytes, &early);
  ASSERT_THAT(root, IsOk());
  EXPECT_EQ(num_bytes, 5);
  EXPECT_FALSE(early);
  EXPECT_FALSE(ReadPickle("\x80\x02K", "a", 0, &graph, &num_bytes, &early).ok());
  EXPECT_TRUE(early);
  EXPECT_FALSE(ReadPickle("\x80\x02\xFFK", "a", 0, &graph, &num_bytes, &early).ok());
  EXPECT_FALSE(early);
}

TEST(Pickle, RefusesAStreamCutAtAnyByte) {
  const std::string whole =
      "\x80\x02}q\x00(X\x01\x00\x00\x00kcm\nf\nK\x01\x85RG\x00\x00\x00\x00\x00\x00\x00\x00Nu."s;
  ASSERT_THAT(Read(whole).root, IsOk());
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    EXPECT_THAT(Read(whole.substr(0, cut)).root,
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("a.pkl")))
        << cut;
  }
}

struct BadPickle {
  const char* name;
  std::string stream;
  absl::StatusCode code;
  const char* message;
};
class PickleBadInput : public ::testing::TestWithParam<BadPickle> {};

TEST_P(PickleBadInput, IsRefusedByOffsetAndOpcode) {
  const Read read("\x80\x02" + GetParam().stream);
  EXPECT_THAT(read.root, StatusIs(GetParam().code,
                                  AllOf(HasSubstr("a.pkl, byte "), HasSubstr(GetParam().message))));
  EXPECT_EQ(ReasonOf(read.root.status()),
            GetParam().code == absl::StatusCode::kDataLoss ? "CHECKPOINT_CORRUPT" : "UNSUPPORTED");
}

constexpr absl::StatusCode kLoss = absl::StatusCode::kDataLoss;
constexpr absl::StatusCode kNo = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    Cases, PickleBadInput,
    ::testing::Values(
        BadPickle{"Empty", "", kLoss, "1 bytes are needed, 0 are left"},
        BadPickle{"NoStop", "N", kLoss, "truncated?"},
        BadPickle{"StopWithoutValue", ".", kLoss, "stops with 0 values"},
        BadPickle{"StopWithTwo", "NN.", kLoss, "stops with 2 values"},
        BadPickle{"StopWithMark", "N(.", kLoss, "1 marks"},
        BadPickle{"HugeText", "\x8d\x00\x00\x00\x00\x00\x00\x00\x10."s, kLoss,
                  "1152921504606846976 bytes are needed"},
        BadPickle{"HugeBytes", "\x8e\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF."s, kLoss,
                  "18446744073709551615 bytes"},
        BadPickle{"HugeLong", "\x8b\xFF\xFF\xFF\x7F."s, kLoss, "2147483647 bytes are needed"},
        BadPickle{"NegativeLong", "\x8b\xFF\xFF\xFF\xFF."s, kLoss, "4294967295 bytes are needed"},
        BadPickle{"HugeFrame", "\x95\x00\x00\x00\x00\x00\x00\x00\x10."s, kLoss, "are needed"},
        BadPickle{"TupleUnderflow", "N\x86.", kLoss, "2 values are needed, 1 are on the stack"},
        BadPickle{"UnderAMark", "NN(\x86.", kLoss, "0 are on the stack"},
        BadPickle{"NoMark", "Nt.", kLoss, "no mark"},
        BadPickle{"PopNothing", "0.", kLoss, "1 values are needed"},
        BadPickle{"AppendToNumber", "K\x01Na.", kLoss, "items for the number 1"},
        BadPickle{"AppendToTuple", ")Na.", kLoss, "items for a tuple of 0"},
        BadPickle{"SetInList", "]NNs.", kLoss, "keys and values for a list"},
        BadPickle{"OddItems", "}(Nu.", kLoss, "a key without a value"},
        BadPickle{"OddDict", "(Nd.", kLoss, "a key without a value"},
        BadPickle{"CallOfNumber", "K\x01)R.", kLoss,
                  "only a name can be called, found the number 1"},
        BadPickle{"ArgumentsNoTuple", "cm\nf\n]R.", kLoss, "must be a tuple, found a list"},
        BadPickle{"KeywordsNoDict", "cm\nf\n)]\x92.", kLoss, "must be a dict, found a list"},
        BadPickle{"StateOfList", "]Nb.", kLoss, "only an object has a state"},
        BadPickle{"NameOfNumbers", "K\x01K\x01\x93.", kLoss, "a name is two texts"},
        BadPickle{"NameWithoutEnd", "cos\nsystem", kLoss, "a line without an end"},
        BadPickle{"NoMemoEntry", "h\x05.", kLoss, "memo entry 5"},
        BadPickle{"PutNothing", "q\x01.", kLoss, "1 values are needed"},
        BadPickle{"NoOpcode", "\xFF.", kLoss, "(opcode 0xff): no such opcode"},
        BadPickle{"Protocol0", "I1\n.", kNo, "protocol 0"},
        BadPickle{"Protocol9", "\x80\x09.", kNo, "pickle protocol 9"},
        BadPickle{"Extension", "\x82\x01.", kNo, "extension registry"},
        BadPickle{"OutOfBand", "\x97.", kNo, "a buffer outside"}),
    [](const auto& info) { return info.param.name; });

TEST(Pickle, RefusesMoreThanItsLimits) {
  PickleGraph graph;
  PickleLimits limits;
  limits.max_nodes = 10;
  EXPECT_THAT(ReadPickle("]]]]]]]]]]]", "a", 0, &graph, nullptr, nullptr, limits),
              StatusIs(kNo, HasSubstr("more than 10 values")));
  for (const std::string& opcode : {std::string("N"), std::string("(")}) {
    graph = PickleGraph();
    std::string stream;
    for (int k = 0; k < 11; ++k) stream += opcode;
    EXPECT_THAT(ReadPickle(graph.Own(stream), "a", 0, &graph, nullptr, nullptr, limits),
                StatusIs(kNo, HasSubstr("more than 10 values")));
  }
  graph = PickleGraph();
  std::string puts = "N";
  for (char k = 0; k < 11; ++k) puts += std::string("q") + k;
  EXPECT_THAT(ReadPickle(graph.Own(puts), "a", 0, &graph, nullptr, nullptr, limits),
              StatusIs(kNo, HasSubstr("more than 10 values")));
  limits.max_bytes = 3;
  EXPECT_THAT(ReadPickle("]]].", "a", 0, &graph, nullptr, nullptr, limits),
              StatusIs(kNo, HasSubstr("4 bytes, at most 3")));
}

}  // namespace
}  // namespace zerocast
